"""What is said, by a speech recogniser whose model the user names (extra `[asr]`: faster-whisper)."""

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

STRETCH = 28.0  # seconds: Whisper hears 30 at a time, and as much for one word
LEAST = 1600  # samples; less holds no word, and some of it is an error of faster-whisper's
PARTS = ("model.bin", "tokenizer.json")  # without the second, faster-whisper would fetch it


class Recogniser:
    """A Whisper model in CTranslate2's form.

    Args:
        name: its folder, or a name that faster-whisper or the hub knows, such as `small`, which is then fetched.
        device: `cpu`, `cuda` or `cuda:N`.

    Raises:
        ConfigError: the extra is missing, or no such model here or to be had.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        try:
            from faster_whisper import WhisperModel
        except ModuleNotFoundError:
            raise ConfigError("--asr: expected the extra [asr]: pip install 'wavfusion[asr]'; found none") from None
        self.name = name
        _require_parts(Path(name))
        kind, _, number = device.partition(":")
        try:
            self._model: Any = WhisperModel(
                name, kind, int(number or 0), cpu_threads=torch.get_num_threads() if kind == "cpu" else 0
            )
        except Exception as error:  # the hub's client and CTranslate2 raise many kinds
            if Path(name).is_dir():
                raise self._unfit(error) from None
            wish = f"--asr {name}: expected a model that can be had"
            found = f"no such folder and none that can be fetched now ({type(error).__name__})"
            raise ConfigError(f"{wish}, found {found}; get it elsewhere and give its folder") from None

    def _unfit(self, error: Exception) -> ConfigError:
        found = " ".join(str(error).split())[:120] or type(error).__name__
        return ConfigError(f"--asr {self.name}: expected a whole Whisper model of faster-whisper, found: {found}")

    def fill(
        self, sound: RecordingAudio, segments: Sequence[Segment], language: str | None = None
    ) -> tuple[list[Segment], str | None]:
        """Give their words to segments, in order of time; what is heard goes to the nearest.

        Args:
            sound: of the recording.
            segments: stretches of it.
            language: what is spoken; None = found out.

        Returns:
            The segments, and the language.
        """
        said: list[list[str]] = [[] for _ in segments]
        for first, last in _stretches(segments):
            start, end = segments[first].start, max(each.end for each in segments[first:last])
            words, language = self._words(sound.heard(start, end), language)
            for at, word in words:
                nearest = min(range(first, last), key=lambda i: _distance(segments[i], start + at))
                said[nearest].append(word)
        filled = [
            replace(each, text="".join(words).strip() or None) for each, words in zip(segments, said, strict=True)
        ]
        return filled, language

    def _words(
        self, samples: Float32[ndarray, " N"], language: str | None
    ) -> tuple[list[tuple[float, str]], str | None]:
        """Each word with the second in whose midst it is said, and the language."""
        # One answer for one recording: no drawing where it is unsure, no leaning on what came before.
        if len(samples) < LEAST or not samples.any():
            return [], language
        try:
            parts, about = self._model.transcribe(
                samples, language=language, temperature=0.0, condition_on_previous_text=False, word_timestamps=True
            )
            words = [((word.start + word.end) / 2, word.word) for part in parts for word in part.words or []]
        except Exception as error:  # parts of different models meet here: too few mels, none of the words it needs
            raise self._unfit(error) from None
        return words, about.language if words else language


def _require_parts(folder: Path) -> None:
    """Refuse what stands where a model's folder should, and is none.

    Raises:
        ConfigError: a file, or a folder that lacks something.
    """
    wish = f"--asr {folder}: expected a folder of faster-whisper's"
    if folder.is_file():
        raise ConfigError(f"{wish}, found a file")
    lacking = [part for part in PARTS if folder.is_dir() and not (folder / part).is_file()]
    if lacking:
        plain = any(folder.glob("*.safetensors")) or (folder / "pytorch_model.bin").is_file()
        hint = "; it looks like one of transformers, which ct2-transformers-converter converts" if plain else ""
        raise ConfigError(f"{wish}, found no {' and no '.join(lacking)}{hint}")


def _stretches(segments: Sequence[Segment]) -> Iterator[tuple[int, int]]:
    """Neighbours that are heard together, as first and one past the last."""
    first = 0
    for number in range(1, len(segments) + 1):
        if number == len(segments) or segments[number].end - segments[first].start > STRETCH:
            yield first, number
            first = number


def _distance(segment: Segment, at: float) -> float:
    return max(segment.start - at, at - segment.end, 0.0)
