"""Who trains, who validates and who is tested."""

import csv
import difflib
import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from wavfusion.errors import ConfigError, CorpusError, nearest
from wavfusion.manifest import SPLITS, Utterance


@dataclass(frozen=True)
class Protocol:
    """A division of a corpus, with everything that a figure obtained under it must say.

    Attributes:
        classes: the emotions in class order.
        parts: utterance id -> train, valid or test; only utterances with one of the classes have a part.
        speakers_disjoint: no speaker is in two parts; False too where a speaker is not known.
        hash: SHA-256 of the classes and of the parts in order of id.
        left_out: utterances of the manifest without a part.
        selected_on: the part that chose the epoch.
    """

    name: str
    classes: list[str]
    parts: dict[str, str]
    speakers_disjoint: bool
    hash: str
    left_out: int
    selected_on: str = "valid"

    def ids(self, part: str) -> list[str]:
        """List the utterances of a part, in the manifest's order."""
        return [key for key, each in self.parts.items() if each == part]

    def to_json(self) -> dict[str, Any]:
        """Return what protocol.json holds: all but the parts, which the hash stands for."""
        counts = Counter(self.parts.values())
        return {
            "name": self.name,
            "classes": self.classes,
            "hash": self.hash,
            "selected_on": self.selected_on,
            "speakers_disjoint": self.speakers_disjoint,
            "counts": {part: counts[part] for part in SPLITS},
            "left_out": self.left_out,
        }


def from_manifest(utterances: Sequence[Utterance], classes: Sequence[str]) -> Protocol:
    """Take the manifest's own split column (`official`).

    Raises:
        CorpusError: no utterance has a split.
    """
    own = {each.id: each.split for each in utterances if each.split}
    if not own:
        raise CorpusError(
            f"expected a split in the manifest, found none in {len(utterances):,} rows: "
            "give --protocol a CSV file with the columns id,split"
        )
    return _divide("official", utterances, classes, own)


def split_file(path: str | os.PathLike[str], utterances: Sequence[Utterance], classes: Sequence[str]) -> Protocol:
    """Read a CSV with the columns `id,split`; utterances that it does not name are left out.

    Raises:
        CorpusError: a line is not as expected, names an unknown utterance or one for the second time.
    """
    path = Path(path)
    known = {each.id for each in utterances}
    parts: dict[str, str] = {}
    for line, key, part in _read_rows(path):
        if key not in known:
            close = difflib.get_close_matches(key, known, n=3, cutoff=0.0)
            raise CorpusError(
                f"{path}:{line}: expected an id of the manifest, found {key!r}; nearest: {', '.join(close)}"
            )
        if key in parts:
            raise CorpusError(f"{path}:{line}: expected each id once, found {key!r} again")
        if part not in SPLITS:
            raise CorpusError(f"{path}:{line}: unknown split {part!r}: {nearest(part, SPLITS)}")
        parts[key] = part
    return _divide(path.name, utterances, classes, parts)


PROTOCOLS: dict[str, Callable[[Sequence[Utterance], Sequence[str]], Protocol]] = {"official": from_manifest}


def resolve(name_or_path: str | None, utterances: Sequence[Utterance], classes: Sequence[str]) -> Protocol:
    """Return the protocol of a name or a split file; by default the manifest's own split.

    Raises:
        ConfigError: neither a protocol nor a file has this name.
    """
    if name_or_path is None:
        return from_manifest(utterances, classes)
    if name_or_path in PROTOCOLS:
        return PROTOCOLS[name_or_path](utterances, classes)
    if Path(name_or_path).is_file():
        return split_file(name_or_path, utterances, classes)
    raise ConfigError(
        f"no protocol and no file {name_or_path!r}: {nearest(name_or_path, PROTOCOLS)}, or a CSV file id,split"
    )


def _divide(name: str, utterances: Sequence[Utterance], classes: Sequence[str], parts: Mapping[str, str]) -> Protocol:
    """Keep what can be trained on and scored: utterances with a part and one of the classes."""
    kept = [each for each in utterances if each.id in parts and each.emotion in classes]
    if not kept:
        raise CorpusError(
            f"protocol {name}: expected utterances with one of {', '.join(classes)}, found none in its parts"
        )
    divided = {each.id: parts[each.id] for each in kept}
    return Protocol(
        name=name,
        classes=list(classes),
        parts=divided,
        speakers_disjoint=_are_disjoint(kept, divided),
        hash=_hash(divided, classes),
        left_out=len(utterances) - len(kept),
    )


def _are_disjoint(utterances: Sequence[Utterance], parts: Mapping[str, str]) -> bool:
    speakers: dict[str, set[str | None]] = defaultdict(set)
    for each in utterances:
        speakers[parts[each.id]].add(each.speaker)
    known = all(None not in each for each in speakers.values())
    return known and all(one.isdisjoint(other) for one, other in combinations(speakers.values(), 2))


def _hash(parts: Mapping[str, str], classes: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([list(classes), sorted(parts.items())]).encode()).hexdigest()


def _read_rows(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield line, id and split of each row."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            if header != ["id", "split"]:
                raise CorpusError(
                    f"{path}:1: expected the header id,split, found {','.join(header) or 'an empty file'!r}"
                )
            for cells in reader:
                if cells and len(cells) != 2:
                    raise CorpusError(f"{path}:{reader.line_num}: expected id,split, found {len(cells)} cells")
                if cells:
                    yield reader.line_num, cells[0], cells[1]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"cannot read the split file {path}: {error}") from error
