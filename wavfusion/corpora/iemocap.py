"""IEMOCAP: ten actors in dialogues of two, played from scripts or improvised."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from wavfusion.corpora.emotions import DIALOGUERNN_HAPPY, EMOTIONS, IEMOCAP_CODES, IEMOCAP_WORDS, LABEL_SETS, MERGED
from wavfusion.corpora.reading import (
    ReaderInput,
    Reading,
    compare_counts,
    compare_encodings,
    count_emotions,
    count_findings,
    first_of_each,
    list_files,
    list_stripped,
    mark_missing,
    only_of_each,
    open_lines,
)
from wavfusion.errors import CorpusError, nearest
from wavfusion.manifest import AudioSpan, Channel, Exclusion, Utterance, VideoSpan

# Majority labels by session (lists of DialogXL, 7,380 in all) in the order of EMOTIONS["iemocap"].
PUBLISHED: dict[str, dict[str, int]] = {
    session: dict(zip(EMOTIONS["iemocap"], counts, strict=True))
    for session, counts in {
        "Ses01": (135, 194, 384, 229, 143, 280),
        "Ses02": (117, 197, 362, 137, 210, 325),
        "Ses03": (135, 305, 320, 240, 151, 382),
        "Ses04": (65, 143, 258, 327, 238, 481),
        "Ses05": (143, 245, 384, 170, 299, 381),
    }.items()
}
# The other labels of `raw`, known only for the corpus as a whole.
PUBLISHED_OTHERS = {"none": 2507, "surprised": 107, "fearful": 40, "other": 3, "disgusted": 2}

UTTERANCE = re.compile(r"((Ses\d\d)([FM])_\w+)_([FM])(?:XX)?\d+")
DIALOGUE = re.compile(r"Ses\d\d[FM]_\w+")
NUMBER = r"-?\d{1,9}(?:\.\d+)?"
LABEL = re.compile(rf"\[(\d{{1,9}}\.\d+) - (\d{{1,9}}\.\d+)\]\t(\S+)\t(\w+)\t\[({NUMBER}), ({NUMBER}), ({NUMBER})\]")
# An external annotator (C-E1, C-E2, ...), not the actor (C-F1, C-M1).
VOTE = re.compile(r"C-E\d+:\s*(.*?)\s*\(.*\)?")
TRANSCRIPT = re.compile(r"(\S+) \[[\d.]+-[\d.]+\]: ?(.*)")

HALF_WIDTH = 360  # pixels; both actors share a frame of 720 x 480
# Left, top, right, bottom within a half: around the head, between the black borders.
HALF_CROP = (52, 112, 308, 368)


class IemocapRow(NamedTuple):
    """One utterance of an EmoEvaluation file; times in seconds of the dialogue."""

    id: str
    dialogue: str
    session: str
    speaker: str
    left: bool
    start: float
    end: float
    label: str
    dimensions: dict[str, float]
    votes: dict[str, float] | None


class Files(NamedTuple):
    """The files of the release by kind: paths by utterance or dialogue."""

    labels: dict[str, str]
    transcripts: dict[str, str]
    audio: dict[str, str]
    video: dict[str, str]


def read_iemocap(source: ReaderInput) -> Reading:
    """Read IEMOCAP as released, or any part of it that has EmoEvaluation files.

    An utterance with a label outside the label set is excluded. The down-mix is for the sentence wavs: a dialogue wav
    has a channel for each speaker.

    Raises:
        CorpusError: there are no label files, or one of them is not as published.
    """
    root, labels = source.root, source.labels or "six"
    classes = LABEL_SETS["iemocap"][labels]
    files = _sort_files(root, list_files(root))
    if not files.labels:
        raise CorpusError(f"expected EmoEvaluation/Ses01F_impro01.txt and the like below {root}, found none")
    texts = {key: text for path in files.transcripts.values() for key, text in _read_transcript(root / path)}
    rows = [row for path in files.labels.values() for row in _read_labels(root / path)]
    _refuse_duplicates(rows)
    kept, excluded = [], []
    for row, index in _with_index(rows):
        emotion = _emotion(row, labels)
        if labels == "raw" or emotion in classes:
            kept.append(_to_utterance(row, index, emotion, texts.get(row.id), files, source.down_mix))
        else:
            excluded.append(Exclusion(row.id, f"label {row.label} is outside the label set {labels}"))
    return Reading(
        rows=len(rows),
        classes=classes,
        utterances=kept,
        labels=labels,
        excluded=excluded,
        stripped=list_stripped(kept, {row.id: _no_length(row) for row in rows if row.end <= row.start}),
        differences=[
            *_compare(kept, labels),
            *_compare_times(rows),
            *compare_encodings(root, [*files.labels.values(), *files.transcripts.values()]),
        ],
    )


def _sort_files(root: Path, paths: list[str]) -> Files:
    """Sort the files by folder and name; the case of folders and suffixes differs between sessions and copies."""
    texts: dict[str, list[tuple[str, str]]] = {"emoevaluation": [], "transcriptions": []}
    audio, video = [], []
    for each in paths:
        path = PurePosixPath(each)
        stem, suffix, folder = path.stem, path.suffix.lower(), path.parent.name.lower()
        if not DIALOGUE.fullmatch(stem):
            continue
        # The folders below EmoEvaluation hold a file of each annotator, under the same names.
        if suffix == ".txt" and folder in texts:
            texts[folder].append((stem, each))
        elif suffix == ".wav":
            audio.append((stem, each))
        elif suffix == ".avi":
            video.append((stem, each))
    found = [only_of_each(root, kind) for kind in texts.values()] + [first_of_each(audio), first_of_each(video)]
    return Files(*(dict(sorted(kind.items())) for kind in found))


def _read_labels(path: Path) -> Iterator[IemocapRow]:
    head: tuple[int, str] | None = None
    votes: list[str] = []
    for number, line in enumerate(open_lines(path), start=1):
        line = line.strip()
        if line.startswith("["):
            if head:
                yield _parse_row(path, *head, votes)
            head, votes = (number, line), []
        elif vote := VOTE.fullmatch(line):
            votes.append(vote[1])
    if not head:
        raise CorpusError(f"expected at least one row `[start - end] id label [v, a, d]`, found none in {path}")
    yield _parse_row(path, *head, votes)


def _parse_row(path: Path, number: int, line: str, votes: list[str]) -> IemocapRow:
    found = LABEL.fullmatch(line)
    if not found:
        raise CorpusError(f"{path}:{number}: expected `[start - end] id label [v, a, d]` with tabs, found {line!r}")
    start, end, key, label, *dimensions = found.groups()
    name = UTTERANCE.fullmatch(key)
    if not name:
        raise CorpusError(f"{path}:{number}: expected an id like Ses01F_impro01_F000, found {key!r}")
    if label not in IEMOCAP_CODES:
        raise CorpusError(f"{path}:{number}: unknown label {label!r} of {key}: {nearest(label, IEMOCAP_CODES)}")
    dialogue, session, captured, speaker = name.groups()
    return IemocapRow(
        id=key,
        dialogue=dialogue,
        session=session,
        speaker=session + speaker,
        # The letter of the session names the actor on the left, in the frame and in the stereo channels.
        left=captured == speaker,
        start=float(start),
        end=float(end),
        label=label,
        dimensions=dict(zip(("valence", "arousal", "dominance"), map(float, dimensions), strict=True)),
        votes=_shares(votes),
    )


def _shares(votes: list[str]) -> dict[str, float] | None:
    """Turn each annotator's choices (`Anger; Frustration;`) into shares; several choices divide one vote."""
    shares: dict[str, float] = defaultdict(float)
    for vote in votes:
        emotions = [IEMOCAP_WORDS[word] for each in vote.split(";") if (word := each.strip().lower()) in IEMOCAP_WORDS]
        for emotion in emotions:
            shares[emotion] += 1 / len(emotions)
    total = sum(shares.values())
    return {emotion: round(share / total, 6) for emotion, share in sorted(shares.items())} if total else None


def _read_transcript(path: Path) -> Iterator[tuple[str, str]]:
    """Yield id and text; lines of another form (remarks, ids without times) are skipped."""
    for line in open_lines(path):
        found = TRANSCRIPT.fullmatch(line.strip())
        if found and UTTERANCE.fullmatch(found[1]):
            yield found[1], found[2].strip()


def _refuse_duplicates(rows: list[IemocapRow]) -> None:
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise CorpusError(f"expected each utterance once in EmoEvaluation, found {row.id} twice")
        seen.add(row.id)


def _no_length(row: IemocapRow) -> str:
    fault = "start and end are equal" if row.end == row.start else "the end is before the start"
    return f"{fault} in the labels, or no file was found below the root"


def _compare_times(rows: list[IemocapRow]) -> list[str]:
    return count_findings(
        {
            "rows have no duration by their labels": [row.id for row in rows if row.end == row.start],
            "rows end before they start by their labels": [row.id for row in rows if row.end < row.start],
        }
    )


def _with_index(rows: list[IemocapRow]) -> Iterator[tuple[IemocapRow, int]]:
    dialogues: dict[str, list[IemocapRow]] = defaultdict(list)
    for row in rows:
        dialogues[row.dialogue].append(row)
    for dialogue in dialogues.values():
        in_time = sorted(dialogue, key=lambda row: (row.start, row.end, row.id))
        yield from ((row, index) for index, row in enumerate(in_time))


def _emotion(row: IemocapRow, labels: str) -> str | None:
    if labels == "six-dialoguernn" and row.id in DIALOGUERNN_HAPPY:
        return "happy"
    emotion = IEMOCAP_CODES[row.label]
    return MERGED.get(labels, {}).get(emotion, emotion) if emotion else None


def _to_utterance(
    row: IemocapRow, index: int, emotion: str | None, text: str | None, files: Files, down_mix: Channel
) -> Utterance:
    return mark_missing(
        Utterance(
            id=row.id,
            corpus="iemocap",
            session=row.session,
            dialogue=row.dialogue,
            index=index,
            speaker=row.speaker,
            audio=_audio(row, files, down_mix),
            video=_video(row, files),
            text=text,
            text_source="gold" if text else None,
            language="en",
            style="improvised" if "_impro" in row.dialogue else "scripted" if "_script" in row.dialogue else None,
            emotion=emotion,
            raw_label=row.label,
            votes=row.votes,
            dimensions=row.dimensions,
        )
    )


def _audio(row: IemocapRow, files: Files, down_mix: Channel) -> AudioSpan | None:
    if row.id in files.audio:
        return AudioSpan(files.audio[row.id], channel=down_mix)
    if row.dialogue in files.audio and row.end > row.start:
        return AudioSpan(files.audio[row.dialogue], row.start, row.end, "left" if row.left else "right")
    return None


def _video(row: IemocapRow, files: Files) -> VideoSpan | None:
    if row.dialogue not in files.video or row.end <= row.start:
        return None
    left, top, right, bottom = HALF_CROP
    shift = 0 if row.left else HALF_WIDTH
    return VideoSpan(files.video[row.dialogue], row.start, row.end, [left + shift, top, right + shift, bottom])


def _compare(utterances: list[Utterance], labels: str) -> list[str]:
    """Compare with the published counts, by session and, for the other labels of `raw`, in total."""
    lines = []
    for session in PUBLISHED:
        found = count_emotions(
            each for each in utterances if each.session == session and each.emotion not in (None, *PUBLISHED_OTHERS)
        )
        lines += compare_counts(session, found, published_counts(session, labels))
    further = [each.session for each in utterances if each.session and each.session not in PUBLISHED]
    if further:
        lines.append(
            f"{min(further)} to {max(further)}: {len(further):,} rows in sessions that are not in the published corpus"
        )
    if labels == "raw":
        others = (each for each in utterances if each.emotion in (None, *PUBLISHED_OTHERS))
        lines += compare_counts("other labels", count_emotions(others), PUBLISHED_OTHERS)
    return lines


def published_counts(session: str, labels: str) -> dict[str, int]:
    """Return the published counts of a session by the emotions of a label set."""
    counts = dict(PUBLISHED[session])
    if labels == "six-dialoguernn":
        counts["happy"] += sum(each.startswith(session) for each in DIALOGUERNN_HAPPY)
    for emotion, merged in MERGED.get(labels, {}).items():
        counts[merged] += counts.pop(emotion)
    return {emotion: count for emotion, count in counts.items() if emotion in LABEL_SETS["iemocap"][labels]}
