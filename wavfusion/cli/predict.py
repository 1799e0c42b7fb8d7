"""`predict` and `embed`: emotions or vectors of the user's own recordings."""

import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from wavfusion.cli import options as opt
from wavfusion.cli.output import first_three, list_failures, print_text, printable, write_file
from wavfusion.errors import CollectedWarnings, ConfigError, counted, nearest
from wavfusion.files import require_free
from wavfusion.manifest import CHANNELS

if TYPE_CHECKING:
    from wavfusion.prediction.recognizer import Prediction
    from wavfusion.prediction.recordings import Labelled, Recording
    from wavfusion.runs.folder import Run

log = logging.getLogger(__name__)

Files = Annotated[list[str], opt.argument("audio or video of any length, or folders of them", "FILE", opt.name)]
Transcript = Annotated[
    str | None,
    opt.option(
        "transcript: text, a file (txt, srt, vtt, TextGrid, eaf, json, csv, ...), or a folder of one for each FILE",
        "TEXT|FILE|DIR",
    ),
]
NumSpeakers = Annotated[Any, opt.option("tell this many voices apart (default: do not)", "N|auto", opt.speakers)]
Track = Annotated[
    Any,
    opt.option(
        "of several audio tracks; each = one speaker a track (default: the first usable)", "N|mix|each", opt.track
    ),
]
Channel = Annotated[
    str | None,
    opt.choice("each = one speaker a channel, as in a stereo call (default mix)", *CHANNELS, "each"),
]
FORMATS = ("table", "json", "csv", "srt", "vtt", "textgrid", "eaf", "html")
Format = Annotated[
    Any,
    opt.option(
        "default: what --out ends in, else table; several, with commas, into a folder",
        "|".join(FORMATS),
        opt.some_of(*FORMATS),
    ),
]
MinProbability = Annotated[float, opt.option("name no emotion that is less probable", "P", opt.fraction)]
Out = Annotated[
    list[Path] | None,
    opt.option(
        "a file instead of stdout, once for each format; a name without an ending is a folder with a file for each "
        "FILE, resumable",
        "FILE|DIR",
        opt.path,
    ),
]
Workers = Annotated[int, opt.option("parallel processes, each with its own model (default 1)", "N", opt.count(1))]
Engine = Annotated[str, opt.choice("where several run: here, or on a cluster (extra [ray])", "processes", "ray")]


def predict(
    file: Files,
    model: opt.Model = None,
    transcript: Transcript = None,
    speakers: NumSpeakers = None,
    track: Track = None,
    channel: Channel = None,
    asr: opt.Asr = None,
    format: Format = None,
    min_probability: MinProbability = 0.0,
    out: Out = None,
    force: opt.Force = False,
    runtime: opt.Runtime = "torch",
    precision: opt.Precision = "fp32",
    workers: Workers = 1,
    engine: Engine = "processes",
    plain: opt.Plain = False,
    device: opt.Device = "auto",
    seed: opt.Seed = None,
) -> int:
    """Label the emotions in your own recordings."""
    from wavfusion.evaluation.inference import pick_device
    from wavfusion.prediction import recordings, timeline
    from wavfusion.prediction.models import find_run
    from wavfusion.prediction.recognizer import EmotionRecognizer

    file, outs = _expanded(file, out or [])
    chosen, bad = _model(model, file, "predict"), list[str]()
    files = recordings.find_recordings(file, bad)
    kinds, folder = _output(format, outs, len(files), force)
    named = recordings.plan_recordings(files, transcript, folder, timeline.ending(kinds[0]), bad)
    if not (planned := recordings.existing(named, bad)):
        return list_failures(bad, False)
    shared = {"asr": asr, "runtime": runtime, "precision": precision}
    loading: dict[str, Any] = {"name": chosen, "device": pick_device(device), "fast": not plain, **shared}
    chosen_audio = {"speakers": speakers, "track": track, "channel": channel}
    written = {"format": ",".join(kinds), "min_probability": min_probability}
    settings: dict[str, Any] = {"transcript": transcript, **chosen_audio, **written}
    alone = workers == 1 and engine == "processes"
    several = None if alone else {"workers": workers, "engine": engine, "device": loading["device"]}
    recognizer = EmotionRecognizer.from_pretrained(**loading) if alone else None
    trained = recognizer.trained if recognizer else find_run(chosen)
    _introduce(trained, kinds, alone, bool(outs) and model is None)
    build = partial(_labeller, recognizer, loading, settings)
    if folder:
        recordings.open_results(folder, {"weights": trained.weights_digest, **settings, **shared}, force)
    write = partial(_write_beside, kinds, trained.classes)
    labelled = recordings.label(planned, build, bad, write, force, sys.stderr.isatty(), several)
    # Of predictions that are in a file already only what the warnings need is kept in memory.
    found = [replace(each, rows=[max(each.rows, key=_num_modalities)]) if folder else each for each in labelled]
    order = {each.file: number for number, each in enumerate(planned)}
    found.sort(key=lambda each: order[each.rows[0].file])  # several workers finish in any order
    with CollectedWarnings() as missing:
        _warn_of_missing(trained.model.config.modalities, [each.rows for each in found])
    if folder and found:
        print_text(f"{folder}: results of {counted(len(found), 'recording')}")
    elif found:
        for number, kind in enumerate(kinds):
            _write_together(found, missing.messages, kind, outs[number] if outs else None, trained.classes)
    return list_failures(bad, bool(found) or any(each.out is not None and each.out.exists() for each in planned))


def _introduce(trained: "Run", kinds: Sequence[str], alone: bool, unseen: bool) -> None:
    """Describe the model where no format does, or unnamed beside files; warn of one that other processes load."""
    from wavfusion.prediction import timeline
    from wavfusion.runs.card import make_card

    card = make_card(trained)
    if not alone:  # loading it here has warned
        card.warn()
    if unseen or {*kinds} <= {*timeline.BARE}:
        log.info("%s", card)


def _expanded(files: Sequence[str], outs: Sequence[Path]) -> tuple[list[str], list[Path]]:
    """Take words that the shell made of `--out talk.{csv,eaf}` from the recordings to the results."""
    from wavfusion.prediction import timeline

    stems = {out.with_suffix("") for out in outs if timeline.format_of(out)}
    more = [each for each in files if timeline.format_of(Path(each)) and Path(each).with_suffix("") in stems]
    for each in filter(os.path.exists, more):  # it may be a transcript, which no --force should overwrite
        raise ConfigError(f"expected recordings, found {each!r}; a result is named by an --out of its own")
    return [each for each in files if each not in more], [*outs, *map(Path, more)]


def _output(
    formats: tuple[str, ...] | None, outs: Sequence[Path], count: int, force: bool
) -> tuple[list[str], Path | None]:
    """Choose the format of each result, and the folder that gets files for each recording, if the user named one."""
    from wavfusion.prediction import timeline

    folders, given = [out for out in outs if out.is_dir() or not out.suffix], f"--format {','.join(formats or ())}"
    if folders:
        if len(outs) > 1:
            raise ConfigError(f"--out: expected one folder or only files, found {', '.join(map(str, outs))}")
        return list(formats or ["table"]), folders[0]
    if formats and len(formats) > 1:
        found = ", ".join(map(str, outs)) or "none"
        raise ConfigError(f"{given}: expected --out with a folder for them, or an --out FILE for each, found {found}")
    kinds = [*formats] * max(1, len(outs)) if formats else [_ended(out) for out in outs] or ["table"]
    for number, kind in enumerate(kinds):
        if kind in timeline.SINGLE and count > 1:
            raise ConfigError(
                f"--format {kind}: expected one FILE, which it describes, or --out with a folder for {count} of them, "
                f"found {outs[number] if outs else 'no --out'}"
            )
    require_free(outs, force)
    return kinds, None


def _ended(out: Path) -> str:
    """Return the format that a file's name ends in."""
    from wavfusion.prediction import timeline

    if kind := timeline.format_of(out):
        return kind
    endings = [f".{timeline.ending(each)}" for each in timeline.FORMATS]
    wish = "expected a name with the ending of a format, one without for a folder, or --format"
    raise ConfigError(f"--out {out}: {wish}, found {out.suffix!r}; {nearest(out.suffix, endings)}")


def _write_beside(kinds: Sequence[str], classes: Sequence[str], found: "Labelled[Prediction]", out: Path) -> bytes:
    """Write a recording's results in all formats but the first, and return that one, whose file says that all exist."""
    from wavfusion.prediction import timeline

    contents = [timeline.write_predictions(kind, found.rows, classes, out.parent, found.warnings) for kind in kinds]
    for kind, content in zip(kinds[1:], contents[1:], strict=True):
        write_file(out.with_suffix(f".{timeline.ending(kind)}"), content)
    return contents[0]


def _write_together(
    found: "Sequence[Labelled[Prediction]]", missing: list[str], kind: str, out: Path | None, classes: Sequence[str]
) -> None:
    """Write all predictions into one file, or to stdout; to a terminal in its width and colours."""
    from wavfusion.prediction import timeline

    # Of a single recording the page shows what was left out, too.
    rows = found[0].rows if len(found) == 1 else [row for each in found for row in each.rows]
    warnings = [line for each in found for line in each.warnings] + missing
    if out:
        write_file(out, timeline.write_predictions(kind, rows, classes, out.parent, warnings))
    elif kind == "table" and sys.stdout.isatty():
        width, colour = shutil.get_terminal_size().columns, "NO_COLOR" not in os.environ
        print_text(timeline.to_table(rows, width, colour).rstrip("\n"))
    else:
        content = timeline.write_predictions(kind, rows, classes, Path(), warnings)
        print_text(content.decode("utf-8", "surrogateescape").rstrip("\n"))


def _labeller(
    recognizer: Any, loading: Mapping[str, Any], settings: Mapping[str, Any]
) -> "Callable[[Recording], list[Prediction]]":
    """Return the function that labels a recording, in a process of several with a model of its own."""
    from wavfusion.prediction.recognizer import EmotionRecognizer

    return partial(_label, recognizer or EmotionRecognizer.from_pretrained(**loading), settings)


def _label(recognizer: Any, settings: Mapping[str, Any], recording: "Recording") -> "list[Prediction]":
    from wavfusion.prediction import timeline

    options = {name: settings[name] for name in ("speakers", "track", "channel")}
    options["contributions"] = not timeline.EXPLAINED.isdisjoint(settings["format"].split(","))
    rows = recognizer.predict(recording.file, **recording.words, **options)
    return timeline.abstained(rows, settings["min_probability"])


def embed(
    file: Files,
    out: Annotated[Path, opt.option("a name that ends in .safetensors or .npz", "FILE", opt.path)],
    model: opt.Model = None,
    transcript: Transcript = None,
    speakers: NumSpeakers = None,
    track: Track = None,
    channel: Channel = None,
    asr: opt.Asr = None,
    force: opt.Force = False,
    plain: opt.Plain = False,
    device: opt.Device = "auto",
    seed: opt.Seed = None,
) -> int:
    """Write vectors of utterances and frames."""
    from wavfusion.evaluation.inference import pick_device
    from wavfusion.prediction import recordings, vectors
    from wavfusion.prediction.recognizer import EmotionRecognizer

    chosen, bad = _model(model, file, "embed"), list[str]()
    if out.suffix not in vectors.ENDINGS:
        endings = " or ".join(vectors.ENDINGS)
        raise ConfigError(f"--out {out}: expected a name that ends in {endings}, found {out.suffix!r}")
    require_free([out], force)
    named = recordings.plan_recordings(recordings.find_recordings(file, bad), transcript, None, "", bad)
    if not (planned := recordings.existing(named, bad)):
        return list_failures(bad, False)
    recognizer = EmotionRecognizer.from_pretrained(chosen, pick_device(device), fast=not plain, asr=asr)
    log.info("%s", recognizer.card)

    def work(each: "Recording") -> list[vectors.Embedding]:
        return vectors.embed(recognizer, each.file, **each.words, speakers=speakers, track=track, channel=channel)

    embedded = [each.rows for each in recordings.label(planned, lambda: work, bad, progress=sys.stderr.isatty())]
    _warn_of_missing(recognizer.modalities, embedded)
    if found := [each for rows in embedded for each in rows]:
        write_file(out, vectors.write_vectors(found, out.suffix))
        frames = sum(len(each.frames) for each in found)
        counts = f"{counted(len(found), 'utterance')}, {counted(frames, 'frame')}"
        print_text(f"{out}: {counts}, {len(found[0].vector)} numbers each")
    return list_failures(bad, bool(found))


def _model(model: str | None, files: Sequence[str], verb: str) -> str:
    """Choose the model: the named one or the voice model; refuse a RUN that stands in the place of the first FILE."""
    from wavfusion.prediction.models import default_model
    from wavfusion.runs.folder import WEIGHTS

    if model is None and Path(files[0], WEIGHTS).is_file():
        form = f"wavfusion {verb} {' '.join(files[1:] or ['FILE'])} --model {files[0]}"
        raise ConfigError(f"{verb}: expected FILE..., found the model {files[0]!r} among them; write: {form}")
    return model or str(default_model())


def _num_modalities(prediction: Any) -> int:
    return len(prediction.modalities)


def _warn_of_missing(modalities: Sequence[str], found: Sequence[Sequence[Any]]) -> None:
    """Warn of recordings that lack a modality of the model."""
    for modality in [each for each in modalities if each != "text"]:
        without = [rows[0].file for rows in found if not any(modality in each.modalities for each in rows)]
        if without:
            names = printable(first_three(without))
            log.warning("%d of %d files without %s: %s", len(without), len(found), modality, names)
