"""Search for the settings of an experiment on the validation part alone, by Optuna; the test part is not even read."""

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from wavfusion.comparators.systems import SYSTEMS
from wavfusion.errors import ConfigError
from wavfusion.experiments.experiment import OF_SYSTEM, Experiment, read_experiment
from wavfusion.features.dataset import choose_features
from wavfusion.features.store import Store
from wavfusion.files import read_yaml, validated, write_atomic, write_json
from wavfusion.processes.pool import Lost, spread
from wavfusion.runs.results import read_history
from wavfusion.training import train
from wavfusion.training.checkpoints import BEST_BY, PrunedError

log = logging.getLogger(__name__)

TRIALS = 12
BEFORE_PRUNING, BEFORE_EPOCH = 5, 5  # trials that always end, and epochs that each may have (median rule)
JOURNAL, BEST, RESULT = "trials.log", "best.yaml", "tune.json"


@dataclass(frozen=True)
class Search:
    """What all trials of a search share.

    Attributes:
        config: the experiment that trials differ from: a file or a shipped name.
        typed: settings of all trials, by dotted key.
        space: values of each setting that is searched, by dotted key: a list, or `low`, `high` and perhaps `log`.
        budget: how many trials.
    """

    manifest: Path
    store: Path
    config: str
    typed: Mapping[str, str]
    space: Mapping[str, Any]
    budget: int = TRIALS
    protocol: str | None = None
    fold: int = 1
    where: str | None = None

    def experiment(self, drawn: Mapping[str, Any]) -> Experiment:
        """The experiment of a trial."""
        return read_experiment(self.config, {**self.typed, **{key: as_typed(value) for key, value in drawn.items()}})


@dataclass(frozen=True)
class Range:
    """A range of numbers; of whole ones where both ends are whole."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ConfigError(f"expected low below high, above 0 where log is true, found {self.low} and {self.high}")


def as_typed(value: Any) -> str:
    """A value as it would be typed behind its dotted key."""
    return value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True).split("\n")[0]


def read_space(path: Path | None, experiment: Experiment, rate: float) -> dict[str, Any]:
    """Read a space from a file; without one take the equal budget of the systems: rate, dropout, weights, width.

    `rate` is the experiment's, or that of its preset. The published width, where a system has one, is searched against
    half of it.
    """
    if path is not None:
        found = read_yaml(path)
        if not found:
            wanted = "values by dotted key, such as train.new_rate: [1e-4, 3e-4]"
            raise ConfigError(f"{path}: expected {wanted}, found none")
        for key, values in found.items():
            if isinstance(values, dict):
                validated(Range, values, f"{path}: {key}")
            elif not isinstance(values, list) or not values:
                raise ConfigError(f"{path}: {key}: expected a list of values, or low and high, found {values!r}")
        return found
    space: dict[str, Any] = {"train.new_rate": [float(f"{rate * factor:.3g}") for factor in (1 / 3, 1, 3)]}
    space |= {"model.task_loss": ["ce", "balanced"]}
    dropout = [0.1, 0.3, 0.5]
    if experiment.system is None:
        return space | {"model.dropout": dropout}
    parameters = inspect.signature(SYSTEMS[experiment.system.name]).parameters
    width = experiment.system.options.get("width", parameters["width"].default if "width" in parameters else None)
    options = {"dropout": dropout} | ({"width": [width, width // 2]} if width else {})
    return space | {f"{OF_SYSTEM}{name}": values for name, values in options.items()}


def tune(search: Search, out: Path, workers: int, device: str = "cpu") -> dict[str, Any]:
    """Run the trials that are left of the budget, several at once; returns the content of tune.json.

    Trials are drawn at random from the seed of the experiment, before the first is trained, so that a search that was
    killed goes on with the same ones. One that stands below the median of the others at its epoch is ended early. The
    best is that of the highest validation weighted F1; `best.yaml` is its experiment.

    Raises:
        ConfigError: the extra `[tune]` is missing, another search lies in `out`, or no trial ended.
    """
    out.mkdir(parents=True, exist_ok=True)
    _require_same(search, out)
    study, seed = _open(out), search.experiment({}).seed
    distributions = {key: _distribution(values) for key, values in search.space.items()}
    for number in range(len(study.trials), search.budget):
        study.sampler = _sampler(seed, number)
        study.ask(distributions)
    left = [each for each in study.trials if not each.state.is_finished()][: search.budget]
    todo = [(each.number, each.params) for each in left]
    for number, outcome in spread(partial(_trial_worker, search, out, device), todo, workers):
        found = outcome.reason if isinstance(outcome, Lost) else outcome
        log.info("trial %d: %s", todo[number][0], found if isinstance(found, str) else f"{found:.4f}")
    return _write(search, _open(out), out)


def _require_same(search: Search, out: Path) -> None:
    """Keep what defines a search beside its trials, and refuse to go on with another."""
    about = {
        "experiment": search.experiment({}).to_plain(),
        "space": dict(search.space),
        "manifest": str(search.manifest.resolve()),
        "protocol": [search.protocol, search.fold, search.where],
    }
    path, text = out / "search.yaml", yaml.safe_dump(about, sort_keys=False)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ConfigError(f"{out}: expected the search that it was started with, found another; choose another folder")
    write_atomic(path, text.encode())


def _sampler(seed: int, number: int) -> Any:
    """What draws a trial: the same one whatever the budget."""
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=hash((seed, number)) % 2**32)


def _open(out: Path) -> Any:
    """Open the journal of the trials."""
    try:
        import optuna
    except ImportError:
        raise ConfigError("tune: expected the extra [tune]: pip install 'wavfusion[tune]'; found none") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(out / JOURNAL)))
    return optuna.create_study(
        storage=storage,
        study_name="tune",
        load_if_exists=True,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(BEFORE_PRUNING, BEFORE_EPOCH),
    )


def _distribution(values: Any) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, list):
        return CategoricalDistribution(values)
    whole = isinstance(values["low"], int) and isinstance(values["high"], int)
    return (IntDistribution if whole else FloatDistribution)(**values)


def _trial_worker(search: Search, out: Path, device: str) -> Callable[[tuple[int, dict[str, Any]]], float | str]:
    return partial(_run_trial, search, out, device)


def _run_trial(search: Search, out: Path, device: str, trial: tuple[int, dict[str, Any]]) -> float | str:
    """Train one trial on the train part and score it on the valid part; returns its figure, or why there is none."""
    import optuna

    number, drawn = trial
    study = _open(out)
    own = optuna.trial.Trial(study, study.trials[number]._trial_id)
    folder = out / f"trial{number}"

    def watch(epoch: int, score: float) -> None:
        own.report(score, epoch)
        if own.should_prune():
            raise PrunedError(f"below the median at epoch {epoch}")

    try:
        data = train.read_data(search.manifest, search.store, search.protocol, search.fold, where=search.where)
        train.train(search.experiment(drawn), _without_test(data), folder, device, resume=True, watch=watch)
    except PrunedError as pruned:
        study.tell(number, state=optuna.trial.TrialState.PRUNED)
        return str(pruned)
    except Exception as error:  # whatever one trial dies of, the others go on
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        own.set_user_attr("failed", reason)
        study.tell(number, state=optuna.trial.TrialState.FAIL)
        return reason
    best = max(row[BEST_BY] for row in read_history(folder) if BEST_BY in row)
    study.tell(number, best)
    return best


def _without_test(data: train.Data) -> train.Data:
    """Leave the test part out, so that no trial can see it."""
    kept = {key for key, part in data.protocol.parts.items() if part != "test"}
    return replace(
        data,
        protocol=data.protocol.restricted(kept),
        utterances=[row for row in data.utterances if data.protocol.parts.get(row.id) != "test"],
    )


def _write(search: Search, study: Any, out: Path) -> dict[str, Any]:
    """Write tune.json with every trial, and best.yaml."""
    trials = []
    for each in study.trials:
        history = read_history(out / f"trial{each.number}")
        state = each.state.name.lower()
        about = {"number": each.number, "settings": each.params, "state": state, "epochs": len(history)}
        about |= {"failed": each.user_attrs["failed"]} if "failed" in each.user_attrs else {}
        trials.append({**about, "weighted_f1": each.value if state == "complete" else None})
    ended = [each for each in trials if each["weighted_f1"] is not None]
    if not ended:
        reason = next((each["failed"] for each in trials if "failed" in each), "all were ended early")
        raise ConfigError(f"{out}: expected a trial that ended, found none of {len(trials)}: {reason}")
    best = max(ended, key=lambda each: each["weighted_f1"])
    content = {
        "experiment": search.config,
        "budget": search.budget,
        "space": dict(search.space),
        "selected_on": "valid",
        "trials": trials,
        "best": best,
    }
    write_json(out / RESULT, content)
    write_atomic(out / BEST, search.experiment(best["settings"]).to_yaml().encode())
    return content


def resolved_rate(search: Search) -> float:
    """The learning rate of new tensors that the experiment has, or the preset of its features."""
    experiment = search.experiment({})
    found = train.resolved(experiment, choose_features(Store(search.store), experiment.preset)).train.new_rate
    assert found is not None
    return found


def tune_to_text(content: Mapping[str, Any], out: Path) -> str:
    """Lay the trials out for a terminal, the best first."""
    rows = sorted(content["trials"], key=lambda each: -(each["weighted_f1"] or 0))
    lines = [f"{len(rows)} of {content['budget']} trials, by weighted F1 of the validation part"]
    for each in rows:
        settings = "  ".join(f"{key} {as_typed(value)}" for key, value in each["settings"].items())
        score = f"{100 * each['weighted_f1']:.2f}" if each["weighted_f1"] is not None else each["state"]
        lines.append(f"  {each['number']:>3}  {score:>8}  {each['epochs']:>3} epochs  {settings}")
    return "\n".join([*lines, f"best: {out / BEST} (wavfusion train --config {out / BEST})"])
