"""The manifest: one record an utterance, which every corpus is turned into, and its strict JSON-lines file."""

import difflib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from wavfusion.errors import SHOWN, ConfigError, CorpusError, nearest
from wavfusion.files import (
    Constraint,
    NonEmpty,
    PathText,
    Share,
    choice_of,
    names_a_file,
    parse_json,
    read_json,
    read_text_lines,
    validated,
    write_json,
    write_lines,
)

MODALITIES = ("audio", "text", "video")
SPLITS = ("train", "valid", "test")
# Other names of the splits; `eval` is in `split_names`.
SPLIT_NAMES = {each: each for each in SPLITS} | {"training": "train", "testing": "test"}
SPLIT_NAMES |= dict.fromkeys(("validation", "val", "dev", "development"), "valid")
CHANNELS = ("mix", "left", "right", "centre")
GENERATED = "world.json"  # in every tree of `lookalike`, and in no other

Channel = Literal["mix", "left", "right", "centre"]
T = TypeVar("T")


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path)
    return names_a_file(path) and not parts.is_absolute() and ".." not in parts.parts


def _is_box(crop: Sequence[int]) -> bool:
    return len(crop) == 4 and min(crop) >= 0 and crop[0] < crop[2] <= MOST and crop[1] < crop[3] <= MOST


def _is_distinct(names: Sequence[str]) -> bool:
    return "" not in names and len(set(names)) == len(names)


# Fields that hold a name, by which rows can be chosen.
NAMES = ("id", "corpus", "split", "session", "dialogue", "speaker", "text_source", "language", "style", "emotion")

# Fields whose values stand in many rows, and in memory once.
_REPEATED = set("corpus split session dialogue speaker text_source language style emotion raw_label path".split())
RelativePath = Annotated[str, Constraint("a path relative to the corpus root and inside it", _is_inside)]
MOST = 10**9  # seconds, pixels or positions: what is above is no such thing
Seconds = Annotated[float, Constraint("seconds >= 0", lambda value: 0 <= value <= MOST)]
Index = Annotated[int, Constraint("an integer >= 0", lambda value: 0 <= value <= MOST)]
Box = Annotated[list[int], Constraint("[left, top, right, bottom] in pixels", _is_box)]
_MODALITIES = Constraint(
    f"a list of {', '.join(MODALITIES)}", lambda names: _is_distinct(names) and set(names) <= set(MODALITIES)
)


@dataclass(frozen=True, slots=True)
class AudioSpan:
    """The audio of an utterance.

    Attributes:
        path: relative to the corpus root.
        start, end: seconds; None reaches to the end of the file on that side.
        channel: the down-mix to one channel.
    """

    path: RelativePath
    start: Seconds | None = None
    end: Seconds | None = None
    channel: Channel = "mix"


@dataclass(frozen=True, slots=True)
class VideoSpan:
    """The video of an utterance.

    Attributes:
        path: relative to the corpus root.
        start, end: seconds; None reaches to the end of the file on that side.
        crop: left, top, right, bottom in pixels of the file; None takes whole frames.
    """

    path: RelativePath
    start: Seconds | None = None
    end: Seconds | None = None
    crop: Box | None = None


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance of a corpus; what is not known is None.

    Attributes:
        index: position in the dialogue, from 0.
        votes: share of the annotators' votes for each emotion they named.
        dimensions: valence, arousal and dominance on the corpus's own scale.
        missing: the modalities known to be absent.
    """

    id: NonEmpty
    corpus: NonEmpty
    split: Annotated[str, choice_of(*SPLITS)] | None = None
    session: NonEmpty | None = None
    dialogue: NonEmpty | None = None
    index: Index | None = None
    speaker: NonEmpty | None = None
    audio: AudioSpan | None = None
    video: VideoSpan | None = None
    text: str | None = None
    text_source: Annotated[str, choice_of("gold", "asr")] | None = None
    language: NonEmpty | None = None
    style: Annotated[str, choice_of("improvised", "scripted")] | None = None
    emotion: NonEmpty | None = None
    raw_label: NonEmpty | None = None
    votes: dict[str, Share] | None = None
    dimensions: dict[str, float] | None = None
    missing: Annotated[list[str], _MODALITIES] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Corpus:
    """What the utterances of a manifest have in common (corpus.json).

    Attributes:
        root: the folder that the paths of the manifest start from.
        labels: name of the label set, None where the corpus has only one.
        classes: the emotions in class order.
        modalities: those that a table has a column of; of published corpora, which may be fetched in part, none.
        generated: its media were generated, by `lookalike`; None in a file that does not say so.
    """

    corpus: NonEmpty
    root: PathText
    labels: NonEmpty | None
    classes: Annotated[list[str], Constraint("a list of distinct emotions", _is_distinct)]
    version: NonEmpty
    modalities: Annotated[list[str], _MODALITIES] = field(default_factory=list)
    generated: bool | None = None


class Exclusion(NamedTuple):
    """An excluded utterance, or one of which a modality was removed, with the reason."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Exclusions:
    """The utterances, and the modalities of others, that are not in a manifest (exclusions.json)."""

    excluded: list[Exclusion]
    stripped: list[Exclusion]


def split_names(names: Iterable[str]) -> dict[str, str]:
    """Map the names that a table gives its splits to `SPLITS`; names that are none are left out.

    `eval` is the test part; beside a test part and no other validation part it is the validation part.
    """
    folded = {name: name.strip().casefold() for name in names}
    known = {name: SPLIT_NAMES[each] for name, each in folded.items() if each in SPLIT_NAMES}
    evaluation = "valid" if "test" in known.values() and "valid" not in known.values() else "test"
    return known | {name: evaluation for name, each in folded.items() if each in ("eval", "evaluation")}


class Condition(NamedTuple):
    """A field of the manifest that is, or with `wanted` false is not, one of some values."""

    field: str
    values: list[str]
    wanted: bool


def parse_where(text: str) -> list[Condition]:
    """Read conditions such as `speaker=ann|ben,split!=test`, all of which hold of a row.

    A condition is a field that holds a name, `=` or `!=`, and one value or several with `|` between.

    Raises:
        ConfigError: another form, or an unknown field.
    """
    found = []
    for part in text.split(","):
        field, equals, values = part.partition("=")
        field, wanted = field.removesuffix("!").strip(), not field.endswith("!")
        if not equals or not all(values.split("|")):
            raise ConfigError(f"expected conditions such as speaker=ann|ben,split!=test, found {part[:SHOWN]!r}")
        if field not in NAMES:
            raise ConfigError(
                f"expected a field of the manifest that holds a name, found {field!r}; {nearest(field, NAMES)}"
            )
        found.append(Condition(field, values.split("|"), wanted))
    return found


def select(utterances: Sequence[Utterance], where: str) -> list[Utterance]:
    """Return the rows of which all conditions hold (see `parse_where`).

    Raises:
        ConfigError: a malformed condition.
        CorpusError: a value that no row has, or no row is left.
    """
    kept = list(utterances)
    for name, values, wanted in parse_where(where):
        known = {str(value) for row in utterances if (value := getattr(row, name)) is not None}
        for value in values:
            if value not in known:
                close = ", ".join(difflib.get_close_matches(value, known, n=3, cutoff=0.0)) or "none"
                raise CorpusError(f"--where: no row has {name} {value!r}; nearest: {close}")
        kept = [row for row in kept if (getattr(row, name) in values) == wanted]
    if not kept:
        raise CorpusError(f"--where {where}: expected rows of which all of it holds, found none in {len(utterances):,}")
    return kept


def read(path: str | os.PathLike[str], where: str | None = None) -> list[Utterance]:
    """Read a manifest, or the rows of it that conditions hold of (see `parse_where`).

    Raises:
        ConfigError: a malformed condition.
        CorpusError: there is no such file, or a line is not an utterance; names file and line. Or no row is left.
    """
    return select(list(stream(path)), where) if where else list(stream(path))


def stream(path: str | os.PathLike[str]) -> Iterator[Utterance]:
    """Read a manifest one utterance at a time, as strictly as `read`."""
    lines: dict[str, int] = {}
    strings: dict[str, str] = {}

    def share(row: dict[str, Any]) -> dict[str, Any]:
        """Keep one string in memory for equal names and paths."""
        for key in _REPEATED & row.keys():
            if isinstance(value := row[key], str):
                row[key] = strings.setdefault(value, value)
        return row

    for number, line in enumerate(_lines(Path(path)), start=1):
        where = f"{path}:{number}"
        row = parse_json(line, where, CorpusError, object_hook=share, numbers=False)
        utterance = validated(Utterance, row, where, complete=True, refuse=CorpusError)
        for name, span in (("audio", utterance.audio), ("video", utterance.video)):
            if span is not None and span.end is not None and span.end <= (span.start or 0.0):
                raise CorpusError(f"{where}: {name}: expected end after start, found {span.start} to {span.end}")
        if utterance.id in lines:
            first = lines[utterance.id]
            raise CorpusError(f"{where}: expected unique ids, found {utterance.id!r} again, first on line {first}")
        lines[utterance.id] = number
        yield utterance
    if not lines:
        raise CorpusError(f"{path}: expected at least one utterance, found none")


def write(path: str | os.PathLike[str], utterances: Iterable[Utterance]) -> None:
    """Write a manifest atomically; a CorpusError where an id occurs twice."""

    def rows() -> Iterator[str]:
        written: set[str] = set()
        for each in utterances:
            if each.id in written:
                raise CorpusError(f"expected unique ids, found {each.id!r} twice in corpus {each.corpus!r}")
            written.add(each.id)
            # `asdict` of the whole would copy every value, a third of the time of a long manifest.
            spans = {name: span and asdict(span) for name, span in (("audio", each.audio), ("video", each.video))}
            row = {name: getattr(each, name) for name in Utterance.__slots__} | spans
            yield json.dumps(row, ensure_ascii=False, allow_nan=False)

    write_lines(Path(path), rows())


def is_generated(root: Path) -> bool:
    """Tell whether a folder, or one in it, is a tree of `lookalike`."""
    return any((root / GENERATED).is_file() for root in (root, *(each for each in root.glob("*") if each.is_dir())))


def read_corpus(manifest_path: str | os.PathLike[str]) -> Corpus:
    """Read the corpus.json beside a manifest."""
    return _read_beside(manifest_path, "corpus.json", Corpus)


def write_corpus(manifest_path: str | os.PathLike[str], corpus: Corpus) -> None:
    """Write the corpus.json beside a manifest."""
    path = Path(manifest_path).with_name("corpus.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(corpus))


def read_exclusions(manifest_path: str | os.PathLike[str]) -> Exclusions:
    """Read the exclusions.json beside a manifest."""
    return _read_beside(manifest_path, "exclusions.json", Exclusions)


def write_exclusions(
    manifest_path: str | os.PathLike[str], excluded: Sequence[Exclusion], stripped: Sequence[Exclusion]
) -> None:
    """Write the exclusions.json beside a manifest: one JSON object, an exclusion a line."""

    def lines() -> Iterator[str]:
        for opening, listed in (('{"excluded": [', excluded), ('], "stripped": [', stripped)):
            yield opening
            for number, each in enumerate(listed, start=1):
                yield json.dumps(each._asdict(), ensure_ascii=False) + "," * (number < len(listed))
        yield "]}"

    write_lines(Path(manifest_path).with_name("exclusions.json"), lines())


def _read_beside(manifest_path: str | os.PathLike[str], name: str, kind: type[T]) -> T:
    path = Path(manifest_path).with_name(name)
    try:
        return validated(kind, read_json(path, CorpusError), path, refuse=CorpusError)
    except FileNotFoundError:
        raise CorpusError(f"expected {path.name} of `wavfusion prepare`, found no such file: {path}") from None


def _lines(path: Path) -> Iterator[str]:
    if path.is_dir():
        named = path / "manifest.jsonl"
        raise CorpusError(f"expected a manifest file, found a folder: {path}; the manifest is {named}")
    try:
        # Only \n ends a line: the other separators of Unicode may stand in a text or a path. Editors may add a mark.
        yield from read_text_lines(path)
    except FileNotFoundError:
        raise CorpusError(f"expected {path.name} of `wavfusion prepare`, found no such file: {path}") from None
    except UnicodeDecodeError as error:
        raise CorpusError(f"expected UTF-8, found other bytes in {path}: {error}") from error
