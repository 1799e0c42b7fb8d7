"""Whether a corpus is what its manifest says, and whether what is tested was met in training."""

import os
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from wavfusion import manifest, protocol
from wavfusion.corpora.scan import Look
from wavfusion.errors import CorpusError, MediaError
from wavfusion.evaluate import encoders_met, read_origin
from wavfusion.manifest import AudioSpan, Corpus, Utterance
from wavfusion.media import content_hash
from wavfusion.protocol import PAIRS, Promises, Protocol
from wavfusion.run import Run, read_json

TOLERANCE = 0.5  # seconds that a row may reach beyond its file: annotators and containers round
SHOWN = 5  # values of a field that a finding names


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
    files: Mapping[str, Look],
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
    contents = _copies(rows)
    problems = [*_invalid(utterances, corpus.classes, files), *_duplicates(rows, contents)]
    notes: list[str] = []
    for fold in folds:
        where = f"{fold.name}, fold {fold.fold}" if fold.folds > 1 else fold.name
        problems += _leaks(rows, fold.parts, fold.promises, contents, where)
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
    """Hold a manifest against a finished RUN: its own corpus under its own division, or another that it is tested on.

    All rows of another corpus are tested; they are compared with the RUN's own training rows where its manifest is
    still there.
    """
    places, parts = read_origin(trained.folder)
    rows = _located(utterances, root)
    notes: list[str] = []
    promises: Promises = read_json(trained.folder / "protocol.json")["promises"]
    if not any(row.id in parts for row in rows):
        try:
            own = [row for row in manifest.read(places["manifest"]) if parts.get(row.id) in ("train", "valid")]
            own = _located(own, Path(manifest.read_corpus(places["manifest"]).root))
        except CorpusError as error:
            own = []
            notes.append(f"not compared with the training rows: {error}")
        same = {row.corpus for row in own} == {row.corpus for row in rows}
        promises = {"text": PAIRS, **({"speaker": PAIRS} if same else {})}
        parts = {row.id: parts[row.id] for row in own} | {row.id: "test" for row in rows}
        rows = own + rows
    problems = [*_leaks(rows, parts, promises, _copies(rows), f"RUN {trained.folder.name}")]
    met = encoders_met(trained, {row.corpus for row in utterances})
    for name, each in met["encoders"].items():
        if each["saw_corpus"] == "yes":
            problems.append(Finding("encoder", f"the {name} encoder {each['name']} was trained on this corpus", []))
        if each["saw_corpus"] == "unknown":
            notes.append(f"it is unknown what the {name} encoder {each['name']} was trained on")
    if trained.protocol["selected_on"] == "test":
        notes.append("the RUN was SELECTED ON TEST")
    return Checked(problems, notes)


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


def _copies(rows: Sequence[Utterance]) -> dict[str, str]:
    """The content of every file that another file of equal size may be a copy of."""
    by_size: dict[int, set[str]] = defaultdict(set)
    for path in {span.path for row in rows for span in (row.audio, row.video) if span}:
        with suppress(OSError):
            by_size[os.path.getsize(path)].add(path)
    contents = {}
    for path in sorted(path for paths in by_size.values() if len(paths) > 1 for path in paths):
        with suppress(OSError, MediaError):
            contents[path] = content_hash(path)
    return contents


def _invalid(utterances: Sequence[Utterance], classes: Sequence[str], files: Mapping[str, Look]) -> Iterator[Finding]:
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
    """Rows that are cut from the same place: of one file (`recording`), or of files with the same bytes (`bytes`)."""
    places: dict[Hashable, list[tuple[str, Utterance]]] = defaultdict(list)
    for row in rows:
        for name, span in (("audio", row.audio), ("video", row.video)):
            if span is not None and name not in row.missing:
                view = span.channel if isinstance(span, AudioSpan) else tuple(span.crop or ())
                key = (name, contents.get(span.path, span.path), span.start or 0.0, span.end, view)
                places[key].append((span.path, row))
    met = set()
    for found in places.values():
        ids = tuple(row.id for _, row in found)
        if len(found) > 1 and ids not in met:  # sound and picture of the same rows are one finding
            met.add(ids)
            yield "recording" if len({path for path, _ in found}) == 1 else "bytes", [row for _, row in found]


def _duplicates(rows: Sequence[Utterance], contents: Mapping[str, str]) -> Iterator[Finding]:
    for _, same in _same_recordings(rows, contents):
        yield Finding("duplicate", "one recording in several rows", [row.id for row in same])


def _leaks(
    rows: Sequence[Utterance], parts: Mapping[str, str], promises: Promises, contents: Mapping[str, str], where: str
) -> Iterator[Finding]:
    for field, pairs in promises.items():
        for pair, values in protocol.shared(field, rows, parts).items():
            if pair in pairs:
                ids = [row.id for row in rows if protocol.value_of(row, field) in values and row.id in parts]
                what = f"{len(values)} {field}{'s' * (len(values) > 1)} in {pair.replace('+', ' and ')}"
                yield Finding(field, f"{where}: {what}: {', '.join(values[:SHOWN])}", ids)
    for kind, same in _same_recordings([row for row in rows if row.id in parts], contents):
        met = sorted({parts[row.id] for row in same})
        if len(met) > 1:
            yield Finding(kind, f"{where}: one recording in {' and '.join(met)}", [row.id for row in same])


def _unpromised(rows: Sequence[Utterance], fold: Protocol, where: str) -> Iterator[str]:
    for field in ("speaker", "session", "dialogue", "text"):
        for pair, values in protocol.shared(field, rows, fold.parts).items():
            if pair not in fold.promises.get(field, ()):
                what = f"{len(values)} {field}{'s' * (len(values) > 1)}"
                yield f"{where}: {what} in {pair.replace('+', ' and ')}, which it does not rule out"
