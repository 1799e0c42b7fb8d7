"""What every reader shares: its input and result, the files of a corpus, text in any encoding, published counts."""

import csv
import os
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePath
from typing import Any, TypeVar, overload

from wavfusion.corpora.scan import MediaFacts, Probe
from wavfusion.errors import CorpusError
from wavfusion.manifest import MODALITIES, AudioSpan, Channel, Exclusion, Utterance, VideoSpan

Key = TypeVar("Key", bound=Hashable)

UNDEFINED = b"\x81\x8d\x8f\x90\x9d"  # bytes that cp1252 has no character for


class Rows(Sequence[Utterance]):
    """Utterances that are read from their source at every pass, so that a table of any length fits into memory."""

    def __init__(self, read: Callable[[], Iterator[Utterance]], count: int) -> None:
        self._read, self._count = read, count

    def __iter__(self) -> Iterator[Utterance]:
        return self._read()

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Utterance: ...
    @overload
    def __getitem__(self, index: slice) -> list[Utterance]: ...
    def __getitem__(self, index: int | slice) -> Utterance | list[Utterance]:
        if isinstance(index, slice):
            return list(self)[index]
        place = range(self._count)[index]
        return next(islice(self._read(), place, None))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)


@dataclass(frozen=True)
class ReaderInput:
    """The input of a reader.

    Attributes:
        root: the corpus's folder; for `table` also the table itself.
        labels: a name of LABEL_SETS, None for the corpus's first.
        down_mix: how several audio channels become one.
        columns: of a table: field of the manifest -> the column that holds it, where their names differ.
        probe: opens media files, given as paths below the root; finds nothing where no media are to be opened.
    """

    root: Path
    labels: str | None
    down_mix: Channel
    columns: Mapping[str, str]
    probe: Probe


@dataclass(frozen=True)
class Reading:
    """The result of a reader.

    Attributes:
        rows: rows in the source; each is either among `utterances` or `excluded`.
        classes: the emotions in class order.
        labels: name of the label set, None where the corpus has only one.
        stripped: rows that were kept without a modality that they should have.
        differences: from what the publishers describe, one line each.
    """

    rows: int
    classes: list[str]
    utterances: Sequence[Utterance]
    labels: str | None = None
    excluded: list[Exclusion] = field(default_factory=list)
    stripped: list[Exclusion] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)


def list_files(root: Path) -> list[str]:
    """List the files below a folder, sorted, as paths relative to it with forward slashes.

    Links are followed, each folder once. Hidden names (also the `._*` files of macOS), broken links and links to
    themselves are skipped.
    """
    found: list[str] = []
    pending = [""]
    seen: set[tuple[int, int]] = set()
    while pending:
        folder = pending.pop()
        status = os.stat(root / folder)
        # Without this a link to a folder above would never end.
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(root / folder) as entries:
            visible = [
                (folder + entry.name, entry)
                for entry in entries
                # `is_file` of an entry that is a link to itself is an error; `exists` of its path is not.
                if not entry.name.startswith(".") and (not entry.is_symlink() or Path(entry).exists())
            ]
            found += (path for path, entry in visible if entry.is_file())
            # Sorted and popped from the end, so that of two links to one folder the same one counts every time.
            pending += sorted((f"{path}/" for path, entry in visible if entry.is_dir()), reverse=True)
    return sorted(found)


def path_below(name: str, *folders: PurePath) -> str:
    """Return a path relative to the first of the folders that it lies in, with forward slashes.

    Args:
        name: in the notation of the system; a relative path is relative to the corpus.
        folders: names of one folder.

    Raises:
        ValueError: the path leads outside; a link within may lead anywhere, as the user made it.
    """
    path = type(folders[0])(name)
    if path.anchor:
        path = next((path.relative_to(folder) for folder in folders if path.is_relative_to(folder)), path)
    if path.anchor or ".." in path.parts or "\0" in name:
        raise ValueError(f"expected a path inside {folders[0]}, found {name!r}")
    return path.as_posix()


def first_of_each(paths: Iterable[tuple[Key, str]]) -> dict[Key, str]:
    """Map each key to its path; of several, the one with the fewest folders, then the first by name."""
    return dict(sorted(paths, key=lambda pair: (pair[1].count("/"), pair[1]), reverse=True))


def only_of_each(root: Path, paths: Iterable[tuple[Key, str]]) -> dict[Key, str]:
    """Map each key to its path like `first_of_each`, of files whose copies must be equal.

    Raises:
        CorpusError: two files of one key differ.
    """
    paths = list(paths)
    chosen = first_of_each(paths)
    for key, path in paths:
        first = chosen[key]
        if path != first and (root / path).read_bytes() != (root / first).read_bytes():
            raise CorpusError(f"expected one {key} below {root}, found several that differ: {first}, {path}")
    return chosen


def open_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file with their ends; UTF-8 with or without mark, or else cp1252."""
    with path.open(encoding=_encoding(path), errors="replace", newline="") as file:
        yield from file


def _encoding(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            while file.read(1 << 20):
                pass
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8-sig"


def compare_encodings(root: Path, paths: Iterable[str]) -> list[str]:
    """List the text files that are not UTF-8 and so decoded as cp1252, and those with bytes that cp1252 lacks."""
    others = [path for path in paths if _encoding(root / path) != "utf-8-sig"]
    lacking = [
        path for path in others if len((data := (root / path).read_bytes()).translate(None, UNDEFINED)) < len(data)
    ]
    return count_findings(
        {
            "files are not UTF-8 and are read as cp1252": others,
            "files hold bytes that cp1252 lacks too, read as U+FFFD": lacking,
        }
    )


def is_count(text: str) -> bool:
    """Tell whether a cell is a whole number >= 0, of a length that Python turns into one."""
    return text.strip().isdecimal() and len(text) < 20


def broken_row(path: Path, line: int, error: ValueError | csv.Error) -> CorpusError:
    """Return the error of a row of a table, with its file and line."""
    if isinstance(error, csv.Error):
        limit = csv.field_size_limit()
        return CorpusError(
            f"{path}:{line}: expected cells of at most {limit:,} characters, every quote closed, found: {error}"
        )
    return error if isinstance(error, CorpusError) else CorpusError(f"{path}:{line}: {error}")


def mark_missing(utterance: Utterance) -> Utterance:
    """Fill the `missing` field from what the utterance does not have."""
    return replace(utterance, missing=[name for name in MODALITIES if not getattr(utterance, name)])


def acted_utterance(
    key: str,
    corpus: str,
    actor: str,
    sentence: str,
    emotion: tuple[str, str],
    audio: AudioSpan | None,
    video: VideoSpan | None,
    votes: dict[str, float] | None = None,
) -> Utterance:
    """Build the utterance of an actor who speaks an English sentence in an emotion, given as (emotion, raw label)."""
    utterance = Utterance(
        id=key,
        corpus=corpus,
        speaker=f"actor{actor}",
        audio=audio,
        video=video,
        text=sentence,
        text_source="gold",
        language="en",
        style="scripted",
        emotion=emotion[0],
        raw_label=emotion[1],
        votes=votes,
    )
    return mark_missing(utterance)


def list_stripped(utterances: Iterable[Utterance], reasons: Mapping[str, str] | None = None) -> list[Exclusion]:
    """List the utterances that lack a modality because its file was not found, or for the reason of their id."""
    known = reasons or {}
    return [
        Exclusion(each.id, f"{', '.join(each.missing)}: {known.get(each.id, 'not found below the root')}")
        for each in utterances
        if each.missing
    ]


def join_reasons(stripped: Iterable[Exclusion]) -> list[Exclusion]:
    """Join the reasons of each utterance."""
    reasons: dict[str, list[str]] = {}
    for each in stripped:
        reasons.setdefault(each.id, []).append(each.reason)
    return [Exclusion(key, "; ".join(dict.fromkeys(found))) for key, found in reasons.items()]


def strip(utterance: Utterance, facts: Mapping[str, MediaFacts]) -> tuple[Utterance, str | None]:
    """Remove the spans of files that lack them, and return the reason; spans of files that were not opened stay."""
    removed: dict[str, list[str]] = {}
    for name, span in (("audio", utterance.audio), ("video", utterance.video)):
        if span and span.path in facts and (reason := _unusable(name, span, facts[span.path])):
            removed.setdefault(reason, []).append(name)
    if not removed:
        return utterance, None
    absent: dict[str, Any] = dict.fromkeys(name for names in removed.values() for name in names)
    reasons = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in removed.items())
    return mark_missing(replace(utterance, **absent)), reasons


def _unusable(name: str, span: AudioSpan | VideoSpan, facts: MediaFacts) -> str | None:
    end = facts.audio if name == "audio" else facts.video
    if facts.reason:
        return facts.reason
    if not end:
        return f"{span.path!r} has {'no' if end is None else 'an empty'} track of {name}"
    if (span.start or 0.0) >= end:
        return f"{span.path!r} ends at {end:.3f} s, before the start at {span.start:.3f} s"
    return None


def unknown_code(*fields: tuple[str, str, Collection[str]]) -> str | None:
    """Describe the first field of a file's name that is not a published code; fields: name, code, codes."""
    return next(
        (f"{name} code {code} is not one of {', '.join(codes)}" for name, code, codes in fields if code not in codes),
        None,
    )


def name_some(names: Iterable[str], limit: int = 5) -> str:
    """Join the first few of many names, and count the rest."""
    names = list(names)
    rest = f" and {len(names) - limit:,} more" * (len(names) > limit)
    return ", ".join(names[:limit]) + rest


def count_findings(findings: Mapping[str, Collection[str]]) -> list[str]:
    """Return one line for each finding that has names: their number, the finding, the first few names."""
    return [f"{len(names):,} {finding}: {name_some(names)}" for finding, names in findings.items() if names]


def compare_counts(name: str, found: Mapping[str, int], published: Mapping[str, int]) -> list[str]:
    """Return one line where the counts by emotion differ from the published ones, none where they agree."""
    differing = [each for each in dict.fromkeys([*published, *found]) if found.get(each, 0) != published.get(each, 0)]
    if not differing:
        return []
    if not any(found.values()):
        return [f"{name}: no rows, published {sum(published.values()):,}"]
    details = ", ".join(f"{each} {found.get(each, 0):,} of {published.get(each, 0):,}" for each in differing)
    return [f"{name}: {sum(found.values()):,} rows, published {sum(published.values()):,} ({details})"]


def count_emotions(utterances: Iterable[Utterance]) -> Counter[str]:
    """Count the emotions; a row without one counts as `none`."""
    return Counter(utterance.emotion or "none" for utterance in utterances)
