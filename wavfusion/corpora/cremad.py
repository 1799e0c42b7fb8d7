"""CREMA-D: 91 actors say twelve sentences in six emotions; crowds rated what they heard and saw."""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from wavfusion.corpora.emotions import CREMAD_CODES, EMOTIONS
from wavfusion.corpora.reading import (
    Exclusion,
    ReaderInput,
    Reading,
    broken_row,
    compare_counts,
    compare_encodings,
    count_emotions,
    first_of_each,
    list_files,
    list_stripped,
    mark_missing,
    name_some,
    only_of_each,
    open_lines,
    unknown_code,
)
from wavfusion.errors import CorpusError
from wavfusion.manifest import AudioSpan, Channel, Utterance, VideoSpan

# Actor, sentence, intended emotion, level; one published name (1040_ITH_SAD_X) lacks a letter that the tables have.
NAME = re.compile(r"(\d{4})_([A-Z]{3})_([A-Z]{3})_(LO|MD|HI|XX?)")
SENTENCES = {
    "DFA": "Don't forget a jacket",
    "IEO": "It's eleven o'clock",
    "IOM": "I'm on my way to the meeting",
    "ITH": "I think I have a doctor's appointment",
    "ITS": "I think I've seen this before",
    "IWL": "I would like a new alarm clock",
    "IWW": "I wonder what this is about",
    "MTI": "Maybe tomorrow it will be cold",
    "TAI": "The airplane is almost full",
    "TIE": "That is exactly what happened",
    "TSI": "The surface is slick",
    "WSI": "We'll stop in a couple of minutes",
}
# doi 10.1109/TAFFC.2014.2336244
PUBLISHED = dict.fromkeys(EMOTIONS["cremad"], 1271) | {"neutral": 1087}
ACTORS = 91
SILENT = {"1076_MTI_SAD_XX": "no sound in the published recording, or not found below the root"}

SOUNDS = (".wav", ".mp3")  # the better first: AudioWAV and AudioMP3 hold the same recordings
PICTURES = (".flv", ".mp4")
VOTES, MAJORITIES = "tabulatedVotes.csv", "summaryTable.csv"
# First digit of a row's number in VOTES: 1 rated the voice alone, 2 the face alone, 3 both.
BOTH = "3"


def read_cremad(source: ReaderInput) -> Reading:
    """Read CREMA-D from its recordings and tables of votes anywhere below the root; any of them may be absent.

    The emotion is the one that the actor was to play; `votes` are the shares of those who heard and saw it.

    Raises:
        CorpusError: nothing below the root is named as a recording or holds votes, or a table is not as published.
    """
    files = list_files(source.root)
    named = ((PurePosixPath(path).name, path) for path in files)
    tables = only_of_each(source.root, (pair for pair in named if pair[0] in (VOTES, MAJORITIES)))
    table = tables.get(VOTES, tables.get(MAJORITIES))
    rows = list(_read_votes(source.root / table)) if table else []
    votes = dict(rows)
    sounds, pictures = _find_clips(files, SOUNDS), _find_clips(files, PICTURES)
    clips = sorted(sounds.keys() | pictures.keys() | votes.keys())
    if not clips:
        raise CorpusError(f"expected recordings named like 1001_DFA_ANG_XX.wav below {source.root}, found none")
    unknown = {clip: reason for clip in clips if (reason := _unknown_code(clip))}
    utterances = [
        _to_utterance(clip, sounds.get(clip), pictures.get(clip), votes.get(clip), source.down_mix)
        for clip in clips
        if clip not in unknown
    ]
    actors = len({each.speaker for each in utterances})
    return Reading(
        rows=len(clips),
        classes=EMOTIONS["cremad"],
        utterances=utterances,
        excluded=[Exclusion(clip, reason) for clip, reason in unknown.items()],
        stripped=list_stripped(utterances, SILENT),
        differences=[
            *compare_counts("clips", count_emotions(utterances), PUBLISHED),
            *([f"{actors} actors, published {ACTORS}"] * (actors != ACTORS)),
            *(
                []
                if VOTES in tables
                else [f"{VOTES} was not found: votes are {'those of the majority' if table else 'left out'}"]
            ),
            *(_compare_votes(source.root, table, rows) if table else []),
        ],
    )


def _compare_votes(root: Path, table: str, rows: list[tuple[str, dict[str, float]]]) -> list[str]:
    counts = Counter(clip for clip, _ in rows)
    notes = {
        "clips are listed again, the last row of each counts": [clip for clip, count in counts.items() if count > 1],
        "clips have no votes": [clip for clip, shares in rows if not shares],
    }
    lines = [f"{table}: {len(names):,} {line}: {name_some(names)}" for line, names in notes.items() if names]
    return lines + [f"{table} holds no rows of clips heard and seen"] * (not rows) + compare_encodings(root, [table])


def _find_clips(files: list[str], suffixes: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for suffix in reversed(suffixes):
        paths = (PurePosixPath(path) for path in files if path.lower().endswith(suffix))
        found |= first_of_each((_key(path.stem), str(path)) for path in paths if NAME.fullmatch(path.stem))
    return found


def _key(stem: str) -> str:
    return f"{stem}X" if stem.endswith("_X") else stem


def _unknown_code(clip: str) -> str | None:
    _, sentence, emotion, _ = clip.split("_")
    return unknown_code(("sentence", sentence, SENTENCES), ("emotion", emotion, CREMAD_CODES))


def _read_votes(path: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield each clip's shares of votes, or of the majority where the table has no more."""
    reader = csv.DictReader(open_lines(path), strict=True)
    needed = ("FileName", "MultiModalVote") if path.name == MAJORITIES else ("fileName", *(c[0] for c in CREMAD_CODES))
    try:
        if absent := [name for name in needed if name not in (reader.fieldnames or [])]:
            found = ", ".join(reader.fieldnames or []) or "nothing"
            raise CorpusError(f"{path}:1: expected the column {absent[0]!r}, found {found}")
        for row in reader:
            if path.name == MAJORITIES:
                yield _parse_votes(row["FileName"], dict.fromkeys(row["MultiModalVote"].split(":"), 1))
            elif next(iter(row.values())).startswith(BOTH):
                yield _parse_votes(row["fileName"], {code[0]: int(row[code[0]]) for code in CREMAD_CODES})
    except (CorpusError, csv.Error) as error:
        raise broken_row(path, reader.reader.line_num, error) from error
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise CorpusError(f"{path}:{reader.reader.line_num}: expected a row as published, found {found}") from error


def _parse_votes(clip: str, counts: dict[str, int]) -> tuple[str, dict[str, float]]:
    if not NAME.fullmatch(clip):
        raise ValueError(f"clip {clip!r}")
    if min(counts.values()) < 0:
        raise ValueError(f"a number of votes below 0 of {clip!r}")
    emotions = {code[0]: emotion for code, emotion in CREMAD_CODES.items()}
    total = sum(counts.values())
    return _key(clip), {emotions[code]: round(count / total, 6) for code, count in counts.items() if count}


def _to_utterance(
    clip: str, sound: str | None, picture: str | None, votes: dict[str, float] | None, down_mix: Channel
) -> Utterance:
    actor, sentence, emotion, _ = clip.split("_")
    return mark_missing(
        Utterance(
            id=clip,
            corpus="cremad",
            speaker=f"actor{actor}",
            audio=AudioSpan(sound, channel=down_mix) if sound and clip not in SILENT else None,
            video=VideoSpan(picture) if picture else None,
            text=SENTENCES[sentence],
            text_source="gold",
            language="en",
            style="scripted",
            emotion=CREMAD_CODES[emotion],
            raw_label=emotion,
            votes=votes or None,
        )
    )
