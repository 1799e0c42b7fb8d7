"""Options that several verbs share, and readers of what was typed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from wavfusion.errors import ConfigError, nearest


def option(help: str, metavar: str, read: Callable[[str], Any] = str, *flags: str) -> Any:
    """Describe an option that takes a value; a default, which is no text, stays as it is.

    Without `flags` it has the name of its parameter.
    """

    def parse(value: Any) -> Any:
        return read(value) if isinstance(value, str) else value

    return typer.Option(*flags, help=help, metavar=metavar, parser=parse, show_default=False)


def flag(name: str, help: str) -> Any:
    """Describe an option without a value."""
    return typer.Option(name, help=help, show_default=False)


def argument(help: str, metavar: str, read: Callable[[str], Any] = str) -> Any:
    """Describe a positional argument."""
    return typer.Argument(help=help, metavar=metavar, parser=read, show_default=False)


def choice(help: str, *choices: str) -> Any:
    """Describe an option that takes one of some words."""
    return option(help, "|".join(choices), one_of(*choices))


def supplied(**values: Any) -> dict[str, Any]:
    """Keep the options that were typed, so that every default stands where it is used."""
    return {name: value for name, value in values.items() if value is not None}


def name(text: str) -> str:
    """Read the name of a file or folder; an empty one would mean the working folder."""
    if not text:
        raise typer.BadParameter("expected a name, found ''")
    return text


def path(text: str) -> Path:
    """Read a path, which must not be empty."""
    return Path(name(text))


def folder(text: str) -> Path:
    """Read the root of a corpus, which must exist."""
    if not path(text).is_dir():
        raise typer.BadParameter(f"expected the folder of the corpus, found none at {text!r}")
    return path(text)


def one_of(*choices: str) -> Callable[[str], str]:
    """Make a reader of one of some words, which names the nearest."""

    def read(text: str) -> str:
        if text not in choices:
            raise typer.BadParameter(f"found {text!r}; {nearest(text, choices)}")
        return text

    return read


def some_of(*choices: str) -> Callable[[str], tuple[str, ...]]:
    """Make a reader of some of several words, with commas between."""
    read = one_of(*choices)
    return lambda text: tuple(dict.fromkeys(read(each.strip()) for each in text.split(",")))


def count(low: int, high: int | None = None) -> Callable[[str], int]:
    """Make a reader of whole numbers within a range."""

    def read(text: str) -> int:
        number = int(text) if text.strip().isdecimal() else -1
        if number < low or (high is not None and number > high):
            span = f"of {low} or more" if high is None else f"from {low} to {high}"
            raise typer.BadParameter(f"expected a whole number {span}, found {text!r}")
        return number

    return read


def folds(text: str) -> tuple[int, ...]:
    """Read the number of a fold, or several with commas; none stands for `all`."""
    if text == "all":
        return ()
    try:
        return tuple(dict.fromkeys(map(count(1), text.split(","))))
    except typer.BadParameter as error:
        raise typer.BadParameter(f"{error}; or all") from None


def fraction(text: str) -> float:
    """Read a number from 0 to 1."""
    with suppress(ValueError):
        if 0 <= (value := float(text)) <= 1:
            return value
    raise typer.BadParameter(f"expected a number from 0 to 1, found {text!r}")


def numbers(example: str, length: int | None = None) -> Callable[[str], tuple[int, ...]]:
    """Make a reader of whole numbers with commas between, as in `example`."""

    def read(text: str) -> tuple[int, ...]:
        with suppress(ValueError):
            found = tuple(int(part) for part in text.split(","))
            if length in (None, len(found)):
                return found
        raise typer.BadParameter(f"expected numbers such as {example}, found {text!r}")

    return read


def pairs(example: str, left: str) -> Callable[[str], dict[str, str]]:
    """Make a reader of `a=b,c=d`; `left` says what stands before the equals sign."""

    def read(text: str) -> dict[str, str]:
        parts = [part.partition("=") for part in text.split(",") if part]
        if not all(all(part) for part in parts):
            raise typer.BadParameter(f"expected {example}, found {text!r}")
        found = {old: new for old, _, new in parts}
        if len(found) < len(parts):
            raise typer.BadParameter(f"expected each {left} once, found {text!r}")
        return found

    return read


@contextmanager
def _refused(name: str = "") -> Iterator[None]:
    """Say what a reader of ours refuses as a mistake of the option that it reads."""
    try:
        yield
    except ConfigError as error:
        raise typer.BadParameter(str(error).removeprefix(f"{name}: ")) from None


def where(text: str) -> str:
    """Read conditions on the rows of a manifest."""
    from wavfusion.manifest import parse_where

    with _refused():
        parse_where(text)
    return text


def kinds(text: str) -> list[str]:
    """Read the kinds of changes of augmented variants."""
    from wavfusion.features.augment import read_kinds

    with _refused("augment"):
        return read_kinds(each.strip() for each in text.split(","))


def speakers(text: str) -> int | str | None:
    """Read a number of speakers, or `auto`."""
    from wavfusion.speech.segmentation import read_count

    with _refused("speakers"):
        return read_count(text)


def track(text: str) -> int | str | None:
    """Read the choice of an audio track."""
    from wavfusion.speech.segmentation import read_track

    with _refused("track"):
        return read_track(text)


seed = count(0, (1 << 32) - 1)

SETTING = "--setting"  # in which a dotted key and its value reach their verb

Device = Annotated[str, option("where to compute (default auto)", "auto|cpu|cuda|cuda:N")]
Seed = Annotated[int | None, option("of everything random (default 0, or the experiment's)", "N", seed)]
Json = Annotated[bool, flag("--json", "print one JSON object")]
Plain = Annotated[bool, flag("--plain", "compute without the faster paths (docs/measurements/performance.md)")]
Force = Annotated[bool, flag("--force", "overwrite earlier results")]
Manifest = Annotated[Path, option("what `prepare` wrote", "M", path)]
Settings = Annotated[list[str] | None, typer.Option(SETTING, parser=str, hidden=True)]
Where = Annotated[
    str | None,
    option("only rows of which this holds, such as speaker=ann|ben,split!=test", "FIELD=VALUE,...", where),
]
FilledStore = Annotated[Path, option("what `extract` filled", "S", path)]
MovedRoot = Annotated[Path | None, option("where the corpus lies now, if it was moved", "ROOT", folder)]
ProtocolName = Annotated[
    str | None, option("a protocol or a CSV id,split[,fold] (default: the corpus's own)", "NAME|FILE", name)
]
RunFolder = Annotated[Path, argument("a RUN folder", "RUN", path)]
Model = Annotated[str | None, option("a RUN folder or a hub id (default: the voice model)", "RUN", name)]
Asr = Annotated[
    str | None, option("recognise the words where no transcript is given: a folder or a name (small)", "MODEL", name)
]
Runtime = Annotated[str | None, choice("onnx: RUN/model.onnx, by `export` (default torch)", "torch", "onnx")]
Precision = Annotated[
    str | None,
    choice(
        "bf16: faster on newer CPUs and GPUs, probabilities differ by some thousandths (default fp32)", "fp32", "bf16"
    ),
]
