"""`evaluate` and `cross`: how well a RUN or a results bundle does, and RUNs on several corpora."""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from wavfusion.cli import options as opt
from wavfusion.cli.output import DONE, LISTED, PARTLY, figures_to_text, printable, show
from wavfusion.errors import ConfigError
from wavfusion.files import require_free
from wavfusion.version import __version__

log = logging.getLogger(__name__)

Emotions = Annotated[
    Mapping[str, str] | None,
    opt.option(
        "other names of emotions, in the labels and in the predictions: joy=happy,calm=neutral",
        "joy=happy,...",
        opt.pairs("joy=happy,...", "emotion"),
    ),
]
Explain = Annotated[bool, opt.flag("--explain", "also write RUN/explain.json (or in --out): what the model's parts do")]
Runs = Annotated[list[Path], opt.argument("RUN folders", "RUN", opt.path)]
Manifests = Annotated[
    list[Path], typer.Option(help="what `prepare` wrote of each corpus", metavar="M...", parser=opt.path)
]
Stores = Annotated[
    list[Path],
    typer.Option(help="their features in the same order, or one store of all", metavar="S...", parser=opt.path),
]


def evaluate(
    trained: Annotated[Path, opt.argument("a RUN folder, or what `bundle` wrote", "RUN_OR_BUNDLE", opt.path)],
    manifest: Annotated[Path | None, opt.option("another corpus, or the same one elsewhere", "M", opt.path)] = None,
    store: Annotated[Path | None, opt.option("its features (default: those of the training)", "S", opt.path)] = None,
    split: Annotated[str, opt.option("the part (default test)", "train|valid|test|all")] = "test",
    modalities: Annotated[str | None, opt.option("default all the RUN's", "audio,text,video|all-subsets")] = None,
    where: opt.Where = None,
    map: Emotions = None,
    explain: Explain = False,
    out: Annotated[Path | None, opt.option("default RUN/evaluate/", "DIR", opt.path)] = None,
    force: opt.Force = False,
    device: opt.Device = "auto",
    seed: opt.Seed = None,
    json: opt.Json = False,
) -> int:
    """Score a trained model, or recompute a results bundle."""
    if trained.is_file():
        if store or modalities or map or where or explain or split != "test":
            raise ConfigError("expected only --manifest, --out and --json with a bundle, found a flag of a RUN")
        return _evaluate_bundle(trained, manifest, out, force, json)
    from wavfusion.evaluation import evaluate
    from wavfusion.evaluation.explain import warn_of_untrained_subsets
    from wavfusion.evaluation.inference import parse_subset, pick_device, subsets
    from wavfusion.runs import results
    from wavfusion.runs.folder import read_run

    run = read_run(trained)
    explained = (out or trained) / results.EXPLAINED
    out = out or trained / "evaluate"
    require_free([out / results.METRICS, out / results.PREDICTIONS, *([explained] if explain else [])], force)
    if explain and evaluate.EmotionMap(run.classes, map or {}).merges:
        raise ConfigError("--explain: expected no --map of the model's own emotions, whose predictions it explains")
    known = run.model.config.modalities
    chosen = "+".join(known) if modalities is None else modalities
    sets = subsets(known) if chosen == "all-subsets" else [parse_subset(chosen, known)]
    if explain or len(sets) > 1:
        warn_of_untrained_subsets(run.model.config)
    device = pick_device(device)
    part, features, media = evaluate.open_part(run, manifest, store, split, map, where)
    result, predicted = evaluate.evaluate(run, part.utterances, features, media, sets, device, part.mapping)
    result |= {"split": split, "left_out": {"unknown": part.unknown, "unlabelled": part.unlabelled}}
    result |= {} if part.in_domain else {"protocol": evaluate.out_of_domain_protocol(run)}
    if where:
        place = result["protocol"].get("tested_on", "rows")
        result["protocol"] = {**result["protocol"], "tested_on": f"{place} where {where}"}
    results.write_results(out, result, part.utterances, predicted.probabilities)
    if explain:
        found = evaluate.explain(run, part, features, media, device)
        results.write_explained(explained, {"split": split, "protocol": run.protocol, **found})
    for emotion, number in part.unknown.items():
        log.warning("%d rows left out: the model does not know %r", number, emotion)
    if doubt := results.near_chance(result):
        log.warning("%s", doubt)
    show(result, figures_to_text(result, out), json)
    return DONE


def _evaluate_bundle(bundle_file: Path, manifest: Path | None, out: Path | None, force: bool, json: bool) -> int:
    from wavfusion.runs import bundle, results

    require_free([out / each for each in (results.METRICS, results.PREDICTIONS)] if out else [], force)
    result, labelled, differences = bundle.recompute(bundle.read_bundle(bundle_file), manifest)
    made_by = labelled.environment["wavfusion"]
    if differences and made_by != __version__:
        log.warning("made by version %r, this is %s: intervals may differ", made_by, __version__)
    if out:
        results.write_recomputed(out, result, labelled.rows)
    shown = [printable(f"differs: {line}") for line in differences[:LISTED]]
    lines = [figures_to_text(result, bundle_file), *(shown or ["all figures equal those that the bundle states"])]
    if len(differences) > LISTED:
        lines.append(f"... and {len(differences) - LISTED} more")
    show(result | {"differences": differences}, "\n".join(lines), json)
    if not labelled.truth:
        log.warning("without labels there is no interval, nll and ece; --manifest M of the corpus brings them")
    return PARTLY if differences or not labelled.truth else DONE


def cross(
    runs: Runs,
    manifests: Manifests,
    stores: Stores,
    out: Annotated[Path, opt.option("cross.html, cross.csv and cross.json", "DIR", opt.path)],
    map: Emotions = None,
    force: opt.Force = False,
    device: opt.Device = "auto",
    seed: opt.Seed = None,
    json: opt.Json = False,
) -> int:
    """Score several RUNs on several corpora: a matrix."""
    from wavfusion.evaluation.inference import pick_device
    from wavfusion.study.cross import cross_evaluate, cross_to_text, read_corpora, write_cross_folder

    require_free([out / f"cross.{ending}" for ending in ("json", "csv", "html")], force)
    corpora, device = read_corpora(manifests, stores), pick_device(device)
    content = cross_evaluate(runs, corpora, map or {}, device, sys.stderr.isatty())
    write_cross_folder(out, content)
    show(content, f"{cross_to_text(content)}\npage: {out / 'cross.html'}", json)
    return PARTLY if any(pair["failed"] for pair in content["pairs"]) else DONE
