"""What every reader shares: its input and result, the files of a corpus, text in any encoding, published counts."""

import codecs
import csv
import os
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePath
from typing import Any, TypeVar

from wavfusion.corpora.scan import MediaFacts, Probe
from wavfusion.errors import CorpusError, counted
from wavfusion.files import read_text_lines, require_file
from wavfusion.manifest import MODALITIES, AudioSpan, Channel, Exclusion, Utterance, VideoSpan

Key = TypeVar("Key", bound=Hashable)

# Usual endings of recordings, the better ones first.
AUDIO_ENDINGS = (".wav", ".flac", ".aif", ".aiff", ".sph", ".au", ".m4a", ".aac", ".opus", ".ogg", ".mp3", ".wma")
VIDEO_ENDINGS = (".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm", ".flv", ".wmv", ".mpg", ".mpeg", ".ts")
UNDEFINED = {0x81, 0x8D, 0x8F, 0x90, 0x9D}  # bytes that cp1252 has no character for


class Rows(Sequence[Utterance]):
    """Utterances that are read from their source at every pass, so that a table of any length fits into memory."""

    def __init__(self, read: Callable[[], Iterator[Utterance]], count: int) -> None:
        self._read, self._count = read, count

    def __iter__(self) -> Iterator[Utterance]:
        return self._read()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return list(self)[index]
        return next(islice(self._read(), range(self._count)[index], None))


@dataclass(frozen=True)
class ReaderInput:
    """The input of a reader.

    Attributes:
        root, labels, down_mix, columns: as given to `prepare`.
        probe: opens media files, given as paths below the root; finds nothing where no media are to be opened.
        media_root: of a table: the folder that its media lie below; None = the table's own.
    """

    root: Path
    labels: str | None
    down_mix: Channel
    columns: Mapping[str, str]
    probe: Probe
    media_root: Path | None = None


@dataclass(frozen=True)
class Reading:
    """The result of a reader.

    Attributes:
        rows: in the source; each is either among `utterances` or `excluded`.
        labels: name of the label set, None where the corpus has only one.
        stripped: utterances without a modality that they should have.
        differences: from what the publishers describe, or how the files were taken, one line each.
        modalities: those that the source declares; published corpora may be fetched in part and declare none.
        hints: of a modality that most rows lack: where its files may be.
    """

    rows: int
    classes: list[str]
    utterances: Sequence[Utterance]
    labels: str | None = None
    excluded: list[Exclusion] = field(default_factory=list)
    stripped: list[Exclusion] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    modalities: list[str] = field(default_factory=list)
    hints: dict[str, str] = field(default_factory=dict)


def list_files(root: Path, refuse: bool = True) -> list[str]:
    """List the files below a folder, sorted, as paths relative to it with forward slashes.

    Links are followed, each folder once. Hidden names (also the `._*` files of macOS) and broken links are skipped;
    a folder that cannot be read is an OSError, or with `refuse` false skipped too.
    """

    def refused(error: OSError) -> None:
        if refuse:
            raise error

    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, onerror=refused, followlinks=True):
        status = os.stat(folder)
        # Without this a link to a folder above would never end.
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        # Sorted, so that of two links to one folder the same one counts every time.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        visible = (Path(folder, name) for name in names if not name.startswith("."))
        found += (path.relative_to(root).as_posix() for path in visible if path.is_file())
    return sorted(found)


def is_video(path: str) -> bool:
    """Tell whether a file is a video by its ending."""
    return path.lower().endswith(VIDEO_ENDINGS)


def path_below(name: str, *folders: PurePath) -> str:
    """Return a path relative to the first of the folders (names of one folder) that it lies in, with forward slashes.

    A path that leads outside is a ValueError; a link within may lead anywhere, as the user made it.
    """
    path = type(folders[0])(name)
    if path.anchor:
        path = next((path.relative_to(folder) for folder in folders if path.is_relative_to(folder)), path)
    if path.anchor or ".." in path.parts or "\0" in name:
        raise ValueError(f"expected a path inside {folders[0]}, found {name!r}")
    return path.as_posix()


def first_of_each(paths: Iterable[tuple[Key, str]], endings: Sequence[str] = ()) -> dict[Key, str]:
    """Map each key to its path; of several, the earliest ending, the one with the fewest folders, the first by name."""

    def order(pair: tuple[Key, str]) -> tuple[int, int, str]:
        path = pair[1]
        rank = next((number for number, ending in enumerate(endings) if path.lower().endswith(ending)), len(endings))
        return rank, path.count("/"), path

    return dict(sorted(paths, key=order, reverse=True))


def only_of_each(root: Path, paths: Iterable[tuple[Key, str]]) -> dict[Key, str]:
    """Map each key to its path like `first_of_each`; a CorpusError where two files of one key differ."""
    paths = list(paths)
    chosen = first_of_each(paths)
    for key, path in paths:
        first = chosen[key]
        if path != first and (root / path).read_bytes() != (root / first).read_bytes():
            raise CorpusError(f"expected one {key} below {root}, found several that differ: {first}, {path}")
    return chosen


def open_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file with their ends; UTF-8 with or without mark, UTF-16, or else cp1252."""
    yield from read_text_lines(path, _encoding(path), "replace", newline="")


def _encoding(path: Path) -> str:
    with require_file(path).open("rb") as raw:
        head = raw.read(4)
    if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "utf-16"
    # Without a mark: every other byte of its first letters is 0.
    if len(head) == 4 and 0 in head and (head[::2] == b"\0\0" or head[1::2] == b"\0\0"):
        return "utf-16-be" if head[0] == 0 else "utf-16-le"
    try:
        with path.open(encoding="utf-8") as file:
            while file.read(1 << 20):
                pass
        return "utf-8-sig"
    except UnicodeDecodeError:
        return "cp1252"


def compare_encodings(root: Path, paths: Iterable[str]) -> list[str]:
    """List the text files that are not UTF-8, with what they are decoded as, and those with bytes that cp1252 lacks."""
    by_encoding: dict[str, list[str]] = {}
    for path in paths:
        by_encoding.setdefault(_encoding(root / path), []).append(path)
    by_encoding.pop("utf-8-sig", None)
    lacking = [path for path in by_encoding.get("cp1252", []) if set((root / path).read_bytes()) & UNDEFINED]
    return [
        *(
            line
            for encoding, others in sorted(by_encoding.items())
            for line in count_finding("file", f"not in UTF-8, read as {encoding}", others)
        ),
        *count_finding("file", "with bytes that cp1252 lacks too, read as U+FFFD", lacking),
    ]


def read_cells(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line and the cells of each row of a published table that has these columns."""
    reader = csv.DictReader(open_lines(path), strict=True)
    try:
        header = reader.fieldnames or []
        for name in columns:
            if name not in header:
                raise ValueError(f"expected the column {name!r}, found {', '.join(header) or 'nothing'}")
        yield from ((reader.line_num, cells) for cells in reader)
    except (ValueError, csv.Error) as error:
        raise broken_row(path, max(1, reader.reader.line_num), error) from error


def is_count(text: str) -> bool:
    """Tell whether a cell is a whole number >= 0, of a length that Python turns into one."""
    return text.strip().isdecimal() and len(text) < 20


def broken_row(path: Path, line: int, error: ValueError | csv.Error) -> CorpusError:
    """Return the error of a row of a table, with its file and line."""
    expected = f"expected cells of at most {csv.field_size_limit():,} characters, every quote closed, found: "
    return CorpusError(f"{path}:{line}: {expected if isinstance(error, csv.Error) else ''}{error}")


def mark_missing(utterance: Utterance) -> Utterance:
    """Fill the `missing` field from what the utterance does not have."""
    return replace(utterance, missing=[name for name in MODALITIES if not getattr(utterance, name)])


def acted_utterance(utterance: Utterance, actor: str, audio: AudioSpan | None, video: VideoSpan | None) -> Utterance:
    """Complete an utterance of an actor, who speaks a given English sentence."""
    utterance = replace(utterance, speaker=f"actor{actor}", text_source="gold", language="en", style="scripted")
    return mark_missing(replace(utterance, audio=audio, video=video))


def list_stripped(utterances: Iterable[Utterance], reasons: Mapping[str, str] | None = None) -> list[Exclusion]:
    """List the utterances that lack a modality because its file was not found, or for the reason of their id."""
    known = reasons or {}
    lacking = [(each.id, ", ".join(each.missing)) for each in utterances if each.missing]
    return [Exclusion(key, f"{names}: {known.get(key, 'not found below the root')}") for key, names in lacking]


def join_reasons(stripped: Iterable[Exclusion]) -> list[Exclusion]:
    """Join the reasons of each utterance."""
    reasons: dict[str, list[str]] = {}
    for each in stripped:
        reasons.setdefault(each.id, []).append(each.reason)
    return [Exclusion(key, "; ".join(dict.fromkeys(found))) for key, found in reasons.items()]


def strip(utterance: Utterance, facts: Mapping[str, MediaFacts]) -> tuple[Utterance, str | None]:
    """Remove the spans of files that lack them, and return the reason; spans of files that were not opened stay."""
    absent: dict[str, Any] = {}
    removed: dict[str, list[str]] = {}
    for name, span in (("audio", utterance.audio), ("video", utterance.video)):
        if span and span.path in facts and (reason := _unusable(name, span, facts[span.path])):
            removed.setdefault(reason, []).append(name)
            absent[name] = None
    if not removed:
        return utterance, None
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


def unknown_code(known: Mapping[str, Collection[str]], codes: Iterable[str]) -> str | None:
    """Describe the first field of a file's name whose code is not a published one."""
    for (name, published), code in zip(known.items(), codes, strict=True):
        if code not in published:
            return f"{name} code {code} is not one of {', '.join(published)}"
    return None


def count_finding(noun: str, finding: str, names: Sequence[str]) -> list[str]:
    """Return one line where a finding has names: their number with the noun, the finding, the first five names."""
    rest = f" and {len(names) - 5:,} more" * (len(names) > 5)
    return [f"{counted(len(names), noun)} {finding}: {', '.join(names[:5])}{rest}"] if names else []


def compare_counts(name: str, found: Mapping[str, int], published: Mapping[str, int]) -> list[str]:
    """Return one line where the counts by emotion differ from the published ones, none where they agree."""
    differing = [each for each in dict.fromkeys([*published, *found]) if found.get(each, 0) != published.get(each, 0)]
    if not differing:
        return []
    if not any(found.values()):
        return [f"{name}: no rows, published {sum(published.values()):,}"]
    details = ", ".join(f"{each} {found.get(each, 0):,} of {published.get(each, 0):,}" for each in differing)
    return [f"{name}: {counted(sum(found.values()), 'row')}, published {sum(published.values()):,} ({details})"]


def count_emotions(utterances: Iterable[Utterance]) -> Counter[str]:
    """Count the emotions; a row without one counts as `none`."""
    return Counter(utterance.emotion or "none" for utterance in utterances)
