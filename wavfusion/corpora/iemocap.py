"""IEMOCAP: ten actors in dialogues of two, played from scripts or improvised."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeAlias

from wavfusion.corpora import reading
from wavfusion.corpora.emotions import DIALOGUERNN_HAPPY, EMOTIONS, IEMOCAP_CODES, IEMOCAP_WORDS, LABEL_SETS, MERGED
from wavfusion.corpora.reading import ReaderInput, Reading
from wavfusion.errors import CorpusError, counted, nearest
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
DIALOGUE = re.compile(r"Ses\d\d[FM]_\w+", re.IGNORECASE)
NUMBER = r"-?\d{1,9}(?:\.\d+)?"
LABEL = re.compile(rf"\[(\d{{1,9}}\.\d+) - (\d{{1,9}}\.\d+)\]\t(\S+)\t(\w+)\t\[({NUMBER}), ({NUMBER}), ({NUMBER})\]")
# An external annotator (C-E1, C-E2, ...), not the actor (C-F1, C-M1).
VOTE = re.compile(r"C-E\d+:\s*(.*?)\s*\(.*\)?")
TRANSCRIPT = re.compile(r"(\S+) \[[\d.]+-[\d.]+\]: ?(.*)")

TEXTS = ("emoevaluation", "transcriptions")  # folders of the files
# Kinds of media: endings, the published one first.
AUDIO, VIDEO = "audio", "video"
ENDINGS = {AUDIO: reading.AUDIO_ENDINGS, VIDEO: (".avi", *reading.VIDEO_ENDINGS)}
HALF_WIDTH = 360  # pixels; both actors share a frame of 720 x 480
# Left, top, right, bottom within a half: around the head, between the black borders.
HALF_CROP = (52, 112, 308, 368)


class IemocapRow(NamedTuple):
    """One row of an EmoEvaluation file: its utterance without media, text and votes; seconds are the dialogue's."""

    utterance: Utterance
    left: bool  # in the frame and in the stereo channels
    start: float
    end: float
    votes: list[str]  # the raters' words, from the lines below the row


Files: TypeAlias = dict[str, dict[str, str]]  # kind -> utterance or dialogue -> path


def read_iemocap(source: ReaderInput) -> Reading:
    """Read IEMOCAP as released, or any part of it that has EmoEvaluation files.

    An utterance with a label outside the label set is excluded. The down-mix is for the sentence wavs: a dialogue wav
    has a channel for each speaker.
    """
    root, labels = source.root, source.labels or "six"
    classes = LABEL_SETS["iemocap"][labels]
    files = _sort_files(root)
    label_files, transcripts = (list(files[kind].values()) for kind in TEXTS)
    if not label_files:
        raise CorpusError(f"expected EmoEvaluation/Ses01F_impro01.txt and the like below {root}, found none")
    texts = dict(pair for path in transcripts for pair in _read_transcript(root / path))
    rows = [row for path in label_files for row in _read_labels(root / path)]
    key, times = Counter(row.utterance.id for row in rows).most_common(1)[0]
    if times > 1:
        raise CorpusError(f"expected each utterance once in EmoEvaluation, found {key} twice")
    kept, excluded = [], []
    in_time = sorted(rows, key=lambda row: (row.utterance.dialogue, row.start, row.end, row.utterance.id))
    for _, dialogue in groupby(in_time, key=lambda row: row.utterance.dialogue):
        for index, row in enumerate(dialogue):
            key, emotion = row.utterance.id, _emotion(row.utterance, labels)
            if labels == "raw" or emotion in classes:
                kept.append(_complete(row, index, emotion, texts.get(key), files, source.down_mix))
            else:
                reason = f"label {row.utterance.raw_label} is outside the label set {labels}"
                excluded.append(Exclusion(key, reason))
    equal = [row.utterance.id for row in rows if row.end == row.start]
    turned = [row.utterance.id for row in rows if row.end < row.start]
    reasons = dict.fromkeys(equal, "start and end are equal in the labels, or no file was found below the root")
    reasons |= dict.fromkeys(turned, "the end is before the start in the labels, or no file was found below the root")
    differences = _compare(kept, labels)
    differences += reading.count_finding("row", "without a duration by the labels", equal)
    differences += reading.count_finding("row", "with an end before the start by the labels", turned)
    differences += reading.compare_encodings(root, [*label_files, *transcripts])
    stripped = reading.list_stripped(kept, reasons)
    return Reading(
        rows=len(rows),
        classes=classes,
        utterances=kept,
        labels=labels,
        excluded=excluded,
        stripped=stripped,
        differences=differences,
    )


def _sort_files(root: Path) -> Files:
    """Sort the files by folder or kind; their case differs between sessions and copies: media have folded keys."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for each in reading.list_files(root):
        path = PurePosixPath(each)
        suffix = path.suffix.lower()
        kind = next((kind for kind, endings in ENDINGS.items() if suffix in endings), None)
        if kind and DIALOGUE.fullmatch(path.stem):
            found[kind].append((path.stem.casefold(), each))
        elif suffix == ".txt" and DIALOGUE.fullmatch(path.stem):
            # The folders below EmoEvaluation hold a file of each annotator, under the same names.
            found[path.parent.name.lower()].append((path.stem, each))
    texts = {kind: dict(sorted(reading.only_of_each(root, found[kind]).items())) for kind in TEXTS}
    return texts | {kind: reading.first_of_each(found[kind], endings) for kind, endings in ENDINGS.items()}


def _read_labels(path: Path) -> list[IemocapRow]:
    rows: list[IemocapRow] = []
    for number, line in enumerate(reading.open_lines(path), start=1):
        line = line.strip()
        if line.startswith("["):
            rows.append(_parse_row(path, number, line))
        elif rows and (vote := VOTE.fullmatch(line)):
            rows[-1].votes.append(vote[1])
    if not rows:
        raise CorpusError(f"expected at least one row `[start - end] id label [v, a, d]`, found none in {path}")
    return rows


def _parse_row(path: Path, number: int, line: str) -> IemocapRow:
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
    utterance = Utterance(
        id=key,
        corpus="iemocap",
        session=session,
        dialogue=dialogue,
        speaker=session + speaker,
        language="en",
        style="improvised" if "_impro" in dialogue else "scripted" if "_script" in dialogue else None,
        raw_label=label,
        dimensions=dict(zip(("valence", "arousal", "dominance"), map(float, dimensions), strict=True)),
    )
    # The letter of the session names the actor on the left.
    return IemocapRow(utterance, captured == speaker, float(start), float(end), [])


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
    for line in reading.open_lines(path):
        found = TRANSCRIPT.fullmatch(line.strip())
        if found and UTTERANCE.fullmatch(found[1]):
            yield found[1], found[2].strip()


def _emotion(utterance: Utterance, labels: str) -> str | None:
    if labels == "six-dialoguernn" and utterance.id in DIALOGUERNN_HAPPY:
        return "happy"
    emotion = IEMOCAP_CODES[str(utterance.raw_label)]
    return MERGED.get(labels, {}).get(emotion, emotion) if emotion else None


def _complete(
    row: IemocapRow, index: int, emotion: str | None, text: str | None, files: Files, down_mix: Channel
) -> Utterance:
    key, dialogue = row.utterance.id.casefold(), str(row.utterance.dialogue).casefold()
    audio_files, video_files = files[AUDIO], files[VIDEO]
    audio = AudioSpan(audio_files[key], channel=down_mix) if key in audio_files else None
    video = None
    if row.end > row.start and not audio and dialogue in audio_files:
        audio = AudioSpan(audio_files[dialogue], row.start, row.end, "left" if row.left else "right")
    if row.end > row.start and dialogue in video_files:
        left, top, right, bottom = HALF_CROP
        shift = 0 if row.left else HALF_WIDTH
        video = VideoSpan(video_files[dialogue], row.start, row.end, [left + shift, top, right + shift, bottom])
    utterance = replace(
        row.utterance,
        index=index,
        emotion=emotion,
        audio=audio,
        video=video,
        text=text,
        text_source="gold" if text else None,
        votes=_shares(row.votes),
    )
    return reading.mark_missing(utterance)


def _compare(utterances: list[Utterance], labels: str) -> list[str]:
    """Compare with the published counts, by session and, for the other labels of `raw`, in total."""
    main = [each for each in utterances if each.emotion not in (None, *PUBLISHED_OTHERS)]
    lines = []
    for session in PUBLISHED:
        found = reading.count_emotions(each for each in main if each.session == session)
        lines += reading.compare_counts(session, found, published_counts(session, labels))
    if further := [str(each.session) for each in utterances if each.session not in PUBLISHED]:
        names = f"{min(further)} to {max(further)}"
        lines.append(f"{names}: {counted(len(further), 'row')} in sessions that are not in the published corpus")
    if labels == "raw":
        others = (each for each in utterances if each.emotion in (None, *PUBLISHED_OTHERS))
        lines += reading.compare_counts("other labels", reading.count_emotions(others), PUBLISHED_OTHERS)
    return lines


def published_counts(session: str, labels: str) -> dict[str, int]:
    """Return the published counts of a session by the emotions of a label set."""
    counts = dict(PUBLISHED[session])
    if labels == "six-dialoguernn":
        counts["happy"] += sum(each.startswith(session) for each in DIALOGUERNN_HAPPY)
    for emotion, merged in MERGED.get(labels, {}).items():
        counts[merged] += counts.pop(emotion)
    return {emotion: count for emotion, count in counts.items() if emotion in LABEL_SETS["iemocap"][labels]}
