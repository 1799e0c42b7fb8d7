"""The verbs of the command line; each imports what it needs when it is called."""

import argparse
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from wavfusion.errors import CollectedWarnings, ConfigError, CorpusError, MediaError, nearest
from wavfusion.version import __version__

if TYPE_CHECKING:
    from wavfusion.corpora.scan import MediaFacts
    from wavfusion.manifest import Utterance
    from wavfusion.prediction import recognizer as predict
    from wavfusion.prediction import recordings
    from wavfusion.speech.segmentation import Speakers

log = logging.getLogger("wavfusion")

DONE, PARTLY, BAD_INPUT = 0, 1, 2
SAID = 20  # lines about bad rows before the rest is counted


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are one line that names the nearest choice."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing a usage."""
        verb = self.prog.removeprefix("wavfusion").strip()
        raise ConfigError(f"{verb}{': ' if verb else ''}{message} (see {self.prog} --help)")

    def known(self) -> list[str]:
        """All flags."""
        return [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]

    def unknown(self, word: str, others: Sequence[str] = ()) -> NoReturn:
        """Refuse a flag that neither the parser nor `others` has."""
        self.error(f"{word!r} is not known; {nearest(word, [*self.known(), *others])}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    _fill_closed_streams()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr, force=True)
    log.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)  # one process speaks for all
    # Threads that spin at barriers take the cores from whatever else runs: six times slower on a loaded machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # oneDNN keeps the code that it makes for every length of sound, up to 1024: hundreds of MB. EfficientNet needs 170.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it sets its own level when it is imported
    for noisy in ("httpx", "httpx2", "huggingface_hub", "transformers", "accelerate", "torch.onnx"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        return _run([argument for argument in arguments if argument != "--debug"])
    except (ConfigError, CorpusError, MediaError) as error:
        if debug:
            raise
        sys.stderr.write(f"wavfusion: {_line(str(error))}\n")
        return BAD_INPUT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        sys.stderr.write("wavfusion: interrupted\n")
        return 130
    except OSError as error:
        if debug:
            raise
        place = repr(error.filename) if error.filename else "a file"
        sys.stderr.write(
            _line(f"wavfusion: expected to read or write {place}, found: {error.strerror or error}") + "\n"
        )
        return BAD_INPUT


def _fill_closed_streams() -> None:
    """Open the null device in place of closed standard streams, as the next opened file would get their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")


def _run(arguments: list[str]) -> int:
    parser, verbs = _parsers()
    word = next((each for each in arguments if not each.startswith("-")), None)
    if word is not None and word not in verbs:
        parser.error(f"expected a verb, found {word!r}; {nearest(word, verbs)}")
    arguments, rest = _without_settings(arguments)
    options, unknown = parser.parse_known_args(arguments)
    rest += unknown
    if options.verb is None:
        if rest:
            parser.unknown(rest[0])
        parser.print_help()
        return DONE
    verb = verbs[options.verb]
    if options.verb in ("train", "reproduce"):
        options.overrides = _overrides(rest, verb)
    elif rest:
        verb.unknown(rest[0])
    if sys.stdout is None and not (options.verb == "predict" and options.out):
        verb.error("expected an open stdout for the results, found it closed; >/dev/null drops them")
    run: Callable[[argparse.Namespace], int] = options.run
    return run(options)


def _without_settings(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take `--dotted.key VALUE` out, whose value argparse would take for a FILE or TABLE."""
    others: list[str] = []
    settings: list[str] = []
    items = list(arguments)
    while items:
        item = items.pop(0)
        dotted = re.fullmatch(r"--[a-z_]+(?:\.[a-z_]+)+(=.*)?", item, re.DOTALL)
        (settings if dotted else others).append(item)
        if dotted and not dotted[1] and items:
            settings.append(items.pop(0))
    return others, settings


def _plainly(options: argparse.Namespace) -> dict[str, str]:
    """The settings that were typed; `--plain` is one of them."""
    found: dict[str, str] = options.overrides
    return found | {"train.fast": "false"} if options.plain else found


def _overrides(rest: Sequence[str], verb: Parser) -> dict[str, str]:
    """Read `--dotted.key VALUE` pairs."""
    overrides: dict[str, str] = {}
    items = list(rest)
    while items:
        flag, equals, value = items.pop(0).partition("=")
        if not flag.startswith("--"):
            verb.error(f"expected --key VALUE, found {flag!r}; {nearest(flag, verb.known())}")
        if flag[2:] not in _settings():
            verb.unknown(flag, _flags())
        if not equals and not items:
            verb.error(f"expected a value after {flag!r}, found none")
        overrides[flag[2:]] = value if equals else items.pop(0)
    return overrides


def _settings() -> list[str]:
    from wavfusion.experiments import experiment

    return experiment.settings()


def _flags() -> list[str]:
    return [f"--{name}" for name in _settings()]


# ---------------------------------------------------------------------- arguments


def _name(text: str) -> str:
    """The name of a file or folder; an empty one would mean the working folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a name, found ''")
    return text


def _path(text: str) -> Path:
    return Path(_name(text))


def _count(low: int, high: int | None = None) -> Callable[[str], int]:
    """A reader of whole numbers within a range."""

    def read(text: str) -> int:
        number = int(text) if text.strip().isdecimal() else -1
        if number < low or (high is not None and number > high):
            span = f"of {low} or more" if high is None else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"expected a whole number {span}, found {text!r}")
        return number

    return read


def _speakers(text: str) -> "Speakers":
    """Read a number of speakers, or `auto`."""
    from wavfusion.speech.segmentation import read_count

    try:
        return read_count(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("speakers: ")) from None


def _share(text: str) -> float:
    """Read a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, found {text!r}")
    return value


_seed = _count(0, (1 << 32) - 1)


def _one_of(*choices: str) -> dict[str, Any]:
    """What `add_argument` needs for a choice; its own refusal does not say the nearest."""

    def read(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"found {text!r}; {nearest(text, choices)}")
        return text

    return {"type": read, "metavar": "|".join(choices)}


def _parsers() -> tuple[Parser, dict[str, Parser]]:
    parser = Parser(
        prog="wavfusion", description="From a recording of people talking to the emotion of every utterance."
    )
    parser.add_argument("--version", action="version", version=__version__)
    group = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=Parser)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the trace of an error")
    compute = argparse.ArgumentParser(add_help=False)
    compute.add_argument(
        "--device", default="auto", metavar="auto|cpu|cuda|cuda:N", help="where to compute (default auto)"
    )
    compute.add_argument("--seed", type=_seed, help="of everything random (default 0, or the experiment's)")
    plain = argparse.ArgumentParser(add_help=False)
    plain.add_argument(
        "--plain", action="store_true", help="compute the plain way, without what is faster (docs/performance.md)"
    )
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print one JSON object")
    verbs: dict[str, Parser] = {}

    def verb(
        name: str, run: Callable[[argparse.Namespace], int], text: str, *parents: argparse.ArgumentParser
    ) -> Parser:
        inherited: list[Any] = [common, *parents]
        verbs[name] = group.add_parser(name, help=text, description=text, parents=inherited, allow_abbrev=False)
        verbs[name].set_defaults(run=run)
        return verbs[name]

    _add_demo(verb("demo", _demo, "the whole of it on a generated corpus, offline", compute, as_json))
    _add_prepare(verb("prepare", _prepare, "a corpus's raw folders to a manifest", as_json))
    _add_check(verb("check", _check, "whether a corpus is valid and what is tested was not met in training", as_json))
    _add_report(verb("report", _report, "a page about a trained RUN, several RUNs compared, or a corpus"))
    _add_extract(verb("extract", _extract, "frozen features of a manifest into a store", compute, plain, as_json))
    _add_train(verb("train", _train, "one model from stored features", compute, plain, as_json))
    _add_reproduce(
        verb("reproduce", _reproduce, "the paper's tables, or your own, with intervals", compute, plain, as_json)
    )
    _add_evaluate(verb("evaluate", _evaluate, "figures of a trained model on a corpus", compute, as_json))
    _add_predict(verb("predict", _predict, "the emotion of your own recordings", compute, plain))
    _add_serve(verb("serve", _serve, "a page and an HTTP API that label recordings", compute, plain))
    _add_embed(verb("embed", _embed, "your own recordings as vectors of utterances and of steps", compute, plain))
    _add_bundle(verb("bundle", _bundle, "results of a RUN that others can recompute, without its corpus", as_json))
    _add_export(verb("export", _export, "the trained model as an ONNX file, compared with torch", as_json))
    _add_push(verb("push", _push, "a RUN with its model card to a hub or into a folder", as_json))
    _add_bench(verb("bench", _bench, "speed and memory against the plain way, in one run", compute, as_json))
    _add_lookalike(verb("lookalike", _lookalike, "a generated corpus whose truth is known", as_json))
    return parser, verbs


def _add_demo(verb: Parser) -> None:
    verb.add_argument(
        "--out", type=_path, default=Path("runs/demo"), metavar="DIR", help="folder of the RUN (default runs/demo)"
    )
    verb.add_argument("--force", action="store_true", help="start afresh where DIR holds an earlier demo")
    verb.add_argument(
        "--clips", type=_count(6), default=1100, metavar="N", help="size of the generated corpus (default 1100)"
    )


def _add_prepare(verb: Parser) -> None:
    verb.add_argument("corpus", metavar="CORPUS", help="iemocap, meld, ravdess, cremad or table")
    verb.add_argument("root", metavar="ROOT", type=_path, help="its folder; for `table` also the table itself")
    verb.add_argument("--out", type=_path, required=True, metavar="DIR", help="where manifest.jsonl is written")
    verb.add_argument("--labels", metavar="SET", help="label set, for IEMOCAP six, six-dialoguernn, four or raw")
    verb.add_argument("--down-mix", default="mix", metavar="POLICY", help="mix, left, right or centre (default mix)")
    verb.add_argument(
        "--columns", default="", metavar="audio=wav_path,...", help="the columns of a table that are named otherwise"
    )
    verb.add_argument(
        "--no-scan", action="store_true", help="open no media: what cannot be read stays unknown until `extract`"
    )
    verb.add_argument("--force", action="store_true", help="overwrite a manifest")


def _add_check(verb: Parser) -> None:
    verb.add_argument("manifest", metavar="MANIFEST", type=_path)
    verb.add_argument(
        "--protocol", type=_name, metavar="NAME|FILE", help="a protocol or a CSV id,split (default: the corpus's own)"
    )
    verb.add_argument(
        "--against", type=_path, metavar="RUN", help="hold the manifest against what a RUN was trained on"
    )
    verb.add_argument("--root", type=_path, help="where the corpus lies now, if it was moved")


def _add_report(verb: Parser) -> None:
    verb.add_argument(
        "places", metavar="RUN_OR_MANIFEST", type=_path, nargs="+", help="RUN folders, or what `prepare` wrote"
    )
    place = "report.html in the RUN or by the manifest, compared.html in the first of several RUNs"
    verb.add_argument("--out", type=_path, metavar="FILE.html", help=f"the page (default {place})")
    verb.add_argument("--root", type=_path, help="where the corpus lies now, if it was moved")
    verb.add_argument("--force", action="store_true", help="overwrite that page")


def _add_extract(verb: Parser) -> None:
    verb.add_argument("manifest", metavar="MANIFEST", type=_path)
    verb.add_argument("--store", type=_path, required=True, metavar="DIR", help="the feature store, made where absent")
    verb.add_argument("--root", type=_path, help="where the corpus lies now, if it was moved")
    verb.add_argument(
        "--preset", type=_name, default="base", metavar="tiny|base|FILE", help="the three encoders (default base)"
    )
    verb.add_argument("--layers", default="9", metavar="9", help="audio layers to keep, such as 8,9,10 (default 9)")
    verb.add_argument(
        "--text-layers", default="last", **_one_of("last", "all"), help="of the text encoder (default last)"
    )
    verb.add_argument(
        "--view", default="frame", **_one_of("frame", "face"), help="encode all of a picture, or the speaker's face"
    )
    verb.add_argument(
        "--workers",
        type=_count(1),
        default=os.cpu_count() or 1,
        metavar="N",
        help="threads that decode, or processes (default: one a core)",
    )
    verb.add_argument(
        "--engine",
        default="threads",
        **_one_of("threads", "processes", "ray"),
        help="where they work: in this process, on this machine, or on a cluster (extra [ray]; default threads)",
    )


def _add_train(verb: Parser) -> None:
    verb.add_argument(
        "--config", type=_name, required=True, metavar="EXPERIMENT", help="a file, or `paper` or `recommended`"
    )
    verb.add_argument("--manifest", type=_path, required=True, metavar="M", help="what `prepare` wrote")
    verb.add_argument("--store", type=_path, required=True, metavar="S", help="what `extract` filled")
    verb.add_argument("--out", type=_path, required=True, metavar="RUN", help="folder of the trained model")
    verb.add_argument(
        "--protocol", type=_name, metavar="NAME|FILE", help="a protocol or a CSV id,split (default: the corpus's own)"
    )
    verb.add_argument("--fold", type=_count(1), default=1, metavar="K", help="which fold of the protocol (default 1)")
    verb.add_argument(
        "--select-on-test", action="store_true", help="let the test part choose the epoch; all output says so"
    )
    verb.add_argument("--resume", action="store_true", help="go on from the newest complete checkpoint")
    verb.add_argument("--force", action="store_true", help="remove an earlier RUN first")
    verb.epilog = "any setting of the experiment can follow as --dotted.key VALUE, such as --model.margin.weight 0.1"


def _add_reproduce(verb: Parser) -> None:
    verb.add_argument("tables", nargs="*", metavar="TABLE", help="1 to 6, or a file (default: all of the corpus)")
    verb.add_argument("--manifest", type=_path, required=True, metavar="M", help="what `prepare` wrote")
    verb.add_argument(
        "--store", type=_path, required=True, metavar="S", help="what `extract --layers 8,9,10,11,12` filled"
    )
    verb.add_argument("--out", type=_path, required=True, metavar="DIR", help="runs and results; goes on where it was")
    verb.add_argument(
        "--config", type=_name, default="paper", metavar="EXPERIMENT", help="what rows differ from (paper)"
    )
    verb.add_argument(
        "--protocol", type=_name, metavar="NAME|FILE", help="a protocol or a CSV id,split (default: the corpus's own)"
    )
    verb.add_argument("--folds", type=_folds, default=(), metavar="K,...", help="folds of the protocol (default all)")
    verb.add_argument(
        "--seeds", type=_count(1), default=3, metavar="N", help="trainings of each row and fold (default 3)"
    )
    verb.add_argument("--extra", action="store_true", help="also the rows that are not printed in the paper")
    verb.add_argument("--workers", type=_count(1), metavar="N", help="trainings at once (default: one a core)")
    verb.add_argument("--smoke", action="store_true", help="one epoch on a few utterances: does everything run?")
    verb.add_argument("--dry-run", action="store_true", help="list the trainings and what they will cost")
    verb.epilog = "any setting can follow for all rows as --dotted.key VALUE, such as --train.epochs 12"


def _folds(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers such as 1 or 1,3, found {text!r}") from None


def _add_evaluate(verb: Parser) -> None:
    verb.add_argument("trained", metavar="RUN_OR_BUNDLE", type=_path)
    verb.add_argument("--manifest", type=_path, metavar="M", help="another corpus, or the same one elsewhere")
    verb.add_argument("--store", type=_path, metavar="S", help="its features (default: those of the training)")
    verb.add_argument("--split", default="test", metavar="train|valid|test|all", help="the part (default test)")
    verb.add_argument(
        "--modalities", default=None, metavar="audio,text,video|all-subsets", help="default all the RUN's"
    )
    verb.add_argument("--map", default="", metavar="joy=happy,...", help="the corpus's emotions under the RUN's names")
    verb.add_argument(
        "--explain", action="store_true", help="also RUN/explain.json (or in --out): what the model's parts do"
    )
    verb.add_argument("--out", type=_path, metavar="DIR", help="default RUN/evaluate/")
    verb.add_argument("--force", action="store_true", help="overwrite results")


def _add_recordings(verb: Parser) -> None:
    verb.add_argument("trained", metavar="RUN", type=_name, help="a RUN folder or a hub id")
    verb.add_argument(
        "files", metavar="FILE", type=_name, nargs="+", help="audio or video of any length, or folders of them"
    )
    verb.add_argument(
        "--transcript",
        metavar="TEXT|FILE|DIR",
        help="what is said; with times: srt, vtt, TextGrid, eaf, rttm, json; a folder holds one for each FILE",
    )
    verb.add_argument(
        "--speakers", type=_speakers, metavar="N|auto", help="tell this many voices apart (default: not at all)"
    )
    _add_asr(verb)


def _add_asr(verb: Parser) -> None:
    verb.add_argument(
        "--asr",
        type=_name,
        metavar="MODEL",
        help="recognise the words where none are given: a folder or a name (small)",
    )


def _add_embed(verb: Parser) -> None:
    _add_recordings(verb)
    verb.add_argument(
        "--out", type=_path, required=True, metavar="FILE", help="a name that ends in .safetensors or .npz"
    )
    verb.add_argument("--force", action="store_true", help="overwrite that file")


def _add_predict(verb: Parser) -> None:
    _add_recordings(verb)
    formats = ("table", "json", "csv", "srt", "vtt", "textgrid", "eaf", "html")
    verb.add_argument("--format", **_one_of(*formats), help="default what --out ends in, else table")
    verb.add_argument(
        "--min-probability", type=_share, default=0.0, metavar="P", help="name no emotion that is less probable"
    )
    _add_runtime(verb)
    verb.add_argument(
        "--workers",
        type=_count(1),
        default=1,
        metavar="N",
        help="processes that label recordings side by side, each with its own model (default 1)",
    )
    verb.add_argument(
        "--engine",
        default="processes",
        **_one_of("processes", "ray"),
        help="where several work: on this machine, or on a cluster (extra [ray]; default processes)",
    )
    verb.add_argument(
        "--out",
        type=_path,
        metavar="FILE|DIR",
        help="a file instead of stdout; a name without an ending is a folder with a file for each FILE, resumable",
    )
    verb.add_argument("--force", action="store_true", help="overwrite what is there")


def _add_runtime(verb: Parser) -> None:
    verb.add_argument(
        "--runtime",
        default="torch",
        **_one_of("torch", "onnx"),
        help="onnx: RUN/model.onnx, by `export` (default torch)",
    )
    verb.add_argument(
        "--precision",
        default="fp32",
        **_one_of("fp32", "bf16", "auto"),
        help="bf16: faster on newer CPUs and GPUs, probabilities differ by some thousandths; auto: the faster of both, "
        "tried here at the beginning (default fp32)",
    )


def _add_serve(verb: Parser) -> None:
    verb.add_argument("trained", metavar="RUN", type=_name, help="a RUN folder or a hub id")
    verb.add_argument("--host", type=_name, default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    verb.add_argument("--port", type=_count(0, 65535), default=8000, help="0 = any that is free (default 8000)")
    verb.add_argument(
        "--names", default="", metavar="NAME,...", help="host names by which it is called, where it is not by address"
    )
    verb.add_argument("--token-file", type=_path, metavar="FILE", help="holds the token that requests have to bear")
    verb.add_argument("--keep", type=_path, metavar="DIR", help="keep recordings and results (default: nothing)")
    verb.add_argument("--max-megabytes", type=_count(1), default=1000, metavar="N", help="of an upload (default 1000)")
    verb.add_argument("--max-minutes", type=_count(1), default=120, metavar="N", help="of a recording (default 120)")
    verb.add_argument("--max-work", type=_count(1), default=60, metavar="N", help="minutes to label one (default 60)")
    verb.add_argument("--queue", type=_count(1), default=64, metavar="N", help="recordings that wait (default 64)")
    _add_asr(verb)
    _add_runtime(verb)


def _add_bundle(verb: Parser) -> None:
    verb.add_argument("trained", metavar="RUN", type=_path)
    verb.add_argument("--out", type=_path, required=True, metavar="FILE.zip")
    verb.add_argument(
        "--with-truth", action="store_true", help="with the labels, where the corpus lets them be passed on"
    )
    verb.add_argument("--force", action="store_true", help="overwrite that file")


def _add_export(verb: Parser) -> None:
    verb.add_argument("trained", metavar="RUN", type=_path)
    verb.add_argument("--out", type=_path, required=True, metavar="FILE.onnx", help="RUN/model.onnx serves `predict`")
    verb.add_argument("--force", action="store_true", help="overwrite that file")


def _add_push(verb: Parser) -> None:
    verb.add_argument("trained", metavar="RUN", type=_path)
    verb.add_argument("place", metavar="HUB_ID", type=_name, help="name/model, or ./FOLDER to look at it first")
    verb.add_argument("--public", action="store_true", help="let everybody read it (default: only you)")
    verb.add_argument("--force", action="store_true", help="write over a model that is there")


def _add_bench(verb: Parser) -> None:
    suites = _one_of("train", "extract", "predict", "all")
    verb.add_argument("--suite", default="all", **suites, help="what is timed (default all)")
    verb.add_argument(
        "--preset", default="base", **_one_of("tiny", "base"), help="whose sizes; the weights are random (default base)"
    )
    verb.add_argument(
        "--batch", type=_count(1, 1024), default=8, metavar="N", help="utterances in a training step (default 8)"
    )
    verb.add_argument(
        "--repeats", type=_count(1, 100), default=5, metavar="N", help="of every measurement, in turns (default 5)"
    )
    verb.add_argument("--growth", action="store_true", help="time and memory of ours over 1, 2, 4 and 8 times the data")


def _add_lookalike(verb: Parser) -> None:
    verb.add_argument("corpus", **_one_of("iemocap", "meld"), help="whose files and classes")
    verb.add_argument("--out", type=_path, required=True, metavar="DIR", help="an empty or absent folder")
    size = verb.add_mutually_exclusive_group()
    size.add_argument("--clips", type=_count(6), metavar="N", help="of all parts together (default 1100: 800,100,200)")
    size.add_argument("--parts", metavar="TRAIN,VALID,TEST", help="clips of each part")
    verb.add_argument("--speakers", type=_count(3), metavar="N", help="of all parts together (default 30)")
    verb.add_argument("--null", action="store_true", help="the matched null: the flags tell nothing")
    verb.add_argument("--micro", action="store_true", help="expressions show for two pictures only, at a random time")
    verb.add_argument(
        "--faults", action="store_true", help="with the corpus's known defects (default 48 clips of 10 speakers)"
    )
    verb.add_argument(
        "--priors",
        default="true",
        **_one_of("true", "sqrt"),
        help="of the classes: the corpus's or their roots (default true)",
    )
    verb.add_argument("--seed", type=_seed, default=0, help="of every draw (default 0)")
    verb.add_argument("--force", action="store_true", help="remove an earlier tree first")


# ---------------------------------------------------------------------- verbs


def _demo(options: argparse.Namespace) -> int:
    from wavfusion.cli import demo
    from wavfusion.evaluation.inference import pick_device

    summary = demo.run_demo(options.out, options.clips, options.seed or 0, pick_device(options.device), options.force)
    page = f"page: {options.out / 'report.html'}"
    _print(json.dumps(summary, indent=2) if options.json else f"{demo.demo_to_text(summary)}\n{page}")
    return DONE


def _prepare(options: argparse.Namespace) -> int:
    from wavfusion import corpora
    from wavfusion.files import require_free

    require_free([options.out / "manifest.jsonl"], options.force)
    prepared = corpora.prepare(
        options.corpus,
        options.root,
        options.labels,
        options.down_mix,
        columns=_pairs("--columns", "audio=wav_path,...", "field", options.columns),
        scan=None if options.no_scan else options.out / "media.jsonl",
        progress=sys.stderr.isatty(),
    )
    counts = corpora.write_prepared(prepared, options.out)
    result: dict[str, Any] = {
        "rows": len(prepared.utterances),
        "excluded": len(prepared.excluded),
        "stripped": len(prepared.stripped),
        "counts": counts,
        "differences": prepared.differences,
    }
    if options.json:
        _print(json.dumps(result, indent=2, ensure_ascii=False))
        return DONE
    lines = [
        f"{result['rows']} rows, {result['excluded']} excluded, {result['stripped']} without a modality: {options.out}"
    ]
    for split, numbers in counts.items():
        lines.append(f"{split:>6}  " + "  ".join(f"{name} {count}" for name, count in sorted(numbers.items())))
    _print("\n".join(lines + [f"differs: {line}" for line in prepared.differences]))
    return DONE


def _check(options: argparse.Namespace) -> int:
    from wavfusion import manifest
    from wavfusion.evaluation import check

    utterances, corpus = manifest.read(options.manifest), manifest.read_corpus(options.manifest)
    root = options.root or Path(corpus.root)
    if options.root and not root.is_dir():
        raise CorpusError(f"--root: expected the corpus's folder, found none at {str(root)!r}")
    if options.against:
        from wavfusion.runs.folder import read_run

        if options.protocol:
            raise ConfigError("check: expected --protocol or --against (a RUN has its own division), found both")
        found = check.check_against(read_run(options.against), utterances, root)
    else:
        from wavfusion.corpora.protocol import divide_parts

        unsplit = options.protocol is None and not any(row.split for row in utterances) and corpus.corpus == "table"
        folds = [] if unsplit or not corpus.classes else divide_parts(options.protocol, utterances, corpus.classes)
        found = check.check(utterances, corpus, _looks(options.manifest, root, utterances), root, folds)
    if options.json:
        problems = [each._asdict() for each in found.problems]
        _print(json.dumps({"problems": problems, "notes": found.notes}, indent=2, ensure_ascii=False))
    else:
        _print("\n".join([*check.to_lines(found), f"{len(utterances)} rows, {len(found.problems)} problems"]))
    return PARTLY if found.problems else DONE


def _report(options: argparse.Namespace) -> int:
    from wavfusion.files import require_free

    first = options.places[0]
    runs = [place for place in options.places if place.is_dir() and not (place / "manifest.jsonl").is_file()]
    if len(options.places) > 1 and len(runs) < len(options.places):
        other = next(place for place in options.places if place not in runs)
        raise ConfigError(f"report: expected one manifest or only RUN folders, found {str(other)!r} among others")
    if options.root and not options.root.is_dir():
        raise CorpusError(f"--root: expected the folder of the corpus, found none at {str(options.root)!r}")
    name = "report.html" if len(options.places) == 1 else "compared.html"
    out = options.out or (first / name if runs else first.with_name(name))
    require_free([out], options.force)
    if runs:
        from wavfusion.report.runs import write_run_page

        write_run_page(runs, out, options.root)
    else:
        from wavfusion import manifest
        from wavfusion.report.corpus import write_corpus_page

        rows, corpus = manifest.read(first), manifest.read_corpus(first)
        write_corpus_page(first, out, _looks(first, options.root or Path(corpus.root), rows))
    _print(str(out))
    return DONE


def _looks(path: Path, root: Path, rows: Sequence["Utterance"]) -> Mapping[str, "MediaFacts"]:
    """Open the files that rows name, or take what the scan of `prepare` noted beside the manifest."""
    from wavfusion.corpora.scan import Scan

    paths = (span.path for row in rows for span in (row.audio, row.video) if span)
    return Scan(root, path.with_name("media.jsonl"), sys.stderr.isatty()).probe(paths)


def _extract(options: argparse.Namespace) -> int:
    from wavfusion import encoders, manifest
    from wavfusion.evaluation.inference import pick_device
    from wavfusion.features import extract
    from wavfusion.features.store import Store
    from wavfusion.files import require_writable

    utterances, corpus = manifest.read(options.manifest), manifest.read_corpus(options.manifest)
    _require_media(utterances, Path(corpus.root), options.root, options.store)
    require_writable(options.store)
    layers, device = _layers(options.layers), pick_device(options.device)
    preset = encoders.read_preset(options.preset)
    needed = [name for name in encoders.MODALITIES if any(getattr(row, name) is not None for row in utterances)]
    loaded = extract.load_encoders(Path(options.preset).stem, preset, needed, options.view).to(device)
    summary = extract.extract(
        utterances,
        corpus,
        Store(options.store, create=True),
        loaded,
        root=options.root,
        audio_layers=layers,
        text_layers=options.text_layers,
        workers=options.workers,
        fast=not options.plain,
        progress=sys.stderr.isatty(),
        engine=options.engine,
    )
    for name, modality, reason in summary.bad[:SAID]:
        log.error("%s", _line(f"{name}: no {modality} features: {reason}"))
    if len(summary.bad) > SAID:
        log.error("... and %d more; failures.jsonl in the store has all", len(summary.bad) - SAID)
    if summary.bad_packets:
        log.warning(
            "%d damaged packets passed over in %s", sum(summary.bad_packets.values()), _some(list(summary.bad_packets))
        )
    result: dict[str, Any] = {"features": summary.wanted}
    result |= {name: getattr(summary, name) for name in ("made", "absent", "bad")}
    made = ", ".join(f"{count} {name}" for name, count in summary.made.items())
    text = f"{summary.wanted} features; made now: {made}; {summary.absent} absent tracks, {len(summary.bad)} bad"
    if options.view == "face":
        result["faces"] = _faces(summary.faces)
        text += f"; a face in {result['faces']['share']:.1%} of the pictures"
    _print(json.dumps(result, indent=2, ensure_ascii=False) if options.json else text)
    return PARTLY if summary.bad else DONE


def _faces(found: Sequence[tuple[str, float, float]]) -> dict[str, Any]:
    """In how much of the pictures the speaker's face was found; says where the whole picture was taken instead."""
    from wavfusion.media.faces import LEAST

    whole = [name for name, _, share in found if share < LEAST]
    if whole:
        names = _line(_some(list(dict.fromkeys(whole))))
        log.warning("%d of %d windows are encoded whole, for want of a face: %s", len(whole), len(found), names)
    seconds = sum(length for _, length, _ in found)
    share = sum(length * part for _, length, part in found) / seconds if seconds else 0.0
    return {"share": round(share, 4), "windows": len(found), "whole": whole}


def _train(options: argparse.Namespace) -> int:
    from wavfusion.experiments import experiment

    overrides = _plainly(options) | ({"seed": str(options.seed)} if options.seed is not None else {})
    setting = experiment.read_experiment(options.config, overrides)
    from wavfusion.evaluation.inference import pick_device
    from wavfusion.files import require_writable
    from wavfusion.training import train

    selected_on = "test" if options.select_on_test else "valid"
    data = train.read_data(options.manifest, options.store, options.protocol, options.fold, selected_on)
    require_writable(options.out)
    device = pick_device(options.device)
    result = train.train(setting, data, options.out, device, resume=options.resume, force=options.force)
    if not result:
        return DONE  # another process of this training tells
    _print(json.dumps(result, indent=2) if options.json else _figures(result, str(options.out)))
    return DONE


def _reproduce(options: argparse.Namespace) -> int:
    from wavfusion import manifest
    from wavfusion.evaluation.inference import pick_device
    from wavfusion.files import require_writable
    from wavfusion.study import reproduce, tables, trainings

    corpus = manifest.read_corpus(options.manifest).corpus
    shipped = [each for each in map(tables.read_table_file, tables.shipped_tables()) if each.corpus == corpus]
    chosen = [tables.read_table_file(name) for name in options.tables] or shipped
    if not chosen:
        raise ConfigError(f"reproduce: no shipped table is of corpus {corpus!r}; name a file of your own")
    asked = trainings.Study(
        **{name: getattr(options, name) for name in ("manifest", "store", "protocol", "folds", "seeds")},
        **{name: getattr(options, name) for name in ("extra", "smoke")},
        first_seed=options.seed or 0,
        base=options.config,
        common=_plainly(options),
    )
    planned = trainings.plan_trainings(asked, chosen, options.out)
    jobs, device = list(planned.jobs.values()), pick_device(options.device)
    workers = options.workers or os.cpu_count() or 1
    if options.dry_run:
        costs = trainings.estimate(asked, jobs, workers, device)
        _print(json.dumps(costs, indent=2) if options.json else trainings.to_costs(planned, costs, workers))
        return DONE
    require_writable(options.out)
    name = reproduce.stem([table.name for table in chosen] if options.tables else [], options.smoke)
    for place in (options.out / f"{name}.{ending}" for ending in ("json", "csv", "html")):
        if place.is_dir():
            raise ConfigError(f"{place}: expected a place for a file, found a folder")
    failed = trainings.run_trainings(asked, jobs, workers, device, sys.stderr.isatty())
    found = reproduce.results(planned, chosen, failed)
    controls = {} if failed else reproduce.score_controls(asked, planned)
    every = reproduce.write_results_folder(options.out, name, asked, planned, found, controls, failed)
    page = f"page: {options.out / name}.html"
    _print(
        json.dumps(every, indent=2, ensure_ascii=False)
        if options.json
        else f"{reproduce.results_to_text(every)}\n{page}"
    )
    return PARTLY if failed else DONE


def _evaluate(options: argparse.Namespace) -> int:
    if options.trained.is_file():
        return _evaluate_bundle(options)
    from wavfusion.evaluation import evaluate
    from wavfusion.evaluation.explain import warn_of_untrained_subsets
    from wavfusion.evaluation.inference import parse_subset, pick_device, subsets
    from wavfusion.files import require_free
    from wavfusion.runs.folder import read_run, write_json

    trained = read_run(options.trained)
    out = options.out or options.trained / "evaluate"
    explained = (options.out or options.trained) / "explain.json"
    wanted = [out / "metrics.json", out / "predictions.csv", *([explained] if options.explain else [])]
    require_free(wanted, options.force)
    own = trained.model.config.modalities
    every = options.modalities in (None, "all-subsets")
    sets = (
        subsets(own)
        if options.modalities == "all-subsets"
        else [own if every else parse_subset(options.modalities, own)]
    )
    if options.explain or len(sets) > 1:
        warn_of_untrained_subsets(trained.model.config)
    renamed = _pairs("--map", "joy=happy,...", "emotion of the corpus", options.map)
    device = pick_device(options.device)
    part, store, media = evaluate.open_part(trained, options.manifest, options.store, options.split, renamed)
    result, said = evaluate.evaluate(trained, part.utterances, store, media, sets, device)
    result |= {"split": options.split, "left_out": {"unknown": part.unknown, "unlabelled": part.unlabelled}}
    result |= {} if part.met else {"protocol": evaluate.elsewhere(trained)}
    evaluate.write_results(out, result, said, part.utterances, trained.classes)
    if options.explain:
        found = evaluate.explain(trained, part.utterances, store, media, part.training, device)
        write_json(explained, {"split": options.split, "protocol": trained.protocol, **found})
    for emotion, count in part.unknown.items():
        log.warning("%d rows left out: the model does not know %r", count, emotion)
    _print(json.dumps(result, indent=2) if options.json else _figures(result, str(out)))
    return DONE


def _evaluate_bundle(options: argparse.Namespace) -> int:
    from wavfusion.files import require_free, write_whole
    from wavfusion.runs import bundle
    from wavfusion.runs.folder import json_bytes

    if options.store or options.modalities or options.map or options.explain or options.split != "test":
        raise ConfigError("expected only --manifest, --out and --json with a bundle, found a flag of a RUN")
    outs = [options.out / name for name in ("metrics.json", "predictions.csv")] if options.out else []
    require_free(outs, options.force)
    result, labelled, differences = bundle.recompute(bundle.read_bundle(options.trained), options.manifest)
    made_by = labelled.environment["wavfusion"]
    if differences and made_by != __version__:
        log.warning("made by version %r, here is %s: intervals may be other ones", made_by, __version__)
    for out, content in zip(outs, (json_bytes(result), bundle.predictions_to_csv(labelled.rows)), strict=False):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, content)
    if options.json:
        _print(json.dumps(result | {"differences": differences}, indent=2))
    else:
        said = [_line(f"differs: {line}") for line in differences[:SAID]] or [
            "all of these figures are those that it states"
        ]
        if len(differences) > SAID:
            said.append(f"... and {len(differences) - SAID} more")
        _print("\n".join([_figures(result, str(options.trained)), *said]))
    if labelled.truth is None:
        log.warning("without labels: no interval, nll and ece; --manifest M of the corpus brings them")
    return PARTLY if differences or labelled.truth is None else DONE


def _bundle(options: argparse.Namespace) -> int:
    from wavfusion.files import require_free, write_whole
    from wavfusion.runs import bundle

    require_free([options.out], options.force)
    content, truth = bundle.make_bundle(options.trained, options.with_truth)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(options.out, content)
    labels = "with the labels" if truth else "without the labels: `evaluate` takes them from --manifest"
    summary = {"out": str(options.out), "bytes": len(content), "truth": truth}
    _print(json.dumps(summary, indent=2) if options.json else f"{options.out}: {len(content)} bytes, {labels}")
    return DONE


def _export(options: argparse.Namespace) -> int:
    from wavfusion.files import require_free, write_whole
    from wavfusion.prediction import export

    if options.out.suffix != ".onnx":
        raise ConfigError(f"--out: expected a name that ends in .onnx, found {str(options.out)!r}")
    require_free([options.out], options.force)
    content, difference = export.export_run(options.trained)
    if not difference <= export.TOLERANCE:
        log.error("%s: not written, since onnxruntime differs from torch by %.1e", options.out, difference)
        return PARTLY
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(options.out, content)
    summary = {"out": str(options.out), "bytes": len(content), "difference": difference}
    line = f"{options.out}: {len(content)} bytes, at most {difference:.1e} from torch's logits and text share"
    _print(json.dumps(summary, indent=2) if options.json else line)
    return DONE


def _push(options: argparse.Namespace) -> int:
    from wavfusion.runs import hub

    place = hub.push(options.trained, options.place, options.public, options.force)
    _print(json.dumps({"place": place}, indent=2) if options.json else place)
    return DONE


def _predict(options: argparse.Namespace) -> int:
    from wavfusion.evaluation.inference import pick_device
    from wavfusion.files import require_free
    from wavfusion.prediction import recognizer as predict
    from wavfusion.prediction import recordings, timeline

    bad: list[str] = []
    files, out = recordings.find_recordings(options.files, bad), options.out
    ended = [kind for kind in timeline.FORMATS if out and out.suffix == f".{timeline.ending(kind)}"]
    options.format = options.format or (ended or ["table"])[0]
    folder = out if out and (out.is_dir() or not out.suffix) else None
    if folder is None and options.format in timeline.SINGLE and len(files) > 1:
        wish = f"one FILE, which it describes, or --out with a folder for {len(files)} of them"
        raise ConfigError(f"--format {options.format}: expected {wish}, found {out or 'no --out'}")
    if out and folder is None:
        require_free([out], options.force)
    named = recordings.plan_recordings(files, options.transcript, folder, timeline.ending(options.format))
    if not (planned := recordings.there(named, bad)):
        return _end(bad, False)
    settings = {"name": options.trained, "device": pick_device(options.device), "fast": not options.plain}
    settings |= {name: getattr(options, name) for name in ("runtime", "precision", "asr")}
    how = {"speakers": options.speakers, "contributions": options.format in timeline.EXPLAINED}
    if options.precision == "auto" and folder is not None and not options.force:
        before = recordings.noted(folder).get("precision")  # measured again it could come out otherwise
        settings["precision"] = before if before in predict.CHOICES else "auto"
    several = options.workers > 1 or options.engine != "processes"
    if several and settings["precision"] != "auto":
        trained = predict.find_run(options.trained)
    else:
        recognizer = predict.EmotionRecognizer.from_pretrained(**settings)
        trained, settings["precision"] = recognizer.trained, recognizer.precision
    if several:
        build = partial(_labeller, settings, how)
        run = recordings.side_by_side(build, options.workers, options.engine, settings["device"])
    else:
        run = recordings.in_turn(partial(_label, recognizer, how))

    def write(found: recordings.Labelled[predict.Prediction], place: Path) -> bytes:
        rows = timeline.abstained(found.rows, options.min_probability)
        return timeline.write_predictions(options.format, rows, trained.classes, place, found.warnings)

    if folder is not None:
        names = ("transcript", "asr", "speakers", "format", "min_probability", "runtime")
        shared = {"weights": trained.weights_digest, **{name: getattr(options, name) for name in names}}
        shared["precision"] = settings["precision"]
        recordings.begin(folder, shared, options.force)
    labelled = recordings.label(planned, run, bad, write, options.force, sys.stderr.isatty())
    # What is written is not kept.
    found = [each if folder is None else replace(each, rows=[max(each.rows, key=_richness)]) for each in labelled]
    order = {each.file: number for number, each in enumerate(planned)}
    found.sort(key=lambda each: order[each.rows[0].file])  # several workers end as they like
    with CollectedWarnings() as lacks:
        _warn_of_lacks(trained.model.config.modalities, [each.rows for each in found])
    if found and folder is None:
        warnings = [line for each in found for line in each.warnings]
        _show(recordings.Labelled([row for each in found for row in each.rows], warnings + lacks.said), write, options)
    elif found:
        _print(f"{folder}: results of {len(found)} recordings")
    return _end(bad, bool(found) or any(each.out is not None and each.out.exists() for each in planned))


def _labeller(
    settings: Mapping[str, Any], how: Mapping[str, Any]
) -> "Callable[[recordings.Recording], list[predict.Prediction]]":
    """Load a model in a process of several, and return what labels a recording with it."""
    from wavfusion.prediction import recognizer as predict

    return partial(_label, predict.EmotionRecognizer.from_pretrained(**settings), how)


def _label(
    recognizer: "predict.EmotionRecognizer", how: Mapping[str, Any], each: "recordings.Recording"
) -> "list[predict.Prediction]":
    return recognizer.predict(each.file, each.words, segments=each.segments, **how)


def _serve(options: argparse.Namespace) -> int:
    try:
        from wavfusion.serve import app
    except ModuleNotFoundError as error:
        wish = "expected the extra [serve]: pip install 'wavfusion[serve]'"
        raise ConfigError(f"serve: {wish}; found no {error.name}") from None
    from wavfusion.evaluation.inference import pick_device
    from wavfusion.files import require_writable
    from wavfusion.serve.jobs import Limits

    token = options.token_file and options.token_file.read_text(encoding="utf-8-sig", errors="replace").strip()
    if options.token_file and not re.fullmatch(r"[!-~]+( [!-~]+)*", token):
        found = "nothing" if not token else "letters that no header can bear"
        raise ConfigError(f"--token-file {options.token_file}: expected a token, found {found}")
    if options.keep:
        require_writable(options.keep)
        options.keep.mkdir(parents=True, exist_ok=True)
    settings = {"name": options.trained, "device": pick_device(options.device), "fast": not options.plain}
    settings |= {name: getattr(options, name) for name in ("runtime", "precision", "asr")}
    limits = Limits(options.max_megabytes, options.max_minutes, options.max_work, options.queue)
    names = frozenset(name.strip().lower() for name in options.names.split(",") if name.strip())
    app.serve(settings, options.host, options.port, limits, names, token or None, options.keep)
    return DONE


def _show(
    found: "recordings.Labelled[predict.Prediction]",
    write: "Callable[[recordings.Labelled[predict.Prediction], Path], bytes]",
    options: argparse.Namespace,
) -> None:
    """Write predictions into one file, or to a terminal as wide as it is and in its colours."""
    from wavfusion.files import write_whole
    from wavfusion.prediction import timeline

    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(options.out, write(found, options.out.parent))
    elif options.format == "table" and sys.stdout.isatty():
        shown = timeline.abstained(found.rows, options.min_probability)
        width, colour = shutil.get_terminal_size().columns, "NO_COLOR" not in os.environ
        _print(timeline.to_table(shown, width, colour).rstrip("\n"))
    else:
        _print(write(found, Path()).decode("utf-8", "surrogateescape").rstrip("\n"))


def _end(bad: Sequence[str], some: bool) -> int:
    """Name what could not be used, at the end of all."""
    for message in bad:
        sys.stderr.write(f"wavfusion: {_line(message)}\n")
    return DONE if not bad else PARTLY if some else BAD_INPUT


def _embed(options: argparse.Namespace) -> int:
    from wavfusion.evaluation.inference import pick_device
    from wavfusion.files import require_free, write_whole
    from wavfusion.prediction import recognizer as predict
    from wavfusion.prediction import recordings, vectors

    vectors.require_ending(options.out)
    require_free([options.out], options.force)
    bad: list[str] = []
    named = recordings.plan_recordings(recordings.find_recordings(options.files, bad), options.transcript, None, "")
    if not (planned := recordings.there(named, bad)):
        return _end(bad, False)
    device, fast = pick_device(options.device), not options.plain
    recognizer = predict.EmotionRecognizer.from_pretrained(options.trained, device, fast=fast, asr=options.asr)

    def work(each: recordings.Recording) -> list[vectors.Embedding]:
        return vectors.embed(recognizer, each.file, each.words, each.segments, options.speakers)

    embedded = [
        each.rows for each in recordings.label(planned, recordings.in_turn(work), bad, progress=sys.stderr.isatty())
    ]
    _warn_of_lacks(recognizer.modalities, embedded)
    if found := [each for rows in embedded for each in rows]:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(options.out, vectors.write_vectors(found, options.out.suffix))
        frames = sum(len(each.frames) for each in found)
        _print(f"{options.out}: {len(found)} utterances, {frames} frames, {len(found[0].vector)} numbers each")
    return _end(bad, bool(found))


def _richness(prediction: Any) -> int:
    return len(prediction.modalities)


def _warn_of_lacks(modalities: Sequence[str], found: Sequence[Sequence[Any]]) -> None:
    """Say which recordings lack a modality of the model."""
    for name in [each for each in modalities if each != "text"]:
        without = [rows[0].file for rows in found if not any(name in each.modalities for each in rows)]
        if without:
            log.warning("%d of %d files without %s: %s", len(without), len(found), name, _line(_some(without)))


def _lookalike(options: argparse.Namespace) -> int:
    from wavfusion import lookalike
    from wavfusion.files import require_free

    require_free([options.out / "world.json"], options.force)
    world = lookalike.make_lookalike(
        options.corpus,
        options.out,
        clips=options.clips,
        speakers=options.speakers,
        null=options.null,
        micro=options.micro,
        priors=options.priors,
        parts=_parts(options.parts),
        seed=options.seed,
        force=options.force,
        faults=options.faults,
    )
    _print(json.dumps(world, indent=2) if options.json else _world(world, options.out))
    return DONE


def _bench(options: argparse.Namespace) -> int:
    from wavfusion.bench import suites as bench
    from wavfusion.evaluation.inference import pick_device

    settings = (options.preset, options.batch, options.repeats, pick_device(options.device), options.seed or 0)
    measure = bench.measure_growth if options.growth else bench.run_suites
    found = measure(options.suite, *settings, told=lambda line: log.info("bench: %s", line))
    _print(json.dumps(found, indent=2) if options.json else bench.measurements_to_text(found))
    return DONE


# ---------------------------------------------------------------------- small readers and writers


def _line(message: str) -> str:
    """One line that any terminal can show, whatever a file is called."""
    shown = re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", " ".join(message.split()))
    return shown.encode("utf-8", "backslashreplace").decode()


def _print(text: str) -> None:
    # Names of files may hold bytes that are no text; escaped like this they are valid JSON too.
    sys.stdout.buffer.write((text + "\n").encode("utf-8", "backslashreplace"))
    sys.stdout.buffer.flush()


def _figures(result: dict[str, Any], where: str) -> str:
    from wavfusion.corpora.protocol import describe_protocol

    lines = [f"{where}: {result['n']} utterances; protocol {_line(describe_protocol(result['protocol']))}"]
    lines += [
        _line(f"CONTAMINATED: the {name} encoder {result['encoders'][name]['name']} was trained on this corpus")
        for name in result["contaminated"]
    ]
    for name, figures in (result["subsets"] or {"+".join(result["modalities"]): result}).items():
        bounds = figures["interval"] and figures["interval"]["accuracy"]["this_test_set"]
        between = f" [{bounds[0]:.4f}, {bounds[1]:.4f}]" if bounds else ""
        lines.append(
            f"{name:>16}  accuracy {figures['accuracy']:.4f}{between}  "
            f"weighted F1 {figures['weighted_f1']:.4f}  macro F1 {figures['macro_f1']:.4f}  UAR {figures['uar']:.4f}"
        )
    return "\n".join(lines)


def _world(world: dict[str, Any], out: Path) -> str:
    """What was generated, and the best that any method can reach in it."""
    parts = [f"{part} {count} clips of {world['speakers'][part]} speakers" for part, count in world["clips"].items()]
    best = world["bayes"]["speaker_independent"]
    lines = [f"{out}: {', '.join(parts)}", "best possible accuracy on new speakers:"]
    return "\n".join(
        lines + [f"{name:>16}  {share:.3f}" for name, share in {"majority": world["majority"], **best}.items()]
    )


def _some(names: Sequence[str]) -> str:
    """The first three of many names."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _require_media(utterances: Sequence[Any], root: Path, given: Path | None, store: Path) -> None:
    """Refuse a root below which none of the corpus's files lie; else every row would be listed as bad."""
    paths = list(dict.fromkeys(span.path for row in utterances for span in (row.audio, row.video) if span))
    root = given or root
    if not root.is_dir() and (given or (paths and not (store / "media.jsonl").exists())):
        raise CorpusError(f"--root: expected the folder of the corpus, found none at {str(root)!r}")
    if root.is_dir() and paths and not any((root / path).exists() for path in paths):
        found = f"none of its {len(paths)} files ({_some(paths)})"
        raise CorpusError(f"--root: expected the folder of the corpus, found {found} below {str(root)!r}")


def _layers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--layers: expected numbers such as 9 or 8,9,10, found {text!r}") from None


def _parts(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    try:
        train, valid, test = (int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--parts: expected three numbers such as 800,100,200, found {text!r}") from None
    return train, valid, test


def _pairs(flag: str, example: str, left: str, text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",") if part]
    for old, equals, new in pairs:
        if not (old and equals and new):
            raise ConfigError(f"{flag}: expected {example}, found {text!r}")
    found = {old: new for old, _, new in pairs}
    if len(found) < len(pairs):
        raise ConfigError(f"{flag}: expected each {left} once, found {text!r}")
    return found


if __name__ == "__main__":
    sys.exit(main())
