"""What every reader shares: the files below ROOT, text in any encoding, and the shape of what is handed back."""

import os
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from wavfusion.manifest import MODALITIES, Utterance

Key = TypeVar("Key", bound=Hashable)


class Exclusion(NamedTuple):
    """An utterance that was left out, or that lost a modality, with the reason."""

    id: str
    reason: str


@dataclass(frozen=True)
class Reading:
    """What a reader found.

    Attributes:
        rows: rows in the source; each is either among `utterances` or `excluded`.
        classes: the emotions in class order.
        labels: name of the label set, None where the corpus has only one.
        stripped: rows that were kept without a modality that the source names or should have.
        differences: what is not as its publishers describe it, one line each.
    """

    rows: int
    classes: list[str]
    utterances: list[Utterance]
    labels: str | None = None
    excluded: list[Exclusion] = field(default_factory=list)
    stripped: list[Exclusion] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)


def list_files(root: Path) -> list[str]:
    """List the files below a folder, sorted, as paths relative to it with forward slashes.

    Links are followed, each folder once; hidden names (among them the `._*` twins that macOS leaves) and dangling links
    are passed over.
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
            visible = [(folder + entry.name, entry) for entry in entries if not entry.name.startswith(".")]
            found += (path for path, entry in visible if entry.is_file())
            # Sorted and popped from the end, so that of two links to one folder the same one counts every time.
            pending += sorted((f"{path}/" for path, entry in visible if entry.is_dir()), reverse=True)
    return sorted(found)


def first_of_each(paths: Iterable[tuple[Key, str]]) -> dict[Key, str]:
    """Map each key to its path; of several, the one with the fewest folders, then the first by name."""
    return dict(sorted(paths, key=lambda pair: (pair[1].count("/"), pair[1]), reverse=True))


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


def mark_missing(utterance: Utterance) -> Utterance:
    """Fill the `missing` field from what the utterance does not have."""
    return replace(utterance, missing=[name for name in MODALITIES if not getattr(utterance, name)])


def list_stripped(utterances: Iterable[Utterance]) -> list[Exclusion]:
    """List the utterances that lack a modality because its file was not found."""
    return [
        Exclusion(each.id, f"{', '.join(each.missing)}: not found below the root")
        for each in utterances
        if each.missing
    ]


def compare_counts(name: str, found: Mapping[str, int], published: Mapping[str, int]) -> list[str]:
    """Say in one line where the counts by emotion differ from the published ones; nothing where they agree."""
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
