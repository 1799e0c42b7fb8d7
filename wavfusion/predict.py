"""A trained model on the user's own recordings."""

import csv
import io
import json
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wavfusion import extract, media
from wavfusion.clips import Clip, Medium, plan
from wavfusion.dataset import Row, Sample, only, window_text
from wavfusion.encoders import Encoders
from wavfusion.errors import ConfigError, MediaError, nearest
from wavfusion.explain import contributions, warn_of_untrained_subsets
from wavfusion.export import open_exported
from wavfusion.extract import Decoded
from wavfusion.inference import pick_device, run_sets, subsets
from wavfusion.manifest import AudioSpan, Utterance, VideoSpan
from wavfusion.media import SAMPLE_RATE
from wavfusion.run import HUB_ID, Run, read_run

log = logging.getLogger(__name__)

RUNTIMES = ("torch", "onnx")
PRECISIONS = ("fp32", "bf16")
RATES = (1_000, 1_000_000)  # Hz; outside it somebody gave kHz, or a number of samples


@dataclass(frozen=True)
class Prediction:
    """What a model says of one utterance.

    Attributes:
        file: as it was given; empty for an array.
        start, end: seconds in the file.
        speaker: None where nobody told.
        text: the transcript, None without one.
        emotion: the most probable; how a rater would call the expression, not what a person feels.
        probability: of that emotion.
        probabilities: of all emotions.
        modalities: what was there and was used.
        contribution: exact Shapley values, in nats, of the modalities that were there: they add up to the logarithm of
            `probability` over the emotion's share in training (docs/explain.md).
        text_share: mean gate, text against video; None unless both were used.
    """

    file: str
    start: float
    end: float
    speaker: str | None
    text: str | None
    emotion: str | None
    probability: float
    probabilities: dict[str, float]
    modalities: list[str]
    contribution: dict[str, float] | None = None
    text_share: float | None = None


class EmotionRecognizer:
    """A trained WavFusion with its three encoders."""

    def __init__(
        self,
        trained: Run,
        encoders: Encoders,
        device: str = "cpu",
        model: nn.Module | None = None,
        precision: str = "fp32",
    ) -> None:
        self.trained, self.encoders, self.device = trained, encoders.to(device).quick(), device
        self.model = trained.model.to(device) if model is None else model
        self.precision = precision
        warn_of_untrained_subsets(trained.model.config)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, device: str = "cpu", runtime: str = "torch", precision: str = "fp32"
    ) -> "EmotionRecognizer":
        """Load a RUN folder, or one that somebody put on a hub.

        Args:
            name: the folder, or the hub id.
            device: `auto`, `cpu`, `cuda` or `cuda:N`.
            runtime: of the fusion: `torch`, or `onnx` for the file that `export` has put into the RUN. The encoders
                stay in torch.
            precision: `fp32`, or `bf16` for matrix products and convolutions of half the digits, which newer CPUs and
                GPUs compute faster: probabilities within 0.02 (docs/performance.md).

        Raises:
            ConfigError: no RUN there, its encoders or its ONNX file cannot be had, or no such device here.
        """
        if not isinstance(name, (str, os.PathLike)) or not str(name):
            raise ConfigError(f"expected a RUN folder or a hub id, found {name!r}")
        if runtime not in RUNTIMES:
            raise ConfigError(f"runtime: found {runtime!r}; {nearest(str(runtime), RUNTIMES)}")
        if precision not in PRECISIONS:
            raise ConfigError(f"precision: found {precision!r}; {nearest(str(precision), PRECISIONS)}")
        device = pick_device(device)
        trained = read_run(_folder(name))
        model = open_exported(trained) if runtime == "onnx" else None
        return cls(trained, trained.encoders(), device, model, precision)

    @property
    def classes(self) -> list[str]:
        """The emotions that the model knows."""
        return self.trained.classes

    @property
    def modalities(self) -> list[str]:
        """The modalities that the model uses."""
        return self.trained.model.config.modalities

    def predict(
        self,
        source: str | Path | np.ndarray,
        transcript: str | None = None,
        sample_rate: int | None = None,
    ) -> list[Prediction]:
        """Label one recording as one utterance; above 15 s in windows whose probabilities are averaged by length.

        Args:
            source: an audio or video file, or samples in [-1, 1]: (N,) or (channels, N).
            transcript: what is said.
            sample_rate: of an array, in Hz.

        Raises:
            MediaError: the file cannot be used, or has nothing that the model can use; says why.
            ConfigError: an array without its rate, or an argument of another kind.
        """
        used = self.modalities
        _check_kinds(source, transcript, sample_rate)
        if isinstance(source, np.ndarray):
            samples = _resampled(source, sample_rate)
            tracks, file = {"audio": len(samples) / SAMPLE_RATE}, ""
        else:
            samples, file = None, str(source)
            tracks = _tracks(file)
        utterance = Utterance(
            file or "array",
            "",
            audio=AudioSpan(file) if "audio" in tracks else None,
            video=VideoSpan(file) if "video" in tracks else None,
            text=transcript,
        )
        known = {file: Medium("", tracks.get("audio"), tracks.get("video"))}
        # All tracks count for the windows, those that the model cannot use too: as in `evaluate`.
        clips = plan(utterance, known, only(self.trained.features, used))
        self._require_evidence(clips, file)
        return [self._label(_Windows(clips, utterance, samples, self), file)]

    def _label(self, windows: "_Windows", file: str) -> Prediction:
        """Label the windows of one recording together, from all that there is and from every subset of it."""
        sets = subsets(self.modalities)
        kind = torch.device(self.device).type
        with torch.autocast(kind, torch.bfloat16, enabled=self.precision == "bf16"):
            every = run_sets(self.model, windows, sets, self.trained.prior, self.device)
        said = every[-1]
        if not said.modalities[0]:
            raise MediaError("; ".join(windows.errors) or f"{file!r}: nothing that this model can use")
        for error in windows.errors:
            log.warning("%s; left out", error)
        probabilities = dict(zip(self.classes, said.probabilities[0].tolist(), strict=True))
        emotion = max(probabilities, key=lambda name: probabilities[name])
        return Prediction(
            file,
            0.0,
            round(windows.clips[-1].window.end, 3),
            None,
            windows.utterance.text,
            emotion,
            probabilities[emotion],
            probabilities,
            said.modalities[0],
            contribution=contributions(sets, every, self.trained.prior)[0],
            text_share=said.text_share[0],
        )

    def _require_evidence(self, clips: Sequence[Clip], file: str) -> None:
        if not any(getattr(clip, name) for name in self.modalities for clip in clips):
            wanted = " or ".join(self.modalities)
            raise MediaError(f"{file!r}: expected {wanted}, which this model uses, found none of it")

    def _encode(self, clip: Clip, utterance: Utterance, samples: np.ndarray | None, errors: list[str]) -> Sample:
        """Decode and encode one window, rounded as the store rounds."""
        decoded = Decoded(clip)
        for modality, part in (("audio", clip.audio), ("video", clip.video)):
            if part is None:
                continue
            try:
                if samples is not None:
                    decoded.samples = samples[round(part.start * SAMPLE_RATE) : round(part.end * SAMPLE_RATE)]
                else:
                    bad = extract.decode_part(decoded, modality, Path(part.path), part, self.encoders)
                    if bad:
                        log.warning("%r: %d damaged packets of its %s passed over", part.path, bad, modality)
            except (MediaError, OSError) as error:
                if str(error) not in errors:
                    errors.append(str(error))
        row = Row(clip.utterance, None, None, None, clip.window.end - clip.window.start)
        audio, text, video = (_half(x) for x in self._features(decoded, utterance))
        return Sample(row, audio, text, video)

    def _features(self, decoded: Decoded, utterance: Utterance) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        config, encoders, clip = self.trained.model.config, self.encoders, decoded.clip
        audio = text = video = None
        if decoded.samples is not None and encoders.audio is not None:
            audio = encoders.audio.encode([decoded.samples], [config.input_layer])[0][config.input_layer]
        if clip.text is not None and encoders.text is not None and utterance.text is not None:
            said = encoders.text.encode([utterance.text], "all" if config.num_text_layers > 1 else "last")
            text = window_text(said[0], clip.share)
        if decoded.frames is not None and encoders.video is not None:
            video = encoders.video.encode(decoded.frames)
        return audio, text, video


class _Windows:
    """The windows of one recording, encoded when they are asked for, so that hours take no more memory than minutes."""

    def __init__(
        self, clips: Sequence[Clip], utterance: Utterance, samples: np.ndarray | None, recognizer: EmotionRecognizer
    ) -> None:
        self.clips, self.utterance, self.samples, self.recognizer = clips, utterance, samples, recognizer
        self.errors: list[str] = []

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, number: int) -> Sample:
        return self.recognizer._encode(self.clips[number], self.utterance, self.samples, self.errors)


def _half(features: Tensor | None) -> Tensor | None:
    """Round as the store does.

    Raises:
        MediaError: samples so absurd that their features overflow.
    """
    if features is not None and not extract.fits_half(features):
        raise MediaError("expected samples in [-1, 1], found some so large that their features overflow")
    return None if features is None else features.half()


def _folder(name: str | Path) -> Path:
    """A RUN folder as it is, or a hub's copy of one."""
    if Path(name).exists() or not re.fullmatch(HUB_ID, str(name)):
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name)))
    except Exception as error:  # the hub client raises many kinds
        reason = " ".join(str(error).split()).partition(". ")[0][:120]
        raise ConfigError(
            f"{str(name)!r}: expected a RUN folder or a hub id that can be reached, found {reason}"
        ) from None


def _tracks(file: str) -> dict[str, float]:
    """Seconds of the tracks that a file has."""
    return {name: length for name, length in media.probe(file)._asdict().items() if length is not None}


def _check_kinds(source: object, transcript: object, sample_rate: object) -> None:
    """Refuse arguments of other kinds than `predict` takes."""
    if not isinstance(source, (str, os.PathLike, np.ndarray)):
        raise ConfigError(f"expected the name of a file or a float array, found {type(source).__name__}")
    if transcript is not None and not isinstance(transcript, str):
        raise ConfigError(f"expected transcript= as text, found {type(transcript).__name__}")
    if not isinstance(source, np.ndarray) and sample_rate is not None:
        raise ConfigError(f"expected sample_rate= with an array only, found it with {str(source)!r}")


def _resampled(samples: np.ndarray, sample_rate: int | None) -> np.ndarray:
    """Mix an array down to one channel of 16 kHz."""
    import soxr

    low, high = RATES
    if not isinstance(sample_rate, Real) or not low <= sample_rate <= high:
        raise ConfigError(f"expected sample_rate= from {low} to {high} Hz with an array, found {sample_rate!r}")
    shaped = samples.ndim == 1 or (samples.ndim == 2 and samples.shape[0] <= samples.shape[1])
    if samples.size == 0:
        raise ConfigError("expected samples, found an empty array")
    if not shaped or not np.issubdtype(samples.dtype, np.floating):
        raise ConfigError(f"expected float samples (N,) or (channels, N), found {samples.dtype} {samples.shape}")
    if not (np.abs(samples) <= media.LOUDEST).all():
        raise ConfigError(f"expected samples in [-1, 1], found NaN, infinity or more than {media.LOUDEST:g}")
    mono = samples.mean(0) if samples.ndim == 2 else samples
    resampled: np.ndarray = soxr.resample(mono.astype(np.float32), sample_rate, SAMPLE_RATE, quality="VHQ")
    # Of less than half a sample soxr makes nothing, but one sample is a sound.
    return resampled if len(resampled) else np.zeros(1, np.float32)


def to_json(predictions: Sequence[Prediction]) -> str:
    """Write predictions as a list of objects."""
    return (
        json.dumps([asdict(prediction) for prediction in predictions], indent=2, ensure_ascii=False, allow_nan=False)
        + "\n"
    )


def to_csv(predictions: Sequence[Prediction], classes: Sequence[str]) -> str:
    """Write predictions as a table with a column for each emotion's probability and each modality's contribution."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    fields = ["file", "start", "end", "speaker", "text", "emotion", "probability", "modalities", "text_share"]
    modalities = ["audio", "text", "video"]
    writer.writerow([*fields, *(f"p_{name}" for name in classes), *(f"contribution_{name}" for name in modalities)])
    for each in predictions:
        values: list[Any] = [getattr(each, name) for name in fields]
        values[fields.index("modalities")] = "+".join(each.modalities)
        values += [each.probabilities[name] for name in classes]
        values += [(each.contribution or {}).get(name) for name in modalities]
        writer.writerow(["" if value is None else value for value in values])
    return file.getvalue()


def to_table(predictions: Sequence[Prediction]) -> str:
    """Lay predictions out for a terminal."""
    lines = []
    for each in predictions:
        others = sorted(each.probabilities.items(), key=lambda item: -item[1])[:3]
        chances = "  ".join(f"{name} {p:.0%}" for name, p in others)
        name = each.file.encode("unicode_escape").decode() if not each.file.isprintable() else each.file
        lines.append(
            f"{name}  {each.start:.2f}-{each.end:.2f} s  {each.emotion}  ({chances})  {'+'.join(each.modalities)}"
        )
    return "\n".join(lines) + "\n"
