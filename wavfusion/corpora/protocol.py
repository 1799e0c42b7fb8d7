"""Who trains, who validates and who is tested: protocols as data, each with what it promises and a hash."""

import csv
import difflib
import hashlib
import json
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from wavfusion.errors import ConfigError, CorpusError, nearest
from wavfusion.manifest import SPLITS, Utterance

PAIRS = ("train+valid", "train+test", "valid+test")
FOLDS = 5

Parts = dict[str, str]  # utterance id -> train, valid or test
Promises = Mapping[str, Sequence[str]]  # field -> the pairs of parts that share no value of it


@dataclass(frozen=True)
class Protocol:
    """One fold of a division of a corpus, with everything that a figure obtained under it must say.

    Attributes:
        fold, folds: which of how many, from 1.
        classes: the emotions in class order.
        parts: utterance id -> train, valid or test; only utterances with one of the classes have a part.
        promises: fields of which two parts share no value (`speaker`, `session`, `dialogue`, `text` of scripted rows),
            with the pairs of parts; `check` holds it to them.
        speakers_disjoint: no speaker is in two parts; None where a speaker is not known.
        speakers_shared: the pairs of parts that share a speaker.
        hash: SHA-256 of the classes, the parts in order of id and the part that selects.
        left_out: utterances of the manifest without a part.
        selected_on: the part that chose the epoch.
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
        """Return what protocol.json holds: all but the parts, which the hash stands for."""
        counts = Counter(self.parts.values())
        return {
            "name": self.name,
            "fold": self.fold,
            "folds": self.folds,
            "classes": self.classes,
            "hash": self.hash,
            "selected_on": self.selected_on,
            "speakers_disjoint": self.speakers_disjoint,
            "speakers_shared": self.speakers_shared,
            "promises": {field: list(pairs) for field, pairs in self.promises.items()},
            "counts": {part: counts[part] for part in SPLITS},
            "left_out": self.left_out,
        }


# What of protocol.json goes into every metrics.json.
SAID = ("name", "fold", "folds", "hash", "speakers_disjoint", "speakers_shared", "selected_on")


def describe_protocol(said: Mapping[str, Any]) -> str:
    """Say in a few words how a figure was obtained: `loso5, fold 1 of 5, speakers disjoint, selected on valid`."""
    words = [str(said["name"])]
    if said.get("folds", 1) > 1:
        words.append(f"fold {said['fold']} of {said['folds']}")
    disjoint = said["speakers_disjoint"]
    shared = [
        f"{first} and {second}" for first, second in (pair.split("+") for pair in said.get("speakers_shared", []))
    ]
    between = f" between {', '.join(shared)}" if shared else ""
    words.append(
        "speakers unknown" if disjoint is None else "speakers disjoint" if disjoint else f"speakers shared{between}"
    )
    if said.get("tested_on"):
        words.append(f"tested on {said['tested_on']}")
    words.append("SELECTED ON TEST" if said["selected_on"] == "test" else f"selected on {said['selected_on']}")
    return ", ".join(words)


def resolve(
    name_or_path: str | None,
    utterances: Sequence[Utterance],
    classes: Sequence[str],
    fold: int = 1,
    selected_on: str = "valid",
) -> Protocol:
    """Divide a corpus and take one fold, numbered from 1.

    Raises:
        ConfigError: no such fold; and what `divide` raises.
    """
    folds = divide_parts(name_or_path, utterances, classes, selected_on)
    if not 1 <= fold <= len(folds):
        raise ConfigError(f"--fold: expected 1 to {len(folds)} of protocol {folds[0].name}, found {fold}")
    return folds[fold - 1]


def divide_parts(
    name_or_path: str | None, utterances: Sequence[Utterance], classes: Sequence[str], selected_on: str = "valid"
) -> list[Protocol]:
    """Divide a corpus into all folds of a protocol.

    Args:
        name_or_path: a name of PROTOCOLS, `group-folds:COLUMN` for a column of the manifest, or a CSV file `id,split`;
            None takes the corpus's own (DEFAULTS).
        utterances: of the manifest.
        classes: the emotions in class order; rows without one of them have no part.
        selected_on: `valid`; `test` gives figures that say so everywhere.

    Raises:
        ConfigError: no such protocol, file or column.
        CorpusError: the corpus is not one that can be divided so.
    """
    name = name_or_path or DEFAULTS.get(utterances[0].corpus if utterances else "", "manifest")
    kept = [each for each in utterances if each.emotion in classes]
    rule = _rule(name)
    if rule is None:
        if not Path(name).is_file():
            names = nearest(name, [*PROTOCOLS, "group-folds:COLUMN"])
            raise ConfigError(f"no protocol and no file {name!r}: {names}, or a CSV file id,split")
        return [split_file(name, utterances, classes, selected_on)]
    if not kept:
        raise CorpusError(f"protocol {name}: expected utterances with an emotion{_of(classes)}, found none")
    folds = rule.divide(name, kept)
    return [
        _finish(name, utterances, classes, parts, rule.promises, (number, len(folds)), selected_on)
        for number, parts in enumerate(folds, start=1)
    ]


def split_file(
    path: str | os.PathLike[str], utterances: Sequence[Utterance], classes: Sequence[str], selected_on: str = "valid"
) -> Protocol:
    """Read a CSV with the columns `id,split`; utterances that it does not name are left out.

    Raises:
        CorpusError: a line is not as expected, names an unknown utterance or one for the second time.
    """
    path = Path(path)
    known = {each.id for each in utterances}
    parts: Parts = {}
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
    return _finish(path.name, utterances, classes, parts, _OWN, (1, 1), selected_on)


def shared(promise: str, utterances: Sequence[Utterance], parts: Mapping[str, str]) -> dict[str, list[str]]:
    """Which values of a field are in two parts: pair of parts -> values, only pairs that share one."""
    values: dict[str, set[str]] = defaultdict(set)
    for each in utterances:
        if each.id in parts and (value := value_of(each, promise)):
            values[parts[each.id]].add(value)
    pairs = {pair: values[first] & values[second] for pair in PAIRS for first, second in [pair.split("+")]}
    return {pair: sorted(found) for pair, found in pairs.items() if found}


def value_of(utterance: Utterance, promise: str) -> str | None:
    """What two parts may not share: a field, whatever its case and blanks; of `text` the words of scripted lines."""
    if promise == "text" and utterance.style != "scripted":
        return None
    return _value(utterance, promise)


def _value(utterance: Utterance, column: str) -> str | None:
    value = getattr(utterance, column)
    if value is None:
        return None
    plain = unicodedata.normalize("NFKC", str(value)).casefold()
    words = re.findall(r"\w+", plain.replace("'", "").replace("’", "")) if column == "text" else plain.split()
    return " ".join(words) or None


def row_digest(utterance: Utterance) -> str:
    """What a RUN remembers of a row, so that another corpus with the same ids is not taken for its own."""
    spans = [span and [span.path, span.start, span.end] for span in (utterance.audio, utterance.video)]
    said = json.dumps([utterance.text, *spans]).encode()
    return hashlib.sha256(said).hexdigest()[:12]


def _of(classes: Sequence[str]) -> str:
    return f" of {', '.join(classes)}" if classes else ""


# ---------------------------------------------------------------------- the protocols


@dataclass(frozen=True)
class Rule:
    """How a corpus is divided into folds, and what each fold promises."""

    divide: Callable[[str, Sequence[Utterance]], list[Parts]]
    promises: Promises


def _own_split(name: str, kept: Sequence[Utterance]) -> list[Parts]:
    own = {each.id: each.split for each in kept if each.split}
    if not own:
        raise CorpusError(
            f"protocol {name}: expected a split in the manifest, found none in {len(kept):,} rows: "
            f"give --protocol a CSV file with the columns id,split, or one of {', '.join(PROTOCOLS)}"
        )
    return [own]


def _group_folds(name: str, kept: Sequence[Utterance], column: str) -> list[Parts]:
    """Test each group of values once; the next group validates, the others train."""
    sizes: Counter[str] = Counter()
    for each in kept:
        if (value := _value(each, column)) is None:
            raise CorpusError(f"protocol {name}: expected a {column} in every row, found none in {each.id!r}")
        sizes[value] += 1
    if len(sizes) < 3:
        raise CorpusError(
            f"protocol {name}: expected 3 or more values of {column}, found {', '.join(sorted(sizes))}; "
            "give --protocol a CSV file with the columns id,split"
        )
    groups = _groups(sizes)
    number = max(groups.values()) + 1
    return [
        {each.id: _part(groups[str(_value(each, column))], fold, number) for each in kept} for fold in range(number)
    ]


def _groups(sizes: Mapping[str, int]) -> dict[str, int]:
    """Number the values where there are few; else deal them out, the largest first, each to the smallest group."""
    if len(sizes) <= FOLDS:
        return {value: number for number, value in enumerate(sorted(sizes))}
    filled = [0] * FOLDS
    groups = {}
    for value in sorted(sizes, key=lambda value: (-sizes[value], value)):
        groups[value] = filled.index(min(filled))
        filled[groups[value]] += sizes[value]
    return groups


def _part(group: int, fold: int, number: int) -> str:
    return "test" if group == fold else "valid" if group == (fold + 1) % number else "train"


def _session5(name: str, kept: Sequence[Utterance]) -> list[Parts]:
    """DialogXL's lists: in order of name 100 dialogues train, 20 validate, 31 (session 5) test (design H.2)."""
    found = {str(each.session) for each in kept}
    if not {"Ses04", "Ses05"} <= found:
        raise CorpusError(f"protocol {name}: expected IEMOCAP's sessions, found {', '.join(sorted(found))}")
    return [
        {
            each.id: "test"
            if each.session == "Ses05"
            else "valid"
            if str(each.dialogue) >= "Ses04F_script01_3"
            else "train"
            for each in kept
            if str(each.session) <= "Ses05"
        }
    ]


def _random5(name: str, kept: Sequence[Utterance]) -> list[Parts]:
    """Five equal parts by a hash of the id, as good as a draw and the same for ever; a tenth of the rest validates."""
    order = sorted(
        kept, key=lambda each: hashlib.sha256(f"random5 {each.id}".encode("utf-8", "surrogatepass")).digest()
    )
    number = {each.id: row % FOLDS for row, each in enumerate(order)}
    folds = []
    for fold in range(FOLDS):
        parts, met = {}, Counter[str | None]()
        for each in order:
            rest = number[each.id] != fold
            met[each.emotion] += rest
            # The tenth, twentieth ... of every emotion: stratified.
            parts[each.id] = "test" if not rest else "valid" if met[each.emotion] % 10 == 0 else "train"
        folds.append({each.id: parts[each.id] for each in kept})
    return folds


def _text_disjoint(name: str, kept: Sequence[Utterance]) -> list[Parts]:
    """Sessions apart, without the dialogues of valid and test that say a scripted line of another part."""
    folds = []
    for parts in _group_folds(name, kept, "session"):
        heard: set[str] = set()
        for part in SPLITS:
            rows = [each for each in kept if parts.get(each.id) == part]
            known = {each.dialogue for each in rows if value_of(each, "text") in heard}
            for each in rows:
                if each.dialogue in known:
                    del parts[each.id]
            heard |= {line for each in rows if each.id in parts and (line := value_of(each, "text"))}
        folds.append(parts)
    return folds


_OWN: Promises = {"speaker": PAIRS, "dialogue": PAIRS}
_SPEAKERS = Rule(partial(_group_folds, column="speaker"), {"speaker": PAIRS})
_SESSIONS: Promises = {"speaker": PAIRS, "session": PAIRS, "dialogue": PAIRS}

PROTOCOLS: dict[str, Rule] = {
    "official": Rule(_own_split, {"dialogue": PAIRS}),
    "manifest": Rule(_own_split, _OWN),
    "loso5": Rule(partial(_group_folds, column="session"), _SESSIONS),
    "session5": Rule(_session5, {"speaker": PAIRS[1:], "session": PAIRS[1:], "dialogue": PAIRS}),
    "random5": Rule(_random5, {}),
    "text-disjoint": Rule(_text_disjoint, {**_SESSIONS, "text": PAIRS}),
    "actor-folds": _SPEAKERS,
    "speaker-folds": _SPEAKERS,
}
# The protocol of a corpus where none is named; any other corpus has its manifest's own split.
DEFAULTS = {"iemocap": "loso5", "meld": "official", "ravdess": "actor-folds", "cremad": "actor-folds"}


def _rule(name: str) -> Rule | None:
    kind, colon, column = name.partition(":")
    if kind != "group-folds" or not colon:
        return PROTOCOLS.get(name)
    columns = [entry.name for entry in fields(Utterance) if entry.type in ("str | None", str | None, str)]
    if column not in columns:
        raise ConfigError(
            f"group-folds: expected a column of the manifest, found {column!r}; {nearest(column, columns)}"
        )
    return Rule(partial(_group_folds, column=column), {column: PAIRS})


def _finish(
    name: str,
    utterances: Sequence[Utterance],
    classes: Sequence[str],
    parts: Parts,
    promises: Promises,
    number: tuple[int, int],
    selected_on: str,
) -> Protocol:
    """Keep what can be trained on and scored: utterances with a part and one of the classes."""
    if selected_on not in ("valid", "test"):
        raise ConfigError(f"expected a protocol that selects on valid or test, found {selected_on!r}")
    kept = [each for each in utterances if each.id in parts and each.emotion in classes]
    if not kept:
        raise CorpusError(
            f"protocol {name}: expected utterances with an emotion{_of(classes)}, found none in its parts"
        )
    divided = {each.id: parts[each.id] for each in kept}
    speakers = list(shared("speaker", kept, divided))
    known = all(each.speaker for each in kept)
    return Protocol(
        name=name,
        fold=number[0],
        folds=number[1],
        classes=list(classes),
        parts=divided,
        promises=promises,
        speakers_disjoint=False if speakers else True if known else None,
        speakers_shared=speakers,
        hash=hash_of(divided, classes, selected_on),
        left_out=len(utterances) - len(kept),
        selected_on=selected_on,
    )


def hash_of(parts: Mapping[str, str], classes: Sequence[str], selected_on: str) -> str:
    """Return `Protocol.hash`."""
    return hashlib.sha256(json.dumps([list(classes), sorted(parts.items()), selected_on]).encode()).hexdigest()


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
