"""Stored features as samples, one a window, with dialogue, position and speaker."""

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from wavfusion import media
from wavfusion.errors import ConfigError, CorpusError, MediaError, nearest
from wavfusion.features.clips import Clip, ClipPart, Media, Place, clip_at, places
from wavfusion.features.store import FeatureSet, Store, read_feature_sets
from wavfusion.manifest import MODALITIES, Utterance
from wavfusion.model.config import Switches, WavFusionConfig

log = logging.getLogger(__name__)

LIVE_BYTES = 1 << 30  # of decoded waveforms kept in memory: 4.6 hours; the others are decoded every time


@dataclass(frozen=True)
class SampleOrigin:
    """The utterance that a sample belongs to.

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
    """One window of an utterance; None for a missing modality.

    Attributes:
        audio: (Ta, D), output of the layer that the model starts from.
        waveform: (N,), instead of `audio` where the audio encoder runs at every step.
        text: (Tt, E), or (L, Tt, E) with all layers.
        video: (Tv, F).
        label: the emotion's number, or the shares of all emotions; None where it is unknown.
    """

    row: SampleOrigin
    audio: Tensor | None = None
    text: Tensor | None = None
    video: Tensor | None = None
    waveform: Tensor | None = None
    label: int | list[float] | None = None


def choose_features(store: Store, preset: str | None) -> FeatureSet:
    """Return the features of a preset; without a name those of the only preset.

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
    present = [name for name in switches.modalities if getattr(features, name) is not None]
    if present != switches.modalities:
        remedy = f"give --model.modalities {','.join(present)}, or extract" if present else "extract"
        raise ConfigError(
            f"modalities: expected features of {', '.join(switches.modalities)}, found those of preset "
            f"{features.preset!r} for {', '.join(present) or 'none of them'}; {remedy}"
        )
    sizes: dict[str, Any] = {"classes": list(classes), "frame_rate": features.frame_rate}
    if features.audio:
        sizes |= {key: size for key, size in features.audio.items() if key in WavFusionConfig.__dataclass_fields__}
        sizes["hidden_size"] = features.audio["width"]
    if features.text:
        weighted = switches.text_layers == "weighted" and "all" in features.text_layers
        sizes |= {
            "text_size": features.text["width"],
            "num_text_layers": features.text["num_layers"] if weighted else 1,
        }
    if features.video:
        sizes["video_size"] = features.video["width"]
    return WavFusionConfig(**vars(switches), **sizes)


def only(features: FeatureSet, modalities: Iterable[str]) -> FeatureSet:
    """Keep only the features of some modalities."""
    absent: dict[str, Any] = dict.fromkeys(set(MODALITIES) - set(modalities))
    return replace(features, **absent)


class Features(Dataset[Sample]):
    """The windows of utterances, read from the store on access.

    Args:
        utterances: in the order of the samples.
        first_window: only the first 15 s of each, as in training, and only of utterances with any of the modalities;
            otherwise all windows.
        live: give waveforms instead of audio features.

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
        self._waveform_bytes = 0
        self._require_extracted()
        if first_window:
            self._leave_out_empty()

    def _clip(self, place: Place) -> Clip:
        """Plan a window again, since holding the plans of all windows takes eight times the memory."""
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
        """Leave out windows without any of the modalities: nothing can be learned from them."""
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
        part: ClipPart | None = getattr(clip, modality)
        if modality == "audio" and self.live:
            return self._waveform(part) is not None
        return part is not None and any(key in self.store for key in part.keys.values())

    def absent(self) -> list[str]:
        """The model's modalities that no window has."""
        absent = list(self.config.modalities)
        for each in map(self._clip, self._places):
            absent = [name for name in absent if not self._has(each, name)]
            if not absent:
                break
        return absent

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int | None) -> Sample:
        if number is None:  # fills a batch, see `LengthBatches`
            none = [0.0] * len(self.config.classes) if self.config.task_loss == "soft" else 0
            return Sample(SampleOrigin("", None, None, None, 0.0), label=none)
        utterance, window = place = self._places[number]
        clip = self._clip(place)
        row = SampleOrigin(
            utterance.id, utterance.dialogue, utterance.index, utterance.speaker, window.end - window.start
        )
        return Sample(
            row,
            audio=None if self.live else self._read(clip.audio),
            text=window_text(self._read(clip.text), clip.share),
            video=self._read(clip.video),
            waveform=self._waveform(clip.audio) if self.live else None,
            label=self._label(utterance),
        )

    def _read(self, part: ClipPart | None) -> Tensor | None:
        key = next(iter(part.keys.values())) if part else None
        return self.store.read(key) if key is not None and key in self.store else None

    def _waveform(self, part: ClipPart | None) -> Tensor | None:
        if part is None:
            return None
        place = (part.path, part.start, part.end, part.setting)
        if place in self._waveforms:
            return self._waveforms[place]
        waveform = self._decode(part)
        size = 0 if waveform is None else waveform.nbytes
        if self._waveform_bytes + size <= LIVE_BYTES:
            self._waveforms[place] = waveform
            self._waveform_bytes += size
        return waveform

    def _decode(self, part: ClipPart) -> Tensor | None:
        if self.media[part.path].audio is None:
            return None
        try:
            samples = media.decode_audio(self.media.locate(part.path), part.start, part.end, part.setting).samples
        except MediaError as error:
            log.warning("%s; left out", error)
            return None
        return torch.from_numpy(samples) if len(samples) else None

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
    """Shares of the raters' votes over the classes; the label alone where there are no votes for them."""
    votes = [(utterance.votes or {}).get(name, 0.0) for name in classes]
    total = sum(votes)
    return [vote / total for vote in votes] if total > 0 else [float(name == utterance.emotion) for name in classes]


def window_text(text: Tensor | None, share: tuple[float, float]) -> Tensor | None:
    """Cut out the tokens of a window, assuming that they are spread evenly over the utterance; at least one."""
    if text is None or share == (0.0, 1.0):
        return text
    count = text.shape[-2]
    start = min(math.floor(share[0] * count), count - 1)
    return text[..., start : max(start + 1, math.ceil(share[1] * count)), :]
