"""The look-alike corpus on disk: media and annotations in the file names and formats of IEMOCAP and MELD."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import numpy as np
import soxr
from jaxtyping import Float32, UInt8

from wavfusion.corpora.emotions import IEMOCAP_CODES, IEMOCAP_WORDS
from wavfusion.lookalike.face import FRAME_RATE, SIDE, Face, animate
from wavfusion.lookalike.plan import Dialogue, Speaker, Turn
from wavfusion.lookalike.sentences import sentence
from wavfusion.lookalike.voice import Espeak, speak
from wavfusion.lookalike.world import GROUPS
from wavfusion.media import SAMPLE_RATE, write_audio, write_video

PAUSE = 0.2  # seconds between two turns, at least

Frame: TypeAlias = UInt8[np.ndarray, "H W 3"]
Audio: TypeAlias = Float32[np.ndarray, " _"]

SENTIMENTS = {"neutral": "neutral", "surprise": "positive", "joy": "positive"}
TABLES = {"train": "train_sent_emo.csv", "valid": "dev_sent_emo.csv", "test": "test_sent_emo.csv"}
FOLDERS = {"train": "train_splits", "valid": "dev_splits_complete", "test": "output_repeated_splits_test"}
COLUMNS = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"


def render(dialogue: Dialogue, root: Path, pitches: dict[str, list[float]], micro: bool) -> Dialogue:
    """Write the media of one dialogue and return it with its times; to be run in a fresh process (espeak-ng)."""
    espeak = Espeak()
    recordings = []
    for turn in dialogue.turns:
        rng = np.random.default_rng((*turn.seed, 0))
        # Other cue words than in the transcript: the audio must not carry the cues of the text.
        spoken = sentence(rng, str(rng.choice(GROUPS)), bool(rng.random() < 0.5))
        recordings.append(speak(espeak, pitches, spoken, turn.speaker.timbre, turn.clip, turn.speaker.offset, rng))
    dialogue = replace(dialogue, turns=_placed(dialogue.turns, recordings))
    render_media = _render_iemocap if dialogue.name.startswith("Ses") else _render_meld
    render_media(dialogue, root, recordings, micro)
    return dialogue


def annotate_iemocap(dialogue: Dialogue, root: Path) -> None:
    """Write the EmoEvaluation and transcription files of one dialogue."""
    codes = {emotion: code for code, emotion in IEMOCAP_CODES.items()}
    votes = {emotion: word.capitalize() for word, emotion in IEMOCAP_WORDS.items()}
    labels = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n"]
    lines = []
    for turn in dialogue.turns:
        emotion = turn.clip.emotion
        labels.append(f"[{turn.start:.4f} - {turn.end:.4f}]\t{turn.id}\t{codes[emotion]}\t[2.5000, 2.5000, 2.5000]")
        labels += [f"C-E{number}:\t{votes[emotion]};\t()" for number in (2, 3, 4)]
        labels += [f"A-E{number}:\tval 3; act 2; dom  3;\t()" for number in (3, 4)]
        labels.append("")
        lines.append(f"{turn.id} [{turn.start:08.4f}-{turn.end:08.4f}]: {turn.text}")
    folder = _session(dialogue, root) / "dialog"
    _write(folder / "EmoEvaluation" / f"{dialogue.name}.txt", "\n".join(labels))
    _write(folder / "transcriptions" / f"{dialogue.name}.txt", "\n".join(lines) + "\n")


def annotate_meld(dialogues: list[Dialogue], root: Path) -> None:
    """Write the three tables, in the published columns, line ends and time format."""
    for part, name in TABLES.items():
        table = io.StringIO()
        writer = csv.writer(table)
        writer.writerow(COLUMNS.split(","))
        chosen = (each for each in dialogues if each.part == part)
        rows = (row for number, each in enumerate(chosen) for row in _meld_rows(number, each))
        writer.writerows((index, *row) for index, row in enumerate(rows, start=1))
        _write(root / name, table.getvalue())


def _meld_rows(number: int, dialogue: Dialogue) -> Iterator[tuple[str | int, ...]]:
    season, episode, opening = 1 + number // 24, 1 + number % 24, 60.0
    for index, turn in enumerate(dialogue.turns):
        emotion, times = turn.clip.emotion, (_stamp(opening + turn.start), _stamp(opening + turn.end))
        said = turn.text, turn.speaker.name, emotion, SENTIMENTS.get(emotion, "negative")
        yield *said, number, index, season, episode, *times


def _stamp(seconds: float) -> str:
    whole, milliseconds = divmod(round(1000 * seconds), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d},{milliseconds:03d}"


def _placed(turns: Sequence[Turn], recordings: list[Audio]) -> tuple[Turn, ...]:
    """Place one turn after the other, each at the start of a frame."""
    placed, frame = [], FRAME_RATE // 2
    for turn, samples in zip(turns, recordings, strict=True):
        start = frame / FRAME_RATE
        end = start + len(samples) / SAMPLE_RATE
        placed.append(replace(turn, start=start, end=end))
        frame = int(np.ceil((end + PAUSE) * FRAME_RATE))
    return tuple(placed)


def _render_iemocap(dialogue: Dialogue, root: Path, recordings: list[Audio], micro: bool) -> None:
    session = _session(dialogue, root)
    stereo = np.zeros((2, round((dialogue.turns[-1].end + PAUSE) * SAMPLE_RATE)), dtype=np.float32)
    folder = _folder(session / "sentences" / "wav" / dialogue.name)
    for turn, samples in zip(dialogue.turns, recordings, strict=True):
        write_audio(folder / f"{turn.id}.wav", samples, SAMPLE_RATE)
        first = round(turn.start * SAMPLE_RATE)
        stereo[dialogue.cast.index(turn.speaker), first : first + len(samples)] = samples
    write_audio(_folder(session / "dialog" / "wav") / f"{dialogue.name}.wav", stereo, SAMPLE_RATE)
    film = _folder(session / "dialog" / "avi" / "DivX") / f"{dialogue.name}.avi"
    write_video(film, _iemocap_frames(dialogue, micro), FRAME_RATE, stereo.mean(axis=0), SAMPLE_RATE)


def _iemocap_frames(dialogue: Dialogue, micro: bool) -> Iterator[Frame]:
    """Yield frames of 720 x 480 with both actors between black borders; before the first turn, its first frame."""
    turns = dialogue.turns
    starts = [0, *(round(turn.start * FRAME_RATE) for turn in turns[1:]), int(np.ceil(turns[-1].end * FRAME_RATE))]
    for turn, (first, last) in zip(turns, pairwise(starts), strict=True):
        frame = np.zeros((480, 720, 3), dtype=np.uint8)
        spoken = range(round(turn.start * FRAME_RATE) - first, int(turn.end * FRAME_RATE) - first)
        moments = spoken if micro else None
        halves = [_half(turn, actor, last - first, side, moments) for side, actor in enumerate(dialogue.cast)]
        for left, actor in zip((0, 360), dialogue.cast, strict=True):
            frame[112:368, left : left + 360] = np.array(actor.identity.scene).astype(np.uint8)
        for faces in zip(*halves, strict=True):
            for left, face in zip((52, 412), faces, strict=True):
                frame[112:368, left : left + SIDE] = face
            yield frame


def _half(turn: Turn, actor: Speaker, count: int, side: int, micro: range | None) -> Iterator[Face]:
    """Animate one actor's face during a turn: the speaker's with the clip's cues, the listener's at random."""
    rng = np.random.default_rng((*turn.seed, 1 + side))
    speaks = actor == turn.speaker
    shown = (turn.clip.expression, turn.clip.wide) if speaks else (str(rng.choice(GROUPS)), False)
    return animate(actor.identity, *shown, count, rng, micro)


def _render_meld(dialogue: Dialogue, root: Path, recordings: list[Audio], micro: bool) -> None:
    folder = _folder(root / FOLDERS[dialogue.part])
    for turn, samples in zip(dialogue.turns, recordings, strict=True):
        count = int(np.ceil(len(samples) / SAMPLE_RATE * FRAME_RATE))
        moments = range(int(len(samples) / SAMPLE_RATE * FRAME_RATE)) if micro else None
        resampled = np.asarray(soxr.resample(samples, SAMPLE_RATE, 48_000), dtype=np.float32)
        name = turn.id.removeprefix(f"{dialogue.part}_")
        frames = _meld_frames(turn, count, moments)
        write_video(folder / f"{name}.mp4", frames, FRAME_RATE, np.stack([resampled, resampled]), 48_000)


def _meld_frames(turn: Turn, count: int, micro: range | None) -> Iterator[Frame]:
    """Yield frames of 320 x 240 with a face in the middle."""
    frame = np.empty((240, 320, 3), dtype=np.uint8)
    frame[:] = np.array(turn.speaker.identity.scene).astype(np.uint8)
    for face in _half(turn, turn.speaker, count, 0, micro):
        frame[:, 32 : 32 + SIDE] = face[8:248]
        yield frame


def _session(dialogue: Dialogue, root: Path) -> Path:
    return root / f"Session{int(dialogue.name[3:5])}"


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _write(path: Path, text: str) -> None:
    _folder(path.parent)
    path.write_text(text, encoding="utf-8", newline="")
