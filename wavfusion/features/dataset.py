"""From stored features to padded batches: one sample a window, which knows its dialogue, position and speaker."""

import logging
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from wavfusion.errors import ConfigError, CorpusError, MediaError, nearest
from wavfusion.features.clips import Clip, Encoded, FeatureSet, Media, Place, clip_at, places, read_feature_sets
from wavfusion.features.store import Store
from wavfusion.manifest import Utterance
from wavfusion.model.config import MODALITIES, Switches, WavFusionConfig

log = logging.getLogger(__name__)

MEGABATCH = 16  # batches that are sorted by length together: little padding, yet another order every epoch


@dataclass(frozen=True)
class SampleOrigin:
    """Whose sample it is.

    Attributes:
        duration: seconds of the window, its weight when windows are averaged.
    """

    id: str
    dialogue: str | None
    index: int | None
    speaker: str | None
    duration: float


@dataclass
class Sample:
    """One window of an utterance; None for a modality that it does not have.

    Attributes:
        audio: (Ta, D), output of the layer that the model starts from.
        waveform: (N,), instead of `audio` where the audio encoder runs at every step.
        text: (Tt, E), or (L, Tt, E) with all layers.
        video: (Tv, F).
        label: the emotion's number, or the shares of all; None where it is not known.
    """

    row: SampleOrigin
    audio: Tensor | None = None
    text: Tensor | None = None
    video: Tensor | None = None
    waveform: Tensor | None = None
    label: int | list[float] | None = None


def choose_features(store: Store, preset: str | None) -> FeatureSet:
    """Return the features of a preset; without a name the only ones there are.

    Raises:
        ConfigError: no such preset in the store, or several and none named.
    """
    sets = read_feature_sets(store)
    if preset is None and len(sets) == 1:
        return next(iter(sets.values()))
    if preset not in sets:
        wanted = "one preset, named in the experiment" if preset is None else f"features of preset {preset!r}"
        raise ConfigError(f"{store.folder}: expected {wanted}, found {', '.join(sets)}; {nearest(preset or '', sets)}")
    return sets[preset]


def model_config(switches: Switches, features: FeatureSet, classes: Sequence[str]) -> WavFusionConfig:
    """Join an experiment's switches with the sizes of the encoders whose features are stored.

    Raises:
        ConfigError: a modality of the experiment that has no features.
    """
    there = [name for name in switches.modalities if getattr(features, name) is not None]
    if there != switches.modalities:
        remedy = f"give --model.modalities {','.join(there)}, or extract" if there else "extract"
        raise ConfigError(
            f"modalities: expected features of {', '.join(switches.modalities)}, found those of preset "
            f"{features.preset!r} for {', '.join(there) or 'none of them'}; {remedy}"
        )
    return WavFusionConfig.of_encoders(
        switches, classes, features.audio, features.text, features.video, features.frame_rate, features.text_layers
    )


def only(features: FeatureSet, modalities: Iterable[str]) -> FeatureSet:
    """The features of some modalities, without those of the others."""
    absent: dict[str, Any] = dict.fromkeys(set(MODALITIES) - set(modalities))
    return replace(features, **absent)


class Features(Dataset[Sample]):
    """The windows of utterances, read from the store when they are asked for.

    Args:
        utterances: in the order in which they are given out.
        first_window: only the first 15 s of each, as in training, and only where there is something to learn from;
            otherwise all windows.
        live: give waveforms, decoded once, in place of audio features.

    Raises:
        CorpusError: features that were never extracted.
    """

    def __init__(
        self,
        utterances: Iterable[Utterance],
        store: Store,
        media: Media,
        features: FeatureSet,
        config: WavFusionConfig,
        *,
        first_window: bool = False,
        live: bool = False,
    ) -> None:
        self.store, self.media, self.config, self.live = store, media, config, live
        text = "all" if config.num_text_layers > 1 else "last"
        self.wanted = replace(only(features, config.modalities), audio_layers=[config.input_layer], text_layers=[text])
        cut = (places(utterance, media) for utterance in utterances)
        self._places = [place for windows in cut for place in (windows[:1] if first_window else windows)]
        self._waveforms: dict[tuple[Any, ...], Tensor | None] = {}
        self._require_extracted()
        if first_window:
            self._leave_out_empty()

    def _clip(self, place: Place) -> Clip:
        """Say anew what a window is made of: to hold it for all of them takes eight times the memory."""
        return clip_at(place, self.media, self.wanted)

    def _require_extracted(self) -> None:
        for each in map(self._clip, self._places):
            for part in (None if self.live else each.audio, each.text, each.video):
                for layer, key in part.keys.items() if part else ():
                    if key not in self.store and key not in self.store.failures:
                        view = self.wanted.view
                        what = key.partition("-")[0] + (f" of layer {layer}" if part is each.audio else "")
                        raise CorpusError(
                            f"{self.store.folder}: expected {what} features of {each.utterance!r}, found none (new, "
                            f"changed or not extracted); run extract"
                            + (f" --layers {layer}" if part is each.audio else "")
                            + (f" --view {view}" if part is each.video and view != "frame" else "")
                        )

    def _leave_out_empty(self) -> None:
        """Leave out what has none of the modalities: nothing can be learned from it."""
        names = self.config.modalities
        kept = [place for place in self._places if any(self._has(self._clip(place), name) for name in names)]
        if not kept:
            raise CorpusError(
                f"{self.store.folder}: expected training utterances with {' or '.join(names)}, found none"
            )
        if len(kept) < len(self._places):
            log.warning("%d training utterances left out: no %s", len(self._places) - len(kept), ", ".join(names))
        self._places = kept

    def _has(self, clip: Clip, modality: str) -> bool:
        part: Encoded | None = getattr(clip, modality)
        if modality == "audio" and self.live:
            return self._waveform(part) is not None
        return part is not None and any(key in self.store for key in part.keys.values())

    def absent(self) -> list[str]:
        """The model's modalities that no window has."""
        lacking = list(self.config.modalities)
        for each in map(self._clip, self._places):
            lacking = [name for name in lacking if not self._has(each, name)]
            if not lacking:
                break
        return lacking

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int | None) -> Sample:
        if number is None:  # fills a batch, see `LengthBatches`
            none = [0.0] * len(self.config.classes) if self.config.task_loss == "soft" else 0
            return Sample(SampleOrigin("", None, None, None, 0.0), label=none)
        utterance, window = place = self._places[number]
        its = self._clip(place)
        row = SampleOrigin(
            utterance.id, utterance.dialogue, utterance.index, utterance.speaker, window.end - window.start
        )
        return Sample(
            row,
            audio=None if self.live else self._read(its.audio),
            text=window_text(self._read(its.text), its.share),
            video=self._read(its.video),
            waveform=self._waveform(its.audio) if self.live else None,
            label=self._label(utterance),
        )

    def _read(self, part: Encoded | None) -> Tensor | None:
        key = next(iter(part.keys.values())) if part else None
        return self.store.read(key) if key is not None and key in self.store else None

    def _waveform(self, part: Encoded | None) -> Tensor | None:
        if part is None:
            return None
        place = (part.path, part.start, part.end, part.setting)
        if place not in self._waveforms:
            self._waveforms[place] = self._decode(part)
        return self._waveforms[place]

    def _decode(self, part: Encoded) -> Tensor | None:
        from wavfusion import media  # only the live mode needs FFmpeg

        if self.media[part.path].audio is None:
            return None
        try:
            sound = media.decode_audio(self.media.locate(part.path), part.start, part.end, part.setting)
        except MediaError as error:
            log.warning("%s; left out", error)
            return None
        return torch.from_numpy(sound.samples) if len(sound.samples) else None

    def _label(self, utterance: Utterance) -> int | list[float] | None:
        classes = self.config.classes
        if utterance.emotion not in classes:
            return None
        if self.config.task_loss == "soft":
            return soft_label(utterance, classes)
        return classes.index(utterance.emotion)

    def emotions(self) -> dict[str, int]:
        """The number of each utterance's emotion."""
        classes = self.config.classes
        return {row.id: classes.index(row.emotion) for row, _ in self._places if row.emotion in classes}

    def lengths(self) -> list[float]:
        """Seconds of each window."""
        return [window.end - window.start for _, window in self._places]

    def class_counts(self) -> list[int]:
        """How many windows each emotion has."""
        return [sum(utterance.emotion == name for utterance, _ in self._places) for name in self.config.classes]


def soft_label(utterance: Utterance, classes: Sequence[str]) -> list[float]:
    """The raters' shares over the classes; the label alone where nobody voted for any of them."""
    votes = [(utterance.votes or {}).get(name, 0.0) for name in classes]
    total = sum(votes)
    return [vote / total for vote in votes] if total > 0 else [float(name == utterance.emotion) for name in classes]


def window_text(text: Tensor | None, share: tuple[float, float]) -> Tensor | None:
    """Cut the tokens that fall into a window, spread evenly over the utterance; at least one."""
    if text is None or share == (0.0, 1.0):
        return text
    count = text.shape[-2]
    start = min(math.floor(share[0] * count), count - 1)
    return text[..., start : max(start + 1, math.ceil(share[1] * count)), :]


def collate(samples: Sequence[Sample]) -> dict[str, Any]:
    """Pad samples to a batch: the arguments of `WavFusion.forward`, `rows`, and `waveforms` where they are given.

    A modality that no sample has is None, tensor and mask.
    """
    batch: dict[str, Any] = {"rows": [sample.row for sample in samples]}
    for name in MODALITIES:
        batch[name], batch[f"{name}_mask"] = _pad([getattr(sample, name) for sample in samples])
    if any(sample.waveform is not None for sample in samples):
        batch["waveforms"] = [sample.waveform for sample in samples]
    labels = [sample.label for sample in samples]
    batch["labels"] = None if any(label is None for label in labels) else torch.tensor(labels)
    return batch


def _pad(rows: Sequence[Tensor | None]) -> tuple[Tensor | None, Tensor | None]:
    there = [row for row in rows if row is not None]
    if not there:
        return None, None
    length = max(row.shape[-2] for row in there)
    first = there[0]
    padded = torch.zeros(len(rows), *first.shape[:-2], length, first.shape[-1])
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for i, row in enumerate(rows):
        if row is not None:
            padded[i, ..., : row.shape[-2], :] = row
            mask[i, : row.shape[-2]] = True
    return padded, mask


class LengthBatches(Sampler[int | None]):
    """Another random order every epoch, in which neighbours have similar lengths; decided by seed and epoch alone.

    Args:
        lengths: of the samples.
        batch_size: samples to a step of one process.
        seed: of the orders.
        processes: how many share a step, `batch_size` samples each in turn; None in empty places of the last.
    """

    def __init__(self, lengths: Sequence[float], batch_size: int, seed: int, processes: int = 1) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size * processes, seed, 0
        self.processes = processes

    def set_epoch(self, epoch: int) -> None:
        """Choose the order."""
        self.epoch = epoch

    def __len__(self) -> int:
        empty = -len(self.lengths) % self.batch_size if self.processes > 1 else 0
        return len(self.lengths) + empty

    def __iter__(self) -> Iterator[int | None]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        size = self.batch_size * MEGABATCH
        batches: list[list[int | None]] = []
        for start in range(0, len(order), size):
            near = sorted(order[start : start + size], key=lambda i: -self.lengths[i])
            batches += [[*near[i : i + self.batch_size]] for i in range(0, len(near), self.batch_size)]
        # The last, short batch stays last, since every other must be full.
        last = [batches.pop()] if batches and len(batches[-1]) < self.batch_size else []
        batches = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
        for batch in batches + last:
            if self.processes > 1:
                batch += [None] * (self.batch_size - len(batch))
            for first in range(self.processes):
                yield from batch[first :: self.processes]


def model_inputs(batch: Mapping[str, Any], modalities: Iterable[str], device: torch.device | str) -> dict[str, Any]:
    """Take the arguments of a model's forward pass out of a batch, with the other modalities left out."""
    chosen = set(modalities)
    inputs: dict[str, Any] = {}
    for name in MODALITIES:
        for key in (name, f"{name}_mask"):
            value = batch[key]
            inputs[key] = value.to(device, non_blocking=True) if value is not None and name in chosen else None
    if "waveforms" in batch:
        inputs["waveforms"] = [
            None if x is None or "audio" not in chosen else x.to(device, non_blocking=True) for x in batch["waveforms"]
        ]
    labels = batch["labels"]
    inputs["labels"] = None if labels is None else labels.to(device, non_blocking=True)
    return inputs


def add_absent_modalities(
    inputs: Mapping[str, Any], present: Collection[str], config: WavFusionConfig
) -> dict[str, Any]:
    """Give a model one masked step of each modality that is present elsewhere and that its own inputs lack."""
    shapes: dict[str, tuple[int, ...]] = {"audio": (1, config.hidden_size), "video": (1, config.video_size)}
    shapes["text"] = (*([config.num_text_layers] if config.num_text_layers > 1 else []), 1, config.text_size)
    labels, filled = inputs["labels"], dict(inputs)
    for name in present:
        if inputs[name] is None:
            filled[name] = torch.zeros(len(labels), *shapes[name], device=labels.device)
            filled[f"{name}_mask"] = torch.zeros(len(labels), 1, dtype=torch.bool, device=labels.device)
    return filled
