"""`train` and `reproduce`: one model, or the trainings behind the paper's tables."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from wavfusion.cli import options as opt
from wavfusion.cli.output import DONE, PARTLY, figures_to_text, show
from wavfusion.errors import ConfigError
from wavfusion.files import require_free, require_writable

if TYPE_CHECKING:
    from wavfusion.runs.folder import Run

SelectOnTest = Annotated[bool, opt.flag("--select-on-test", "let the test part choose the epoch; all output says so")]
Preset = Annotated[str | None, opt.option("whose features are used, if the store holds several", "NAME", opt.name)]
Config = Annotated[
    str | None,
    opt.option(
        "a file, `paper`, `recommended`, `small`, or a system such as `mmgcn`; with --from, what differs from its own",
        "EXPERIMENT",
        opt.name,
    ),
]
Context = Annotated[
    str | None,
    opt.choice("which turns of the dialogue the model sees, too (default off)", "off", "past", "whole"),
]
Start = Annotated[
    str | None,
    opt.option("start from the weights of a RUN, a hub id, or `voice`: the voice model", "RUN", opt.name, "--from"),
]


def train(
    *,
    config: Config = None,
    start: Start = None,
    manifest: opt.Manifest,
    store: opt.FilledStore,
    out: Annotated[Path, opt.option("folder of the trained model", "RUN", opt.path)],
    protocol: opt.ProtocolName = None,
    where: opt.Where = None,
    fold: Annotated[Any, opt.option("of the protocol (default 1); several: RUN/foldK each", "K|all", opt.folds)] = (1,),
    preset: Preset = None,
    context: Context = None,
    settings: opt.Settings = None,
    select_on_test: SelectOnTest = False,
    resume: Annotated[bool, opt.flag("--resume", "continue from the newest complete checkpoint")] = False,
    force: Annotated[bool, opt.flag("--force", "remove an earlier RUN first")] = False,
    plain: opt.Plain = False,
    device: opt.Device = "auto",
    seed: opt.Seed = None,
    json: opt.Json = False,
) -> None:
    """Train one model on stored features and score its test part.

    Any setting of the experiment can follow as --dotted.key VALUE, such as --model.margin.weight 0.1
    """
    from wavfusion.experiments import experiment

    if config is None and start is None:
        raise ConfigError("train: expected --config EXPERIMENT, or --from RUN with its own, found neither")
    typed = _overrides(settings, preset, plain, context) | ({"seed": str(seed)} if seed is not None else {})
    trained, base = (None, None) if start is None else _read_start(start)
    setting = experiment.read_experiment(config, typed, base)
    from wavfusion.evaluation.inference import pick_device
    from wavfusion.training import folds, train

    selected_on = "test" if select_on_test else "valid"
    data = train.read_data(manifest, store, protocol, fold[0] if fold else 1, selected_on, where)
    require_writable(out)
    again: dict[str, Any] = {"device": pick_device(device), "start": trained, "resume": resume, "force": force}
    if len(fold) == 1:
        result = train.train(setting, data, out, **again)
    else:
        result = folds.train_folds(setting, data, out, protocol, fold or None, where, **again)
    if result:  # empty in every process of a distributed training but the first
        show(result, figures_to_text(result, out), json)


Tables = Annotated[list[str] | None, opt.argument("1 to 6, or a file (default: all of the corpus)", "TABLE")]
Folds = Annotated[Sequence[int] | None, opt.option("of the protocol (default all)", "K,...", opt.numbers("1 or 1,3"))]
Extra = Annotated[bool, opt.flag("--extra", "also the rows that are not printed in the paper")]
Smoke = Annotated[bool, opt.flag("--smoke", "one epoch on a few utterances: does everything run?")]
Workers = Annotated[int | None, opt.option("trainings at once (default: one a core; one on a GPU)", "N", opt.count(1))]
DryRun = Annotated[bool, opt.flag("--dry-run", "list the trainings and what they will cost")]


def reproduce(
    manifest: opt.Manifest,
    store: Annotated[Path, opt.option("what `extract --layers 8,9,10,11,12` filled", "S", opt.path)],
    out: Annotated[Path, opt.option("runs and results; started again, it continues", "DIR", opt.path)],
    table: Tables = None,
    config: Annotated[str | None, opt.option("what rows differ from (default paper)", "EXPERIMENT", opt.name)] = None,
    protocol: opt.ProtocolName = None,
    where: opt.Where = None,
    folds: Folds = None,
    seeds: Annotated[int, opt.option("trainings of each row and fold (default 3)", "N", opt.count(1))] = 3,
    preset: Preset = None,
    context: Context = None,
    settings: opt.Settings = None,
    extra: Extra = False,
    workers: Workers = None,
    smoke: Smoke = False,
    dry_run: DryRun = False,
    plain: opt.Plain = False,
    device: opt.Device = "auto",
    seed: opt.Seed = None,
    json: opt.Json = False,
) -> int:
    """Reproduce the paper's tables, or your own.

    Any setting can follow for all rows as --dotted.key VALUE, such as --train.epochs 12
    """
    from wavfusion.evaluation.inference import pick_device
    from wavfusion.manifest import read_corpus
    from wavfusion.study import comparing, reproduce, tables, trainings

    corpus = read_corpus(manifest).corpus
    shipped = [each for each in map(tables.read_table_file, tables.shipped_tables()) if each.corpus == corpus]
    chosen = [tables.read_table_file(each) for each in table or ()] or shipped
    if not chosen:
        raise ConfigError(f"reproduce: no shipped table is of corpus {corpus!r}; name a file of your own")
    typed: dict[str, Any] = opt.supplied(base=config, protocol=protocol, where=where, folds=folds, first_seed=seed)
    common = _overrides(settings, preset, plain, context)
    study = trainings.Study(manifest, store, common=common, seeds=seeds, extra=extra, smoke=smoke, **typed)
    planned = trainings.plan_trainings(study, chosen, out)
    jobs, device = list(planned.jobs.values()), pick_device(device)
    workers = workers or trainings.default_workers(device)
    if dry_run:
        costs = trainings.estimate(study, jobs, workers, device)
        show(costs, trainings.to_costs(planned, costs, workers), json)
        return DONE
    title = reproduce.stem([each.name for each in chosen] if table else [], smoke)
    require_free([out / f"{title}.{ending}" for ending in ("json", "csv", "html")], force=True)
    failed = trainings.run_trainings(study, jobs, workers, device, sys.stderr.isatty())
    compared, lost = comparing.predict_comparators(study, planned, chosen, out, sys.stderr.isatty())
    failed |= lost
    found = reproduce.results(planned, chosen, failed, compared)
    baselines = {} if failed else reproduce.score_baselines(study, planned)
    every = reproduce.write_results_folder(out, title, study, planned, found, baselines, failed)
    show(every, f"{reproduce.results_to_text(every)}\npage: {out / title}.html", json)
    return PARTLY if failed else DONE


Trials = Annotated[int | None, opt.option("the budget (default 12)", "N", opt.count(1))]
Space = Annotated[Path | None, opt.option("YAML: values, or low and high, by dotted key", "FILE", opt.path)]


def tune(
    *,
    config: Annotated[str, opt.option("what trials differ from: a file or a shipped name", "EXPERIMENT", opt.name)],
    manifest: opt.Manifest,
    store: opt.FilledStore,
    out: Annotated[Path, opt.option("trials and results; started again, it continues", "DIR", opt.path)],
    trials: Trials = None,
    space: Space = None,
    protocol: opt.ProtocolName = None,
    fold: Annotated[int, opt.option("of the protocol (default 1)", "K", opt.count(1))] = 1,
    where: opt.Where = None,
    preset: Preset = None,
    context: Context = None,
    settings: opt.Settings = None,
    workers: Workers = None,
    device: opt.Device = "auto",
    seed: opt.Seed = None,
    json: opt.Json = False,
) -> None:
    """Search for settings on the validation part alone, by random trials; the test part is not read.

    Any setting can follow for all trials as --dotted.key VALUE, such as --train.epochs 12
    """
    from dataclasses import replace

    from wavfusion.evaluation.inference import pick_device
    from wavfusion.study import trainings
    from wavfusion.study import tune as tuning

    typed = _overrides(settings, preset, False, context) | opt.supplied(seed=None if seed is None else str(seed))
    given: dict[str, Any] = opt.supplied(budget=trials, protocol=protocol, where=where)
    search = tuning.Search(manifest, store, config, typed, {}, fold=fold, **given)
    rate = tuning.resolved_rate(search)
    search = replace(search, space=tuning.read_space(space, search.experiment({}), rate))
    require_writable(out)
    device = pick_device(device)
    found = tuning.tune(search, out, workers or trainings.default_workers(device), device)
    show(found, tuning.tune_to_text(found, out), json)


def _read_start(name: str) -> "tuple[Run, dict[str, Any]]":
    """Read the model to start from, and the settings of its experiment."""
    from wavfusion.prediction.models import find_run
    from wavfusion.training.start import settings_of

    trained = find_run(name)
    return trained, settings_of(trained)


def _overrides(settings: Sequence[str] | None, preset: str | None, plain: bool, context: str | None) -> dict[str, str]:
    """Collect the settings that were typed: by dotted key, or as `--preset`, `--context` and `--plain`."""
    typed = dict(each.split("=", 1) for each in settings or ())
    return typed | opt.supplied(preset=preset, context=context, **{"train.fast": "false" if plain else None})
