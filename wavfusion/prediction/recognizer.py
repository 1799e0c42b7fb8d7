"""A trained model that labels the user's own recordings."""

import logging
import math
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from wavfusion.encoders.bundle import Encoders
from wavfusion.encoders.presets import PRECISIONS
from wavfusion.errors import ConfigError, CorpusError, MediaError, counted, nearest
from wavfusion.evaluation import explain
from wavfusion.evaluation.context import add_context, as_dialogue
from wavfusion.evaluation.inference import BATCH, Classifier, Utterances, pick_device, subsets
from wavfusion.features.batches import batched
from wavfusion.features.clips import WINDOW
from wavfusion.features.dataset import Sample
from wavfusion.metrics.familiarity import WARN_SHARE
from wavfusion.prediction.coverage import PAUSE, UNTRANSCRIBED, LeftOut, account, gaps, summary
from wavfusion.prediction.export import open_exported
from wavfusion.prediction.models import default_model, find_run
from wavfusion.prediction.windows import (
    RecordingDecoder,
    RecordingSource,
    RecordingWindow,
    WindowEncoder,
    cut_windows,
    open_source,
)
from wavfusion.runs.card import Card, make_card
from wavfusion.runs.folder import Run
from wavfusion.speech.language import language_of
from wavfusion.speech.loudness import Loudness
from wavfusion.speech.recognition import SpeechRecognizer
from wavfusion.speech.segmentation import (
    Speakers,
    assign_each,
    name_speakers,
    require_count,
    segment_each,
    segment_recording,
)
from wavfusion.transcripts import Segment
from wavfusion.transcripts.reading import require_plain
from wavfusion.transcripts.segment import as_segments

log = logging.getLogger(__name__)

RUNTIMES = ("torch", "onnx")
SLACK = 0.1  # seconds that a transcript may end after its recording, as its times are rounded


@dataclass(frozen=True)
class Prediction:
    """The prediction for one utterance.

    Attributes:
        file: as it was given; empty for an array.
        start, end: seconds in the file.
        speaker: None where it is not known.
        text: the transcript, None without one.
        language: of recognized text (ISO 639), None where no text was recognized.
        emotion: the most probable; how a rater would call the expression, not what a person feels.
        probability: of that emotion.
        probabilities: of all emotions.
        modalities: those that were present and used.
        contribution: exact Shapley values, in nats, of the modalities that were present: they add up to the logarithm
            of `probability` over the emotion's share in training (docs/howto/explain.md).
        text_share: mean gate value (text weight, against video); None unless both were used.
        warnings: what is unusual in this utterance: audio quality, out of distribution.
        model: the model in brief, with what its answers are worth.
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
    warnings: list[str] = field(default_factory=list)
    model: Card | None = None
    language: str | None = None


class RecordingPredictions(list[Prediction]):
    """The predictions for a recording, and what of it was left out, with reasons: together they are the whole.

    `peaks` are those of its `WaveformPeaks`, empty without audio.
    """

    def __init__(
        self, predictions: Iterable[Prediction] = (), left_out: Sequence[LeftOut] = (), peaks: Sequence[int] = ()
    ) -> None:
        super().__init__(predictions)
        self.left_out, self.peaks = list(left_out), list(peaks)


class UtteranceGroup(NamedTuple):
    """Some utterances of a recording and their windows."""

    segments: list[Segment]
    windows: list[RecordingWindow]  # of all of them, in order
    samples: Iterator[list[Sample]]  # the windows encoded in batches, so that hours take no more memory than minutes
    language: str | None  # of recognized text


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
        self.trained, self.device, self.fast, self.recogniser = trained, device, fast, recogniser
        self.card = make_card(trained)
        self.model = trained.model.to(device) if model is None else model
        self.encoders = encoders.to(device).quick() if fast else encoders.to(device)
        self._encoder = WindowEncoder(self.encoders, trained.model.config, precision, fast)
        explain.warn_of_untrained_subsets(trained.model.config)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path | None = None,
        device: str = "cpu",
        runtime: str = "torch",
        precision: str = "fp32",
        fast: bool = True,
        asr: str | None = None,
    ) -> "EmotionRecognizer":
        """Load a RUN folder or a model from a hub.

        Args:
            name: the folder, or the hub id; None = the voice model.
            device: `auto`, `cpu`, `cuda` or `cuda:N`.
            runtime: of the fusion: `torch`, or `onnx` for the file that `export` has put into the RUN. The encoders
                stay in torch.
            precision: `fp32`, or `bf16` for matrix multiplications of audio, text and fusion in bfloat16, which is
                faster on newer CPUs and GPUs: probabilities differ by some thousandths
                (docs/measurements/performance.md).
            fast: False for the encoders as they were loaded, without faster equal layers.
            asr: model of the speech recogniser that transcribes where no transcript is given (extra `[asr]`): a folder,
                or a name that faster-whisper knows; None = no text.

        Raises:
            ConfigError: there is no such RUN; its encoders, its ONNX file or the speech recogniser cannot be loaded;
                this machine has no such device.
        """
        unnamed, name = name is None, default_model() if name is None else name
        if not isinstance(name, (str, os.PathLike)) or not str(name):
            raise ConfigError(f"expected a RUN folder or a hub id, found {name!r}")
        for what, value, valid in (("runtime", runtime, RUNTIMES), ("precision", precision, PRECISIONS)):
            if value not in valid:
                raise ConfigError(f"{what}: found {value!r}; {nearest(str(value), valid)}")
        device = pick_device(device)
        trained = find_run(name)
        if runtime == "onnx" and trained.context is not None:
            raise ConfigError(
                f"runtime: expected torch for {name}, whose dialogue context has no ONNX file, found onnx"
            )
        model = open_exported(trained) if runtime == "onnx" else None
        recogniser = None if asr is None else SpeechRecognizer(asr, device)
        recognizer = cls(trained, trained.encoders(), device, model, precision, fast, recogniser)
        if multiprocessing.parent_process() is None:  # else each of several processes would repeat it
            recognizer.card.warn()
            if unnamed:
                log.info("%s", recognizer.card)
        return recognizer

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
        segments: Iterable[Any] | None = None,
        speakers: Speakers = None,
        progress: Callable[[float], None] = lambda seconds: None,
        contributions: bool = True,
        track: int | str | None = None,
        channel: str | None = None,
    ) -> RecordingPredictions:
        """Label a recording: up to 15 s it is one utterance, a longer one is cut in the pauses of speech.

        Without the extra `[vad]`, and where there is no speech, a longer one is cut every 15 s. A segment above 15 s
        is encoded in windows whose probabilities are averaged by length.

        Args:
            source: an audio or video file, or samples in [-1, 1]: (N,) or (channels, N).
            transcript: of the whole recording; of a longer one every utterance gets its share by seconds.
            sample_rate: of an array, in Hz.
            segments: utterances with times, speakers and text, in place of segmentation: what
                `wavfusion.transcripts.read` returns, or `Segment`s, mappings or objects with its names, tuples
                `(start, end)` or `(start, end, speaker, text)`. No end is the recording's.
            speakers: number of speakers to tell apart (extra `[speakers]`); `auto` finds those that differ clearly.
                None leaves speakers that are not given at None.
            progress: called now and then with the second up to which the recording is labelled.
            contributions: False leaves them out: the fusion runs once and not on every subset.
            track: of several audio tracks: a number from 1; `mix` = their mean; `each` = one speaker a track, named by
                its title or language. None = the default one, with a warning that names the others.
            channel: `left`, `right`, `centre` or `mix` (the default); `each` = one speaker on the left, one on the
                right.

        Raises:
            MediaError: the file cannot be used, or has nothing that the model can use; says why.
            ConfigError: an array without its rate, an argument of another type, an invalid segment, or the extra
                `[speakers]` is missing.
        """
        opened = open_source(source, sample_rate, track, channel)
        sets = subsets(self.modalities) if contributions else [self.modalities]
        predictions, groups = list[Prediction](), list[Utterances]()
        temperature = self.trained.own_temperature
        for group in self.encode(opened, transcript, segments, speakers):
            classifier = Classifier(self.model, sets, self.trained.prior, len(group.windows), self.device, temperature)
            for samples in group.samples:
                with self._encoder.autocast():
                    classifier.add(samples)
            by_set = classifier.utterances()
            found = by_set[-1]
            shares = explain.contributions(sets, by_set, self.trained.prior) if contributions else None
            warnings = self._warnings(opened, group, found)
            predictions += self._rows(opened.file, group, found, shares, warnings)
            groups += [] if self.trained.context is None else [found]
            progress(group.segments[-1].end)
        predictions = self._in_context(predictions, groups)
        left_out = self.report(opened, [each.text for each in predictions])
        return RecordingPredictions(predictions, left_out, opened.waveform.peaks() if opened.loudness else ())

    def encode(
        self, source: RecordingSource, transcript: str | None, segments: Iterable[Any] | None, speakers: Speakers
    ) -> Iterator[UtteranceGroup]:
        """Cut a recording into utterances and these into windows, and encode them; the arguments are `predict`'s."""
        if transcript is not None and not isinstance(transcript, str):
            raise ConfigError(f"expected transcript= as text, found {type(transcript).__name__}")
        try:
            require_plain(transcript or "")
        except CorpusError as error:
            raise ConfigError(f"transcript=: {error}") from None
        require_count(speakers)
        if speakers is not None and len(source.audios) > 1:
            raise ConfigError(f"expected no speakers= where each track or channel is a speaker, found {speakers!r}")
        whole = segments is None and source.length <= WINDOW
        utterances = _divide(source, transcript, segments, speakers)
        spans = [(each.start, each.end) for each, _ in utterances]
        source.left_out.extend(gaps(spans, source.length, PAUSE if segments is None else UNTRANSCRIBED))
        _warn_of_ended_tracks(source, self.modalities, [start for start, _ in spans])
        recogniser = None if any(each.text for each, _ in utterances) else self.recogniser
        language: str | None = None
        with RecordingDecoder(source, self.encoders, not whole, self.fast) as decoder:
            for group in batched(utterances, BATCH):
                if recogniser is not None:
                    group, language = _transcribed(recogniser, source, group, language)
                windows = cut_windows(group, source, self.modalities)
                samples = (self._encoder.encode(some, decoder) for some in batched(windows, BATCH))
                yield UtteranceGroup([each for each, _ in group], windows, samples, language)
        if recogniser is not None:
            found = f"recognised text in {language!r}" if language else "no words recognised"
            log.info("%s: %s", source.file or "array", found)

    def _rows(
        self,
        file: str,
        group: UtteranceGroup,
        found: Utterances,
        contributions: list[dict[str, float]] | None,
        warnings: Sequence[list[str]],
    ) -> list[Prediction]:
        """Join segments with their probabilities; those that have none of the model's modalities are left out."""
        rows = []
        for i, (segment, modalities) in enumerate(zip(group.segments, found.modalities, strict=True)):
            if not modalities:
                continue
            probabilities = dict(zip(self.classes, found.probabilities[i].tolist(), strict=True))
            emotion, probability = max(probabilities.items(), key=lambda item: item[1])
            row = Prediction(
                file=file,
                start=round(segment.start, 3),
                end=max(round(segment.end, 3), round(segment.start + 0.001, 3)),
                speaker=segment.speaker,
                text=segment.text,
                emotion=emotion,
                probability=probability,
                probabilities=probabilities,
                modalities=modalities,
                contribution=contributions[i] if contributions else None,
                text_share=found.text_share[i],
                warnings=warnings[i],
                model=self.card,
                language=group.language if segment.text else None,
            )
            rows.append(row)
        return rows

    def _in_context(self, predictions: list[Prediction], groups: Sequence[Utterances]) -> list[Prediction]:
        """Let the turns of a recording see each other where the model has a dialogue context.

        The contributions of the modalities, which explain an answer without it, are left out then.
        """
        if self.trained.context is None or not predictions:
            return predictions
        rows, found = as_dialogue(groups, [each.speaker for each in predictions])
        changed = []
        for each, row in zip(predictions, add_context(self.trained.context, rows, found).probabilities, strict=True):
            shares = dict(zip(self.classes, row.tolist(), strict=True))
            emotion = max(shares, key=lambda name: shares[name])
            about = {"emotion": emotion, "probability": shares[emotion], "probabilities": shares, "contribution": None}
            changed.append(replace(each, **about))
        return changed

    def _warnings(self, source: RecordingSource, group: UtteranceGroup, found: Utterances) -> list[list[str]]:
        """Tell what is unusual in each utterance of a group, and record its distance from the training data."""
        stretches: list[list[Loudness]] = [[] for _ in group.segments]
        for window in group.windows:
            if window.audio is not None and (measured := source.loudness.get((window.audio, window.speaker))):
                stretches[window.utterance].append(measured)
        warnings = [list(Loudness.sum(each).complaints()) for each in stretches]
        used = [i for i, names in enumerate(found.modalities) if names]
        distances = [] if found.vectors is None else self.measure_distances(source, found.vectors[used])
        for i, distance in zip(used, distances, strict=False):
            if self.trained.familiarity is not None and distance > self.trained.familiarity.limit:
                limit = f"99 % of the validation part lies within {self.trained.familiarity.limit:.1f}"
                warnings[i].append(f"it is out of distribution: {distance:.1f} from the training data, where {limit}")
        return warnings

    def measure_distances(self, source: RecordingSource, vectors: np.ndarray) -> list[float]:
        """Record and return how far the vectors of some utterances lie from the training data; none if not known."""
        if self.trained.familiarity is None:
            return []
        distances: list[float] = self.trained.familiarity.distances(vectors).tolist()
        source.distances.extend(distances)
        return distances

    def report(self, source: RecordingSource, texts: Sequence[str | None]) -> list[LeftOut]:
        """Warn of what is unusual in a recording, and return what was left out; `texts`: of what was used.

        Raises:
            MediaError: nothing of it could be used; says why.
        """
        if not texts or source.length <= 0:  # text alone has no time at which it was said
            expected = " or ".join(self.modalities)
            found = f"{source.file!r}: expected {expected}, which this model uses, found none of it"
            raise MediaError("; ".join(each[0] for each in source.errors.values()) or found)
        for errors in source.errors.values():
            others = f", like {len(errors) - 1} other stretches" if len(errors) > 1 else ""
            log.warning("%s; left out%s", errors[0], others)
        for modality, packets in source.damaged.items():
            if packets:
                found = counted(packets, "damaged packet")
                log.warning("%r: %s of its %s passed over", source.file, found, modality)
        left_out = account(source.length, source.labelled, source.left_out)
        if lost := summary(source.length, left_out):
            log.warning("%s: %s", source.file or "array", lost)
        ours = self._complaints(texts, source.distances)
        for complaint in (*ours, *Loudness.sum(source.loudness.values()).complaints(), *source.faces.complaints()):
            log.warning("%s: %s", source.file or "array", complaint)
        return left_out

    def _complaints(self, texts: Sequence[str | None], distances: Sequence[float]) -> Iterator[str]:
        """Say when many utterances lie further from the training data than the validation part, or in what language."""
        known = self.trained.familiarity
        beyond = [each for each in distances if known is not None and each > known.limit]
        if known is not None and len(beyond) > WARN_SHARE * len(distances):
            yield (
                f"{len(beyond)} of {len(distances)} utterances are out of distribution: distances up to "
                f"{max(beyond):.1f} from the training data, where 99 % of the validation part lies within "
                f"{known.limit:.1f}"
            )
        used = [each for each in texts if each]
        if self.encoders.text is not None and (cut := self.encoders.text.count_cut(used)):
            yield self.encoders.text.say_cut(cut)
        text = " ".join(used)
        language = language_of(text) if self.trained.languages and "text" in self.modalities else None
        if language is not None and language[0] not in self.trained.languages:
            name, probability = language
            yield (
                f"its text is in {name!r} (probability {probability:.3f}), the model was trained on "
                f"{', '.join(self.trained.languages)}"
            )


def _transcribed(
    recogniser: SpeechRecognizer, source: RecordingSource, group: list[tuple[Segment, int]], language: str | None
) -> tuple[list[tuple[Segment, int]], str | None]:
    """Recognise the words of utterances, each in its own audio."""
    found = list(group)
    for number, audio in enumerate(source.audios):
        places = [i for i, (_, of) in enumerate(group) if of == number]
        segments, _, language = recogniser.transcribe(audio, [group[i][0] for i in places], language)
        for i, segment in zip(places, segments, strict=True):
            found[i] = segment, number
    return found, language


def _divide(
    source: RecordingSource, transcript: str | None, segments: Iterable[Any] | None, speakers: Speakers
) -> list[tuple[Segment, int]]:
    """Find the utterances of a recording, or take the given ones, each with the number of its audio."""
    audio = source.audios[0] if source.audios else None
    if segments is not None:
        found = name_speakers(_within(as_segments(segments), source), audio, speakers)
        return assign_each(found, source.audios) if len(source.audios) > 1 else [(each, 0) for each in found]
    if len(source.audios) > 1:
        return segment_each(source.audios, source.file, source.length, transcript)
    video = "video" in source.tracks
    found = segment_recording(audio, source.file, source.length, transcript, speakers, video)
    return [(each, 0) for each in found]


def _warn_of_ended_tracks(source: RecordingSource, modalities: Sequence[str], starts: Sequence[float]) -> None:
    """Say once how many utterances begin after a track has ended."""
    for name, end in source.tracks.items():
        after = sum(start >= end > 0 for start in starts)
        if name in modalities and after:
            without = counted(after, "utterance")
            log.warning("%s: its %s ends at %.2f s; without it: %s", source.file, name, end, without)


def _within(segments: Sequence[Segment], source: RecordingSource) -> list[Segment]:
    """Leave out segments that start after the recording has ended, and cut off what lasts longer."""
    length = source.length
    kept = [replace(each, end=min(each.end, length)) for each in segments if round(each.start, 3) < round(length, 3)]
    if segments and not kept:
        raise MediaError(
            f"{source.file!r}: expected segments within its {length:.2f} s, found all {len(segments)} after its end"
        )
    late = [each for each in segments if each.start < length < each.end - SLACK and each.end != math.inf]
    ends = {"left out, after": len(segments) - len(kept), "cut at": len(late)}
    for what, count in ends.items():
        if count:
            found = counted(count, "segment")
            log.warning("%s: %s its end at %.2f s: %s", source.file or "array", what, length, found)
    return kept
