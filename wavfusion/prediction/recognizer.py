"""A trained model on the user's own recordings."""

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from wavfusion import media
from wavfusion.encoders import FRAMES_AT_ONCE, PRECISIONS, Encoders
from wavfusion.errors import ConfigError, MediaError, nearest
from wavfusion.evaluation import explain
from wavfusion.evaluation.inference import BATCH, classify, classify_subsets, pick_device, subsets
from wavfusion.features import extract
from wavfusion.features.clips import WINDOW, Clip, Encoded, Medium, Window, plan_windows
from wavfusion.features.dataset import Sample, SampleOrigin, only, window_text
from wavfusion.features.extract import Decoded, batched
from wavfusion.manifest import AudioSpan, Utterance, VideoSpan
from wavfusion.media import SAMPLE_RATE
from wavfusion.media.faces import Sight
from wavfusion.metrics.familiarity import WARN_SHARE
from wavfusion.model.wavfusion import AUDIO_STEP
from wavfusion.prediction.export import open_exported
from wavfusion.runs.folder import HUB_ID, Run, read_run
from wavfusion.speech.language import language_of
from wavfusion.speech.loudness import Loudness
from wavfusion.speech.recognition import SpeechRecognizer
from wavfusion.speech.segmentation import RecordingAudio, Speakers, name_speakers, require_count, segment_recording
from wavfusion.transcripts import Segment

log = logging.getLogger(__name__)

RUNTIMES = ("torch", "onnx")
CHOICES = (*PRECISIONS, "auto")
TRIAL = 5.0  # seconds of sound on which precisions are tried
TURNS = 3  # in which each is tried; the best counts, as the first makes what later ones find
KEPT = 0.02  # of probabilities that may differ between precisions
WORTH = 0.9  # of the time that fp32 takes; what saves less is not worth another answer
AT_ONCE = FRAMES_AT_ONCE["cpu"]
CONTEXT = 1.0  # seconds of sound that the encoder is given at least, where the recording has them
SLACK = 0.1  # seconds that a transcript may end after its recording, as its times are rounded
LONGEST = 100 * 3600.0  # seconds; timestamps beyond are no true ones, and would be gone through all the same
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


@dataclass
class Notes:
    """What is noticed of a recording besides its answers.

    Attributes:
        errors: what could not be decoded.
        heard: its sound.
        seen: how much of it shows a face.
        distances: of its utterances from the training data.
    """

    errors: list[str] = field(default_factory=list)
    heard: Loudness = field(default_factory=Loudness)
    seen: Sight = field(default_factory=Sight)
    distances: list[float] = field(default_factory=list)


class EmotionRecognizer:
    """A trained WavFusion with its three encoders."""

    def __init__(
        self,
        trained: Run,
        encoders: Encoders,
        device: str = "cpu",
        model: nn.Module | None = None,
        precision: str = "fp32",
        fast: bool = True,
        recogniser: SpeechRecognizer | None = None,
    ) -> None:
        loaded = encoders.to(device)
        self.trained, self.encoders, self.device = trained, loaded.quick() if fast else loaded, device
        self.model = trained.model.to(device) if model is None else model
        self.precision, self.fast, self.recogniser = precision, fast, recogniser
        explain.warn_of_untrained_subsets(trained.model.config)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        device: str = "cpu",
        runtime: str = "torch",
        precision: str = "fp32",
        fast: bool = True,
        asr: str | None = None,
    ) -> "EmotionRecognizer":
        """Load a RUN folder, or one that somebody put on a hub.

        Args:
            name: the folder, or the hub id.
            device: `auto`, `cpu`, `cuda` or `cuda:N`.
            runtime: of the fusion: `torch`, or `onnx` for the file that `export` has put into the RUN. The encoders
                stay in torch.
            precision: `fp32`, or `bf16` for half the digits in products of sound, words and fusion, which newer CPUs
                and GPUs compute faster: probabilities differ by some thousandths (docs/performance.md); or `auto`: the
                faster of the two as `fastest_precision` finds it here.
            fast: False for the encoders as they were loaded, without what makes them faster.
            asr: model of the speech recogniser that hears the words where none are given (extra `[asr]`): a folder, or
                a name that faster-whisper knows; None = no words.

        Raises:
            ConfigError: no RUN there, its encoders, its ONNX file or the speech recogniser cannot be had, or no such
                device here.
        """
        if not isinstance(name, (str, os.PathLike)) or not str(name):
            raise ConfigError(f"expected a RUN folder or a hub id, found {name!r}")
        if runtime not in RUNTIMES:
            raise ConfigError(f"runtime: found {runtime!r}; {nearest(str(runtime), RUNTIMES)}")
        if precision not in CHOICES:
            raise ConfigError(f"precision: found {precision!r}; {nearest(str(precision), CHOICES)}")
        device = pick_device(device)
        trained = find_run(name)
        model = open_exported(trained) if runtime == "onnx" else None
        recogniser = None if asr is None else SpeechRecognizer(asr, device)
        chosen = "fp32" if precision == "auto" else precision
        found = cls(trained, trained.encoders(), device, model, chosen, fast, recogniser)
        if precision == "auto":
            found.precision = found.fastest_precision()
        return found

    def fastest_precision(self) -> str:
        """Try both precisions on noise and a sentence: bf16 if it is faster here and keeps the probabilities.

        Pictures are in fp32 in both.
        """
        seconds = dict.fromkeys(PRECISIONS, np.inf)
        said: dict[str, np.ndarray] = {}
        before = self.precision
        for _ in range(TURNS):
            for self.precision in PRECISIONS:
                started = time.perf_counter()
                said[self.precision] = self._try()
                seconds[self.precision] = min(seconds[self.precision], time.perf_counter() - started)
        self.precision = before
        apart = float(np.abs(said["bf16"] - said["fp32"]).max())
        chosen = "bf16" if seconds["bf16"] < WORTH * seconds["fp32"] and apart <= KEPT else "fp32"
        log.info(
            "precision %s: %g s of sound and a sentence take %.0f ms in fp32 and %.0f ms in bf16 (below %.0f would be "
            "worth it), probabilities are %.4f apart (at most %g)",
            *(chosen, TRIAL, 1e3 * seconds["fp32"], 1e3 * seconds["bf16"], 1e3 * WORTH * seconds["fp32"], apart, KEPT),
        )
        return chosen

    def _try(self) -> np.ndarray:
        """The probabilities of noise and a sentence."""
        noise = np.random.default_rng(0).normal(0, 0.1, int(TRIAL * SAMPLE_RATE)).astype(np.float32)
        clip = Clip("", Window(0.0, TRIAL), audio=Encoded("", 0.0, TRIAL, {}), text=Encoded("", 0.0, 0.0, {}))
        utterance = Utterance("", "", text="I told you that I would be there in time.")
        windows = Windows([(clip, utterance)], noise, 0.0, self, Notes())
        with self._in_precision():
            return classify(self.model, windows, self.modalities, self.trained.prior, self.device).probabilities

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
        segments: Sequence[Segment] | None = None,
        speakers: Speakers = None,
        progress: Callable[[float], None] = lambda seconds: None,
        contributions: bool = True,
    ) -> list[Prediction]:
        """Label a recording: up to 15 s it is one utterance, a longer one is cut where nobody speaks.

        Without the extra `[vad]`, and where nobody speaks, a longer one is cut every 15 s. A segment above 15 s is
        seen in windows whose probabilities are averaged by length.

        Args:
            source: an audio or video file, or samples in [-1, 1]: (N,) or (channels, N).
            transcript: what is said; of a longer recording every utterance gets its share by seconds.
            sample_rate: of an array, in Hz.
            segments: who speaks when and what, which is then not looked for; `wavfusion.transcripts.read` gives them.
            speakers: how many speak, who are then told apart (extra `[speakers]`); `auto` finds those that differ
                clearly. None leaves the speaker of what is not told to None.
            progress: told the second up to which it is labelled, now and then.
            contributions: False leaves them out, for which the fusion runs once and not on every subset.

        Raises:
            MediaError: the file cannot be used, or has nothing that the model can use; says why.
            ConfigError: an array without its rate, an argument of another kind, or the extra `[speakers]` is missing.
        """
        file = "" if isinstance(source, np.ndarray) else str(source)
        notes = Notes()
        predictions = []
        for windows, group in self.utterances(source, transcript, sample_rate, segments, speakers, notes):
            predictions += self._label(windows, group, file, contributions)
            progress(group[-1].end)
        self.conclude(file, [each.text for each in predictions], notes)
        return predictions

    def conclude(self, file: str, said: Sequence[str | None], notes: Notes) -> None:
        """Refuse a recording of which nothing could be used, and warn of what is odd in another.

        Args:
            file: its name; empty for an array.
            said: the words of each utterance that was used.
            notes: of the recording.

        Raises:
            MediaError: nothing could be used; says why.
        """
        if not said:
            wish = " or ".join(self.modalities)
            found = f"{file!r}: expected {wish}, which this model uses, found none of it"
            raise MediaError("; ".join(notes.errors) or found)
        for error in notes.errors:
            log.warning("%s; left out", error)
        self._warn_of_the_unlike(file, notes.distances)
        self._warn_of_the_language(file, " ".join(text for text in said if text))
        for complaint in (*notes.heard.complaints(), *notes.seen.complaints()):
            log.warning("%s: %s", file or "array", complaint)

    def compare(self, vectors: np.ndarray, notes: Notes) -> None:
        """Note how far the vectors of some utterances lie from the training data."""
        if self.trained.familiarity is not None:
            notes.distances += self.trained.familiarity.distances(vectors).tolist()

    def _warn_of_the_unlike(self, file: str, distances: Sequence[float]) -> None:
        """Say when many utterances lie further from the training data than those that chose the epoch did."""
        known = self.trained.familiarity
        if known is None:
            return
        beyond = [each for each in distances if each > known.limit]
        if len(beyond) > WARN_SHARE * len(distances):
            log.warning(
                "%s: %d of %d utterances are unlike what the model was trained on: distances of up to %.1f, where "
                "99 %% of its validation part lies within %.1f",
                *(file or "array", len(beyond), len(distances), max(beyond), known.limit),
            )

    def _warn_of_the_language(self, file: str, text: str) -> None:
        """Say when the words are in none of the languages that the model was trained on."""
        found = language_of(text) if self.trained.languages and "text" in self.modalities else None
        if found is not None and found[0] not in self.trained.languages:
            log.warning(
                "%s: its words are in %r (probability %.3f), the model was trained on %s",
                *(file or "array", *found, ", ".join(self.trained.languages)),
            )

    def utterances(
        self,
        source: str | Path | np.ndarray,
        transcript: str | None,
        sample_rate: int | None,
        segments: Sequence[Segment] | None,
        speakers: Speakers,
        notes: Notes,
    ) -> Iterator[tuple["Windows", list[Segment]]]:
        """Cut a recording into utterances and give some at a time, with their windows; see `predict`.

        `notes` is written as the windows are asked for.
        """
        _check_kinds(source, transcript, sample_rate)
        require_count(speakers)
        if isinstance(source, np.ndarray):
            samples = _resampled(source, sample_rate)
            tracks, file = {"audio": len(samples) / SAMPLE_RATE}, ""
        else:
            samples, file = None, str(source)
            tracks = _tracks(file)
        known = {file: Medium("", tracks.get("audio"), tracks.get("video"))}
        length = max(tracks.values(), default=0.0)
        if length > LONGEST:
            found = f"found timestamps up to {length / 3600:.0f}"
            raise MediaError(f"{file!r}: expected a recording of at most {LONGEST / 3600:g} hours, {found}")
        whole = segments is None and length <= WINDOW
        sound = RecordingAudio(file, samples) if "audio" in tracks else None
        if segments is None:
            segments = segment_recording(sound, file, length, transcript, speakers, "video" in tracks)
        else:
            segments = name_speakers(_within(segments, length, file), sound, speakers)
        # All tracks count for the windows, those that the model cannot use too: as in `evaluate`.
        wanted = only(self.trained.features, self.modalities)
        hears = self.recogniser if "text" in self.modalities and not any(each.text for each in segments) else None
        language: str | None = None
        with self._film(file, tracks) as film:
            for group in batched(segments, BATCH):
                if hears is not None and sound is not None:
                    group, language = hears.transcribe(sound, group, language)
                utterances = [_utterance(file, number, each, tracks, whole) for number, each in enumerate(group)]
                parts = [
                    (clip, utterance) for utterance in utterances for clip in plan_windows(utterance, known, wanted)
                ]
                yield Windows(parts, samples, 0.0 if whole else length, self, notes, film), group

    def _film(self, file: str, tracks: Mapping[str, float]) -> AbstractContextManager[media.VideoReader | None]:
        """The pictures of a recording, for one utterance after the other."""
        video = self.encoders.video
        if (
            not self.fast
            or self.encoders.view != "frame"
            or video is None
            or "video" not in tracks
            or "video" not in self.modalities
        ):
            return nullcontext()
        return media.VideoReader(file, self.encoders.preset.frame_rate, video.size, interpolation=video.interpolation)

    def _label(
        self, windows: "Windows", segments: Sequence[Segment], file: str, contributions: bool
    ) -> list[Prediction]:
        """Label some utterances of a recording together, from all that there is and where asked from every subset."""
        if not any(getattr(clip, name) for name in self.modalities for clip, _ in windows.parts):
            return []
        sets = subsets(self.modalities) if contributions else [self.modalities]
        with self._in_precision():
            every = classify_subsets(
                self.model, windows, sets, self.trained.prior, self.device, self.trained.temperature
            )
        said = every[-1]
        parts = explain.contributions(sets, every, self.trained.prior) if contributions else [None] * len(segments)
        if said.vectors is not None:
            there = [bool(names) for names in said.modalities]
            self.compare(said.vectors[there], windows.notes)
        found = []
        for i, segment in enumerate(segments):
            probabilities = dict(zip(self.classes, said.probabilities[i].tolist(), strict=True))
            emotion = max(probabilities, key=lambda name: probabilities[name])
            prediction = Prediction(
                file,
                round(segment.start, 3),
                round(segment.end, 3),
                segment.speaker,
                segment.text,
                emotion,
                probabilities[emotion],
                probabilities,
                said.modalities[i],
                contribution=parts[i],
                text_share=said.text_share[i],
            )
            if prediction.modalities:
                found.append(prediction)
        return found

    def encode(self, parts: Sequence[tuple[Clip, Utterance]], windows: "Windows") -> list[Sample]:
        """Decode and encode windows, rounded as the store rounds."""
        hear = [partial(self._hear, clip, windows) for clip, _ in parts]
        read = [partial(self._read, clip, utterance) for clip, utterance in parts]
        see = [partial(self._see, clip, windows) for clip, _ in parts]
        both = any(clip.audio for clip, _ in parts) and any(clip.video for clip, _ in parts)
        if self.fast and self.encoders.on_cpu and both and torch.get_num_threads() > 1:
            # Half of the cores each: fewer cores at one product waste less of each.
            with extract.threads(2) as pool:
                audio, others = pool.map(_made, (hear, read + see))
        else:
            audio, others = _made(hear), _made(read + see)
        samples = []
        for number, (clip, _) in enumerate(parts):
            made = (audio[number], *others[number :: len(parts)])
            for error in (str(each) for each in made if isinstance(each, Exception)):
                if error not in windows.notes.errors:
                    windows.notes.errors.append(error)
            row = SampleOrigin(clip.utterance, None, None, None, clip.window.end - clip.window.start)
            sound, words, pictures = (each if isinstance(each, Tensor) else None for each in made)
            samples.append(Sample(row, sound, words, pictures))
        return samples

    def _in_precision(self) -> torch.autocast:
        """Compute in the precision that was asked for; pictures stay as they are."""
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.precision == "bf16")

    def _hear(self, clip: Clip, windows: "Windows") -> Tensor | None:
        """Encode the sound of a window, with what is around it where it is short."""
        if clip.audio is None or self.encoders.audio is None:
            return None
        lead, part = _with_context(clip.audio, windows.length)
        decoded = Decoded(clip)
        if windows.samples is not None:
            decoded.samples = windows.samples[round(part.start * SAMPLE_RATE) : round(part.end * SAMPLE_RATE)]
        else:
            self._decode(decoded, "audio", part, windows)
        assert decoded.samples is not None
        windows.notes.heard.add(decoded.samples)
        layer = self.trained.model.config.input_layer
        with self._in_precision():
            audio = self.encoders.audio.encode([decoded.samples], [layer])[0][layer]
        if windows.length == 0:
            return audio
        first = min(round(lead / AUDIO_STEP), len(audio) - 1)
        return audio[first : max(first + 1, first + round((clip.audio.end - clip.audio.start) / AUDIO_STEP))]

    def _read(self, clip: Clip, utterance: Utterance) -> Tensor | None:
        """Encode a window's share of the words."""
        if clip.text is None or self.encoders.text is None or utterance.text is None:
            return None
        layers: Literal["all", "last"] = "all" if self.trained.model.config.num_text_layers > 1 else "last"
        with self._in_precision():
            return window_text(self.encoders.text.encode([utterance.text], layers)[0], clip.share)

    def _see(self, clip: Clip, windows: "Windows") -> Tensor | None:
        """Encode the pictures of a window.

        On a CPU every core takes some of them, which wastes less than all cores on the same ones do.
        """
        video = self.encoders.video
        if clip.video is None or video is None:
            return None
        decoded = Decoded(clip)
        self._decode(decoded, "video", clip.video, windows)
        frames = decoded.frames
        assert frames is not None
        if decoded.face is not None:
            windows.notes.seen.add(clip.window.end - clip.window.start, decoded.face)
        cores = torch.get_num_threads()
        if not (self.fast and self.encoders.on_cpu and cores > 1):
            return video.encode(frames)
        with extract.threads(cores) as pool:
            return torch.cat(list(pool.map(video.encode, np.split(frames, range(AT_ONCE, len(frames), AT_ONCE)))))

    def _decode(self, decoded: Decoded, modality: str, part: Encoded, windows: "Windows") -> None:
        bad = extract.decode_part(
            decoded, modality, Path(part.path), part, self.encoders, windows.film, thorough=not self.fast
        )
        if bad:
            log.warning("%r: %d damaged packets of its %s passed over", part.path, bad, modality)


Work = Callable[[], Tensor | None]
Made = Tensor | MediaError | OSError | None


def _made(lane: Sequence[Work]) -> list[Made]:
    """Features of one thing after the other, or why it cannot be decoded."""
    found: list[Made] = []
    for work in lane:
        try:
            found.append(_half(work()))
        except (MediaError, OSError) as error:
            found.append(error)
    return found


class Windows:
    """Windows of some utterances, encoded a batch at a time, so that hours take no more memory than minutes.

    Args:
        parts: windows, with the utterances that they are of.
        samples: of an array.
        length: of the recording in seconds; 0 where the utterance is all of it.
        notes: take what is noticed.
        film: the recording's pictures; None = opened anew for each window.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Clip, Utterance]],
        samples: np.ndarray | None,
        length: float,
        recognizer: EmotionRecognizer,
        notes: Notes,
        film: media.VideoReader | None = None,
    ) -> None:
        self.parts, self.samples, self.length, self.recognizer = parts, samples, length, recognizer
        self.notes, self.film = notes, film
        self._encoded: dict[int, list[Sample]] = {}  # a batch of them, by the number of its first

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> Sample:
        first = number - number % BATCH
        if first not in self._encoded:
            self._encoded = {first: self.recognizer.encode(self.parts[first : first + BATCH], self)}
        return self._encoded[first][number - first]


def _with_context(part: Encoded, length: float) -> tuple[float, Encoded]:
    """Widen a short stretch of a recording, since encoders of sound know little of less than `CONTEXT` seconds.

    Returns:
        Seconds added in front, and the stretch.
    """
    missing = CONTEXT - (part.end - part.start)
    if missing <= 0 or length <= 0:
        return 0.0, part
    start = max(0.0, min(part.start - missing / 2, length - CONTEXT))
    return part.start - start, replace(part, start=start, end=max(part.end, min(length, start + CONTEXT)))


def _within(segments: Sequence[Segment], length: float, file: str) -> list[Segment]:
    """Leave out what begins after the recording has ended, and end with it."""
    kept = [replace(each, end=min(each.end, length)) for each in segments if each.start < length or length == 0]
    if segments and not kept:
        raise MediaError(
            f"{file!r}: expected segments within its {length:.2f} s, found all {len(segments)} after its end"
        )
    ends = {"begin": len(segments) - len(kept), "end": sum(each.start < length < each.end - SLACK for each in segments)}
    for what, count in ends.items():
        if count:
            log.warning("%s: %d segments %s after its end at %.2f s", file or "array", count, what, length)
    return kept


def _utterance(file: str, number: int, segment: Segment, tracks: Mapping[str, float], whole: bool) -> Utterance:
    times = (None, None) if whole else (segment.start, segment.end)
    return Utterance(
        f"{file or 'array'} {number}",
        "",
        audio=AudioSpan(file, *times) if "audio" in tracks else None,
        video=VideoSpan(file, *times) if "video" in tracks else None,
        text=segment.text,
    )


def _half(features: Tensor | None) -> Tensor | None:
    """Round as the store does.

    Raises:
        MediaError: samples so absurd that their features overflow.
    """
    if features is not None and not extract.fits_half(features):
        raise MediaError("expected samples in [-1, 1], found some so large that their features overflow")
    return None if features is None else features.half()


def find_run(name: str | Path) -> Run:
    """Read a RUN folder, or one that somebody put on a hub.

    Raises:
        ConfigError: no RUN there.
    """
    return read_run(_folder(name))


def _folder(name: str | Path) -> Path:
    """A RUN folder as it is, or a hub's copy of one."""
    if Path(name).exists() or not re.fullmatch(HUB_ID, str(name)):
        return Path(name)
    from huggingface_hub import constants, snapshot_download

    try:
        return Path(snapshot_download(str(name)))
    except Exception as error:  # the hub client raises many kinds
        reason = " ".join(str(error).split()).partition(". ")[0][:200]
        if constants.HF_HUB_OFFLINE:
            reason = "no such folder, no copy of such a model, and HF_HUB_OFFLINE is set, so the hub is not asked"
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
