"""The command line: its verbs, exit statuses, and errors of one line."""

import functools
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from wavfusion.cli.bench import bench
from wavfusion.cli.demo import demo
from wavfusion.cli.evaluate import cross, evaluate
from wavfusion.cli.extract import encoders, extract
from wavfusion.cli.options import SETTING
from wavfusion.cli.output import BAD_INPUT, DONE, ShortLines, complain, print_text
from wavfusion.cli.predict import embed, predict
from wavfusion.cli.prepare import check, lookalike, prepare
from wavfusion.cli.publish import bundle, export, models, push, report
from wavfusion.cli.serve import serve
from wavfusion.cli.train import reproduce, train, tune
from wavfusion.errors import ConfigError, CorpusError, MediaError, nearest
from wavfusion.version import __version__

VERBS: dict[str, Callable[..., int | None]] = {
    each.__name__: each
    for each in (
        *(demo, prepare, check, report, extract, train, tune, reproduce, evaluate, cross),
        *(predict, serve, embed, bundle, export, push, bench, lookalike, encoders, models),
    )
}
CONFIGURABLE = ("train", "tune", "reproduce")  # take --dotted.key VALUE
LISTS = ("--manifests", "--stores")  # take several values
DEBUG = "--debug"
INTERRUPTED = 130

log = logging.getLogger("wavfusion")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = DEBUG in arguments
    _fill_closed_streams()
    _quieten()
    try:
        return _run([each for each in arguments if each != DEBUG])
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except (ConfigError, CorpusError, MediaError, OSError) as error:
        if debug:
            raise
        message = str(error)
        if isinstance(error, OSError):
            place = repr(error.filename) if error.filename else "a file"
            message = f"expected to read or write {place}, found: {error.strerror or error}"
        complain(message)
        return BAD_INPUT


def _fill_closed_streams() -> None:
    """Open the null device in place of closed standard streams, as the next opened file would get their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")


def _quieten() -> None:
    """Set up messages to stderr, and the environment of libraries before they are imported."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(ShortLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    log.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)  # one process speaks for all
    # Threads that spin at barriers take the cores from whatever else runs: six times slower on a loaded machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # oneDNN keeps the code that it makes for every length of audio, up to 1024: hundreds of MB. EfficientNet needs 170.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it sets its own level when it is imported
    for noisy in ("httpx", "httpx2", "huggingface_hub", "transformers", "accelerate", "torch.onnx"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


def _run(arguments: list[str]) -> int:
    verb = next((each for each in arguments if not each.startswith("-")), "")
    if verb and verb not in VERBS:
        raise ConfigError(f"expected a verb, found {verb!r}; {nearest(verb, VERBS)} (see wavfusion --help)")
    place = f"wavfusion {verb}".rstrip()
    if any(re.match(r"--[a-z_]+\.", each) for each in arguments):
        arguments = _mark_settings(arguments, [f"--{each}" for each in _settings(verb)])
    arguments = _repeat_lists(arguments)
    to_file = verb == "predict" and any(each.partition("=")[0] == "--out" for each in arguments)
    if sys.stdout is None and not to_file:
        raise ConfigError(f"{verb}: expected an open stdout for the results, found it closed; >/dev/null drops them")
    command: Any = typer.main.get_command(_app())
    try:
        call = command.main(arguments or ["--help"], prog_name="wavfusion", standalone_mode=False)
    except typer.TyperException as error:
        raise ConfigError(f"{verb}: {_explain(error, verb)} (see {place} --help)".removeprefix(": ")) from None
    return (call() if callable(call) else call) or DONE


def _app() -> typer.Typer:
    """Make the parser, whose commands return the call of their verb, so that no error of a verb passes through it."""
    epilog = "An error is one line; --debug, anywhere, shows where it was raised."
    app = typer.Typer(add_completion=False, rich_markup_mode=None, epilog=epilog)
    app.callback()(_wavfusion)
    for name, verb in VERBS.items():
        app.command(name)(_deferred(verb))
    return app


def _print_version(wanted: bool) -> bool:
    if wanted:
        print_text(__version__)
        raise typer.Exit
    return wanted


def _wavfusion(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """From a recording of people talking to the emotion of every utterance."""


def _deferred(verb: Callable[..., int | None]) -> Callable[..., Callable[[], int | None]]:
    @functools.wraps(verb)
    def bind(**options: Any) -> Callable[[], int | None]:
        return functools.partial(verb, **options)

    return bind


def _flags(verb: str) -> list[str]:
    """List all flags of a verb, settings of experiments included."""
    command: Any = typer.main.get_command(_app())
    shown = [each for each in command.commands[verb].params if not getattr(each, "hidden", False)]
    found = [each for parameter in shown for each in parameter.opts if each.startswith("--")]
    return list(dict.fromkeys([*found, "--help", DEBUG, *(f"--{each}" for each in _settings(verb))]))


def _settings(verb: str) -> list[str]:
    """List the dotted keys that a verb takes."""
    if verb not in CONFIGURABLE:
        return []
    from wavfusion.experiments.experiment import settings

    return list(settings())


def _mark_settings(arguments: Sequence[str], known: Sequence[str]) -> list[str]:
    """Make `--dotted.key VALUE` of a known key an option that the parser knows; it refuses other keys."""
    marked, items = list[str](), iter(arguments)
    for item in items:
        key, equals, value = item.partition("=")
        if "." in key and key in known:
            given = value if equals else next(items, None)
            if given is None:
                raise ConfigError(f"expected a value after {key!r}, found none")
            item = f"{SETTING}={key[2:]}={given}"
        marked.append(item)
    return marked


def _repeat_lists(arguments: Sequence[str]) -> list[str]:
    """Make `--stores A B` what the parser knows: `--stores A --stores B`."""
    found, flag = list[str](), ""
    for item in arguments:
        if item.startswith("-"):
            flag = item if item in LISTS else ""
        elif flag and found[-1] != flag:
            found.append(flag)
        found.append(item)
    return found


def _explain(error: typer.TyperException, verb: str) -> str:
    """Say in one line what the parser refused."""
    name: str | None = getattr(error, "option_name", None)
    parameter: Any = getattr(error, "param", None)
    if name is not None:
        known = _flags(verb) if verb else ["--help", "--version", DEBUG]
        if name in known:
            return f"expected a value after {name!r}, found none"
        return f"{name!r} is not known; {nearest(name, known)}"
    if parameter is None:
        extra = re.search(r"unexpected extra argument.* \(([^ ]+).*\)", error.message)
        if extra and "--model" in _flags(verb):
            found = f"found {extra[1]!r} without it; write: wavfusion {verb} --model {extra[1]}"
            raise ConfigError(f"{verb}: expected the model as --model RUN, {found}") from None
        return error.message
    flag = next((each for each in parameter.opts if each.startswith("--")), None)
    if error.message:
        return f"{flag or parameter.metavar}: {error.message}"
    return f"expected {f'{flag} ' if flag else ''}{parameter.metavar}, found none"
