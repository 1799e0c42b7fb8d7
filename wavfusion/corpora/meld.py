"""MELD: utterances of the series Friends in three annotation tables, a clip each."""

import csv
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from wavfusion.corpora.reading import (
    Reading,
    compare_counts,
    count_emotions,
    first_of_each,
    list_files,
    list_stripped,
    mark_missing,
    open_lines,
)
from wavfusion.emotions import EMOTIONS
from wavfusion.errors import CorpusError, nearest
from wavfusion.manifest import AudioSpan, Channel, Utterance, VideoSpan

# Tables of github.com/declare-lab/MELD at 2d2011b (its README counts one training dialogue more).
PUBLISHED: dict[str, dict[str, int]] = {
    split: dict(zip(EMOTIONS["meld"], counts, strict=True))
    for split, counts in {
        "train": (4710, 1205, 268, 683, 1743, 271, 1109),
        "valid": (470, 150, 40, 111, 163, 22, 153),
        "test": (1256, 281, 50, 208, 402, 68, 345),
    }.items()
}
TABLES = {"train_sent_emo.csv": "train", "dev_sent_emo.csv": "valid", "test_sent_emo.csv": "test"}
# A word of a folder's name -> the split whose clips it holds: train_splits, dev_splits_complete,
# output_repeated_splits_test and what copies of the corpus rename them to.
FOLDERS = {"train": "train", "dev": "valid", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}
COLUMNS = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID", "StartTime", "EndTime")

CLIP = re.compile(r"(final_videos_test)?dia(\d+)_utt(\d+)\.mp4", re.IGNORECASE)
# Three cells of the published tables lack the leading zeros of the milliseconds.
TIME = re.compile(r"(\d{1,2}):(\d\d):(\d\d),(\d{1,3})")
# An older release holds cp1252's quotation marks as control characters of Unicode.
CONTROLS = {code: bytes([code]).decode("cp1252", "ignore") or chr(code) for code in range(0x80, 0xA0)}
LONGEST = 30.0  # seconds; a longer time in the tables is an error of the alignment


class Row(NamedTuple):
    """One row of an annotation table; `duration` in seconds as the table has it."""

    split: str
    dialogue: int
    utterance: int
    speaker: str
    text: str
    emotion: str
    session: str | None
    duration: float

    @property
    def key(self) -> tuple[str, int, int]:
        """The dialogue and utterance numbers start anew in every split."""
        return self.split, self.dialogue, self.utterance


def read_meld(root: Path, labels: str | None, down_mix: Channel) -> Reading:
    """Read MELD: tables and clips are found anywhere below the root.

    Raises:
        CorpusError: no table is found, or a row of one is not as published.
    """
    files = list_files(root)
    rows = [row for path, split in _find_tables(root, files) for row in _read_table(root / path, split)]
    clips, twins, unplaced = _find_clips(files)
    utterances = [_to_utterance(row, index, clips.get(row.key), down_mix) for row, index in _with_index(rows)]
    differences = [
        line
        for split, published in PUBLISHED.items()
        for line in compare_counts(split, count_emotions(each for each in utterances if each.split == split), published)
    ]
    keys = {row.key for row in rows}
    used = len(keys & twins)
    spare = len(clips.keys() - keys)
    odd = sum(row.duration <= 0 or row.duration > LONGEST for row in rows)
    notes = {
        f"{used:,} test clips exist twice: the final_videos_test file is taken": used,
        f"{spare:,} clips have no row in the tables": spare,
        f"{unplaced:,} clips lie in folders that name no split ({', '.join(FOLDERS)}) and are not used": unplaced,
        f"{odd:,} rows last nothing or more than {LONGEST:.0f} s by the table": odd,
    }
    return Reading(
        rows=len(rows),
        classes=EMOTIONS["meld"],
        utterances=utterances,
        stripped=list_stripped(utterances),
        differences=differences + [line for line, count in notes.items() if count],
    )


def _find_tables(root: Path, files: list[str]) -> Iterator[tuple[str, str]]:
    by_name: dict[str, list[str]] = defaultdict(list)
    for path in files:
        by_name[PurePosixPath(path).name].append(path)
    found = {name: by_name[name] for name in TABLES if name in by_name}
    if not found:
        raise CorpusError(f"expected {', '.join(TABLES)} anywhere below {root}, found none among {len(files):,} files")
    for name, paths in found.items():
        if len({(root / path).read_bytes() for path in paths}) > 1:
            raise CorpusError(f"expected one {name} below {root}, found several that differ: {', '.join(paths)}")
        yield paths[0], TABLES[name]


def _read_table(path: Path, split: str) -> Iterator[Row]:
    reader = csv.DictReader(open_lines(path), strict=True)
    seen: dict[tuple[str, int, int], int] = {}
    try:
        for name in COLUMNS:
            if name not in (reader.fieldnames or []):
                raise ValueError(f"expected the column {name!r}, found {', '.join(reader.fieldnames or ['nothing'])}")
        for cells in reader:
            if None in cells or None in cells.values():
                raise ValueError(f"expected {len(reader.fieldnames or [])} cells, found another number")
            row = _parse_row(cells, split)
            if row.key in seen:
                raise ValueError(f"dialogue {row.dialogue} utterance {row.utterance} again, first on {seen[row.key]}")
            seen[row.key] = reader.line_num
            yield row
    except (ValueError, csv.Error) as error:
        raise error if isinstance(error, CorpusError) else CorpusError(f"{path}:{reader.line_num}: {error}") from error


def _parse_row(cells: dict[str, str], split: str) -> Row:
    emotion = cells["Emotion"].strip().lower()
    if emotion not in EMOTIONS["meld"]:
        raise ValueError(f"unknown emotion {emotion!r}: {nearest(emotion, EMOTIONS['meld'])}")
    season, episode = cells.get("Season", ""), cells.get("Episode", "")
    return Row(
        split=split,
        dialogue=_number(cells, "Dialogue_ID"),
        utterance=_number(cells, "Utterance_ID"),
        speaker=cells["Speaker"].translate(CONTROLS).strip(),
        text=cells["Utterance"].translate(CONTROLS),
        emotion=emotion,
        session=f"s{int(season):02d}e{int(episode):02d}" if season.isdecimal() and episode.isdecimal() else None,
        duration=_seconds(cells, "EndTime") - _seconds(cells, "StartTime"),
    )


def _number(cells: dict[str, str], column: str) -> int:
    if not cells[column].strip().isdecimal():
        raise ValueError(f"expected a number in {column!r}, found {cells[column]!r}")
    return int(cells[column])


def _seconds(cells: dict[str, str], column: str) -> float:
    found = TIME.fullmatch(cells[column].strip())
    if not found:
        raise ValueError(f"expected H:MM:SS,mmm in {column!r}, found {cells[column]!r}")
    hours, minutes, seconds, milliseconds = map(int, found.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def _find_clips(files: list[str]) -> tuple[dict[tuple[str, int, int], str], set[tuple[str, int, int]], int]:
    """Return the clip of each key, the keys whose clip is a final_videos_test twin, and how many clips fit no split."""
    plain: list[tuple[tuple[str, int, int], str]] = []
    twins: list[tuple[tuple[str, int, int], str]] = []
    unplaced = 0
    for path in files:
        found = CLIP.fullmatch(PurePosixPath(path).name)
        if not found:
            continue
        split = _split_of(path)
        if split is None:
            unplaced += 1
            continue
        key = split, int(found[2]), int(found[3])
        (twins if found[1] else plain).append((key, path))
    doubled = {key for key, _ in plain} & {key for key, _ in twins}
    # Three independent readers of the corpus found the plain file of a pair to be a wrong one.
    return first_of_each(plain) | first_of_each(twins), doubled, unplaced


def _split_of(path: str) -> str | None:
    """Return the split that the nearest folder of a path names, if any does."""
    for folder in reversed(PurePosixPath(path).parts[:-1]):
        words = re.split(r"[^a-z]+", folder.lower())
        for word in words:
            if word in FOLDERS:
                return FOLDERS[word]
    return None


def _with_index(rows: list[Row]) -> Iterator[tuple[Row, int]]:
    dialogues: dict[tuple[str, int], list[int]] = defaultdict(list)
    for row in rows:
        dialogues[row.split, row.dialogue].append(row.utterance)
    # Utterance numbers have gaps, so a number is not a position.
    positions = {
        key: {number: index for index, number in enumerate(sorted(numbers))} for key, numbers in dialogues.items()
    }
    for row in rows:
        yield row, positions[row.split, row.dialogue][row.utterance]


def _to_utterance(row: Row, index: int, clip: str | None, down_mix: Channel) -> Utterance:
    dialogue = f"{row.split}_dia{row.dialogue}"
    return mark_missing(
        Utterance(
            id=f"{dialogue}_utt{row.utterance}",
            corpus="meld",
            split=row.split,
            session=row.session,
            dialogue=dialogue,
            index=index,
            speaker=row.speaker or None,
            audio=AudioSpan(clip, channel=down_mix) if clip else None,
            video=VideoSpan(clip) if clip else None,
            text=row.text,
            text_source="gold",
            language="en",
            style="scripted",
            emotion=row.emotion,
            raw_label=row.emotion,
        )
    )
