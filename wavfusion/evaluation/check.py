"""Validity of a corpus against its manifest, and leakage between its parts."""

import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from wavfusion import manifest
from wavfusion.corpora import protocol
from wavfusion.corpora.folds import PAIRS, Promises, sentence_of, value_of
from wavfusion.corpora.protocol import Protocol
from wavfusion.corpora.scan import MediaFacts
from wavfusion.errors import CorpusError, MediaError, counted
from wavfusion.evaluation.evaluate import encoder_provenance
from wavfusion.manifest import AudioSpan, Corpus, Utterance, VideoSpan
from wavfusion.media import content_hash
from wavfusion.runs.folder import Run
from wavfusion.runs.origin import Origin, read_origin

TOLERANCE = 0.5  # seconds that a row may reach beyond its file: annotators and containers round
SHOWN = 5  # values of a field that a finding names

Facts: TypeAlias = Mapping[str, MediaFacts]
_Span: TypeAlias = AudioSpan | VideoSpan


class Finding(NamedTuple):
    """One problem: its kind, a description, and the utterances concerned."""

    kind: str
    text: str
    ids: list[str]


class Checked(NamedTuple):
    """Leaks and invalid rows, and notes: facts that break no promise, but that a reader of the metrics should know.

    Kinds of leaks: `speaker`, `session`, `dialogue`, `text`, `recording`, `bytes`, `encoder`; of invalid rows: `file`,
    `times`, `label`, `duplicate`, `missing` (no row has a modality that its table has a column of).
    """

    problems: list[Finding]
    notes: list[str]


def check(
    utterances: Sequence[Utterance], corpus: Corpus, files: Facts, root: Path, folds: Sequence[Protocol]
) -> Checked:
    """Find invalid rows, and values that two parts of a fold share against the promises of its protocol.

    Args:
        utterances: of the manifest.
        corpus: has the classes.
        files: facts of the rows' files (`corpora.scan`).
        root: the folder of the files; those of equal size are read, to find copies.
        folds: of one protocol; none checks validity alone.
    """
    rows = _located(utterances, root)
    contents, notes = _copies(rows)
    problems = list(_invalid(utterances, corpus.classes, files))
    lacking = Counter(name for row in utterances for name in row.missing)
    for name, number in lacking.items():
        if number < len(utterances):
            notes.append(f"{name}: missing in {number:,} of {counted(len(utterances), 'row')}")
        elif name in corpus.modalities:
            found = f"no row has {name}, which the table has a column of"
            problems.append(Finding("missing", found, [row.id for row in utterances]))
    for _, same in _same_recordings(rows, contents):
        problems.append(Finding("duplicate", "one recording in several rows", [row.id for row in same]))
    if not folds:
        labelled = any(row.emotion for row in utterances)
        why = (
            "the rows have no split: name a --protocol, such as speaker-folds" if labelled else "no row has an emotion"
        )
        notes.append(f"validity alone was checked, as {why}")
    for fold in folds:
        where = f"{fold.name}, fold {fold.fold}" if fold.folds > 1 else fold.name
        problems += _broken(rows, fold.parts, fold.promises, where)
        problems += _recordings_in_two_parts(rows, fold.parts, contents, where)
        notes += _unpromised_sharing(rows, fold.parts, fold.promises, where)
    return Checked(problems, notes)


def to_lines(found: Checked) -> list[str]:
    """Format problems and notes for a terminal, at most SHOWN of a kind."""
    lines = []
    for kind in dict.fromkeys(each.kind for each in found.problems):
        same = [each for each in found.problems if each.kind == kind]
        for each in same[:SHOWN]:
            more = f" and {len(each.ids) - SHOWN} more" if len(each.ids) > SHOWN else ""
            lines.append(f"{kind}: {each.text}" + (f" ({', '.join(each.ids[:SHOWN])}{more})" if each.ids else ""))
        if len(same) > SHOWN:
            lines.append(f"{kind}: and {len(same) - SHOWN} more; --json lists all")
    return [*lines, *(f"note: {each}" for each in found.notes)]


def check_against(trained: Run, utterances: Sequence[Utterance], root: Path) -> Checked:
    """Check a manifest against a finished RUN: the RUN's rows under its protocol, all others as rows to test on.

    The latter are compared with the RUN's training rows if its manifest still exists.
    """
    origin = read_origin(trained.folder)
    parts = origin.parts_of(utterances)
    promises: Promises = origin.promises
    rows = _located(utterances, root)
    kept = [row for row in rows if row.id in parts]
    every = kept + [row for row in rows if row.id not in parts and row.emotion is not None]
    notes: list[str] = []
    if not parts:
        kept, notes = _training_rows(origin)
        parts = {row.id: origin.parts[row.id] for row in kept}
        same = {row.corpus for row in kept} == {row.corpus for row in rows}
        # What the RUN's own parts share says nothing about the rows to test on.
        others = [pair for pair in PAIRS if pair.endswith("test")]
        promises = {"text": others, **({"speaker": others} if same else {})}
        kept = [replace(row, id=f"{row.id} (of the RUN)") for row in kept if parts[row.id] != "test"]
        parts = {f"{key} (of the RUN)": part for key, part in parts.items()}
        every = kept = kept + rows
    own = {row.id for row in rows}
    parts = {row.id: parts.get(row.id, "test") for row in every}
    contents, unread = _copies(every)
    where = f"RUN {trained.folder.name}"
    found = [*_broken(kept, parts, promises, where), *_recordings_in_two_parts(every, parts, contents, where)]
    problems = [each for each in found if own.intersection(each.ids)]
    notes += [note for pair, note in _shared_sentences(every, parts, promises, where) if pair.endswith("test")]
    for name, each in encoder_provenance(
        trained.features, trained.model.config.modalities, {row.corpus for row in utterances}
    )["encoders"].items():
        if each["saw_corpus"] == "yes":
            problems.append(Finding("encoder", f"the {name} encoder {each['name']} was trained on this corpus", []))
        if each["saw_corpus"] == "unknown":
            notes.append(f"the training data of the {name} encoder {each['name']} are unknown")
    if trained.protocol["selected_on"] == "test":
        notes.append("the RUN was SELECTED ON TEST")
    return Checked(problems, [*notes, *unread])


def _training_rows(origin: Origin) -> tuple[list[Utterance], list[str]]:
    """Read the rows that a RUN was trained on, or none and a note."""
    try:
        rows = [row for row in manifest.read(origin.manifest) if origin.parts.get(row.id) in ("train", "valid")]
        return _located(rows, Path(manifest.read_corpus(origin.manifest).root)), []
    except CorpusError as error:
        return [], [f"not compared with the training rows: {error}"]


def _located(utterances: Sequence[Utterance], root: Path) -> list[Utterance]:
    """Return the rows with absolute paths of their files."""

    def located(span: Any) -> Any:
        return span and replace(span, path=str(root / span.path))

    return [replace(row, audio=located(row.audio), video=located(row.video)) for row in utterances]


def _copies(rows: Sequence[Utterance]) -> tuple[dict[str, str], list[str]]:
    """Hash every file that has another of equal size; add a note on unreadable files."""
    by_size: dict[int, set[str]] = defaultdict(set)
    unreadable = 0
    for path in {span.path for row in rows for span in (row.audio, row.video) if span}:
        try:
            by_size[os.path.getsize(path)].add(path)
        except OSError:
            unreadable += 1
    contents = {}
    for path in sorted(path for paths in by_size.values() if len(paths) > 1 for path in paths):
        try:
            contents[path] = content_hash(path)
        except (OSError, MediaError):
            unreadable += 1
    return contents, [f"{counted(unreadable, 'file')} cannot be read: copies are not looked for"] if unreadable else []


def _invalid(utterances: Sequence[Utterance], classes: Sequence[str], files: Facts) -> Iterator[Finding]:
    for row in utterances:
        if row.emotion is not None and row.emotion not in classes:
            yield Finding("label", f"{row.emotion!r} is none of {', '.join(classes)}", [row.id])
        for name, span in _spans(row):
            known = files[span.path]
            length = getattr(known, name)
            if length is None:
                yield Finding("file", f"{span.path!r}: {known.reason or f'no {name} track'}", [row.id])
            elif max(span.start or 0.0, span.end or 0.0) > length + TOLERANCE:
                found = f"{span.start or 0:g} to {span.end or length:g} s of a file of {length:.2f} s"
                yield Finding("times", f"{name}: {found}", [row.id])


def _spans(row: Utterance) -> list[tuple[str, _Span]]:
    """Return what a row has of its recording, by modality."""
    return [
        (name, span) for name, span in (("audio", row.audio), ("video", row.video)) if span and name not in row.missing
    ]


def _same_recordings(rows: Sequence[Utterance], contents: Mapping[str, str]) -> Iterator[tuple[str, list[Utterance]]]:
    """Find rows of the same recording: in one file (`recording`), or in files with the same bytes (`bytes`).

    The same recording: more than half of the shorter stretch lies in the other, and the views overlap (the left and the
    right channel do not, nor do two halves of a frame).
    """
    places: dict[tuple[str, str], list[tuple[float, float, _Span, Utterance]]] = defaultdict(list)
    for row in rows:
        for name, span in _spans(row):
            end = math.inf if span.end is None else span.end
            places[name, contents.get(span.path, span.path)].append((span.start or 0.0, end, span, row))
    reported = set()
    for stretches in places.values():
        for cluster in _overlapping(sorted(stretches, key=lambda each: each[:2])):
            ids = tuple(sorted(row.id for _, row in cluster))
            if ids not in reported:  # audio and video of the same rows are one finding
                reported.add(ids)
                kind = "recording" if len({span.path for span, _ in cluster}) == 1 else "bytes"
                yield kind, [row for _, row in cluster]


def _overlapping(stretches: Sequence[tuple[float, float, _Span, Utterance]]) -> Iterator[list[tuple[_Span, Utterance]]]:
    """Group overlapping stretches, given in order of time; yield groups of two or more."""
    group = list(range(len(stretches)))
    for first, (start, end, span, _) in enumerate(stretches):
        for second in range(first + 1, len(stretches)):
            later, until, other, _ = stretches[second]
            if later >= end:
                break
            shorter = min(end - start, until - later)
            # The length of two that reach to the end of the file is unknown.
            overlap = shorter == math.inf or min(end, until) - later > shorter / 2
            if overlap and not _apart(span, other):
                old, new = group[second], group[first]
                group = [new if number == old else number for number in group] if old != new else group
    clusters: dict[int, list[tuple[_Span, Utterance]]] = defaultdict(list)
    for number, (_, _, span, row) in zip(group, stretches, strict=True):
        clusters[number].append((span, row))
    yield from (cluster for cluster in clusters.values() if len(cluster) > 1)


def _apart(one: _Span, other: _Span) -> bool:
    """Whether two views of one file are disjoint."""
    if isinstance(one, AudioSpan) and isinstance(other, AudioSpan):
        return {one.channel, other.channel} == {"left", "right"}
    if isinstance(one, VideoSpan) and isinstance(other, VideoSpan) and one.crop and other.crop:
        (left, top, right, bottom), (left2, top2, right2, bottom2) = one.crop, other.crop
        return right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top
    return False


def _broken(rows: Sequence[Utterance], parts: Mapping[str, str], promises: Promises, where: str) -> Iterator[Finding]:
    """Find values that two parts share against a promise, and rows for which it cannot be verified."""
    for field, pairs in promises.items():
        unknown = [row.id for row in rows if row.id in parts and field != "text" and getattr(row, field) is None]
        if pairs and 0 < len(unknown) < len(parts):
            lacking = f"{counted(len(unknown), 'row')} without a {field}"
            yield Finding(field, f"{where}: {lacking}: the promise cannot be verified", unknown)
        for pair, values in protocol.shared(field, rows, parts).items():
            if pair in pairs:
                ids = [row.id for row in rows if value_of(row, field) in values and row.id in parts]
                what = f"{counted(len(values), field)} in {pair.replace('+', ' and ')}"
                yield Finding(field, f"{where}: {what}: {', '.join(values[:SHOWN])}", ids)


def _recordings_in_two_parts(
    rows: Sequence[Utterance], parts: Mapping[str, str], contents: Mapping[str, str], where: str
) -> Iterator[Finding]:
    """Find recordings in two parts, which no protocol allows."""
    for kind, same in _same_recordings([row for row in rows if row.id in parts], contents):
        shared = sorted({parts[row.id] for row in same})
        if len(shared) > 1:
            yield Finding(kind, f"{where}: one recording in {' and '.join(shared)}", [row.id for row in same])


def _unpromised_sharing(
    rows: Sequence[Utterance], parts: Mapping[str, str], promises: Promises, where: str
) -> Iterator[str]:
    for field in promises:
        if field != "text" and all(getattr(row, field) is None for row in rows):
            yield f"{where}: no {field} is known, so the promise cannot be verified"
    for field in ("speaker", "session", "dialogue"):
        for pair, values in protocol.shared(field, rows, parts).items():
            if pair not in promises.get(field, ()):
                what = counted(len(values), field)
                yield f"{where}: {what} in {pair.replace('+', ' and ')}, which it does not rule out"
    yield from (note for _, note in _shared_sentences(rows, parts, promises, where))


def _shared_sentences(
    rows: Sequence[Utterance], parts: Mapping[str, str], promises: Promises, where: str
) -> Iterator[tuple[str, str]]:
    """Note sentences of two parts that no promise rules out: those of rows without a style are never promised."""
    for pair in PAIRS:
        promised = pair in promises.get("text", ())
        sentences: dict[str, list[str]] = {part: [] for part in pair.split("+")}
        for row in rows:
            if (part := parts.get(row.id, "")) in sentences and not (promised and row.style == "scripted"):
                sentences[part] += [text] if (text := sentence_of(row)) else []
        first, second = sentences.values()
        if both := set(first) & set(second):
            share = f"{sum(text in both for text in second):,} of {counted(len(second), 'row')} of {pair.split('+')[1]}"
            what = f"{counted(len(both), 'text')} in {pair.replace('+', ' and ')}"
            yield pair, f"{where}: {what}, which it does not rule out: {share}"
