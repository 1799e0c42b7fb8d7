"""How good is recognized text? Word errors and word times on recordings, and words where nobody speaks.

    python scripts/word_errors.py MODEL --conversation DIR --ravdess DIR [--clips 60] [--seconds 600] [--unguarded]

MODEL is a folder of faster-whisper's. DIR with a conversation holds `sample.wav`, `sample.stm` and `sample.rttm`; that
of RAVDESS its `Actor_NN` folders, of which `--clips` are drawn. Silence, noise, a tone and chords of `--seconds` each
are generated. `--unguarded` shows what faster-whisper gives by itself. Without a folder its rows are left out. Prints a
table in Markdown, row by row.
"""

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

from wavfusion import media, transcripts
from wavfusion.media import SAMPLE_RATE
from wavfusion.speech.recognition import SpeechRecognizer, Transcription, Word
from wavfusion.speech.segmentation import RecordingAudio, segment_recording
from wavfusion.transcripts import Segment

SENTENCES = {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"}
LEVELS = (-60, -40, -20, -6)  # dB of white noise, of full scale
NOTES = (220.0, 277.18, 329.63)  # Hz, a chord of A major
STEPS = (0, 5, 7, 0)  # semitones of a cadence, a chord a second
Recognize = Callable[[RecordingAudio, float], Transcription]

_normalized: Callable[[str], str] = EnglishTextNormalizer({})  # Whisper's own, without its list of British spellings


def words_of(text: str) -> list[str]:
    """Words in lower case without punctuation; contractions are written out."""
    return _normalized(text).split()


def word_errors(expected: Sequence[str], found: Sequence[str]) -> int:
    """Count the least substitutions, deletions and insertions between two sequences of words."""
    row = list(range(len(found) + 1))
    for number, word in enumerate(expected, 1):
        last, row = row, [number]
        for i, other in enumerate(found, 1):
            row.append(min(last[i] + 1, row[-1] + 1, last[i - 1] + (word != other)))
    return row[-1]


def guarded(model: str) -> Recognize:
    """Recognize as `predict --asr` does: in the utterances that it finds, with all guards."""
    recognizer = SpeechRecognizer(model)

    def recognize(audio: RecordingAudio, seconds: float) -> Transcription:
        return recognizer.transcribe(audio, segment_recording(audio, audio.file, seconds, None, None, has_video=False))

    return recognize


def unguarded(model: str) -> Recognize:
    """Recognize by faster-whisper with the same settings and without any guard."""
    from faster_whisper import WhisperModel

    whisper = WhisperModel(model, "cpu", cpu_threads=1)

    def recognize(audio: RecordingAudio, seconds: float) -> Transcription:
        settings = {"temperature": 0.0, "condition_on_previous_text": False, "word_timestamps": True}
        parts, about = whisper.transcribe(audio.decode(0.0, seconds), **settings)
        words = [Word(word.start, word.end, word.word) for part in parts for word in part.words or []]
        text = "".join(word.text for word in words)
        return Transcription([Segment(0.0, seconds, None, text)], [words], about.language)

    return recognize


def text_of(found: Transcription) -> str:
    """Join the text of all utterances."""
    return " ".join(each.text for each in found.segments if each.text)


def conversation(recognize: Recognize, folder: Path) -> Iterator[Sequence[str]]:
    """Yield the rows of a conversation: word errors against the .stm, word times against the .rttm."""
    file = str(folder / "sample.wav")
    expected = words_of(" ".join(each.text or "" for each in transcripts.read(folder / "sample.stm")))
    turns = transcripts.read(folder / "sample.rttm")
    found = recognize(RecordingAudio(file), media.probe(file).audio or 0.0)
    errors = word_errors(expected, words_of(text_of(found)))
    yield "conversation", f"{errors / len(expected):.1%} word errors ({errors} of {len(expected)} words)"
    yield "its language", str(found.language)
    words = [word for some in found.words for word in some]
    total = sum(word.end - word.start for word in words)
    within = sum(_seconds_within(word, turns) for word in words)
    yield "time of words in turns", f"{within / total:.1%}"
    first = [
        min((word.start for word in words if turn.start <= (word.start + word.end) / 2 <= turn.end), default=None)
        for turn in turns
    ]
    late = [start - turn.start for start, turn in zip(first, turns, strict=True) if start is not None]
    yield "begin of turns", f"{np.median(late):+.2f} s from turn to first word (median of {len(late)} turns)"


def _seconds_within(word: Word, turns: Sequence[Segment]) -> float:
    """Measure how much of a word lies in turns, on a grid of 10 ms, as turns overlap."""
    times = np.arange(word.start, word.end, 0.01)
    inside = np.array([any(turn.start <= at <= turn.end for turn in turns) for at in times], bool)
    return float(inside.mean() * (word.end - word.start)) if len(times) else 0.0


def sentences(recognize: Recognize, folder: Path, clips: int) -> Iterator[Sequence[str]]:
    """Yield the rows of RAVDESS's sentences, of clips drawn by seed 0."""
    files = sorted(folder.rglob("03-01-*.wav"))
    random.Random(0).shuffle(files)
    errors = total = right = 0
    languages: Counter[str | None] = Counter()
    for file in files[:clips]:
        expected = words_of(SENTENCES[file.name.split("-")[4]])
        found = recognize(RecordingAudio(str(file)), media.probe(file).audio or 0.0)
        wrong = word_errors(expected, words_of(text_of(found)))
        errors, total, right = errors + wrong, total + len(expected), right + (wrong == 0)
        languages[found.language] += 1
    yield f"RAVDESS, {languages.total()} clips", f"{errors / total:.1%} word errors ({errors} of {total} words)"
    yield "clips without an error", str(right)
    yield "their languages", ", ".join(f"{name} {count}" for name, count in languages.most_common())


def no_speech(seconds: float) -> Iterator[tuple[str, Float32[np.ndarray, " N"]]]:
    """Generate what holds no words."""
    at = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    rng = np.random.default_rng(0)
    yield "digital silence", np.zeros(len(at), np.float32)
    for level in LEVELS:
        noise = 10 ** (level / 20) * rng.standard_normal(len(at), np.float32)
        yield f"white noise, {level} dB", noise.clip(-1, 1)
    yield "tone of 440 Hz", (0.3 * np.sin(2 * np.pi * 440 * at)).astype(np.float32)
    pitch = 2 ** (np.array(STEPS)[at.astype(int) % len(STEPS)] / 12)
    phase = np.cumsum(pitch) / SAMPLE_RATE
    decay = np.exp(-3 * (at % 1.0))
    chord = sum(np.sin(2 * np.pi * note * harmonic * phase) / harmonic for note in NOTES for harmonic in (1, 2, 3, 4))
    yield "chords of plucked strings", (0.1 * decay * chord).astype(np.float32)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the rows of the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--conversation", type=Path)
    parser.add_argument("--ravdess", type=Path)
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=600.0, help="of each sound without speech; 0 = none")
    parser.add_argument("--unguarded", action="store_true")
    options = parser.parse_args(arguments)
    recognize = (unguarded if options.unguarded else guarded)(options.model)

    def write(*cells: str) -> None:
        sys.stdout.write(f"| {' | '.join(cells)} |\n")
        sys.stdout.flush()

    write("audio", "result")
    write("---", "---")
    rows: list[Iterator[Sequence[str]]] = []
    if options.conversation:
        rows.append(conversation(recognize, options.conversation))
    if options.ravdess:
        rows.append(sentences(recognize, options.ravdess, options.clips))
    for row in (row for some in rows for row in some):
        write(*row)
    for name, samples in no_speech(options.seconds) if options.seconds else ():
        begin = time.perf_counter()
        found = recognize(RecordingAudio("", samples), options.seconds)
        count = sum(map(len, found.words))
        write(f"{name}, {options.seconds:g} s", f"{count} words in {time.perf_counter() - begin:.1f} s")


if __name__ == "__main__":
    main()
