"""Whether a corpus is what its manifest says, and whether what is tested was met in training."""

import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

from wavfusion import manifest
from wavfusion.corpora import protocol
from wavfusion.corpora.folds import PAIRS, Promises, value_of
from wavfusion.corpora.protocol import Protocol
from wavfusion.corpora.scan import MediaFacts
from wavfusion.errors import ConfigError, CorpusError, MediaError
from wavfusion.evaluation.evaluate import encoders_met, own_parts, read_origin
from wavfusion.manifest import AudioSpan, Corpus, Utterance, VideoSpan
from wavfusion.media import content_hash
from wavfusion.runs.folder import Run, read_json

TOLERANCE = 0.5  # seconds that a row may reach beyond its file: annotators and containers round
SHOWN = 5  # values of a field that a finding names

_COLUMNS = [entry.name for entry in fields(Utterance)]
_Span: TypeAlias = AudioSpan | VideoSpan


class Finding(NamedTuple):
    """One thing that is wrong: its kind, in words, and the utterances concerned."""

    kind: str
    text: str
    ids: list[str]


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Attributes:
        problems: leaks (kinds `speaker`, `session`, `dialogue`, `text`, `recording`, `bytes`, `encoder`) and rows that
            are not as they should be (`file`, `times`, `label`, `duplicate`).
        notes: what nothing promised, but a reader of the figures should know.
    """

    problems: list[Finding]
    notes: list[str]


def check(
    utterances: Sequence[Utterance],
    corpus: Corpus,
    files: Mapping[str, MediaFacts],
    root: Path,
    folds: Sequence[Protocol] = (),
) -> Checked:
    """Look for invalid rows, and for what two parts of a fold share against the promises of its protocol.

    Args:
        utterances: of the manifest.
        corpus: tells the classes.
        files: what each file holds that the rows name (`corpora.scan`).
        root: where the files lie; those of equal size are read, to find copies.
        folds: of one protocol; none checks validity alone.
    """
    rows = _located(utterances, root)
    contents, notes = _copies(rows)
    problems = [*_invalid(utterances, corpus.classes, files), *_duplicates(rows, contents)]
    if not folds:
        notes.append("no labelled rows under a protocol: validity alone was checked")
    for fold in folds:
        where = f"{fold.name}, fold {fold.fold}" if fold.folds > 1 else fold.name
        problems += _broken(rows, fold.parts, fold.promises, where)
        problems += _met_twice(rows, fold.parts, contents, where)
        notes += _unpromised(rows, fold, where)
    return Checked(problems, notes)


def to_lines(found: Checked) -> list[str]:
    """Lay problems and notes out for a terminal, at most SHOWN of a kind."""
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
    """Hold a manifest against a finished RUN: its own rows under its own division, all others as rows to test on.

    These are compared with the RUN's training rows where its manifest is still there.

    Raises:
        ConfigError: the RUN is not whole.
    """
    places, told = read_origin(trained.folder)
    parts, promises = own_parts(utterances, told), _promises(trained)
    rows = _located(utterances, root)
    kept = [row for row in rows if row.id in parts]
    notes: list[str] = []
    if not parts:
        kept, notes = _training_rows(places["manifest"], told)
        parts = {row.id: told[row.id][0] for row in kept}
        same = {row.corpus for row in kept} == {row.corpus for row in rows}
        promises = {"text": PAIRS, **({"speaker": PAIRS} if same else {})}
        kept += [replace(row, id=f"{row.id} (tested)") for row in rows]
        others = []
    else:
        others = [row for row in rows if row.id not in parts and row.emotion is not None]
    tested = dict.fromkeys((row.id for row in [*kept, *others] if row.id not in parts), "test")
    contents, unread = _copies([*kept, *others])
    where = f"RUN {trained.folder.name}"
    problems = [
        *_broken(kept, {**parts, **tested}, promises, where),
        *_met_twice([*kept, *others], {**parts, **tested}, contents, where),
    ]
    met = encoders_met(trained, {row.corpus for row in utterances})
    for name, each in met["encoders"].items():
        if each["saw_corpus"] == "yes":
            problems.append(Finding("encoder", f"the {name} encoder {each['name']} was trained on this corpus", []))
        if each["saw_corpus"] == "unknown":
            notes.append(f"it is unknown what the {name} encoder {each['name']} was trained on")
    if trained.protocol["selected_on"] == "test":
        notes.append("the RUN was SELECTED ON TEST")
    return Checked(problems, [*notes, *unread])


def _promises(trained: Run) -> Promises:
    try:
        promises = dict(read_json(trained.folder / "protocol.json")["promises"])
        if not all(name in ("speaker", "session", "dialogue", *_COLUMNS) for name in promises):
            raise ValueError(f"promises about {', '.join(promises)}")
        return {name: [str(pair) for pair in pairs] for name, pairs in promises.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        where = trained.folder / "protocol.json"
        raise ConfigError(f"{where}: expected what training writes, found {type(error).__name__}: {error}") from None


def _training_rows(path: Path, told: Mapping[str, tuple[str, str]]) -> tuple[list[Utterance], list[str]]:
    """The rows that a RUN learned from, with a note where they are no longer to be had."""
    try:
        own = [row for row in manifest.read(path) if told.get(row.id, ("", ""))[0] in ("train", "valid")]
        return _located(own, Path(manifest.read_corpus(path).root)), []
    except CorpusError as error:
        return [], [f"not compared with the training rows: {error}"]


def _located(utterances: Sequence[Utterance], root: Path) -> list[Utterance]:
    """The rows with the whole paths of their files."""
    return [
        replace(
            row,
            audio=row.audio and replace(row.audio, path=str(root / row.audio.path)),
            video=row.video and replace(row.video, path=str(root / row.video.path)),
        )
        for row in utterances
    ]


def _copies(rows: Sequence[Utterance]) -> tuple[dict[str, str], list[str]]:
    """The content of every file that another of equal size may be a copy of; a note on files that cannot be read."""
    by_size: dict[int, set[str]] = defaultdict(set)
    lost = 0
    for path in {span.path for row in rows for span in (row.audio, row.video) if span}:
        try:
            by_size[os.path.getsize(path)].add(path)
        except OSError:
            lost += 1
    contents = {}
    for path in sorted(path for paths in by_size.values() if len(paths) > 1 for path in paths):
        try:
            contents[path] = content_hash(path)
        except (OSError, MediaError):
            lost += 1
    return contents, [f"{lost} files cannot be read: copies of them would not be seen"] if lost else []


def _invalid(
    utterances: Sequence[Utterance], classes: Sequence[str], files: Mapping[str, MediaFacts]
) -> Iterator[Finding]:
    for row in utterances:
        if row.emotion is not None and row.emotion not in classes:
            yield Finding("label", f"{row.emotion!r} is none of {', '.join(classes)}", [row.id])
        for name, span in (("audio", row.audio), ("video", row.video)):
            if span is None or name in row.missing:
                continue
            known = files[span.path]
            length = getattr(known, name)
            if length is None:
                yield Finding("file", f"{span.path!r}: {known.reason or f'no {name} track'}", [row.id])
            elif max(span.start or 0.0, span.end or 0.0) > length + TOLERANCE:
                found = f"{span.start or 0:g} to {span.end or length:g} s of a file of {length:.2f} s"
                yield Finding("times", f"{name}: {found}", [row.id])


def _same_recordings(rows: Sequence[Utterance], contents: Mapping[str, str]) -> Iterator[tuple[str, list[Utterance]]]:
    """Rows cut from the same place: of one file (`recording`), or of files with the same bytes (`bytes`).

    The same place: more than half of the shorter stretch lies in the other, and the views are not apart (the left
    and the right channel, two halves of a picture).
    """
    places: dict[tuple[str, str], list[tuple[float, float, _Span, Utterance]]] = defaultdict(list)
    for row in rows:
        for name, span in (("audio", row.audio), ("video", row.video)):
            if span is not None and name not in row.missing:
                end = math.inf if span.end is None else span.end
                places[name, contents.get(span.path, span.path)].append((span.start or 0.0, end, span, row))
    met = set()
    for found in places.values():
        for cluster in _overlapping(sorted(found, key=lambda each: each[:2])):
            ids = tuple(sorted(row.id for _, row in cluster))
            if ids not in met:  # sound and picture of the same rows are one finding
                met.add(ids)
                kind = "recording" if len({span.path for span, _ in cluster}) == 1 else "bytes"
                yield kind, [row for _, row in cluster]


def _overlapping(found: Sequence[tuple[float, float, _Span, Utterance]]) -> Iterator[list[tuple[_Span, Utterance]]]:
    """Group stretches in order of time that show the same; only groups of two or more."""
    group = list(range(len(found)))
    for first, (start, end, span, _) in enumerate(found):
        for second in range(first + 1, len(found)):
            later, until, other, _ = found[second]
            if later >= end:
                break
            shorter = min(end - start, until - later)
            # Of two that reach to the end of the file nobody knows the length.
            overlap = shorter == math.inf or min(end, until) - later > shorter / 2
            if overlap and not _apart(span, other):
                old, new = group[second], group[first]
                group = [new if number == old else number for number in group] if old != new else group
    clusters: dict[int, list[tuple[_Span, Utterance]]] = defaultdict(list)
    for number, (_, _, span, row) in zip(group, found, strict=True):
        clusters[number].append((span, row))
    yield from (cluster for cluster in clusters.values() if len(cluster) > 1)


def _apart(one: _Span, other: _Span) -> bool:
    """Whether two views of one file share nothing."""
    if isinstance(one, AudioSpan) and isinstance(other, AudioSpan):
        return {one.channel, other.channel} == {"left", "right"}
    if isinstance(one, VideoSpan) and isinstance(other, VideoSpan) and one.crop and other.crop:
        (left, top, right, bottom), (left2, top2, right2, bottom2) = one.crop, other.crop
        return right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top
    return False


def _duplicates(rows: Sequence[Utterance], contents: Mapping[str, str]) -> Iterator[Finding]:
    for _, same in _same_recordings(rows, contents):
        yield Finding("duplicate", "one recording in several rows", [row.id for row in same])


def _broken(rows: Sequence[Utterance], parts: Mapping[str, str], promises: Promises, where: str) -> Iterator[Finding]:
    """Values that two parts share against a promise, and rows of which the promise cannot be shown."""
    for field, pairs in promises.items():
        unknown = [row.id for row in rows if row.id in parts and field != "text" and getattr(row, field) is None]
        if pairs and 0 < len(unknown) < len(parts):
            yield Finding(
                field, f"{where}: {len(unknown)} rows without a {field}: the promise cannot be shown", unknown
            )
        for pair, values in protocol.shared(field, rows, parts).items():
            if pair in pairs:
                ids = [row.id for row in rows if value_of(row, field) in values and row.id in parts]
                what = f"{len(values)} {field}{'s' * (len(values) > 1)} in {pair.replace('+', ' and ')}"
                yield Finding(field, f"{where}: {what}: {', '.join(values[:SHOWN])}", ids)


def _met_twice(
    rows: Sequence[Utterance], parts: Mapping[str, str], contents: Mapping[str, str], where: str
) -> Iterator[Finding]:
    """Recordings that are in two parts, which no protocol allows."""
    for kind, same in _same_recordings([row for row in rows if row.id in parts], contents):
        met = sorted({parts[row.id] for row in same})
        if len(met) > 1:
            yield Finding(kind, f"{where}: one recording in {' and '.join(met)}", [row.id for row in same])


def _unpromised(rows: Sequence[Utterance], fold: Protocol, where: str) -> Iterator[str]:
    for field in fold.promises:
        if field != "text" and all(getattr(row, field) is None for row in rows):
            yield f"{where}: no {field} is known, so that none is shared cannot be shown"
    for field in ("speaker", "session", "dialogue", "text"):
        for pair, values in protocol.shared(field, rows, fold.parts).items():
            if pair not in fold.promises.get(field, ()):
                what = f"{len(values)} {field}{'s' * (len(values) > 1)}"
                yield f"{where}: {what} in {pair.replace('+', ' and ')}, which it does not rule out"
