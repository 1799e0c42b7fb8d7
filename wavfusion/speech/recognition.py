"""Speech recognition by a Whisper model that the user names (extra `[asr]`: faster-whisper).

Whisper invents words where nobody speaks. So it gets nothing but speech (`activity`), and what it says itself not to be
speech is left out (docs/measurements/recognition.md).
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32
from numpy import ndarray

from wavfusion.errors import ConfigError
from wavfusion.media import SAMPLE_RATE
from wavfusion.speech import activity
from wavfusion.speech.activity import Span
from wavfusion.speech.segmentation import RecordingAudio
from wavfusion.transcripts import Segment

STRETCH = 28.0  # seconds: Whisper's window is 30, and costs as much for one word
MIN_SAMPLES = 1600  # fewer hold no word, and faster-whisper fails on some of them
FILES = ("model.bin", "tokenizer.json")  # without the second, faster-whisper would fetch it
PAUSE = 2.0  # seconds; longer stretches without speech are cut out, but for a MARGIN: faster-whisper's own values
MARGIN = 0.4
NO_SPEECH = 0.6  # Whisper's probability that nobody speaks, above which its words are doubted: its own threshold
REPETITION = 2.4  # length of the text over that of the compressed text: Whisper's own threshold


class Word(NamedTuple):
    """A recognized word, as it was written with its blank and punctuation; times in seconds."""

    start: float
    end: float
    text: str


class Transcription(NamedTuple):
    """Segments with their text, the words of each with their times in the recording, and the language."""

    segments: list[Segment]
    words: list[list[Word]]
    language: str | None


class SpeechRecognizer:
    """A Whisper model in the format of CTranslate2, on `cpu`, `cuda` or `cuda:N`.

    It is named by its folder, or as faster-whisper or the hub know it (`small`), from where it is then downloaded.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        if find_spec("faster_whisper") is None or not activity.has_activity_model():
            raise ConfigError("--asr: expected the extra [asr]: pip install 'wavfusion[asr]'; found none")
        import ctranslate2
        from faster_whisper import WhisperModel

        self.name = name
        _require_files(Path(name))
        kind, _, number = device.partition(":")
        ctranslate2.set_log_level(logging.ERROR)  # it warns that float16, as stored, is computed in float32
        threads = torch.get_num_threads() if kind == "cpu" else 0
        try:
            self._model: Any = WhisperModel(name, kind, int(number or 0), cpu_threads=threads)
        except Exception as error:  # the hub's client and CTranslate2 raise many kinds
            if Path(name).is_dir():
                raise self._invalid(error) from None
            found = f"no such folder and no model to download now ({type(error).__name__})"
            raise ConfigError(f"--asr {name}: expected a model, found {found}; give the folder of one") from None

    def _invalid(self, error: Exception) -> ConfigError:
        found = " ".join(str(error).split())[:120] or type(error).__name__
        return ConfigError(f"--asr {self.name}: expected a complete Whisper model of faster-whisper, found: {found}")

    def transcribe(
        self, audio: RecordingAudio, segments: Sequence[Segment], language: str | None = None
    ) -> Transcription:
        """Recognize the text of segments, which are in order of time, and the language where None is given.

        Each recognized word goes to the nearest segment.
        """
        words: list[list[Word]] = [[] for _ in segments]
        for first, last in _stretches(segments):
            start, end = segments[first].start, max(each.end for each in segments[first:last])
            recognized, language = self.recognize(audio.decode_or_silence(start, end), language)
            for word in recognized:
                placed = Word(start + word.start, start + word.end, word.text)
                nearest = min(range(first, last), key=lambda i: _distance(segments[i], (placed.start + placed.end) / 2))
                words[nearest].append(placed)
        texts = ["".join(word.text for word in some).strip() or None for some in words]
        filled = [replace(each, text=text) for each, text in zip(segments, texts, strict=True)]
        return Transcription(filled, words, language)

    def recognize(self, samples: Float32[ndarray, " N"], language: str | None = None) -> tuple[list[Word], str | None]:
        """Recognize the words in samples at 16 kHz and their language, which is identified where None is given.

        Without a word the language is the given one.
        """
        spoken = [] if len(samples) < MIN_SAMPLES else _spoken(samples)
        if not spoken:
            return [], language
        speech = np.concatenate([samples[start:end] for start, end in spoken])
        try:
            # One answer for one recording: no sampling at higher temperatures, no conditioning on earlier text.
            parts, about = self._model.transcribe(
                speech, language=language, temperature=0.0, condition_on_previous_text=False, word_timestamps=True
            )
            words = plausible_words(parts)
        except Exception as error:  # files of different models: too few mel bands, missing tokens
            raise self._invalid(error) from None
        return _restored(words, spoken), about.language if words else language


def plausible_words(parts: Iterable[Any]) -> list[Word]:
    """Take the words of what faster-whisper returns, without those it invents where nobody speaks.

    These are parts without a letter, and those that repeat themselves where Whisper hears no speech. It leaves out
    improbable ones itself, but a repeated word is a probable one.
    """
    return [
        Word(word.start, word.end, word.word)
        for part in parts
        if any(map(str.isalnum, part.text))
        and not (part.no_speech_prob > NO_SPEECH and part.compression_ratio > REPETITION)
        for word in part.words or []
    ]


def _spoken(samples: Float32[ndarray, " N"]) -> list[tuple[int, int]]:
    """Find the stretches of speech, as numbers of samples, without what is longer than PAUSE and holds none.

    Shorter silence stays in at both ends, too: the network is late where a stretch begins in the middle of speech.
    """
    spans = activity.detect_speech_in_samples(samples).spans
    length, joined = len(samples) / SAMPLE_RATE, list[Span]()
    for span in spans:
        if span.start - (joined[-1].end if joined else 0.0) <= PAUSE:
            span = Span(joined.pop().start if joined else 0.0, span.end)
        joined.append(span)
    if joined and length - joined[-1].end <= PAUSE:
        joined.append(Span(joined.pop().start, length))
    return [
        (max(0, round((start - MARGIN) * SAMPLE_RATE)), min(len(samples), round((end + MARGIN) * SAMPLE_RATE)))
        for start, end in joined
    ]


def _restored(words: Sequence[Word], spoken: Sequence[tuple[int, int]]) -> list[Word]:
    """Move words from their times in the joined stretches to those in the samples; a word lies where its middle is."""
    ends = np.cumsum([end - start for start, end in spoken])
    restored = []
    for word in words:
        middle = (word.start + word.end) / 2 * SAMPLE_RATE
        number = min(int(np.searchsorted(ends, middle, side="right")), len(spoken) - 1)
        later = float(spoken[number][1] - ends[number]) / SAMPLE_RATE
        restored.append(Word(float(word.start) + later, float(word.end) + later, word.text))
    return restored


def _require_files(folder: Path) -> None:
    """Check that a path, where it exists, is a model's folder with all of its files."""
    expected = f"--asr {folder}: expected a folder of faster-whisper's"
    if folder.is_file():
        raise ConfigError(f"{expected}, found a file")
    lacking = [name for name in FILES if folder.is_dir() and not (folder / name).is_file()]
    if lacking:
        hint = ""
        if any(folder.glob("*.safetensors")) or (folder / "pytorch_model.bin").is_file():
            hint = "; it looks like one of transformers, which ct2-transformers-converter converts"
        raise ConfigError(f"{expected}, found no {' and no '.join(lacking)}{hint}")


def _stretches(segments: Sequence[Segment]) -> Iterator[tuple[int, int]]:
    """Group neighbouring segments that are recognized together: indices of the first, and one past the last."""
    first = 0
    for number in range(1, len(segments) + 1):
        if number == len(segments) or segments[number].end - segments[first].start > STRETCH:
            yield first, number
            first = number


def _distance(segment: Segment, at: float) -> float:
    return max(segment.start - at, at - segment.end, 0.0)
