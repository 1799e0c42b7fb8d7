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
from wavfusion.encoders.stack import stack_layers
from wavfusion.errors import ConfigError, CorpusError, MediaError, nearest
from wavfusion.features.clips import Clip, ClipPart, Media, Window, clip_at, duration_of, windows
from wavfusion.features.store import FeatureSet, Store, read_feature_sets
from wavfusion.manifest import MODALITIES, Utterance
from wavfusion.model.config import Switches, WavFusionConfig

log = logging.getLogger(__name__)

LIVE_BYTES = 1 << 30  # of decoded waveforms kept in memory: 4.6 hours; the others are decoded every time


@dataclass(frozen=True)
class SampleOrigin:
    """The utterance that a sample belongs to."""

    id: str
    dialogue: str | None
    index: int | None
    speaker: str | None
    duration: float  # seconds of the window, its weight when windows are averaged


@dataclass
class Sample:
    """One window of an utterance; None for a missing modality."""

    row: SampleOrigin
    audio: Tensor | None = None  # (Ta, D), output of the layer that the model starts from
    text: Tensor | None = None  # (Tt, E), or (L, Tt, E) with all layers
    video: Tensor | None = None  # (Tv, F)
    waveform: Tensor | None = None  # (N,), instead of `audio` where the audio encoder runs at every step
    label: int | list[float] | None = None  # the emotion's number, or the shares of all emotions


def choose_features(store: Store, preset: str | None) -> FeatureSet:
    """Return the features of a preset, without a name of the only one; raises ConfigError where there is no such."""
    sets = read_feature_sets(store)
    if preset is None and len(sets) == 1:
        return next(iter(sets.values()))
    if preset not in sets:
        wanted = "one preset, named in the experiment" if preset is None else f"features of preset {preset!r}"
        raise ConfigError(f"{store.folder}: expected {wanted}, found {', '.join(sets)}; {nearest(preset or '', sets)}")
    return sets[preset]


def choose_layers(switches: Switches, features: FeatureSet) -> Switches:
    """Fill in the layers that an experiment leaves to the preset of the features; older stores do not tell its own."""
    paper = {"num_layers": WavFusionConfig.num_layers, "deep_layers": WavFusionConfig.fusion_layers}
    audio = {**paper, **(features.audio or {})}
    return switches.with_layers(audio["num_layers"], audio["deep_layers"])


def model_config(switches: Switches, features: FeatureSet, classes: Sequence[str]) -> WavFusionConfig:
    """Join an experiment's switches and the sizes of the encoders; raises ConfigError if a modality has no features."""
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
    config = WavFusionConfig(**vars(choose_layers(switches, features)), **sizes)
    if switches.audio_layers == "last" or not features.audio or "audio" not in config.modalities:
        return config
    stored = [layer for layer in features.audio_layers if layer <= config.input_layer]
    if config.input_layer not in stored or len(stored) < 2:
        every = ",".join(map(str, range(config.input_layer + 1)))
        raise ConfigError(
            f"audio_layers weighted: expected layer {config.input_layer} and others below it among the stored ones, "
            f"found {features.audio_layers}; extract --layers {every}"
        )
    return replace(config, weighted_layers=stored)


class Features(Dataset[Sample]):
    """The windows of utterances in their order, read from the store on access.

    With `first_window` only the first 15 s of each, as in training, and only of utterances with any of the modalities;
    with `live` waveforms instead of audio features. Raises CorpusError for features that were never extracted.

    Numbers beyond the length are those of augmented `variants`, which need `first_window`: number + length is the
    sample with the audio of its first variant.
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
        variants: int = 0,
    ) -> None:
        self.store, self.media, self.config, self.live = store, media, config, live
        self.variants = variants if "audio" in config.modalities else 0
        text = "all" if config.num_text_layers > 1 else "last"
        absent: dict[str, Any] = dict.fromkeys(set(MODALITIES) - set(config.modalities))
        layers: dict[str, Any] = {"audio_layers": config.input_layers, "text_layers": [text]}
        self.wanted = replace(features, **absent, **layers, variants=self.variants)
        last = 1 if first_window else None
        self._places = [(row, each) for row in utterances for each in windows(duration_of(row, media))[:last]]
        self._waveforms: dict[tuple[Any, ...], Tensor | None] = {}
        self._waveform_bytes = 0
        self._require_extracted()
        if first_window:
            self._leave_out_empty()

    def _clip(self, place: tuple[Utterance, Window]) -> Clip:
        """Plan a window again, since holding the plans of all windows takes eight times the memory."""
        return clip_at(*place, self.media, self.wanted)

    def _require_extracted(self) -> None:
        for clip in map(self._clip, self._places):
            for name, part in clip.parts.items():
                missing = [layer for layer, key in part.keys.items() if not self._is_known(key)]
                if not missing or (self.live and name == "audio"):
                    continue
                layer = ",".join(map(str, part.keys if len(missing) > 1 else missing))
                of, option = (f" of layer {layer}", f" --layers {layer}") if name == "audio" else ("", "")
                if name == "video" and self.wanted.view != "frame":
                    option = f" --view {self.wanted.view}"
                raise CorpusError(
                    f"{self.store.folder}: expected {name}{of} features of {clip.utterance!r}, found none (new, "
                    f"changed or not extracted); run extract{option}"
                )
            self._require_variants(clip)

    def _require_variants(self, clip: Clip) -> None:
        variants = clip.audio.variants if clip.audio is not None else []
        for number, keys in enumerate(variants, start=1):
            if not all(map(self._is_known, keys.values())):
                option = f"--variants {self.variants} --augment {','.join(self.wanted.augment)}"
                raise CorpusError(
                    f"{self.store.folder}: expected audio features of variant {number} of {clip.utterance!r}, found "
                    f"none; run extract {option} --layers {','.join(map(str, keys))}"
                )

    def _is_known(self, key: str) -> bool:
        return key in self.store or key in self.store.failures

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
        part = clip.parts.get(modality)
        if modality == "audio" and self.live:
            return self._waveform(part) is not None
        return part is not None and all(key in self.store for key in part.keys.values())

    def absent(self) -> list[str]:
        """The model's modalities that no window has."""
        names = self.config.modalities
        return [name for name in names if not any(self._has(self._clip(place), name) for place in self._places)]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int | None) -> Sample:
        if number is None:  # fills a batch, see `LengthBatches`
            none = [0.0] * len(self.config.classes) if self.config.task_loss == "soft" else 0
            return Sample(SampleOrigin("", None, None, None, 0.0), label=none)
        variant, position = divmod(number, len(self)) if number >= len(self) else (0, number)
        if variant > self.variants:
            raise IndexError(f"expected a number below {len(self) * (1 + self.variants)}, found {number}")
        utterance, window = place = self._places[position]
        clip = self._clip(place)
        seconds = window.end - window.start
        return Sample(
            SampleOrigin(utterance.id, utterance.dialogue, utterance.index, utterance.speaker, seconds),
            audio=None if self.live else self._read(clip.audio, variant),
            text=window_text(self._read(clip.text), clip.share),
            video=self._read(clip.video),
            waveform=self._waveform(clip.audio) if self.live else None,
            label=self._label(utterance),
        )

    def _read(self, part: ClipPart | None, variant: int = 0) -> Tensor | None:
        """Read a part's features, those of several layers stacked; None where they are not stored."""
        if part is None:
            return None
        keys = part.variants[variant - 1] if variant else part.keys
        if not all(key in self.store for key in keys.values()):
            return self._read(part) if variant else None  # a variant that could not be made
        return stack_layers([self.store.read(key) for key in keys.values()])

    def _waveform(self, part: ClipPart | None) -> Tensor | None:
        if part is None:
            return None
        place = (part.path, part.start, part.end, part.setting)
        if place in self._waveforms:
            return self._waveforms[place]
        waveform: Tensor | None = None
        try:
            if self.media[part.path].audio is not None:
                path = self.media.locate(part.path)
                waveform = torch.from_numpy(media.decode_audio(path, part.start, part.end, part.setting).samples)
        except MediaError as error:
            log.warning("%s; left out", error)
        size = 0 if waveform is None else waveform.nbytes
        if self._waveform_bytes + size <= LIVE_BYTES:
            self._waveforms[place] = waveform
            self._waveform_bytes += size
        return waveform

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
