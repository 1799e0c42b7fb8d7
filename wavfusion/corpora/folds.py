"""How corpora are divided into folds, and what each fold promises."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, get_type_hints

from wavfusion.errors import ConfigError, CorpusError, nearest
from wavfusion.manifest import SPLITS, Utterance

PAIRS = ("train+valid", "train+test", "valid+test")
FOLDS = 5

Parts = dict[str, str]  # utterance id -> train, valid or test
Promises = Mapping[str, Sequence[str]]  # field -> the pairs of parts that share no value of it


class Rule(NamedTuple):
    """How a corpus is divided into folds, and what each fold promises."""

    divide: Callable[[str, Sequence[Utterance]], list[Parts]]
    promises: Promises


def _manifest_split(name: str, kept: Sequence[Utterance]) -> list[Parts]:
    parts = {each.id: each.split for each in kept if each.split}
    if not parts:
        raise CorpusError(
            f"protocol {name}: expected a split in the manifest, found none in {len(kept):,} rows: "
            f"give --protocol a CSV file with the columns id,split, or one of {', '.join(PROTOCOLS)}"
        )
    return [parts]


def _group_folds(name: str, kept: Sequence[Utterance], column: str) -> list[Parts]:
    """Test on each group of values once; the next group validates, the others train."""
    sizes: Counter[str] = Counter()
    for each in kept:
        if (value := _normalized(each, column)) is None:
            raise CorpusError(f"protocol {name}: expected a {column} in every row, found none in {each.id!r}")
        sizes[value] += 1
    if len(sizes) < 3:
        raise CorpusError(
            f"protocol {name}: expected 3 or more values of {column}, found {', '.join(sorted(sizes))}; "
            "give --protocol a CSV file with the columns id,split"
        )
    groups = _groups(sizes)
    number = max(groups.values()) + 1
    order = ["test", "valid", *["train"] * (number - 2)]
    group_of = {each.id: groups[str(_normalized(each, column))] for each in kept}
    return [{key: order[(group - fold) % number] for key, group in group_of.items()} for fold in range(number)]


def _groups(sizes: Mapping[str, int]) -> dict[str, int]:
    """Give each value a group where there are few; else add the largest values first, each to the smallest group."""
    if len(sizes) <= FOLDS:
        return {value: number for number, value in enumerate(sorted(sizes))}
    filled = [0] * FOLDS
    groups = {}
    for value in sorted(sizes, key=lambda value: (-sizes[value], value)):
        groups[value] = filled.index(min(filled))
        filled[groups[value]] += sizes[value]
    return groups


def _session5(name: str, kept: Sequence[Utterance]) -> list[Parts]:
    """Divide as DialogXL's lists do: in order of name 100 dialogues train, 20 validate, 31 (session 5) test."""
    found = {str(each.session) for each in kept}
    if not {"Ses04", "Ses05"} <= found:
        raise CorpusError(f"protocol {name}: expected IEMOCAP's sessions, found {', '.join(sorted(found))}")
    parts: Parts = {}
    for each in kept:
        if each.session == "Ses05":
            parts[each.id] = "test"
        elif str(each.session) < "Ses05":
            parts[each.id] = "valid" if str(each.dialogue) >= "Ses04F_script01_3" else "train"
    return [parts]


def _random5(name: str, kept: Sequence[Utterance]) -> list[Parts]:
    """Draw five equal parts by a hash of the id, reproducible everywhere; a tenth of the rest validates."""

    def digest(each: Utterance) -> bytes:
        return hashlib.sha256(f"random5 {each.id}".encode("utf-8", "surrogatepass")).digest()

    order = sorted(kept, key=digest)
    folds = []
    for fold in range(FOLDS):
        parts = {each.id: "test" for each in order[fold::FOLDS]}
        counts = Counter[str | None]()
        for each in order:
            if each.id not in parts:
                counts[each.emotion] += 1
                # The tenth, twentieth ... of every emotion: stratified.
                parts[each.id] = "train" if counts[each.emotion] % 10 else "valid"
        folds.append(parts)
    return folds


def _random5_dialogues(name: str, kept: Sequence[Utterance]) -> list[Parts]:
    """Draw five groups of whole dialogues by a hash of their names; a tenth of the other dialogues validates."""
    names = sorted({str(each.dialogue) for each in kept if each.dialogue})
    if not all(each.dialogue for each in kept) or len(names) < 2 * FOLDS:
        found = f"{len(names)}" if all(each.dialogue for each in kept) else "rows without one"
        raise CorpusError(f"protocol {name}: expected {2 * FOLDS} or more dialogues, found {found}")

    def digest(dialogue: str) -> bytes:
        return hashlib.sha256(f"random5-dialogues {dialogue}".encode("utf-8", "surrogatepass")).digest()

    order, folds = sorted(names, key=digest), []
    for fold in range(FOLDS):
        others = [each for number, each in enumerate(order) if number % FOLDS != fold]
        validates = {*others[::10]}
        part_of = {each: "valid" if each in validates else "train" for each in others}
        folds.append({each.id: part_of.get(str(each.dialogue), "test") for each in kept})
    return folds


def _text_disjoint(name: str, kept: Sequence[Utterance]) -> list[Parts]:
    """Divide by session, and leave out dialogues of valid and test that share a scripted line with another part."""
    folds = []
    for parts in _group_folds(name, kept, "session"):
        lines: set[str] = set()
        for part in SPLITS:
            rows = [each for each in kept if parts.get(each.id) == part]
            shared = {each.dialogue for each in rows if value_of(each, "text") in lines}
            for each in rows:
                if each.dialogue in shared:
                    del parts[each.id]
            lines |= {line for each in rows if each.id in parts and (line := value_of(each, "text"))}
        folds.append(parts)
    return folds


MANIFEST_PROMISES: Promises = {"speaker": PAIRS, "dialogue": PAIRS}
_SPEAKERS = Rule(partial(_group_folds, column="speaker"), {"speaker": PAIRS})
_SESSIONS: Promises = {"speaker": PAIRS, "session": PAIRS, "dialogue": PAIRS}

PROTOCOLS: dict[str, Rule] = {
    "official": Rule(_manifest_split, {"dialogue": PAIRS}),
    "manifest": Rule(_manifest_split, MANIFEST_PROMISES),
    "loso5": Rule(partial(_group_folds, column="session"), _SESSIONS),
    "session5": Rule(_session5, {"speaker": PAIRS[1:], "session": PAIRS[1:], "dialogue": PAIRS}),
    "random5": Rule(_random5, {}),
    "random5-dialogues": Rule(_random5_dialogues, {"dialogue": PAIRS}),
    "text-disjoint": Rule(_text_disjoint, {**_SESSIONS, "text": PAIRS}),
    "actor-folds": _SPEAKERS,
    "speaker-folds": _SPEAKERS,
}
# The protocol of a corpus where none is named; any other corpus uses the split in its manifest.
DEFAULTS = {"iemocap": "loso5", "meld": "official", "ravdess": "actor-folds", "cremad": "actor-folds"}


def find_rule(name: str) -> Rule | None:
    """Return the rule of a protocol's name, or of `group-folds:COLUMN`; None for any other name."""
    kind, colon, column = name.partition(":")
    if kind != "group-folds" or not colon:
        return PROTOCOLS.get(name)
    columns = [name for name, kind in get_type_hints(Utterance).items() if kind in (str | None, str)]
    if column not in columns:
        choices = nearest(column, columns)
        raise ConfigError(f"group-folds: expected a column of the manifest, found {column!r}; {choices}")
    return Rule(partial(_group_folds, column=column), {column: PAIRS})


def value_of(utterance: Utterance, promise: str) -> str | None:
    """Return what two parts may not share: a field without case and blanks; of `text` only scripted lines."""
    if promise == "text" and utterance.style != "scripted":
        return None
    return _normalized(utterance, promise)


def sentence_of(utterance: Utterance) -> str | None:
    """Return the text without case and marks of a row that may be scripted, as one of unknown style is."""
    return None if utterance.style == "improvised" else _normalized(utterance, "text")


def _normalized(utterance: Utterance, column: str) -> str | None:
    value = getattr(utterance, column)
    if value is None:
        return None
    folded = unicodedata.normalize("NFKC", str(value)).casefold()
    words = re.findall(r"\w+", folded.replace("'", "").replace("’", "")) if column == "text" else folded.split()
    return " ".join(words) or None
