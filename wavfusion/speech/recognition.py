"""Speech recognition by a Whisper model that the user names (extra `[asr]`: faster-whisper)."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from numpy import ndarray

from wavfusion.errors import ConfigError
from wavfusion.speech.segmentation import RecordingAudio
from wavfusion.transcripts import Segment

STRETCH = 28.0  # seconds: Whisper's window is 30, and costs as much for one word
MIN_SAMPLES = 1600  # fewer hold no word, and faster-whisper fails on some of them
FILES = ("model.bin", "tokenizer.json")  # without the second, faster-whisper would fetch it


class SpeechRecognizer:
    """A Whisper model in the format of CTranslate2, on `cpu`, `cuda` or `cuda:N`.

    It is named by its folder, or as faster-whisper or the hub know it (`small`), from where it is then downloaded.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        try:
            import ctranslate2
            from faster_whisper import WhisperModel
        except ModuleNotFoundError:
            raise ConfigError("--asr: expected the extra [asr]: pip install 'wavfusion[asr]'; found none") from None
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
    ) -> tuple[list[Segment], str | None]:
        """Fill in the text of segments, in order of time, and return the language, which is identified where None.

        Each recognized word goes to the nearest segment.
        """
        texts: list[list[str]] = [[] for _ in segments]
        for first, last in _stretches(segments):
            start, end = segments[first].start, max(each.end for each in segments[first:last])
            words, language = self._words(audio.decode_or_silence(start, end), language)
            for at, word in words:
                nearest = min(range(first, last), key=lambda i: _distance(segments[i], start + at))
                texts[nearest].append(word)
        said = ["".join(words).strip() or None for words in texts]
        return [replace(each, text=text) for each, text in zip(segments, said, strict=True)], language

    def _words(
        self, samples: Float32[ndarray, " N"], language: str | None
    ) -> tuple[list[tuple[float, str]], str | None]:
        """Recognize words, each with the middle of its time in seconds, and the language."""
        if len(samples) < MIN_SAMPLES or not samples.any():
            return [], language
        try:
            # One answer for one recording: no sampling at higher temperatures, no conditioning on earlier text.
            parts, about = self._model.transcribe(
                samples, language=language, temperature=0.0, condition_on_previous_text=False, word_timestamps=True
            )
            words = [((word.start + word.end) / 2, word.word) for part in parts for word in part.words or []]
        except Exception as error:  # files of different models: too few mel bands, missing tokens
            raise self._invalid(error) from None
        return words, about.language if words else language


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
