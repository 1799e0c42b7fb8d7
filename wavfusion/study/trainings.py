"""The trainings of a study: rows x folds x seeds, several at once, resumable, and what they will cost."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from wavfusion import manifest
from wavfusion.comparators.acoustic import require_extractor
from wavfusion.comparators.linear import COMPARATORS
from wavfusion.corpora.protocol import Protocol, divide_parts, row_digest, shared
from wavfusion.errors import ConfigError, CorpusError, counted
from wavfusion.experiments.experiment import Experiment
from wavfusion.features.batches import LengthBatches, collate, model_inputs
from wavfusion.features.dataset import Features, choose_features, choose_layers, model_config
from wavfusion.features.store import Store, read_feature_sets
from wavfusion.manifest import Utterance
from wavfusion.metrics.clusters import MIN_CLUSTERS
from wavfusion.processes.pool import Lost, require_result, spread
from wavfusion.processes.timing import timed
from wavfusion.runs.results import METRICS, PREDICTIONS, clusters_of, read_csv, read_history, read_metrics
from wavfusion.study.tables import Table
from wavfusion.training import checkpoints, train
from wavfusion.training.systems import time_system
from wavfusion.training.trainer import stepper

log = logging.getLogger(__name__)

SMOKE_EPOCHS = 1
SMOKE_ROWS = {"train": 48, "valid": 24, "test": 24}  # utterances that a smoke run takes of each part


@dataclass(frozen=True)
class Study:
    """What all trainings of a reproduction share."""

    manifest: Path
    store: Path
    base: str = "paper"  # the experiment that rows differ from: a file or a shipped name
    common: Mapping[str, str] | None = None  # settings of all rows, by dotted key
    protocol: str | None = None  # a name or a split file; None for the corpus's own
    where: str | None = None  # conditions on the rows that are divided (`manifest.parse_where`)
    folds: Sequence[int] = ()  # of the protocol, from 1; none = all
    seeds: int = 1  # how many, from `first_seed`
    first_seed: int = 0
    extra: bool = False
    smoke: bool = False  # one epoch of a few utterances, one fold, one seed: shows that everything runs


@dataclass(frozen=True)
class PlannedTraining:
    """One training: an experiment under one fold."""

    experiment: Experiment
    protocol: Protocol
    folder: Path

    @property
    def done(self) -> bool:
        """Whether it is finished, and the files that results are made of are complete."""
        try:
            rows, classes, _ = read_run_results(self.folder)
            for row in rows:
                _ = row["truth"], [float(row[f"p_{name}"]) for name in classes]
        except (LookupError, TypeError, ValueError):  # a CorpusError is one of them
            return False
        return sorted(row["id"] for row in rows) == sorted(self.protocol.ids("test") or self.protocol.ids("valid"))


def read_run_results(folder: Path) -> tuple[list[dict[str, str]], list[str], float]:
    """Read the rows of predictions.csv, the classes, and the validation figure that chose the epoch.

    Raises:
        CorpusError: one of them is missing or damaged.
    """
    try:
        rows = read_csv(folder / PREDICTIONS)
        best = max(row[checkpoints.BEST_BY] for row in read_history(folder) if checkpoints.BEST_BY in row)
        classes: list[str] = read_metrics(folder)["classes"]
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise CorpusError(f"{folder}: expected a finished RUN, found {type(error).__name__}: {error}") from None
    return rows, classes, best


@dataclass(frozen=True)
class Plan:
    """Which trainings a set of tables needs, each once."""

    jobs: dict[str, PlannedTraining]  # by the name of their folder
    rows: dict[tuple[str, str], list[list[str]]]  # (table, row) -> for every seed the names of its jobs, a fold each

    @property
    def fullest(self) -> PlannedTraining:
        """The first training with the most modalities, of WavFusion if any: baselines and comparators stand beside."""

        def rank(job: PlannedTraining) -> tuple[bool, int]:
            return job.experiment.system is None, len(job.experiment.model.modalities)

        return max(self.jobs.values(), key=rank)


def plan_trainings(study: Study, tables: Sequence[Table], out: Path) -> Plan:
    """Lay out the trainings; rows with equal experiments share them.

    Raises:
        ConfigError: a setting or fold that does not exist, or tables of another corpus.
        CorpusError: features that were not extracted; says which layers to extract.
    """
    utterances, corpus = manifest.read(study.manifest, study.where), manifest.read_corpus(study.manifest)
    for table in tables:
        if table.corpus not in (corpus.corpus, "any"):
            raise ConfigError(f"{table.name}: expected a manifest of {table.corpus}, found {corpus.corpus}")
    _require_once([table.name for table in tables], "table")
    _require_once(list(study.folds), "fold")
    folds = divide_parts(study.protocol, utterances, corpus.classes, where=study.where)
    chosen = [1] if study.smoke and not study.folds else study.folds or range(1, len(folds) + 1)
    for number in chosen:
        if not 1 <= number <= len(folds):
            raise ConfigError(f"--folds: expected 1 to {len(folds)} of protocol {folds[0].name}, found {number}")
    parts = [_thinned(folds[number - 1]) if study.smoke else folds[number - 1] for number in chosen]
    _warn_of_few_clusters(tables, parts, utterances)
    common = {**(study.common or {}), **({"train.epochs": str(SMOKE_EPOCHS)} if study.smoke else {})}
    store = Store(study.store)
    data = _digest(utterances, store)
    divided = any(shared("dialogue", utterances, part.parts) for part in parts)
    jobs: dict[str, PlannedTraining] = {}
    rows: dict[tuple[str, str], list[list[str]]] = {}
    for table in tables:
        for seed in range(study.first_seed, study.first_seed + (1 if study.smoke else study.seeds)):
            for row, experiment in table.experiments(study.base, seed, common, study.extra).items():
                if divided and sees_turns(experiment):
                    continue
                features = choose_features(store, experiment.preset)
                layers = choose_layers(experiment.model, features)
                whole = replace(experiment, model=layers, train=train.choose_augment(experiment.train, features))
                planned = {job.folder.name: job for job in (_job(whole, fold, data, out) for fold in parts)}
                jobs |= planned
                rows.setdefault((table.name, row), []).append(list(planned))
    if divided:
        _warn_of_systems(tables, folds[0].name)
    if not jobs:
        raise ConfigError(f"{tables[0].name}: expected a row to train, found none")
    for name in (name for table in tables for name in table.comparators(study.extra)):
        require_extractor(COMPARATORS[name][0])
    _require_features(store, [job.experiment for job in jobs.values()], corpus.classes)
    return Plan(jobs, rows)


def _warn_of_few_clusters(tables: Sequence[Table], folds: Sequence[Protocol], utterances: Sequence[Utterance]) -> None:
    """Say before anything is trained that claims will get no verdict."""
    tested = {key for fold in folds for key in fold.ids("test") or fold.ids("valid")}
    clusters = clusters_of([row for row in utterances if row.id in tested])
    claiming = [table.name for table in tables if table.claims]
    if claiming and clusters.n < MIN_CLUSTERS:
        found = counted(clusters.n, clusters.unit)
        log.warning("%s: no verdict on claims: %s tested, %d are needed", ", ".join(claiming), found, MIN_CLUSTERS)


def sees_turns(experiment: Experiment) -> bool:
    """Whether what is trained sees other turns than the one that it classifies."""
    return experiment.system is not None or experiment.context != "off"


def _warn_of_systems(tables: Sequence[Table], protocol: str) -> None:
    """Say which rows are left out because they see the turns around an utterance, some of which would train them."""
    for table in tables:
        every = table.experiments("paper", 0, {}, extra=True)
        if names := ", ".join(name for name, each in every.items() if sees_turns(each)):
            reason = f"protocol {protocol} divides dialogues, of which they see the whole; random5-dialogues does not"
            log.warning("%s: not trained: %s: %s", table.name, names, reason)


def _require_once(names: Sequence[object], what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"expected each {what} once, found {what} {name} {names.count(name)} times")


def _digest(utterances: Sequence[Utterance], store: Store) -> str:
    """What a training learns from, beside its setting and its fold: labels, rows and encoders."""
    rows = [[each.id, each.emotion, each.votes, each.dialogue, each.speaker, row_digest(each)] for each in utterances]
    encoders = {name: replace(each, variants=0).to_json() for name, each in read_feature_sets(store).items()}
    for each in encoders.values():  # what else is stored does not matter; the experiment says which layers are deep
        each["audio_layers"] = each["text_layers"] = None
        (each["audio"] or {}).pop("deep_layers", None)
    return hashlib.sha256(json.dumps([rows, encoders], sort_keys=True).encode()).hexdigest()


def _job(experiment: Experiment, fold: Protocol, data: str, out: Path) -> PlannedTraining:
    """A training's folder is named by everything that decides it."""
    digest = hashlib.sha256(f"{experiment.to_yaml()}{fold.hash}{data}".encode()).hexdigest()[:10]
    return PlannedTraining(experiment, fold, out / "runs" / f"{digest}-fold{fold.fold}-seed{experiment.seed}")


def _thinned(fold: Protocol) -> Protocol:
    """A few utterances of each part, from all over it."""
    kept: set[str] = set()
    for part, count in SMOKE_ROWS.items():
        ids = fold.ids(part)
        kept.update(ids[:: max(1, len(ids) // count)][:count])
    return fold.restricted(kept)


def _require_features(store: Store, experiments: Sequence[Experiment], classes: Sequence[str]) -> None:
    """Refuse a store that lacks layers; names at once all that the rows need."""
    features = choose_features(store, experiments[0].preset)
    configs = [model_config(each.model, features, classes) for each in experiments]
    needed = {layer for config in configs if "audio" in config.modalities for layer in config.input_layers}
    if lacking := sorted(needed - set(features.audio_layers)):
        layers = ",".join(map(str, sorted(needed)))
        raise CorpusError(
            f"{store.folder}: expected audio features of layers {layers}, found none of "
            f"{', '.join(map(str, lacking))}; run extract --layers {layers}"
        )


def default_workers(device: str) -> int:
    """Trainings at once: one a core, but one alone on a GPU, whose memory and time they would share."""
    return 1 if device.startswith("cuda") else os.cpu_count() or 1


def run_trainings(
    study: Study, jobs: Sequence[PlannedTraining], workers: int, device: str = "cpu", progress: bool = False
) -> dict[str, str]:
    """Train what has not been trained yet, several at once; one that fails does not stop the others.

    With `progress`, a bar shows the time left on stderr. Returns why each failed run failed, by its folder's name.
    """
    todo = [job for job in jobs if not job.done]
    if not todo:
        return {}
    failed: dict[str, str] = {}
    with (
        tqdm(total=len(todo), desc="reproduce", unit="run", disable=not progress) as bar,
        closing(spread(partial(_training_worker, study, device), todo, workers)) as outcomes,
    ):
        for number, outcome in outcomes:
            name = todo[number].folder.name
            if isinstance(outcome, float):
                log.info("%s: done in %.0f s", name, outcome)
            else:
                failed[name] = outcome.reason if isinstance(outcome, Lost) else outcome
                log.error("%s: %s", name, failed[name])
            bar.update()
    return failed


def _training_worker(study: Study, device: str) -> Callable[[PlannedTraining], float | str]:
    return partial(_train, study, device)


def _train(study: Study, device: str, job: PlannedTraining) -> float | str:
    """Train one job to its end in this process; returns the seconds that it took, or why it failed."""
    started = time.monotonic()
    try:
        with _locked(job.folder):
            if not job.done:
                damaged = (job.folder / METRICS).exists()  # written last: other files are incomplete
                data = train.read_data(study.manifest, study.store, job.protocol)
                train.train(job.experiment, data, job.folder, device, resume=not damaged, force=damaged)
    except Exception as error:  # whatever one run dies of, the others go on
        return " ".join(f"{type(error).__name__}: {error}".split())
    return time.monotonic() - started


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a RUN's folder against another process, and send messages into its own log."""
    folder.mkdir(parents=True, exist_ok=True)
    root = logging.getLogger()
    handlers = root.handlers
    path = folder / "log.txt"
    with FileLock(f"{path}.lock"), open(path, "a", encoding="utf-8") as file, redirect_stderr(file):
        root.handlers = [logging.StreamHandler(file)]
        try:
            yield
        finally:
            root.handlers = handlers


STARTUP = 8.0  # seconds of a worker until its first training begins, on the two cores of docs/measurements/results.md
FILES = 3.0  # times the seconds that a training's data and model take to open: its figures and files at the end too
STEPS = 4  # timed training steps of each experiment


def estimate(study: Study, jobs: Sequence[PlannedTraining], workers: int, device: str = "cpu") -> dict[str, float]:
    """Seconds that each training will take at most, from a few steps of it beside `workers` - 1 others.

    Early stopping is not foreseen.
    """
    kinds = {_kind(job): job for job in jobs}
    outcomes = spread(partial(_timing_worker, study, device), list(kinds.values()), workers)
    measured = {list(kinds)[number]: require_result(outcome, "--dry-run") for number, outcome in outcomes}
    found = {}
    for job in jobs:
        setting = job.experiment.train
        count = {part: len(job.protocol.ids(part)) / setting.batch_size for part in ("train", "valid", "test")}
        subsets = 2 ** len(job.experiment.model.modalities) - 1 if job.experiment.model.modality_dropout else 1
        # A forward pass alone takes about a third of a step.
        passes = setting.epochs * count["valid"] + subsets * count["test"]
        opening, step = measured[_kind(job)]
        found[job.folder.name] = FILES * opening + step * (setting.epochs * count["train"] + passes / 3)
    return found


def _kind(job: PlannedTraining) -> str:
    """What decides how long a training takes."""
    return replace(job.experiment, seed=0).to_yaml()


def to_costs(planned: Plan, costs: Mapping[str, float], workers: int) -> str:
    """List the trainings with what they will cost, and the sum."""
    used: dict[str, list[str]] = {}
    for (table, row), seeds in planned.rows.items():
        for name in (name for names in seeds for name in names):
            used.setdefault(name, []).append(f"{table} {row}")
    lines = [
        f"{name}  {costs[name] / 60:6.1f} min  {'done' if job.done else 'to do'}  {'; '.join(used[name])}"
        for name, job in planned.jobs.items()
    ]
    left = [costs[name] for name, job in planned.jobs.items() if not job.done]
    hours = (sum(left) / workers + STARTUP) / 3600
    return "\n".join(
        [*lines, f"{counted(len(left), 'training')} to do, {workers} at once: at most about {hours:.2f} hours"]
    )


def _timing_worker(study: Study, device: str) -> Callable[[PlannedTraining], tuple[float, float]]:
    return partial(_time_step, study, device)


def _time_step(study: Study, device: str, job: PlannedTraining) -> tuple[float, float]:
    """Seconds to open data and model, and mean seconds of a training step on batches of all lengths."""
    opened = time.monotonic()
    data = train.read_data(study.manifest, study.store, job.protocol)
    if job.experiment.system is not None:
        return time_system(job.experiment, data, device)
    features = choose_features(data.store, job.experiment.preset)
    experiment = train.resolved(job.experiment, features)
    config = model_config(experiment.model, features, data.protocol.classes)
    live = experiment.train.mode != "cached" and "audio" in config.modalities
    samples = Features(data.part("train"), data.store, data.media, features, config, first_window=True, live=live)
    model, network = train.build(experiment.train, config, train.load_trained_on(features, config))
    step = stepper(network.to(device), model, (0.0, 0.0), experiment.train.clip)
    size = experiment.train.batch_size
    order = list(LengthBatches(samples.lengths(), size, 0))

    def work(first: int) -> None:
        batch = collate([samples[i] for i in order[first : first + size]])
        step(model_inputs(batch, config.modalities, device))

    opening = time.monotonic() - opened
    firsts = np.linspace(0, max(0, len(order) - size), STEPS + 1).astype(int).tolist()
    seconds = [timed(partial(work, first), device) for first in firsts]
    return opening, sum(seconds[1:]) / STEPS
