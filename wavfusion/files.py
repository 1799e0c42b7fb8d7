"""Atomic writes, bounded readers of JSON and YAML, strict validation, and JSON lines that survive a kill."""

import errno
import json
import math
import os
import re
import tempfile
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from wavfusion.errors import SHOWN, ConfigError, CorpusError, nearest

T = TypeVar("T")

# The most of what is read (docs/reference/what_may_go_wrong.md): bytes of a file, characters of a line, levels, values.
BYTES, LINE, DEPTH, NODES = 1 << 26, 1 << 24, 50, 4_000_000
YAML_BYTES, YAML_NODES = 1 << 20, 10_000  # people write it, and its parser takes 50 microseconds a value
INTEGER = 2**63  # beyond it, a JSON number is none that others read, nor a float's precision


@dataclass(frozen=True)
class Constraint:
    """What a value must be beyond its type, for `Annotated`; `expected` is what a message says: "seconds >= 0"."""

    expected: str
    holds: Callable[[Any], bool]

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core import PydanticCustomError, core_schema

        def check(value: Any) -> Any:
            if not self.holds(value):
                raise PydanticCustomError("constraint", "broken")
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))


def choice_of(*choices: str) -> Constraint:
    """Make the constraint that a value is one of several strings."""
    return Constraint(" | ".join(choices), frozenset(choices).__contains__)


def names_a_file(text: str) -> bool:
    """Tell whether the system can open a file of this name: NUL and lone surrogates are none of its characters."""
    try:
        return text != "" and b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


PathText = Annotated[str, Constraint("the path of a file or folder", names_a_file)]
NonEmpty = Annotated[str, Constraint("a non-empty string", bool)]
Count = Annotated[int, Constraint("an integer >= 0", lambda value: value >= 0)]
Share = Annotated[float, Constraint("a number from 0 to 1", lambda value: 0 <= value <= 1)]


def validated(
    kind: type[T],
    values: Any,
    where: object,
    *,
    complete: bool = False,
    others: bool = False,
    refuse: type[ValueError] = ConfigError,
) -> T:
    """Build a value of a type from JSON's or YAML's plain values, strictly: nothing is converted, numbers are finite.

    `kind` is a plain dataclass, also with others inside, or any type that pydantic knows (`dict[str, float]`). With
    `complete`, fields with a default must be present, too; with `others`, fields that are none are passed over. The
    error is of the type `refuse` and names the source (`where`), the field and the nearest valid names in one line.
    """
    from pydantic_core import ValidationError

    shape: Any = kind  # a type is hashable, which mypy does not believe of type[T]
    try:
        return _validator(shape, complete, others).validate_python((values,))[0]
    except ValidationError as error:
        found = error.errors(include_url=False)
        # A misspelt field is also missing: its spelling is the better news.
        first = next((each for each in found if each["type"] == "unexpected_keyword_argument"), found[0])
        raise refuse(f"{where}: {_message(kind, first)}") from None


@cache
def _validator(kind: Any, complete: bool, others: bool) -> Any:
    from pydantic import ConfigDict, TypeAdapter  # half a second of `--help`, were it above
    from pydantic_core import SchemaValidator

    strict = ConfigDict(extra="ignore" if others else "forbid", strict=True, allow_inf_nan=False)
    # A dataclass takes the settings of what it stands in.
    return SchemaValidator(_from_plain(TypeAdapter(tuple[kind], config=strict).core_schema, complete))


def _from_plain(schema: Any, complete: bool) -> Any:
    """Let dataclasses be built from dictionaries, which strictness forbids; with `complete`, without defaults."""
    if isinstance(schema, list):
        return [_from_plain(each, complete) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if complete and schema.get("type") == "default":
        return _from_plain(schema["schema"], complete)
    made = {key: _from_plain(each, complete) for key, each in schema.items()}
    return {**made, "strict": False} if made.get("type") == "dataclass" else made


def _message(kind: Any, error: Mapping[str, Any]) -> str:
    path = list(error["loc"][1:])
    name = ".".join(map(str, path))
    if error["type"] == "unexpected_keyword_argument":
        prefix = name[: -len(str(path[-1]))]
        known = [prefix + each.name for each in fields(_bare(_type_at(kind, path[:-1])))]
        return f"unknown field {name!r}: {nearest(name, known)}"
    if error["type"] in ("missing", "missing_argument"):  # the second of named tuples, before pydantic 2.13
        return f"field {name!r} is missing"
    if error["type"] == "value_error":  # of a dataclass's __post_init__, which names the field
        return str(error["ctx"]["error"])
    hint, value = _type_at(kind, path), error["input"]
    expected, bare = _describe(hint), _bare(hint)
    choices = list(map(str, get_args(bare))) if get_origin(bare) is Literal else []
    if error["type"] == "finite_number":
        expected = expected.replace("a number", "a finite number")
    if isinstance(value, str) and choices and (close := nearest(value, choices)).startswith("did"):
        expected += f" ({close.partition('?')[0]}?)"
    found = repr(value)
    found = found if len(found) <= SHOWN else f"{found[: SHOWN - 3]}..."
    return f"field {name!r}: " * bool(name) + f"expected {expected}, found {found}"


def _type_at(kind: Any, path: Sequence[Any]) -> Any:
    """The type of a field by its place in the values; where that is within a union, the union."""
    for key in path:
        bare = _bare(kind)
        if is_dataclass(bare):
            kind = get_type_hints(bare, include_extras=True)[key]
        elif get_origin(bare) in (list, dict):
            kind = get_args(bare)[-1]
        else:
            return kind
    return kind


def _bare(kind: Any) -> Any:
    """A type without its constraints and without None."""
    if get_origin(kind) is Annotated:
        return _bare(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        some = [each for each in get_args(kind) if each is not type(None)]
        return _bare(some[0]) if len(some) == 1 else kind
    return kind


_NOUNS = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    type(None): "null",
    list: "a list",
    dict: "an object",
}
_PLURALS = {str: " of strings", int: " of integers", float: " of numbers"}


def _describe(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        constraints = [each.expected for each in kind.__metadata__ if isinstance(each, Constraint)]
        return constraints[-1] if constraints else _describe(inner[0])
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(each) for each in inner)
    if origin is Literal:
        return " | ".join(map(str, inner))
    if is_dataclass(kind):
        return "an object with " + ", ".join(each.name for each in fields(kind))
    if (origin or kind) in (list, dict):
        return _NOUNS[origin or kind] + (_PLURALS.get(_bare(inner[-1]), "") if inner else "")
    return _NOUNS.get(kind, "a value")


def read_json(path: Path, refuse: type[ValueError] = ConfigError) -> Any:
    """Read a JSON file within the bounds of `read_bytes` and `parse_json`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: of the type `refuse`; no file, beyond the bounds, or no JSON.
    """
    return parse_json(read_bytes(path, refuse), path, refuse)


def parse_json(
    content: str | bytes,
    where: object,
    refuse: type[ValueError] = ConfigError,
    object_hook: Callable[[dict[str, Any]], Any] | None = None,
    numbers: bool = True,
) -> Any:
    """Parse JSON of up to `DEPTH` levels and `NODES` values.

    Numbers that are not finite and integers beyond `INTEGER` are refused, unless `validated` is to name their field.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        if sum(map(text.count, ",[{")) >= NODES:
            raise ValueError(f"more than {NODES} values")
        values = json.loads(text, object_hook=object_hook)
        _require_plain(values, finite=numbers, bounded=numbers)
    except (ValueError, RecursionError) as error:
        raise refuse(_unreadable(where, "JSON", error)) from None
    return values


def write_json(path: Path, values: Any) -> None:
    """Write a JSON file atomically."""
    write_atomic(path, json_bytes(values))


def json_bytes(values: Any) -> bytes:
    """Encode values as `write_json` writes them; an undecodable byte of a file name becomes a JSON escape."""
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode("utf-8", "backslashreplace")


def read_yaml(path: Path | Traversable) -> dict[str, Any]:
    """Read a YAML file of keys and plain values; an empty one has no keys.

    Raises:
        FileNotFoundError: there is none.
        ConfigError: as of `parse_yaml`, or anything else than keys and values.
    """
    values = parse_yaml(read_bytes(path, ConfigError, YAML_BYTES), path)
    if values is not None and not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(values).__name__}")
    return values or {}


def parse_yaml(content: str | bytes, where: object) -> Any:
    """Parse YAML of plain values, up to `YAML_BYTES` characters, `YAML_NODES` values and `DEPTH` levels.

    Raises:
        ConfigError: beyond these bounds, no YAML, an alias, a tag, or a key that stands twice or is no string.
    """
    import yaml

    try:
        if len(content) > YAML_BYTES:
            raise ValueError(f"more than {YAML_BYTES} characters")
        values = yaml.load(content, _plain_loader())
        _require_plain(values, finite=False, bounded=True)  # `validated` names the field
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f":{error.problem_mark.line + 1}"
        raise ConfigError(f"{where}{line}: expected YAML; {error.problem or error.context}") from None
    except Exception as error:  # of PyYAML's constructors, which raise whatever a value leads them to
        raise ConfigError(_unreadable(where, "YAML", error)) from None
    return values


@cache
def _plain_loader() -> Any:
    """Make a safe loader that refuses what grows, before it is built, and double keys, of which YAML takes the last."""
    import yaml  # kept out of `--help`

    class PlainLoader(yaml.SafeLoader):
        # Dates stay strings; 1e-4, which YAML 1.1 takes for one, is a number.
        yaml_implicit_resolvers = {
            first: [rule for rule in rules if rule[0] != "tag:yaml.org,2002:timestamp"]
            for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }
        depth = count = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.depth, self.count = self.depth + 1, self.count + 1
            parser: Any = self
            event = parser.peek_event()
            problem = ""
            if isinstance(event, yaml.AliasEvent):
                problem = "found an alias"
            elif event.tag is not None:
                problem = f"found the tag {event.tag!r}: only plain values are read"
            elif self.depth > DEPTH:
                problem = f"found more than {DEPTH} levels"
            elif self.count > YAML_NODES:
                problem = f"found more than {YAML_NODES} values"
            if problem:
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

        def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
            # 1:1:1..., a number to base 60 of any length, takes the square of it.
            long = kind is yaml.ScalarNode and len(value) > SHOWN
            untyped: Any = super().resolve
            return "tag:yaml.org,2002:str" if long else untyped(kind, value, implicit)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            known: set[str] = set()
            for key, _ in node.value:
                if (name := str(key.value)) in known:
                    problem = f"found {name!r} for the second time"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                known.add(name)
            return super().construct_mapping(node, deep)

    number = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+\Z")
    PlainLoader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    return PlainLoader


def read_bytes(path: Path | Traversable, refuse: type[ValueError] = CorpusError, most: int = 0) -> bytes:
    """Read a file of up to `most` bytes (`BYTES` unless given); raises `refuse` where it is longer, or no file."""
    if isinstance(path, Path):
        require_file(path, refuse)
    most = most or BYTES
    with path.open("rb") as file:
        content: bytes = file.read(most + 1)
    if len(content) > most:
        raise refuse(f"{path}: expected at most {most} bytes, found more")
    return content


def read_text_lines(
    path: Path, encoding: str = "utf-8-sig", errors: str = "strict", newline: str = "\n"
) -> Iterator[str]:
    """Read the lines of a text file with their ends; a CorpusError for one longer than `LINE`."""
    with open(require_file(path), encoding=encoding, errors=errors, newline=newline) as file:
        while line := file.readline(LINE + 1):
            if len(line) > LINE:
                raise CorpusError(f"{path}: expected lines of at most {LINE} characters, found a longer one")
            yield line


def _require_plain(value: Any, finite: bool, bounded: bool, depth: int = 0, name: str = "") -> None:
    if depth > DEPTH:
        raise ValueError(f"more than {DEPTH} levels")
    if isinstance(value, dict):
        for key, each in value.items():
            if not isinstance(key, str):
                raise ValueError(f"the key {key!r}, which is no string")
            _require_plain(each, finite, bounded, depth + 1, f"{key}: ")
    elif isinstance(value, list):
        for each in value:
            _require_plain(each, finite, bounded, depth + 1, name)
    elif isinstance(value, float):
        if finite and not math.isfinite(value):
            raise ValueError(f"{name}{value}, a number that is not finite")
    elif isinstance(value, int):
        if bounded and abs(value) >= INTEGER:
            raise ValueError(f"{name}an integer of more than 64 bits")
    elif not isinstance(value, str | None):
        raise ValueError(f"a value of type {type(value).__name__}")


def _unreadable(where: object, form: str, error: Exception) -> str:
    return f"{where}: expected {form}, found {' '.join(str(error).split())[:SHOWN]}"


def require_file(path: Path, refuse: type[ValueError] = CorpusError) -> Path:
    """Raise an error for a folder, pipe or device where a file is expected: reading it might never end."""
    if path.exists() and not path.is_file():
        raise refuse(f"{path}: expected a file, found a folder, pipe or device")
    return path


@contextmanager
def naming(place: object) -> Iterator[None]:
    """Name a file in an error of the system that names none, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(place)
        raise


@contextmanager
def saving(place: Path) -> Iterator[None]:
    """Turn what the writers of torch and safetensors raise, as on a full disk, into an OSError that names a place."""
    try:
        with naming(place):
            yield
    except OSError:
        raise
    except Exception as error:
        reason = f"not written whole (is the disk full?): {' '.join(str(error).split())[:SHOWN]}"
        raise OSError(errno.EIO, reason, str(place)) from error


def write_atomic(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Write a file atomically: after a kill there is the old file or the new one, nothing between."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path), open(temporary, "wb") as file:
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "nt":
        return  # a folder cannot be opened there
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines of text atomically, with the folder; an undecodable byte of a file name becomes a JSON escape."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (f"{line}\n".encode("utf-8", "backslashreplace") for line in lines))


def require_free(paths: Sequence[Path], force: bool) -> None:
    """Raise a CorpusError where a result exists and there is no `force`, and where no file can be written at all."""
    for path in paths:
        if path.exists() and not path.is_file():
            raise CorpusError(f"{path}: expected a file's name, found a folder or device")
        require_writable(path.parent)
        if path.exists() and not force:
            raise CorpusError(f"{path}: expected no such file, found a result; give another --out, or --force")


def require_writable(folder: Path) -> None:
    """Raise a CorpusError for a folder that cannot be written or made, before anything is computed for it."""
    existing = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise CorpusError(f"{folder}: expected a writable folder, found {existing}: {error.strerror}") from None


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Append one JSON line in one write, so that lines of several processes do not mix."""
    line = json.dumps(row).encode("ascii") + b"\n"  # escaped, a name may hold bytes that are no text
    with naming(path), open(path, "a+b", buffering=0) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        # A writer killed half way may have left no line end.
        file.write(line if file.read(1) in (b"", b"\n") else b"\n" + line)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read JSON lines, except one that a kill cut short; none without a file."""
    if not require_file(path).exists():
        return
    for line in read_text_lines(path, "utf-8", "surrogateescape"):
        try:
            row = parse_json(line, path)
        except ConfigError:
            continue
        if isinstance(row, dict):
            yield row


def shortest_names(paths: Sequence[Path], expected: str) -> list[str]:
    """Return the shortest ends of paths that tell them apart; a ConfigError that says `expected` where two are one."""
    whole = [Path(os.path.abspath(path)) for path in paths]
    if len(set(whole)) < len(whole):
        raise ConfigError(f"{expected}, found {', '.join(map(str, paths))}")
    for length in range(1, max(len(path.parts) for path in whole)):
        names = [os.path.join(*path.parts[-length:]) for path in whole]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in whole]
