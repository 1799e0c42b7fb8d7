"""CREMA-D: 91 actors say twelve sentences in six emotions, rated by crowds from audio, video and both."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from wavfusion.corpora import reading
from wavfusion.corpora.emotions import CREMAD_CODES, EMOTIONS
from wavfusion.corpora.reading import AUDIO_ENDINGS, VIDEO_ENDINGS, ReaderInput, Reading
from wavfusion.errors import CorpusError, counted
from wavfusion.manifest import AudioSpan, Channel, Exclusion, Utterance, VideoSpan

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
SILENT = {"1076_MTI_SAD_XX": "no audio in the published recording, or not found below the root"}

# The better first: AudioWAV and AudioMP3 hold the same recordings.
AUDIO, VIDEO = AUDIO_ENDINGS, (".flv", *VIDEO_ENDINGS)
VOTES, MAJORITIES = "tabulatedVotes.csv", "summaryTable.csv"
# First digit of a row's number in VOTES: rated by audio (1), by video (2), by both (3).
BOTH = "3"


def read_cremad(source: ReaderInput) -> Reading:
    """Read CREMA-D from its recordings and tables of votes anywhere below the root; any of them may be absent.

    The emotion is the intended one; `votes` are the shares of those who rated audio and video together.
    """
    files = reading.list_files(source.root)
    named = ((PurePosixPath(path).name, path) for path in files)
    tables = reading.only_of_each(source.root, (pair for pair in named if pair[0] in (VOTES, MAJORITIES)))
    table = tables.get(VOTES, tables.get(MAJORITIES))
    rows = list(_read_votes(source.root / table)) if table else []
    votes = dict(rows)
    audio, video = _find_clips(files, AUDIO), _find_clips(files, VIDEO)
    clips = sorted(audio.keys() | video.keys() | votes.keys())
    if not clips:
        raise CorpusError(f"expected recordings named like 1001_DFA_ANG_XX.wav below {source.root}, found none")
    excluded = [Exclusion(clip, reason) for clip in clips if (reason := _unknown_code(clip))]
    utterances = [
        _to_utterance(clip, audio.get(clip), video.get(clip), votes.get(clip), source.down_mix)
        for clip in clips
        if not _unknown_code(clip)
    ]
    differences = reading.compare_counts("clips", reading.count_emotions(utterances), PUBLISHED)
    if (actors := len({each.speaker for each in utterances})) != ACTORS:
        differences.append(f"{counted(actors, 'actor')}, published {ACTORS}")
    if VOTES not in tables:
        differences.append(f"{VOTES} was not found: votes are {'those of the majority' if table else 'left out'}")
    if table:
        differences += _compare_votes(source.root, table, rows)
    stripped = reading.list_stripped(utterances, SILENT)
    return Reading(
        rows=len(clips),
        classes=EMOTIONS["cremad"],
        utterances=utterances,
        excluded=excluded,
        stripped=stripped,
        differences=differences,
    )


def _compare_votes(root: Path, table: str, rows: list[tuple[str, dict[str, float]]]) -> list[str]:
    again = [clip for clip, count in Counter(clip for clip, _ in rows).items() if count > 1]
    lines = reading.count_finding("clip", "listed again, the last row counts", again)
    lines += reading.count_finding("clip", "without votes", [clip for clip, shares in rows if not shares])
    lines = [f"{table}: {line}" for line in lines] + [f"{table} has no rows rated by both"] * (not rows)
    return lines + reading.compare_encodings(root, [table])


def _find_clips(files: list[str], suffixes: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for suffix in reversed(suffixes):
        paths = (PurePosixPath(path) for path in files if path.lower().endswith(suffix))
        named = ((path.stem.upper(), str(path)) for path in paths)
        found |= reading.first_of_each((_key(stem), path) for stem, path in named if NAME.fullmatch(stem))
    return found


def _key(stem: str) -> str:
    return f"{stem}X" if stem.endswith("_X") else stem


def _unknown_code(clip: str) -> str | None:
    _, sentence, emotion, _ = clip.split("_")
    return reading.unknown_code({"sentence": SENTENCES, "emotion": CREMAD_CODES}, (sentence, emotion))


def _read_votes(path: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield each clip's shares of votes, or of the majority where the table has no more."""
    needed = ("FileName", "MultiModalVote") if path.name == MAJORITIES else ("fileName", *(c[0] for c in CREMAD_CODES))
    for line, row in reading.read_cells(path, needed):
        try:
            if path.name == MAJORITIES:
                yield _parse_votes(row["FileName"], dict.fromkeys(row["MultiModalVote"].split(":"), 1))
            elif next(iter(row.values())).startswith(BOTH):
                yield _parse_votes(row["fileName"], {code[0]: int(row[code[0]]) for code in CREMAD_CODES})
        except (KeyError, ValueError, AttributeError, TypeError) as error:
            found = f"{type(error).__name__}: {error}"
            raise CorpusError(f"{path}:{line}: expected a row as published, found {found}") from error


def _parse_votes(clip: str, counts: dict[str, int]) -> tuple[str, dict[str, float]]:
    if not NAME.fullmatch(clip):
        raise ValueError(f"clip {clip!r}")
    if min(counts.values()) < 0:
        raise ValueError(f"a number of votes below 0 of {clip!r}")
    emotions = {code[0]: emotion for code, emotion in CREMAD_CODES.items()}
    total = sum(counts.values())
    return _key(clip), {emotions[code]: round(count / total, 6) for code, count in counts.items() if count}


def _to_utterance(
    clip: str, audio: str | None, video: str | None, votes: dict[str, float] | None, down_mix: Channel
) -> Utterance:
    actor, sentence, code, _ = clip.split("_")
    emotion, votes = CREMAD_CODES[code], votes or None
    return reading.acted_utterance(
        Utterance(clip, "cremad", text=SENTENCES[sentence], emotion=emotion, raw_label=code, votes=votes),
        actor,
        AudioSpan(audio, channel=down_mix) if audio and clip not in SILENT else None,
        VideoSpan(video) if video else None,
    )
