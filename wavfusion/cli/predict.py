"""`predict` and `embed`: emotions or vectors of the user's own recordings."""

import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from wavfusion.cli import options as opt
from wavfusion.cli.output import first_three, list_failures, print_text, printable
from wavfusion.errors import CollectedWarnings, ConfigError

if TYPE_CHECKING:
    from wavfusion.prediction.recognizer import Prediction
    from wavfusion.prediction.recordings import Labelled, Recording

log = logging.getLogger(__name__)

Files = Annotated[list[str], opt.argument("audio or video of any length, or folders of them", "FILE", opt.name)]
Transcript = Annotated[
    str | None,
    opt.option(
        "what is said; with times: srt, vtt, TextGrid, eaf, rttm, json; a folder holds one for each FILE",
        "TEXT|FILE|DIR",
    ),
]
NumSpeakers = Annotated[Any, opt.option("tell this many voices apart (default: do not)", "N|auto", opt.speakers)]
Format = Annotated[
    str | None,
    opt.choice(
        "default: what --out ends in, else table", *("table", "json", "csv", "srt", "vtt", "textgrid", "eaf", "html")
    ),
]
MinProbability = Annotated[float, opt.option("name no emotion that is less probable", "P", opt.fraction)]
Out = Annotated[
    Path | None,
    opt.option(
        "a file instead of stdout; a name without an ending is a folder with a file for each FILE, resumable",
        "FILE|DIR",
        opt.path,
    ),
]
Workers = Annotated[int, opt.option("parallel processes, each with its own model (default 1)", "N", opt.count(1))]
Engine = Annotated[str, opt.choice("where several run: here, or on a cluster (extra [ray])", "processes", "ray")]


@dataclass(frozen=True)
class _Output:
    """Where predictions go, and in which form."""

    format: str
    least: float
    out: Path | None
    force: bool

    @property
    def folder(self) -> Path | None:
        """The folder that gets a file for each recording, if the user named one."""
        return self.out if self.out and (self.out.is_dir() or not self.out.suffix) else None

    def encode(self, classes: Sequence[str], found: "Labelled[Prediction]", place: Path) -> bytes:
        """Write predictions as the content of a file that will lie in `place`."""
        from wavfusion.prediction import timeline

        rows = timeline.abstained(found.rows, self.least)
        return timeline.write_predictions(self.format, rows, classes, place, found.warnings)

    def write(self, classes: Sequence[str], found: "Labelled[Prediction]") -> None:
        """Write all predictions into one file, or to stdout; to a terminal in its width and colours."""
        from wavfusion.files import write_atomic
        from wavfusion.prediction import timeline

        if self.out:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.out, self.encode(classes, found, self.out.parent))
        elif self.format == "table" and sys.stdout.isatty():
            shown = timeline.abstained(found.rows, self.least)
            width, colour = shutil.get_terminal_size().columns, "NO_COLOR" not in os.environ
            print_text(timeline.to_table(shown, width, colour).rstrip("\n"))
        else:
            print_text(self.encode(classes, found, Path()).decode("utf-8", "surrogateescape").rstrip("\n"))


def predict(
    file: Files,
    model: opt.Model = None,
    transcript: Transcript = None,
    speakers: NumSpeakers = None,
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
    from wavfusion.files import require_free
    from wavfusion.prediction import recordings, timeline

    chosen, bad = _model(model, file, "predict"), list[str]()
    files = recordings.find_recordings(file, bad)
    ended = [kind for kind in timeline.FORMATS if out and out.suffix == f".{timeline.ending(kind)}"]
    output = _Output(format or (ended or ["table"])[0], min_probability, out, force)
    if output.folder is None and output.format in timeline.SINGLE and len(files) > 1:
        wish = f"one FILE, which it describes, or --out with a folder for {len(files)} of them"
        raise ConfigError(f"--format {output.format}: expected {wish}, found {out or 'no --out'}")
    if out and output.folder is None:
        require_free([out], force)
    named = recordings.plan_recordings(files, transcript, output.folder, timeline.ending(output.format))
    if not (planned := recordings.existing(named, bad)):
        return list_failures(bad, False)
    model_settings = {"name": chosen, "device": pick_device(device), "fast": not plain}
    model_settings |= {"runtime": runtime, "precision": precision, "asr": asr}
    options = {"speakers": speakers, "contributions": output.format in timeline.EXPLAINED}
    written = {"transcript": transcript, "asr": asr, "speakers": speakers, "format": output.format}
    written |= {"min_probability": min_probability, "runtime": runtime, "precision": precision}
    several = (workers, engine) if workers > 1 or engine != "processes" else None
    some = _label_all(planned, model_settings, options, output, written, several, bad)
    return list_failures(bad, some)


def _label_all(
    planned: "Sequence[Recording]",
    model_settings: Mapping[str, Any],
    options: Mapping[str, Any],
    output: _Output,
    written: Mapping[str, Any],
    several: tuple[int, str] | None,
    bad: list[str],
) -> bool:
    """Label recordings and write the predictions; returns whether there are any.

    Args:
        planned: the recordings.
        model_settings: of `EmotionRecognizer.from_pretrained`.
        options: of `EmotionRecognizer.predict`.
        output: where predictions go.
        written: settings that a folder of results notes, so that only results of the same ones are added.
        several: number of processes and their engine; None = this process alone.
        bad: takes the messages about recordings that could not be used.
    """
    from wavfusion.prediction import recordings
    from wavfusion.prediction.recognizer import EmotionRecognizer, find_run

    if several:
        trained = find_run(model_settings["name"])
        run = recordings.side_by_side(partial(_labeller, model_settings, options), *several, model_settings["device"])
    else:
        recognizer = EmotionRecognizer.from_pretrained(**model_settings)
        trained, run = recognizer.trained, recordings.in_turn(partial(_label, recognizer, options))
    folder = output.folder
    if folder is not None:
        recordings.open_results(folder, {"weights": trained.weights_digest, **written}, output.force)
    encode = partial(output.encode, trained.classes)
    labelled = recordings.label(planned, run, bad, encode, output.force, sys.stderr.isatty())
    # Of predictions that are in a file already only what the warnings need is kept in memory.
    found = [each if folder is None else replace(each, rows=[max(each.rows, key=_num_modalities)]) for each in labelled]
    order = {each.file: number for number, each in enumerate(planned)}
    found.sort(key=lambda each: order[each.rows[0].file])  # several workers finish in any order
    with CollectedWarnings() as missing:
        _warn_of_missing(trained.model.config.modalities, [each.rows for each in found])
    if found and folder is None:
        warnings = [line for each in found for line in each.warnings]
        rows = [row for each in found for row in each.rows]
        output.write(trained.classes, recordings.Labelled(rows, warnings + missing.messages))
    elif found:
        print_text(f"{folder}: results of {len(found)} recordings")
    return bool(found) or any(each.out is not None and each.out.exists() for each in planned)


def _labeller(
    model_settings: Mapping[str, Any], options: Mapping[str, Any]
) -> "Callable[[Recording], list[Prediction]]":
    """Load a model in a process of several, and return the function that labels a recording with it."""
    from wavfusion.prediction.recognizer import EmotionRecognizer

    return partial(_label, EmotionRecognizer.from_pretrained(**model_settings), options)


def _label(recognizer: Any, options: Mapping[str, Any], recording: "Recording") -> "list[Prediction]":
    found: list[Prediction] = recognizer.predict(recording.file, recording.text, segments=recording.segments, **options)
    return found


def embed(
    file: Files,
    out: Annotated[Path, opt.option("a name that ends in .safetensors or .npz", "FILE", opt.path)],
    model: opt.Model = None,
    transcript: Transcript = None,
    speakers: NumSpeakers = None,
    asr: opt.Asr = None,
    force: opt.Force = False,
    plain: opt.Plain = False,
    device: opt.Device = "auto",
    seed: opt.Seed = None,
) -> int:
    """Write vectors of utterances and frames."""
    from wavfusion.evaluation.inference import pick_device
    from wavfusion.files import require_free, write_atomic
    from wavfusion.prediction import recordings, vectors
    from wavfusion.prediction.recognizer import EmotionRecognizer

    chosen, bad = _model(model, file, "embed"), list[str]()
    vectors.require_ending(out)
    require_free([out], force)
    named = recordings.plan_recordings(recordings.find_recordings(file, bad), transcript, None, "")
    if not (planned := recordings.existing(named, bad)):
        return list_failures(bad, False)
    recognizer = EmotionRecognizer.from_pretrained(chosen, pick_device(device), fast=not plain, asr=asr)

    def work(each: "Recording") -> list[vectors.Embedding]:
        return vectors.embed(recognizer, each.file, each.text, each.segments, speakers)

    done = recordings.label(planned, recordings.in_turn(work), bad, progress=sys.stderr.isatty())
    embedded = [each.rows for each in done]
    _warn_of_missing(recognizer.modalities, embedded)
    if found := [each for rows in embedded for each in rows]:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, vectors.write_vectors(found, out.suffix))
        frames = sum(len(each.frames) for each in found)
        print_text(f"{out}: {len(found)} utterances, {frames} frames, {len(found[0].vector)} numbers each")
    return list_failures(bad, bool(found))


def _model(model: str | None, files: Sequence[str], verb: str) -> str:
    """Choose the model: the named one or the installed one; refuse a RUN that stands in the place of the first FILE."""
    from wavfusion.prediction.models import default_model, is_run

    if model is None and is_run(files[0]):
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
            log.warning(
                "%d of %d files without %s: %s",
                len(without),
                len(found),
                modality,
                printable(first_three(without)),
            )
