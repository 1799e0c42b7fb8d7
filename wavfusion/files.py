"""Atomic writes, bounded readers of JSON and YAML, strict validation, and JSON lines that survive a kill."""

import json
import os
import re
import tempfile
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from wavfusion.errors import ConfigError, CorpusError, nearest

T = TypeVar("T")

BYTES, DEPTH = 1 << 26, 50  # most of a JSON or YAML file
SHOWN = 200  # characters of a value in a message


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
    """Read a JSON file of up to `BYTES` bytes and `DEPTH` levels.

    Raises:
        FileNotFoundError: there is none.
        ValueError: of the type `refuse`; a folder, too large or too deep, or no JSON.
    """
    content = _bounded(path, refuse)
    try:
        values = json.loads(content.decode("utf-8-sig"))
        _require_plain(values)
    except (ValueError, RecursionError) as error:
        raise refuse(_unreadable(path, "JSON", error)) from None
    return values


def write_json(path: Path, values: Any) -> None:
    """Write a JSON file atomically."""
    write_atomic(path, json_bytes(values))


def json_bytes(values: Any) -> bytes:
    """Encode values as `write_json` writes them; an undecodable byte of a file name becomes a JSON escape."""
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode("utf-8", "backslashreplace")


def read_yaml(path: Path | Traversable) -> dict[str, Any]:
    """Read a YAML file of keys and plain values, up to `BYTES` bytes and `DEPTH` levels; an empty one has no keys.

    Raises:
        FileNotFoundError: there is none.
        ConfigError: no YAML, an alias, a tag, a key that stands twice, or anything else than keys and values.
    """
    values = parse_yaml(_bounded(path, ConfigError), path)
    if values is not None and not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(values).__name__}")
    return values or {}


def parse_yaml(content: str | bytes, where: object) -> Any:
    """Parse YAML of plain values; raises as `read_yaml` does."""
    import yaml

    try:
        values = yaml.load(content, _plain_loader())
        _require_plain(values)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f":{error.problem_mark.line + 1}"
        raise ConfigError(f"{where}{line}: expected YAML; {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(_unreadable(where, "YAML", error)) from None
    return values


@cache
def _plain_loader() -> Any:
    """Make a safe loader without aliases, which grow without bound, and double keys, of which YAML takes the last."""
    import yaml  # kept out of `--help`

    class PlainLoader(yaml.SafeLoader):
        # Dates stay strings; 1e-4, which YAML 1.1 takes for one, is a number.
        yaml_implicit_resolvers = {
            first: [rule for rule in rules if rule[0] != "tag:yaml.org,2002:timestamp"]
            for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                parser: Any = self
                raise yaml.MarkedYAMLError(problem="found an alias", problem_mark=parser.peek_event().start_mark)
            return super().compose_node(parent, index)

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


def _bounded(path: Path | Traversable, refuse: type[ValueError]) -> bytes:
    if isinstance(path, Path):
        require_file(path)
    with path.open("rb") as file:
        content: bytes = file.read(BYTES + 1)
    if len(content) > BYTES:
        raise refuse(f"{path}: expected at most {BYTES} bytes, found more")
    return content


def _require_plain(value: Any, depth: int = 0) -> None:
    if depth > DEPTH:
        raise ValueError(f"more than {DEPTH} levels")
    if isinstance(value, dict | list):
        for each in [*value, *value.values()] if isinstance(value, dict) else value:
            _require_plain(each, depth + 1)
    elif not isinstance(value, str | int | float | None):
        raise ValueError(f"a value of type {type(value).__name__}")


def _unreadable(where: object, form: str, error: Exception) -> str:
    return f"{where}: expected {form}, found {' '.join(str(error).split())[:SHOWN]}"


def require_file(path: Path) -> Path:
    """Raise a CorpusError for a folder, pipe or device where a file is expected: reading it might never end."""
    if path.exists() and not path.is_file():
        raise CorpusError(f"{path}: expected a file, found a folder, pipe or device")
    return path


def write_atomic(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Write a file atomically: after a kill there is the old file or the new one, nothing between."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
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
    with open(path, "a+b", buffering=0) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        # A writer killed half way may have left no line end.
        file.write(line if file.read(1) in (b"", b"\n") else b"\n" + line)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read JSON lines, except one that a kill cut short; none without a file."""
    if not require_file(path).exists():
        return
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                yield row
