"""The page of a RUN, or of several side by side with the paired test."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from markupsafe import Markup

from wavfusion import manifest
from wavfusion.corpora.protocol import PROTOCOL_FIELDS, describe_protocol
from wavfusion.errors import ConfigError
from wavfusion.files import read_json, shortest_names
from wavfusion.manifest import MODALITIES, Utterance
from wavfusion.metrics import comparison as stats
from wavfusion.metrics import scores
from wavfusion.metrics.clusters import MIN_CLUSTERS
from wavfusion.pages.fill import script, write_page
from wavfusion.report import plots
from wavfusion.runs.bundle import MEMBERS, Bundle, read_bundle
from wavfusion.runs.origin import corpus_of, require_protocol, training_data_of, without_absolute_paths
from wavfusion.runs.results import (
    METRICS,
    PREDICTIONS,
    chance_of,
    majority_of,
    near_chance,
    read_explained,
    read_history,
    require_metrics,
)
from wavfusion.study import tables
from wavfusion.training.checkpoints import BEST_BY

FIGURES = {"accuracy": "accuracy", "weighted_f1": "weighted F1", "macro_f1": "macro F1", "uar": "UAR"}
UNIT = (0.0, 1.0)  # limits of an axis
PARTS = {"text_agru": "text A-GRU", "video_agru": "video A-GRU", "lvc": "LVC"}


@dataclass(frozen=True)
class RunContents(Bundle):
    """What the page of a RUN is made of.

    Attributes:
        explained: explain.json of the same utterances, else empty.
        corpus: rows of its manifest by id; empty where it was moved.
        root: folder of the media.
        corpus_name: as `runs.origin.corpus_of` gives it.
        trained_on: its training part in words.
    """

    name: str
    history: list[dict[str, float]]
    explained: dict[str, Any]
    corpus: dict[str, Utterance]
    root: Path
    corpus_name: str
    trained_on: str


def write_run_page(
    folders: Sequence[Path], out: Path, root: Path | None = None, demo: Mapping[str, Any] | None = None
) -> None:
    """Write the page of one RUN or several; the others are compared with the first.

    Args:
        folders: RUNs.
        out: the page; media are named relative to its folder.
        root: folder of the corpus, if it was moved.
        demo: summary of `wavfusion demo`, for its RUN.
    """
    names = shortest_names(folders, "report: expected each RUN once")
    runs = [_read_contents(folder, name, root) for folder, name in zip(folders, names, strict=True)]
    files: dict[Path, int] = {}
    browser = {"runs": [_utterances(run, files) for run in runs]}
    values = [_template_values(run) for run in runs]
    write_page(
        out,
        "run.html",
        runs=values,
        several=len(runs) > 1,
        figures=FIGURES,
        compared=_compare(runs),
        differing=_differing_settings(runs),
        same_within=100 * stats.SAME_WITHIN,
        min_clusters=MIN_CLUSTERS,
        emotions_plot=_emotions_plot(values),
        demo=demo,
        data={**browser, "files": [_address(path, out.parent) for path in files], "modalities": MODALITIES},
        **script("run.js"),
    )


def _read_contents(folder: Path, name: str, root: Path | None) -> RunContents:
    """Read the contents of a RUN's page; a ConfigError if it is incomplete, or its files not of one evaluation."""
    if lacking := [file for file in MEMBERS if not (folder / file).exists()]:
        found = f"no {', '.join(lacking)}"
        if not {METRICS, PREDICTIONS} & set(lacking):
            found += f"; an evaluation is shown with its RUN: {folder.parent}"
        raise ConfigError(f"{folder}: expected a complete RUN, found {found}")
    require_metrics(read_json(folder / METRICS), folder / METRICS)
    require_protocol(folder)
    results = read_bundle(folder)
    results.require_truth(folder)
    problems = list(results.problems())
    if results.confusions(results.column("id")).sum(axis=0).tolist() != results.metrics["confusion"]:
        problems.append("another confusion in metrics.json")
    for problem in problems:
        raise ConfigError(f"{folder}: expected predictions and figures of one evaluation, found {problem}")
    corpus, corpus_root = _read_corpus(results.environment.get("manifest", ""))
    return RunContents(
        **vars(results),
        name=name,
        history=read_history(folder),
        explained=read_explained(folder, results.metrics),
        corpus=corpus,
        root=root or corpus_root,
        corpus_name=corpus_of(folder),
        trained_on=str(training_data_of(folder)),
    )


def _read_corpus(path: Any) -> tuple[dict[str, Utterance], Path]:
    """The manifest that a RUN was trained on, and its folder; empty where it is missing."""
    try:
        return {row.id: row for row in manifest.stream(path)}, Path(manifest.read_corpus(path).root)
    except (OSError, TypeError, ValueError):
        return {}, Path()


def _template_values(run: RunContents) -> dict[str, Any]:
    """Values of the template for a RUN; a ConfigError if a figure is missing."""
    stated, protocol = run.metrics, run.protocol
    try:
        figures = _row(stated) | {name: stated[name] for name in ("nll", "ece", "per_class")} | run.context()
        for kind in ("subsets", "styles"):
            figures[kind] = {name: _row(row) for name, row in stated.get(kind, {}).items()}
        shown = {name: protocol[name] for name in (*PROTOCOL_FIELDS, "promises", "counts", "left_out")}
        parts = _parts(run)
    except (LookupError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{run.name}: expected what `train` and `evaluate --explain` write, found {reason}") from None
    calibration, environment = _calibration(run), without_absolute_paths(run.environment)
    kind = "speaker_independent" if protocol["speakers_disjoint"] else "speakers_shared"
    supported = [name for name in run.classes if figures["per_class"][name]["support"]]
    return {
        "name": run.name,
        "trained_on": run.trained_on,
        "figures": figures,
        "protocol": shown,
        "described": describe_protocol(protocol),
        "warnings": _warnings(run),
        "classes": run.classes,
        "guess": dict(zip(("emotion", "accuracy", "uar"), (*majority_of(stated), chance_of(stated)), strict=True)),
        "worst": min(supported, key=lambda name: figures["per_class"][name]["f1"]),
        "speakers": len(set(run.column("speaker")) - {""}),
        "clusters": run.count_clusters(),
        "tested": scores.tested_classes(figures["per_class"]),
        "all_tested": len(supported) == len(run.classes),
        "emotion_intervals": scores.class_intervals(run.confusions, run.clusters.names, run.speakers, run.classes),
        "bayes": _bayes_accuracies(run).get(kind, {}),
        "beside": _paper_row(run),
        "calibration": calibration,
        "temper": stated.get("calibration"),
        "plots": {"calibration": plots.reliability(f"{run.name}: calibration", calibration), **_training(run), **parts},
        "contributions": _contributions(run),
        "explained": bool(run.explained),
        "environment": {key: value for key, value in environment.items() if value is not None},
        "experiment": run.experiment,
        "texts": sum(bool(row.text) for row in run.corpus.values()),
    }


def _row(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a RUN, a subset or a style, with their intervals."""
    bounds = {name: figures["interval"].get(name) for name in (*FIGURES, "nll")}
    return {name: figures[name] for name in ("n", "confusion", *FIGURES)} | {"interval": bounds}


def _contributions(run: RunContents) -> dict[str, dict[str, float]]:
    return run.metrics.get("contributions") or run.explained.get("contributions") or {}


def _warnings(run: RunContents) -> list[tuple[str, str]]:
    """Warnings that stand above all figures."""
    figures = run.metrics
    found = []
    if run.protocol["selected_on"] == "test":
        found.append(("SELECTED ON TEST", "the tested utterances chose the epoch; not comparable with honest figures."))
    for name in figures["contaminated"]:
        encoder = f"{name} encoder {figures['encoders'][name]['name']}"
        found.append(("CONTAMINATED", f"the {encoder} was trained on the corpus that it is tested on."))
    if figures["part"] != "test":
        found.append(("NOT TESTED", f"these are figures of the {figures['part']} part, which chose the epoch."))
    if run.corpus_name == "generated":
        found.append(("GENERATED", "the voices and faces are synthetic; the labels of real people mean nothing."))
    if doubt := near_chance(figures):
        found.append(("NEAR CHANCE", f"{doubt}."))
    return found


def _paper_row(run: RunContents) -> dict[str, Any] | None:
    """The paper's row that is closest to the RUN."""
    model = run.settings.get("model")
    found = tables.closest_row(run.corpus_name, model if isinstance(model, dict) else {})
    return None if found is None else dict(zip(("rows", "stated", "differs"), found, strict=True))


def _bayes_accuracies(run: RunContents) -> dict[str, dict[str, float]]:
    """Bayes-optimal accuracies of a generated corpus, by subset."""
    try:
        return dict(read_json(run.root / manifest.GENERATED)["bayes"])
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def _calibration(run: RunContents) -> list[dict[str, float]]:
    """The bins of the calibration error that hold a prediction."""
    confidence = np.array([float(row[f"p_{row['predicted']}"]) for row in run.rows])
    right = np.array([row["truth"] == row["predicted"] for row in run.rows])
    number = scores.bins(confidence)
    return [
        {
            "low": each / scores.NUM_BINS,
            "high": (each + 1) / scores.NUM_BINS,
            "count": int((number == each).sum()),
            "confidence": float(confidence[number == each].mean()),
            "right": float(right[number == each].mean()),
        }
        for each in np.unique(number).tolist()
    ]


def _training(run: RunContents) -> dict[str, Any]:
    """Plots of the training, epoch by epoch."""
    scored = [row for row in run.history if BEST_BY in row]
    best = max(scored, key=lambda row: row[BEST_BY])["epoch"] if scored else None
    losses = {name: name.removeprefix("loss_") for row in run.history for name in row if name.startswith("loss")}
    kinds = {
        "loss": ({name: "all" if name == "loss" else word for name, word in losses.items()}, "training loss"),
        "validation": ({f"eval_{name}": word for name, word in FIGURES.items()}, "validation"),
        "ratio": ({f"gradient_ratio_{name}": word for name, word in PARTS.items()}, "margin / task gradient"),
        "cosine": ({f"gradient_cosine_{name}": word for name, word in PARTS.items()}, "cosine of the gradients"),
    }
    found: dict[str, Any] = {"epoch": best}
    for kind, (columns, label) in kinds.items():
        series = {
            word: ([row["epoch"] for row in rows], [row[name] for row in rows])
            for name, word in columns.items()
            if (rows := [row for row in run.history if name in row and "epoch" in row])
        }
        if series:
            limits = UNIT if kind == "validation" else None
            found[kind] = plots.lines(f"{run.name}: {label} by epoch", series, ("epoch", label), best, limits)
    return found


def _parts(run: RunContents) -> dict[str, Any]:
    """Plots of what explain.json holds of the parts of the model."""
    found: dict[str, Any] = {}
    if parts := _contributions(run):
        values = {
            modality: [parts.get(emotion, {}).get(modality) for emotion in run.classes]
            for modality in MODALITIES
            if any(modality in each for each in parts.values())
        }
        title = f"{run.name}: mean contribution of each modality by emotion"
        found["contributions"] = plots.dots(title, run.classes, values, "nats", mark=0.0)
    if gates := run.explained.get("gates"):
        shares = [gates["by_emotion"].get(emotion) for emotion in run.classes]
        found |= {"layers": [round(share, 3) for share in gates["by_layer"]], "gated": gates["utterances"]}
        title = f"{run.name}: text weight in the gates"
        found["gates"] = plots.dots(f"{title} by emotion", run.classes, {"": shares}, "text weight", UNIT, 0.5)
        if gates["by_second"]:
            x, y = ([float(each[name]) for each in gates["by_second"]] for name in ("second", "text_share"))
            found["seconds"] = plots.lines(f"{title} by second", {"": (x, y)}, ("second", "text weight"), limits=UNIT)
    if margin := run.explained.get("margin"):
        spaces = {"trained": margin["own"], "fitted afterwards": margin["post_hoc"]}
        found |= {"alpha": margin["alpha"], "spaces": {name: _space(each) for name, each in spaces.items() if each}}
    if shift := run.explained.get("shift"):
        series = {name: (shift["seconds"], list(map(float, shift[name]))) for name in shift if name != "seconds"}
        title = f"{run.name}: accuracy when one modality is shifted in time"
        found["shift"] = plots.lines(title, series, ("seconds later", "accuracy"), 0.0, UNIT)
    return found


def _space(judged: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of an embedding space in explain.json."""
    numbers = {name: judged[name] for name in ("violated", "triplets")}
    return numbers | {"retrieval": judged["retrieval"]["precision_at_1"], "chance": judged["retrieval"]["chance"]}


def _emotions_plot(runs: Sequence[Mapping[str, Any]]) -> Markup:
    """F1 of every emotion of any RUN with its interval for this test set."""
    emotions = list(dict.fromkeys(name for run in runs for name in run["classes"]))
    series: dict[str, list[plots.Point | float | None]] = {}
    for run in runs:
        points = {
            name: (run["figures"]["per_class"][name]["f1"], *bounds["this_test_set"])
            for name, bounds in run["emotion_intervals"].items()
            if run["figures"]["per_class"][name]["support"]
        }
        series[run["name"]] = [points.get(name) for name in emotions]
    return plots.dots("F1 of every emotion with its 95 % interval", emotions, series, "F1", UNIT)


def _differing_settings(runs: Sequence[RunContents]) -> dict[str, list[str]]:
    """Settings that are not the same in all RUNs, by dotted key, with every RUN's value; the seed is left out."""
    settings = [tables.flat(run.settings) for run in runs]
    values_of = {key: [str(each.get(key, "not stated")) for each in settings] for every in settings for key in every}
    return {key: values for key, values in values_of.items() if len(set(values)) > 1 and key != "seed"}


def _compare(runs: Sequence[RunContents]) -> list[dict[str, Any]]:
    """Test every other RUN against the first, on the same utterances; p-values are adjusted for their number."""
    first = runs[0]
    found: list[dict[str, Any]] = [
        {"name": run.name, "reason": _incomparable(first, run), "figures": {}} for run in runs[1:]
    ]
    tested = [(each, _paired(run, first)) for each, run in zip(found, runs[1:], strict=True) if each["reason"] is None]
    for figure in FIGURES:
        adjusted = stats.adjust([compared[figure] for _, compared in tested])
        for (each, compared), of_all in zip(tested, adjusted, strict=True):
            verdict, _ = stats.judge_better(compared[figure], of_all)
            about = {"p": of_all.p_value, "interval": of_all.interval, "verdict": str(verdict)}
            each["figures"][figure] = {"found": compared[figure], **about}
    return found


def _incomparable(first: RunContents, second: RunContents) -> str | None:
    """Why two RUNs cannot be compared utterance by utterance; None where they can."""
    ours, theirs = (dict(zip(run.column("id"), run.truth, strict=True)) for run in (first, second))
    if first.classes != second.classes:
        return f"its emotions are {', '.join(second.classes)}"
    if ours.keys() != theirs.keys():
        return f"it was tested on other utterances ({len(ours.keys() & theirs.keys())} of {len(ours)} shared)"
    if ours != theirs:
        return "the same utterances have other labels in it"
    clusters = first.clusters
    return f"there is only one {clusters.unit}" if clusters.n < 2 else None


def _paired(run: RunContents, first: RunContents) -> dict[str, stats.Comparison]:
    """Compare two RUNs by whole clusters, in one order of utterances."""
    order = {name: number for number, name in enumerate(first.column("id"))}
    ordered = replace(run, rows=sorted(run.rows, key=lambda row: order[row["id"]]))
    unit, groups = first.clusters
    one, other = (each.confusions(groups)[None] for each in (ordered, first))
    return stats.compare(one, other, scores.figures, unit)


def _utterances(run: RunContents, files: dict[Path, int]) -> dict[str, Any]:
    """Data of the utterance browser; adds the media to `files` and refers to them by number."""
    number = {name: i for i, name in enumerate(run.classes)}
    explained = run.explained.get("utterances", {})
    rows = []
    for row in run.rows:
        known = run.corpus.get(row["id"])
        share, contribution = explained.get(row["id"], (None, {}))
        cells = [  # in the order in which the page's script takes them
            row["id"],
            number[row["truth"]],
            number[row["predicted"]],
            [round(1000 * float(row[f"p_{name}"])) for name in run.classes],
            known and known.text,
            known and known.language,
            row["speaker"],
            _media(known, run.root, files) if known else [],
            None if share is None else round(share, 3),
            [round(contribution[name], 3) if name in contribution else None for name in MODALITIES if contribution],
        ]
        rows.append(cells)
    return {"name": run.name, "classes": run.classes, "rows": rows}


def _media(row: Utterance, root: Path, files: dict[Path, int]) -> list[list[Any]]:
    """Media of an utterance that can be played: the video, and the audio where that is another file."""
    audio = None if row.video and row.audio and row.audio.path == row.video.path else row.audio
    return [
        [kind, files.setdefault(root / span.path, len(files)), span.start, span.end]
        for kind, span in (("video", row.video), ("audio", audio))
        if span
    ]


def _address(path: Path, folder: Path) -> str | None:
    """The address of a file relative to the page; None where it is missing."""
    return quote(os.fsencode(os.path.relpath(path, folder))) if path.is_file() else None
