"""The verbs of the command line; each imports what it needs when it is called."""

import argparse
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import wavfusion
from wavfusion.errors import ConfigError, CorpusError, MediaError, nearest

log = logging.getLogger("wavfusion")

DONE, PARTLY, BAD_INPUT = 0, 1, 2


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are one line that names the nearest choice."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing a usage."""
        raise ConfigError(f"{self.prog}: {message} (see {self.prog} --help)")

    def known(self) -> list[str]:
        """All flags."""
        return [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr, force=True)
    # Threads that spin at barriers take the cores from whatever else runs: six times slower on a loaded machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it sets its own level when it is imported
    for noisy in ("httpx", "httpx2", "huggingface_hub", "transformers", "accelerate"):
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
        sys.stderr.write(f"wavfusion: {error.filename or ''}: {error.strerror or error}\n")
        return BAD_INPUT


def _run(arguments: list[str]) -> int:
    parser, verbs = _parsers()
    if arguments and not arguments[0].startswith("-") and arguments[0] not in verbs:
        raise ConfigError(f"expected a verb, found {arguments[0]!r}; {nearest(arguments[0], verbs)}")
    options, rest = parser.parse_known_args(arguments)
    if options.verb is None:
        parser.print_help()
        return DONE
    verb = verbs[options.verb]
    if (getattr(options, "seed", None) or 0) not in range(1 << 32):
        raise ConfigError(f"{verb.prog}: --seed: expected 0 to {(1 << 32) - 1}, found {options.seed}")
    if options.verb == "train":
        options.overrides = _overrides(rest, verb)
    elif rest:
        raise ConfigError(f"{verb.prog}: {rest[0]!r} is not known; {nearest(rest[0], verb.known())}")
    run: Callable[[argparse.Namespace], int] = options.run
    return run(options)


def _overrides(rest: Sequence[str], verb: Parser) -> dict[str, str]:
    """Read `--dotted.key VALUE` pairs."""
    overrides: dict[str, str] = {}
    items = list(rest)
    while items:
        flag, equals, value = items.pop(0).partition("=")
        if not flag.startswith("--"):
            raise ConfigError(f"{verb.prog}: expected --key VALUE, found {flag!r}; {nearest(flag, verb.known())}")
        if flag[2:] not in _settings():
            raise ConfigError(f"{verb.prog}: {flag!r} is not known; {nearest(flag, verb.known() + _flags())}")
        if not equals and not items:
            raise ConfigError(f"{verb.prog}: expected a value after {flag!r}, found none")
        overrides[flag[2:]] = value if equals else items.pop(0)
    return overrides


def _settings() -> list[str]:
    from wavfusion import experiment

    return experiment.settings()


def _flags() -> list[str]:
    return [f"--{name}" for name in _settings()]


# ---------------------------------------------------------------------- arguments


def _parsers() -> tuple[Parser, dict[str, Parser]]:
    parser = Parser(
        prog="wavfusion", description="From a recording of people talking to the emotion of every utterance."
    )
    parser.add_argument("--version", action="version", version=wavfusion.__version__)
    group = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=Parser)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the trace of an error")
    compute = argparse.ArgumentParser(add_help=False)
    compute.add_argument(
        "--device", default="auto", metavar="auto|cpu|cuda|cuda:N", help="where to compute (default auto)"
    )
    compute.add_argument("--seed", type=int, help="of everything random")
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
    _add_extract(verb("extract", _extract, "frozen features of a manifest into a store", compute, as_json))
    _add_train(verb("train", _train, "one model from stored features", compute, as_json))
    _add_evaluate(verb("evaluate", _evaluate, "figures of a trained model on a corpus", compute, as_json))
    _add_predict(verb("predict", _predict, "the emotion of your own recordings", compute))
    _add_lookalike(verb("lookalike", _lookalike, "a generated corpus whose truth is known", as_json))
    return parser, verbs


def _add_demo(verb: Parser) -> None:
    verb.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the RUN (default runs/demo)")
    verb.add_argument("--force", action="store_true", help="start afresh where DIR holds an earlier demo")
    verb.add_argument("--clips", type=int, default=1100, help="size of the generated corpus (default 1100)")


def _add_prepare(verb: Parser) -> None:
    verb.add_argument("corpus", metavar="CORPUS", help="iemocap, meld, ravdess or table")
    verb.add_argument("root", metavar="ROOT", type=Path, help="its folder; for `table` also the table itself")
    verb.add_argument("--out", type=Path, required=True, metavar="DIR", help="where manifest.jsonl is written")
    verb.add_argument("--labels", metavar="SET", help="label set, for IEMOCAP six, six-dialoguernn, four or raw")
    verb.add_argument("--down-mix", default="mix", metavar="POLICY", help="mix, left, right or centre (default mix)")
    verb.add_argument("--force", action="store_true", help="overwrite a manifest")


def _add_extract(verb: Parser) -> None:
    verb.add_argument("manifest", metavar="MANIFEST", type=Path)
    verb.add_argument("--store", type=Path, required=True, metavar="DIR", help="the feature store, made where absent")
    verb.add_argument("--root", type=Path, help="where the corpus lies now, if it was moved")
    verb.add_argument("--preset", default="base", metavar="tiny|base|FILE", help="the three encoders (default base)")
    verb.add_argument("--layers", default="9", metavar="9", help="audio layers to keep, such as 8,9,10 (default 9)")
    verb.add_argument(
        "--text-layers", default="last", choices=["last", "all"], help="of the text encoder (default last)"
    )
    verb.add_argument("--view", default="frame", choices=["frame"], help="what of the picture is encoded")
    verb.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="threads that decode (default: one a core)"
    )


def _add_train(verb: Parser) -> None:
    verb.add_argument("--config", required=True, metavar="EXPERIMENT", help="a file, or `paper` or `recommended`")
    verb.add_argument("--manifest", type=Path, required=True, metavar="M")
    verb.add_argument("--store", type=Path, required=True, metavar="S")
    verb.add_argument("--out", type=Path, required=True, metavar="RUN")
    verb.add_argument(
        "--protocol", metavar="NAME|FILE", help="a protocol or a CSV id,split (default: the corpus's own)"
    )
    verb.add_argument("--fold", type=int, default=1, metavar="K", help="which fold of the protocol (default 1)")
    verb.add_argument(
        "--select-on-test", action="store_true", help="let the test part choose the epoch; all output says so"
    )
    verb.add_argument("--resume", action="store_true", help="go on from the newest complete checkpoint")
    verb.add_argument("--force", action="store_true", help="remove an earlier RUN first")
    verb.epilog = "any setting of the experiment can follow as --dotted.key VALUE, such as --model.margin.weight 0.1"


def _add_evaluate(verb: Parser) -> None:
    verb.add_argument("trained", metavar="RUN", type=Path)
    verb.add_argument("--manifest", type=Path, metavar="M", help="another corpus, or the same one elsewhere")
    verb.add_argument("--store", type=Path, metavar="S")
    verb.add_argument("--split", default="test", metavar="train|valid|test|all", help="the part (default test)")
    verb.add_argument(
        "--modalities", default=None, metavar="audio,text,video|all-subsets", help="default all the RUN's"
    )
    verb.add_argument("--map", default="", metavar="joy=happy,...", help="the corpus's emotions under the RUN's names")
    verb.add_argument("--out", type=Path, metavar="DIR", help="default RUN/evaluate/")
    verb.add_argument("--force", action="store_true", help="overwrite results")


def _add_predict(verb: Parser) -> None:
    verb.add_argument("trained", metavar="RUN", help="a RUN folder or a hub id")
    verb.add_argument("files", metavar="FILE", nargs="+", help="audio or video, each one utterance")
    verb.add_argument("--transcript", metavar="TEXT|FILE", help="what is said")
    verb.add_argument("--format", default="table", choices=["table", "json", "csv"])
    verb.add_argument("--out", type=Path, help="a file instead of stdout")
    verb.add_argument("--force", action="store_true", help="overwrite that file")


def _add_lookalike(verb: Parser) -> None:
    verb.add_argument("corpus", metavar="iemocap|meld")
    verb.add_argument("--out", type=Path, required=True, metavar="DIR")
    verb.add_argument("--clips", type=int, default=1100)
    verb.add_argument("--speakers", type=int)
    verb.add_argument("--null", action="store_true", help="the matched null: the flags tell nothing")
    verb.add_argument("--priors", default="true", choices=["true", "sqrt"])
    verb.add_argument("--parts", metavar="TRAIN,VALID,TEST", help="clips of each part")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--force", action="store_true", help="overwrite an earlier tree")


# ---------------------------------------------------------------------- verbs


def _demo(options: argparse.Namespace) -> int:
    from wavfusion import demo

    summary = demo.run(options.out, options.clips, options.seed or 0, _device(options.device), options.force)
    _print(json.dumps(summary, indent=2) if options.json else demo.to_text(summary))
    return DONE


def _prepare(options: argparse.Namespace) -> int:
    from wavfusion import corpora
    from wavfusion.store import require_free

    require_free([options.out / "manifest.jsonl"], options.force)
    prepared = corpora.prepare(options.corpus, options.root, options.labels, options.down_mix)
    corpora.write(prepared, options.out)
    counts: dict[str, dict[str, int]] = {}
    for row in prepared.utterances:
        part = counts.setdefault(row.split or "all", {})
        part[row.emotion or "unlabelled"] = part.get(row.emotion or "unlabelled", 0) + 1
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


def _extract(options: argparse.Namespace) -> int:
    from wavfusion import encoders, extract, manifest
    from wavfusion.store import Store

    utterances, corpus = manifest.read(options.manifest), manifest.read_corpus(options.manifest)
    layers = _layers(options.layers)
    preset = encoders.read_preset(options.preset)
    needed = [name for name in encoders.MODALITIES if any(getattr(row, name) is not None for row in utterances)]
    loaded = extract.load_encoders(Path(options.preset).stem, preset, needed).to(_device(options.device))
    summary = extract.extract(
        utterances,
        corpus,
        Store(options.store, create=True),
        loaded,
        root=options.root,
        audio_layers=layers,
        text_layers=options.text_layers,
        workers=options.workers,
        progress=sys.stderr.isatty(),
    )
    for name, modality, reason in summary.bad:
        log.error("%s", _line(f"{name}: no {modality} features: {reason}"))
    if summary.bad_packets:
        log.warning(
            "%d damaged packets passed over in %s", sum(summary.bad_packets.values()), ", ".join(summary.bad_packets)
        )
    result = {"features": summary.wanted, "made": summary.made, "absent": summary.absent, "bad": summary.bad}
    made = ", ".join(f"{count} {name}" for name, count in summary.made.items())
    text = f"{summary.wanted} features; made now: {made}; {summary.absent} absent tracks, {len(summary.bad)} bad"
    _print(json.dumps(result, indent=2, ensure_ascii=False) if options.json else text)
    return PARTLY if summary.bad else DONE


def _train(options: argparse.Namespace) -> int:
    from wavfusion import experiment

    overrides = options.overrides | ({"seed": str(options.seed)} if options.seed is not None else {})
    setting = experiment.read(options.config, overrides)
    from wavfusion import train

    selected_on = "test" if options.select_on_test else "valid"
    data = train.read_data(options.manifest, options.store, options.protocol, options.fold, selected_on)
    device = _device(options.device)
    result = train.train(setting, data, options.out, device, resume=options.resume, force=options.force)
    _print(json.dumps(result, indent=2) if options.json else _figures(result, str(options.out)))
    return DONE


def _evaluate(options: argparse.Namespace) -> int:
    from wavfusion import evaluate
    from wavfusion.inference import parse_subset, subsets
    from wavfusion.run import read_run
    from wavfusion.store import require_free

    trained = read_run(options.trained)
    out = options.out or options.trained / "evaluate"
    require_free([out / "metrics.json", out / "predictions.csv"], options.force)
    own = trained.model.config.modalities
    every = options.modalities in (None, "all-subsets")
    sets = (
        subsets(own)
        if options.modalities == "all-subsets"
        else [own if every else parse_subset(options.modalities, own)]
    )
    part, store, media = evaluate.open_part(
        trained, options.manifest, options.store, options.split, _renamed(options.map)
    )
    result, said = evaluate.evaluate(trained, part.utterances, store, media, sets, _device(options.device))
    result |= {"split": options.split, "left_out": {"unknown": part.unknown, "unlabelled": part.unlabelled}}
    evaluate.write_results(out, result, said, part.utterances, trained.classes)
    for emotion, count in part.unknown.items():
        log.warning("%d rows left out: the model does not know %r", count, emotion)
    _print(json.dumps(result, indent=2) if options.json else _figures(result, str(out)))
    return DONE


def _predict(options: argparse.Namespace) -> int:
    from wavfusion import predict
    from wavfusion.store import require_free, write_whole

    if options.out:
        require_free([options.out], options.force)
    transcript = _transcript(options.transcript, options.files)
    recognizer = predict.EmotionRecognizer.from_pretrained(options.trained, _device(options.device))
    predictions, bad = [], []
    for file in options.files:
        try:
            predictions += recognizer.predict(file, transcript)
        except MediaError as error:
            bad.append(str(error))
    for message in bad:
        sys.stderr.write(f"wavfusion: {_line(message)}\n")
    if not predictions:
        return BAD_INPUT
    text = {
        "json": lambda: predict.to_json(predictions),
        "csv": lambda: predict.to_csv(predictions, recognizer.classes),
        "table": lambda: predict.to_table(predictions),
    }[options.format]()
    if options.out:
        write_whole(options.out, text.encode("utf-8", "surrogateescape"))
    else:
        _print(text.rstrip("\n"))
    return PARTLY if bad else DONE


def _lookalike(options: argparse.Namespace) -> int:
    from wavfusion import lookalike
    from wavfusion.store import require_free

    if options.corpus not in ("iemocap", "meld"):
        raise ConfigError(f"lookalike: found {options.corpus!r}; {nearest(options.corpus, ['iemocap', 'meld'])}")
    require_free([options.out / "world.json"], options.force)
    world = lookalike.make(
        options.corpus,
        options.out,
        clips=options.clips,
        speakers=options.speakers,
        null=options.null,
        priors=options.priors,
        parts=_parts(options.parts),
        seed=options.seed,
    )
    _print(json.dumps(world, indent=2))
    return DONE


# ---------------------------------------------------------------------- small readers and writers


def _line(message: str) -> str:
    """One line that any terminal can show, whatever a file is called."""
    return " ".join(message.split()).encode("utf-8", "backslashreplace").decode()


def _print(text: str) -> None:
    # Names of files may hold bytes that are no text; escaped like this they are valid JSON too.
    sys.stdout.buffer.write((text + "\n").encode("utf-8", "backslashreplace"))
    sys.stdout.buffer.flush()


def _figures(result: dict[str, Any], where: str) -> str:
    from wavfusion.protocol import describe

    lines = [f"{where}: {result['n']} utterances; protocol {describe(result['protocol'])}"]
    lines += [
        f"CONTAMINATED: the {name} encoder {result['encoders'][name]['name']} was trained on this corpus"
        for name in result["contaminated"]
    ]
    for name, figures in (result["subsets"] or {"+".join(result["modalities"]): result}).items():
        low, high = figures["interval"]["accuracy"]["this_test_set"]
        lines.append(
            f"{name:>16}  accuracy {figures['accuracy']:.4f} [{low:.4f}, {high:.4f}]  "
            f"weighted F1 {figures['weighted_f1']:.4f}  macro F1 {figures['macro_f1']:.4f}  UAR {figures['uar']:.4f}"
        )
    return "\n".join(lines)


def _device(name: str) -> str:
    import torch

    cuda = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if cuda else "cpu"
    if not re.fullmatch(r"cpu|cuda(:[0-9]+)?", name):
        raise ConfigError(f"--device: expected auto, cpu, cuda or cuda:N, found {name!r}")
    if name.startswith("cuda") and not cuda:
        raise ConfigError(f"--device: expected a device that is there, found {name!r}; valid: auto, cpu")
    return name


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


def _renamed(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",") if part]
    for old, equals, new in pairs:
        if not (old and equals and new):
            raise ConfigError(f"--map: expected joy=happy,..., found {text!r}")
    return {old: new for old, _, new in pairs}


def _transcript(text: str | None, files: Sequence[str]) -> str | None:
    if text is None:
        return None
    if len(files) > 1:
        raise ConfigError(f"--transcript: expected one FILE with it, found {len(files)}")
    try:
        path = Path(text)
        return path.read_text(encoding="utf-8").strip() if path.is_file() else text
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise ConfigError(f"--transcript: expected UTF-8 in {text!r}, found other bytes") from None
        return text  # too long for a file's name, so it is what is said


if __name__ == "__main__":
    sys.exit(main())
