"""Evaluation protocols: one fold of a corpus as data, with what it promises and a hash."""

import csv
import difflib
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wavfusion.corpora.folds import DEFAULTS, MANIFEST_PROMISES, PAIRS, PROTOCOLS, Parts, Promises, find_rule, value_of
from wavfusion.errors import SHOWN, ConfigError, CorpusError, nearest
from wavfusion.files import read_text_lines
from wavfusion.manifest import SPLIT_NAMES, SPLITS, Utterance, split_names

HEADERS = ("id,split", "id,split,fold")  # of a split file


@dataclass(frozen=True)
class Protocol:
    """One fold of a corpus, with everything that must be stated beside a result obtained under it.

    Attributes:
        fold, folds: which of how many, from 1.
        parts: utterance id -> train, valid or test; only utterances with one of the classes have a part.
        promises: fields of which two parts share no value (`speaker`, `session`, `dialogue`, `text` of scripted rows),
            with the pairs of parts; `check` verifies them.
        speakers_disjoint: no speaker is in two parts; None where a speaker is unknown.
        speakers_shared: the pairs of parts that share a speaker.
        hash: SHA-256 of the classes, the parts in order of id and the part that selects.
        left_out: how many utterances of the manifest have no part.
        selected_on: the part on which the epoch is selected.
    """

    name: str
    fold: int
    folds: int
    classes: list[str]
    parts: Parts
    promises: Promises
    speakers_disjoint: bool | None
    speakers_shared: list[str]
    hash: str
    left_out: int
    selected_on: str = "valid"

    def ids(self, part: str) -> list[str]:
        """List the utterances of a part, in the manifest's order."""
        return [key for key, each in self.parts.items() if each == part]

    def restricted(self, ids: Collection[str]) -> "Protocol":
        """The same fold with fewer utterances, under another hash."""
        parts = {key: part for key, part in self.parts.items() if key in ids}
        return replace(self, parts=parts, hash=hash_of(parts, self.classes, self.selected_on))

    def to_json(self) -> dict[str, Any]:
        """Return the content of protocol.json: all but the parts, which are in split.csv and in the hash."""
        names = ("name", "fold", "folds", "classes", "hash", "selected_on", "speakers_disjoint", "speakers_shared")
        counts = Counter(self.parts.values())
        return {name: getattr(self, name) for name in names} | {
            "promises": {field: list(pairs) for field, pairs in self.promises.items()},
            "counts": {part: counts[part] for part in SPLITS},
            "left_out": self.left_out,
        }


# The fields of protocol.json that every metrics.json repeats.
PROTOCOL_FIELDS = ("name", "fold", "folds", "hash", "speakers_disjoint", "speakers_shared", "selected_on")


def join_folds(folds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Join the fields of several folds, in their order, whose test parts are scored together."""
    kept = {name: folds[0][name] for name in PROTOCOL_FIELDS if name != "fold"}
    digest = hashlib.sha256("".join(each["hash"] for each in folds).encode()).hexdigest()
    return {**kept, "hash": digest, "tested": [each["fold"] for each in folds]}


def describe_protocol(protocol: Mapping[str, Any]) -> str:
    """Describe in a few words how a result was obtained: `loso5, fold 1 of 5, speakers disjoint, selected on valid`."""
    words = [str(protocol["name"])]
    if protocol.get("folds", 1) > 1:
        words.append(f"fold {protocol['fold']} of {protocol['folds']}")
    pairs = (pair.split("+") for pair in protocol.get("speakers_shared", []))
    shared = ", ".join(f"{first} and {second}" for first, second in pairs)
    if protocol["speakers_disjoint"] is None:
        words.append("speakers unknown")
    elif protocol["speakers_disjoint"]:
        words.append("speakers disjoint")
    else:
        words.append(f"speakers shared between {shared}" if shared else "speakers shared")
    if protocol.get("tested_on"):
        words.append(f"tested on {protocol['tested_on']}")
    words.append("SELECTED ON TEST" if protocol["selected_on"] == "test" else f"selected on {protocol['selected_on']}")
    return ", ".join(words)


def resolve(
    name_or_path: str | None,
    utterances: Sequence[Utterance],
    classes: Sequence[str],
    fold: int = 1,
    selected_on: str = "valid",
    where: str | None = None,
) -> Protocol:
    """Divide a corpus by `divide_parts` and take one fold, numbered from 1; a ConfigError says which there are."""
    folds = divide_parts(name_or_path, utterances, classes, selected_on, where)
    if not 1 <= fold <= len(folds):
        raise ConfigError(f"--fold: expected 1 to {len(folds)} of protocol {folds[0].name}, found {fold}")
    return folds[fold - 1]


def divide_parts(
    name_or_path: str | None,
    utterances: Sequence[Utterance],
    classes: Sequence[str],
    selected_on: str = "valid",
    where: str | None = None,
) -> list[Protocol]:
    """Divide a corpus into all folds of a protocol.

    A protocol is a name of PROTOCOLS, `group-folds:COLUMN` for a column of the manifest, or a CSV file `id,split` or
    `id,split,fold` that leaves out the utterances that it does not list; None takes the corpus's own (DEFAULTS). Rows
    without one of the classes have no part. Every result states `selected_on`, valid or test, and `where`, if only rows
    of which it holds are given.

    Raises:
        ConfigError: no such protocol, file or column.
        CorpusError: the corpus cannot be divided so, or a line of the file is malformed, its id unknown or known.
    """
    if selected_on not in ("valid", "test"):
        raise ConfigError(f"expected a protocol that selects on valid or test, found {selected_on!r}")
    corpora = {each.corpus for each in utterances}
    name = name_or_path or DEFAULTS.get(corpora.pop() if len(corpora) == 1 else "", "manifest")
    kept = [each for each in utterances if each.emotion in classes]
    rule = find_rule(name)
    if rule is None:
        path = Path(name)
        if not path.is_file():
            names = nearest(name, [*PROTOCOLS, "group-folds:COLUMN"])
            raise ConfigError(f"no protocol and no file {name!r}: {names}, or a CSV file id,split")
        name, promises = path.name, MANIFEST_PROMISES
        folds = _read_splits(path, {each.id for each in utterances})
    else:
        promises = rule.promises
        folds = rule.divide(name, kept) if kept else []
    emotion = f"an emotion of {', '.join(classes)}" if classes else "an emotion"
    if not kept:
        raise CorpusError(f"protocol {name}: expected utterances with {emotion}, found none")
    if not all(any(each.id in parts for each in kept) for parts in folds):
        raise CorpusError(f"protocol {name}: expected utterances with {emotion}, found none in its parts")
    protocols = []
    for number, parts in enumerate(folds, start=1):
        rows = [each for each in kept if each.id in parts]
        divided = {each.id: parts[each.id] for each in rows}
        speakers = list(shared("speaker", rows, divided))
        protocol = Protocol(
            name=f"{name} where {where}" if where else name,
            fold=number,
            folds=len(folds),
            classes=list(classes),
            parts=divided,
            promises=promises,
            speakers_disjoint=False if speakers else True if all(each.speaker for each in rows) else None,
            speakers_shared=speakers,
            hash=hash_of(divided, classes, selected_on),
            left_out=len(utterances) - len(rows),
            selected_on=selected_on,
        )
        protocols.append(protocol)
    return protocols


def shared(promise: str, utterances: Sequence[Utterance], parts: Mapping[str, str]) -> dict[str, list[str]]:
    """Find the values of a field that two parts share: pair of parts -> values, only of pairs that share any."""
    values: dict[str, set[str]] = defaultdict(set)
    for each in utterances:
        if each.id in parts and (value := value_of(each, promise)):
            values[parts[each.id]].add(value)
    pairs = {pair: values[first] & values[second] for pair in PAIRS for first, second in [pair.split("+")]}
    return {pair: sorted(found) for pair, found in pairs.items() if found}


def row_digest(utterance: Utterance) -> str:
    """Hash the content of a row, so that another corpus with the same ids is not mistaken for that of a RUN."""
    spans = [span and [span.path, span.start, span.end] for span in (utterance.audio, utterance.video)]
    content = json.dumps([utterance.text, *spans]).encode()
    return hashlib.sha256(content).hexdigest()[:12]


def hash_of(parts: Mapping[str, str], classes: Sequence[str], selected_on: str) -> str:
    """Return `Protocol.hash`."""
    return hashlib.sha256(json.dumps([list(classes), sorted(parts.items()), selected_on]).encode()).hexdigest()


def _read_splits(path: Path, known: set[str]) -> list[Parts]:
    """Read the folds of a CSV `id,split`, which has one, or `id,split,fold`, numbered from 1; ids must be known.

    Splits may have the other names of `split_names`.
    """
    folds: dict[str, Parts] = {}
    lines: dict[str, str] = {}  # of the first row of each split
    try:
        reader = csv.reader(read_text_lines(path, newline=""), strict=True)
        header = ",".join(next(reader, []))
        if header not in HEADERS:
            expected = " or ".join(HEADERS)
            raise CorpusError(f"{path}:1: expected the header {expected}, found {header or 'an empty file'!r}")
        for cells in filter(None, reader):
            where = f"{path}:{reader.line_num}"
            if len(cells) != header.count(",") + 1:
                raise CorpusError(f"{where}: expected {header}, found {len(cells)} cells")
            key, part, fold = (*cells, "1")[:3]
            if key not in known:
                close = ", ".join(difflib.get_close_matches(key[:SHOWN], known, n=3, cutoff=0.0))
                raise CorpusError(f"{where}: expected an id of the manifest, found {key!r}; nearest: {close}")
            parts = folds.setdefault(fold, {})
            if key in parts:
                raise CorpusError(f"{where}: expected each id once, found {key!r} again")
            parts[key] = part
            lines.setdefault(part, where)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"cannot read the split file {path}: {error}") from error
    named = split_names(lines)
    for part, where in lines.items():
        if part not in named:
            raise CorpusError(f"{where}: unknown split {part!r}: {nearest(part, [*SPLIT_NAMES, 'eval'])}")
    numbers = [str(number) for number in range(1, len(folds) + 1)] or ["1"]
    if strange := sorted(folds.keys() - {*numbers}):
        raise CorpusError(f"{path}: expected folds numbered 1 to {len(folds)}, found {strange[0]!r}")
    return [{key: named[part] for key, part in folds.get(number, {}).items()} for number in numbers]
