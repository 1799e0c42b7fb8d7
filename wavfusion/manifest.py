"""One record an utterance: what every corpus is turned into, and its strict JSON-lines file."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

from wavfusion.errors import CorpusError, nearest
from wavfusion.files import write_lines

MODALITIES = ("audio", "text", "video")
SPLITS = ("train", "valid", "test")
CHANNELS = ("mix", "left", "right", "centre")

Channel = Literal["mix", "left", "right", "centre"]
_Span = TypeVar("_Span", "AudioSpan", "VideoSpan")


@dataclass(frozen=True, slots=True)
class AudioSpan:
    """Where an utterance is heard.

    Attributes:
        path: relative to the corpus root.
        start, end: seconds; None reaches to the end of the file on that side.
        channel: the down-mix to one channel.
    """

    path: str
    start: float | None = None
    end: float | None = None
    channel: Channel = "mix"


@dataclass(frozen=True, slots=True)
class VideoSpan:
    """Where an utterance is seen.

    Attributes:
        path: relative to the corpus root.
        start, end: seconds; None reaches to the end of the file on that side.
        crop: left, top, right, bottom in pixels of the file; None is the whole picture.
    """

    path: str
    start: float | None = None
    end: float | None = None
    crop: list[int] | None = None


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance of a corpus; what is not known is None.

    Attributes:
        index: position in the dialogue, from 0.
        votes: share of the annotators' votes for each emotion they named.
        dimensions: valence, arousal and dominance on the corpus's own scale.
        missing: the modalities known to be absent.
    """

    id: str
    corpus: str
    split: str | None = None
    session: str | None = None
    dialogue: str | None = None
    index: int | None = None
    speaker: str | None = None
    audio: AudioSpan | None = None
    video: VideoSpan | None = None
    text: str | None = None
    text_source: str | None = None
    language: str | None = None
    style: str | None = None
    emotion: str | None = None
    raw_label: str | None = None
    votes: dict[str, float] | None = None
    dimensions: dict[str, float] | None = None
    missing: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Corpus:
    """What the utterances of a manifest have in common (corpus.json).

    Attributes:
        root: the folder that the paths of the manifest start from.
        labels: name of the label set, None where the corpus has only one.
        classes: the emotions in class order.
        version: of the package that wrote the manifest.
    """

    corpus: str
    root: str
    labels: str | None
    classes: list[str]
    version: str


def read(path: str | os.PathLike[str]) -> list[Utterance]:
    """Read a manifest.

    Raises:
        CorpusError: there is no such file, or a line is not an utterance; names file and line.
    """
    return list(stream(path))


def stream(path: str | os.PathLike[str]) -> Iterator[Utterance]:
    """Read a manifest one utterance at a time, as strictly as `read`."""
    seen: dict[str, int] = {}
    shared: dict[str, str] = {}  # one string in memory for equal names and paths
    for number, line in enumerate(_lines(Path(path)), start=1):
        try:
            utterance = _parse_utterance(json.loads(line), shared)
            if utterance.id in seen:
                raise ValueError(
                    f"expected unique ids, found {utterance.id!r} again, first on line {seen[utterance.id]}"
                )
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{path}:{number}: {error}") from error
        seen[utterance.id] = number
        yield utterance
    if not seen:
        raise CorpusError(f"{path}: expected at least one utterance, found none")


def write(path: str | os.PathLike[str], utterances: Iterable[Utterance]) -> None:
    """Write a manifest; a reader meets the old file or the whole new one, nothing between.

    Raises:
        CorpusError: an id occurs twice.
    """
    write_lines(Path(path), _unique_rows(utterances))


def read_corpus(manifest_path: str | os.PathLike[str]) -> Corpus:
    """Read the corpus.json that lies beside a manifest.

    Raises:
        CorpusError: there is none, or its fields are not those of `Corpus`.
    """
    path = Path(manifest_path).with_name("corpus.json")
    try:
        row = json.loads("".join(_lines(path)))
        _check(row, Corpus, _CORPUS_RULES)
    except (ValueError, RecursionError) as error:
        raise error if isinstance(error, CorpusError) else CorpusError(f"{path}: {error}") from error
    return Corpus(**row)


def write_corpus(manifest_path: str | os.PathLike[str], corpus: Corpus) -> None:
    """Write the corpus.json beside a manifest."""
    write_lines(Path(manifest_path).with_name("corpus.json"), [_dump(asdict(corpus), indent=2)])


def _lines(path: Path) -> Iterator[str]:
    if path.is_dir():
        raise CorpusError(
            f"expected a manifest file, found a folder: {path}; the manifest is {path / 'manifest.jsonl'}"
        )
    try:
        # Only \n ends a line: the other separators of Unicode may stand in a text or a path. Editors may add a mark.
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            yield from file
    except FileNotFoundError:
        raise CorpusError(f"expected {path.name} of `wavfusion prepare`, found no such file: {path}") from None
    except UnicodeDecodeError as error:
        raise CorpusError(f"expected UTF-8, found other bytes in {path}: {error}") from error


def _unique_rows(utterances: Iterable[Utterance]) -> Iterator[str]:
    seen: set[str] = set()
    for utterance in utterances:
        if utterance.id in seen:
            raise CorpusError(f"expected unique ids, found {utterance.id!r} twice in corpus {utterance.corpus!r}")
        seen.add(utterance.id)
        yield _dump(_row(utterance))


def _row(utterance: Utterance) -> dict[str, Any]:
    """Its fields; `asdict` would copy every value, a third of the time of a long manifest."""
    row = {each.name: getattr(utterance, each.name) for each in fields(utterance)}
    for name in ("audio", "video"):
        row[name] = row[name] and asdict(row[name])
    return row


def _dump(row: dict[str, Any], indent: int | None = None) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False, indent=indent)


def _parse_utterance(row: Any, shared: dict[str, str]) -> Utterance:
    _check(row, Utterance, _UTTERANCE_RULES)
    for name in _REPEATED:
        row[name] = row[name] and shared.setdefault(row[name], row[name])
    for name in ("votes", "dimensions"):
        row[name] = row[name] and {key: float(value) for key, value in row[name].items()}
    row["audio"] = _parse_span(row["audio"], "audio", AudioSpan, shared)
    row["video"] = _parse_span(row["video"], "video", VideoSpan, shared)
    return Utterance(**row)


def _parse_span(row: Any, name: str, kind: type[_Span], shared: dict[str, str]) -> _Span | None:
    if row is None:
        return None
    _check(row, kind, _SPAN_RULES, where=f"{name}.")
    row["path"] = shared.setdefault(row["path"], row["path"])
    for edge in ("start", "end"):
        row[edge] = None if row[edge] is None else float(row[edge])
    if row["end"] is not None and row["end"] <= (row["start"] or 0.0):
        raise ValueError(f"{name}: expected end after start, found start {row['start']}, end {row['end']}")
    return kind(**row)


_REPEATED = (
    *("corpus", "split", "session", "dialogue", "speaker"),
    *("text_source", "language", "style", "emotion", "raw_label"),
)

Rule = tuple[Callable[[Any], bool], str]


def _check(row: Any, kind: type, rules: dict[str, Rule], where: str = "") -> None:
    """Hold a JSON value against the fields of a dataclass and the rule of each field."""
    names = [each.name for each in fields(kind)]
    if not isinstance(row, dict):
        raise ValueError(f"{where}expected an object with {', '.join(names)}, found {_short(row)}")
    for name in row:
        if name not in names:
            raise ValueError(f"unknown field {where + name!r}: {nearest(name, names)}")
    for name in names:
        if name not in row:
            raise ValueError(f"field {where + name!r} is missing")
        holds, expected = rules[name]
        if not holds(row[name]):
            raise ValueError(f"field {where + name!r}: expected {expected}, found {_short(row[name])}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


def _is_time(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _is_inside(value: Any) -> bool:
    if not _is_name(value) or "\0" in value:
        return False
    path = PurePosixPath(value)
    return not path.is_absolute() and ".." not in path.parts


def _is_box(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_count, value)):
        return False
    left, top, right, bottom = value
    return bool(left < right and top < bottom)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_name, value)) and len(set(value)) == len(value)


def _are_modalities(value: Any) -> bool:
    return _are_names(value) and set(value) <= set(MODALITIES)


def _optional(rule: Rule) -> Rule:
    holds, expected = rule
    return lambda value: value is None or holds(value), f"{expected} or null"


def _one_of(*choices: str) -> Rule:
    return lambda value: isinstance(value, str) and value in choices, " | ".join(choices)


_NAME: Rule = (_is_name, "a non-empty string")
_TEXT: Rule = (_is_text, "a string")
_SPAN: Rule = (lambda value: isinstance(value, dict), "an object")
_TIME: Rule = (_is_time, "seconds >= 0")

_SPAN_RULES: dict[str, Rule] = {
    "path": (_is_inside, "a path relative to the corpus root and inside it"),
    "start": _optional(_TIME),
    "end": _optional(_TIME),
    "channel": _one_of(*CHANNELS),
    "crop": _optional((_is_box, "[left, top, right, bottom] in pixels")),
}
_UTTERANCE_RULES: dict[str, Rule] = {
    **dict.fromkeys(("id", "corpus"), _NAME),
    **dict.fromkeys(("session", "dialogue", "speaker", "language", "emotion", "raw_label"), _optional(_NAME)),
    **dict.fromkeys(("audio", "video"), _optional(_SPAN)),
    **dict.fromkeys(("votes", "dimensions"), _optional((_is_numbers, "an object of numbers"))),
    "split": _optional(_one_of(*SPLITS)),
    "index": _optional((_is_count, "an integer >= 0")),
    "text": _optional(_TEXT),
    "text_source": _optional(_one_of("gold", "asr")),
    "style": _optional(_one_of("improvised", "scripted")),
    "missing": (_are_modalities, f"a list of {', '.join(MODALITIES)}"),
}
_CORPUS_RULES: dict[str, Rule] = {
    **dict.fromkeys(("corpus", "root", "version"), _NAME),
    "labels": _optional(_NAME),
    "classes": (_are_names, "a list of distinct emotions"),
}
