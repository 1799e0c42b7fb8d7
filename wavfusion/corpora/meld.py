"""MELD: utterances of the series Friends, in three annotation tables with a clip for each row."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeAlias

from wavfusion.corpora import reading
from wavfusion.corpora.emotions import EMOTIONS
from wavfusion.corpora.reading import AUDIO_ENDINGS, VIDEO_ENDINGS, ReaderInput, Reading
from wavfusion.corpora.scan import MediaFacts
from wavfusion.errors import CorpusError, counted, nearest
from wavfusion.manifest import SPLIT_NAMES, AudioSpan, Channel, Utterance, VideoSpan

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
COLUMNS = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID", "StartTime", "EndTime")

CLIP = re.compile(r"(final_videos_test)?dia(\d+)_utt(\d+)(\.\w+)", re.IGNORECASE)
ENDINGS = (".mp4", *VIDEO_ENDINGS, *AUDIO_ENDINGS)  # copies hold other endings, or audio alone
# Three cells of the published tables lack the leading zeros of the milliseconds.
TIME = re.compile(r"(\d{1,2}):(\d\d):(\d\d),(\d{1,3})")
# An older release holds cp1252's quotation marks as control characters of Unicode.
CONTROLS = {code: bytes([code]).decode("cp1252", "ignore") or chr(code) for code in range(0x80, 0xA0)}
LONGEST = 15.0  # seconds; training takes the first window of a longer clip
TOLERANCE = 0.5  # seconds between a clip and its row, more than the frames of audio and video at a cut
# Clips with a few hundred milliseconds of other audio, found by the report of UPC-AIDL-MER.
UNRELATED = [
    *(("valid", *key) for key in ((99, 3), (108, 5))),
    *(("train", *key) for key in ((71, 0), (179, 8), (312, 9), (332, 1), (406, 2), (523, 10))),
]
NAMES = ("the final_videos_test file", "the file without that prefix")  # of two clips of one utterance
# Split, dialogue and utterance: the numbers start again in every split.
Key: TypeAlias = tuple[str, int, int]


class MeldRow(NamedTuple):
    """One row of an annotation table: its utterance without media, and its seconds as the table has them."""

    key: Key
    utterance: Utterance
    duration: float


def _name(split: str, dialogue: int, utterance: int) -> str:
    return f"{split}_dia{dialogue}_utt{utterance}"


def read_meld(source: ReaderInput) -> Reading:
    """Read MELD: tables and clips are found anywhere below the root; a row must be as published."""
    files = reading.list_files(source.root)
    tables = _find_tables(source.root, files)
    rows = [row for path, split in tables.items() for row in _read_table(source.root / path, split)]
    clips, twins, unplaced = _find_clips(files)
    wanted = {row.key: row for row in rows if row.key in clips or row.key in twins}
    facts = source.probe(found[key] for found in (clips, twins) for key in wanted if key in found)
    chosen, compared = _choose_twins(wanted, clips, twins, facts)
    lengths = {key: facts[path].duration for key, path in chosen.items() if path in facts}
    # Utterance numbers have gaps, so a number is not a position.
    dialogues = groupby(sorted(row.key for row in rows), key=lambda key: key[:2])
    index = {key: position for _, keys in dialogues for position, key in enumerate(keys)}
    utterances = [_complete(row, index[row.key], chosen.get(row.key), source.down_mix) for row in rows]
    differences = []
    for split, published in PUBLISHED.items():
        counts = reading.count_emotions(each for each in utterances if each.split == split)
        differences += reading.compare_counts(split, counts, published)
    differences += compared
    others = [path for path in chosen.values() if not path.lower().endswith(ENDINGS[0])]
    differences += reading.count_finding("clip", f"with another ending than {ENDINGS[0]}", others)
    if without_row := len((clips.keys() | twins.keys()) - wanted.keys()):
        differences.append(f"{counted(without_row, 'clip')} without a row in the tables")
    if unplaced:
        where = f"in folders that name no split ({', '.join(SPLIT_NAMES)})"
        differences.append(f"{counted(unplaced, 'clip')} not used, {where}")
    differences += _compare_lengths(rows, lengths)
    unrelated = [_name(*key) for key in UNRELATED if key in chosen]
    differences += reading.count_finding("clip", "with other audio than the row", unrelated)
    differences += reading.compare_encodings(source.root, tables)
    stripped = reading.list_stripped(utterances)
    return Reading(
        rows=len(rows),
        classes=EMOTIONS["meld"],
        utterances=utterances,
        stripped=stripped,
        differences=differences,
    )


def _choose_twins(
    rows: Mapping[Key, MeldRow], clips: Mapping[Key, str], twins: Mapping[Key, str], facts: Mapping[str, MediaFacts]
) -> tuple[dict[Key, str], list[str]]:
    """Return the clip of each row, and how many of those in two files agree with the table in length."""
    # Three independent users of the corpus found the file without the prefix to be a wrong one.
    chosen = {key: twins.get(key) or clips[key] for key in rows}
    pairs = [key for key in rows if key in twins and key in clips]
    verdicts: Counter[str] = Counter()
    for key in pairs:
        lengths = [facts.get(path, MediaFacts(reason="not opened")).duration for path in (twins[key], clips[key])]
        agrees = [length is not None and abs(length - rows[key].duration) <= TOLERANCE for length in lengths]
        if agrees == [False, True] or (lengths[0] is None and lengths[1] is not None):
            chosen[key] = clips[key]
        verdicts["both" if all(agrees) else "neither" if not any(agrees) else f"only {NAMES[agrees[1]]}"] += 1
    if not pairs:
        return chosen, []
    line = f"{counted(len(pairs), 'test clip')} in two files: {NAMES[0]} is taken"
    if facts:
        second = sum(chosen[key] == clips[key] for key in pairs)
        counts = ", ".join(f"{name} {count:,}" for name, count in sorted(verdicts.items()))
        line += f" of {len(pairs) - second:,}, {NAMES[1]} of {second:,}; within {TOLERANCE} s of the table: {counts}"
    return chosen, [line]


def _compare_lengths(rows: list[MeldRow], lengths: Mapping[Key, float | None]) -> list[str]:
    """List rows without a duration, clips longer than a window, and clips whose length differs from their row."""
    found = {
        ("row", "without a duration by the table"): [_name(*row.key) for row in rows if row.duration == 0],
        ("row", "with an end before the start by the table"): [_name(*row.key) for row in rows if row.duration < 0],
        ("utterance", f"longer than {LONGEST:.0f} s; training takes the first {LONGEST:.0f} s, evaluation all"): [
            _name(*row.key) for row in rows if (lengths.get(row.key) or row.duration) > LONGEST
        ],
        ("clip", f"more than {TOLERANCE} s off the length in the table"): [
            f"{_name(*row.key)} ({length:.1f} s for {row.duration:.1f})"
            for row in rows
            if row.duration > 0 and (length := lengths.get(row.key)) and abs(length - row.duration) > TOLERANCE
        ],
    }
    return [line for (noun, finding), names in found.items() for line in reading.count_finding(noun, finding, names)]


def _find_tables(root: Path, files: list[str]) -> dict[str, str]:
    named = ((name, path) for path in files if (name := PurePosixPath(path).name.lower()) in TABLES)
    found = reading.only_of_each(root, named)
    if not found:
        raise CorpusError(f"expected {', '.join(TABLES)} anywhere below {root}, found none among {len(files):,} files")
    return {found[name]: split for name, split in TABLES.items() if name in found}


def _read_table(path: Path, split: str) -> Iterator[MeldRow]:
    seen: dict[Key, int] = {}
    for line, cells in reading.read_cells(path, COLUMNS):
        try:
            row = _parse_row(cells, split)
        except ValueError as error:
            raise CorpusError(f"{path}:{line}: {error}") from error
        if row.key in seen:
            _, dialogue, number = row.key
            raise CorpusError(f"{path}:{line}: dialogue {dialogue} utterance {number} again, first on {seen[row.key]}")
        seen[row.key] = line
        yield row
    if not seen:
        raise CorpusError(f"{path}:1: expected at least one row, found none")


def _parse_row(cells: dict[str, str], split: str) -> MeldRow:
    if None in cells or None in cells.values():
        raise ValueError(f"expected {len(cells) - (None in cells)} cells, found another number")
    emotion = cells["Emotion"].strip().lower()
    if emotion not in EMOTIONS["meld"]:
        raise ValueError(f"unknown emotion {emotion!r}: {nearest(emotion, EMOTIONS['meld'])}")
    season, episode = cells.get("Season", ""), cells.get("Episode", "")
    is_numbered = reading.is_count(season) and reading.is_count(episode)
    key = split, _number(cells, "Dialogue_ID"), _number(cells, "Utterance_ID")
    utterance = Utterance(
        id=_name(*key),
        corpus="meld",
        split=split,
        session=f"s{int(season):02d}e{int(episode):02d}" if is_numbered else None,
        dialogue=f"{split}_dia{key[1]}",
        speaker=cells["Speaker"].translate(CONTROLS).strip() or None,
        text=cells["Utterance"].translate(CONTROLS),
        text_source="gold",
        language="en",
        style="scripted",
        emotion=emotion,
        raw_label=emotion,
    )
    return MeldRow(key, utterance, _seconds(cells, "EndTime") - _seconds(cells, "StartTime"))


def _number(cells: dict[str, str], column: str) -> int:
    if not reading.is_count(cells[column]):
        raise ValueError(f"expected a number in {column!r}, found {cells[column][:80]!r}")
    return int(cells[column])


def _seconds(cells: dict[str, str], column: str) -> float:
    found = TIME.fullmatch(cells[column].strip())
    if not found:
        raise ValueError(f"expected H:MM:SS,mmm in {column!r}, found {cells[column]!r}")
    hours, minutes, seconds, milliseconds = map(int, found.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def _find_clips(files: list[str]) -> tuple[dict[Key, str], dict[Key, str], int]:
    """Return the clip and the final_videos_test clip of each key, and how many clips fit no split."""
    clips: list[tuple[Key, str]] = []
    twins: list[tuple[Key, str]] = []
    unplaced = 0
    for path in files:
        found = CLIP.fullmatch(PurePosixPath(path).name)
        if not found or found[4].lower() not in ENDINGS:
            continue
        if split := _split_of(path):
            (twins if found[1] else clips).append(((split, int(found[2]), int(found[3])), path))
        else:
            unplaced += 1
    return reading.first_of_each(clips, ENDINGS), reading.first_of_each(twins, ENDINGS), unplaced


def _split_of(path: str) -> str | None:
    """Return the split that the nearest folder of a path names by a word, as dev_splits_complete does, if any does."""
    folders = reversed(PurePosixPath(path).parts[:-1])
    words = (word for folder in folders for word in re.split(r"[^a-z]+", folder.lower()))
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)


def _complete(row: MeldRow, index: int, clip: str | None, down_mix: Channel) -> Utterance:
    audio = AudioSpan(clip, channel=down_mix) if clip else None
    video = VideoSpan(clip) if clip and reading.is_video(clip) else None
    return reading.mark_missing(replace(row.utterance, index=index, audio=audio, video=video))
