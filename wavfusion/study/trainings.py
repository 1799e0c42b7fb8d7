"""The trainings of a study: rows x folds x seeds, several at once, resumable, and what they will cost."""

import fcntl
import hashlib
import itertools
import json
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from wavfusion import manifest
from wavfusion.corpora.protocol import Protocol, divide_parts, row_digest
from wavfusion.errors import ConfigError, CorpusError
from wavfusion.experiments.experiment import Experiment
from wavfusion.features.clips import Media, read_feature_sets
from wavfusion.features.dataset import Features, LengthBatches, choose_features, collate, model_config, model_inputs
from wavfusion.features.store import Store
from wavfusion.manifest import Utterance
from wavfusion.runs.results import METRICS, read_history, read_metrics, read_predictions
from wavfusion.study.tables import Table
from wavfusion.training import checkpoints, train
from wavfusion.training.trainer import stepper

log = logging.getLogger(__name__)

SMOKE_EPOCHS = 1
SMOKE_ROWS = {"train": 48, "valid": 24, "test": 24}  # utterances that a smoke run takes of each part


@dataclass(frozen=True)
class Study:
    """What all trainings of a reproduction share.

    Attributes:
        base: the experiment that rows differ from: a file or a shipped name.
        common: settings of all rows, by dotted key.
        protocol: a name or a split file, None for the corpus's own; `folds` of it, from 1, none = all.
        seeds: how many, from `first_seed`.
        smoke: one epoch of a few utterances, one fold, one seed: shows that everything runs, and nothing else.
    """

    manifest: Path
    store: Path
    base: str = "paper"
    common: Mapping[str, str] | None = None
    protocol: str | None = None
    folds: Sequence[int] = ()
    seeds: int = 1
    first_seed: int = 0
    extra: bool = False
    smoke: bool = False


@dataclass(frozen=True)
class PlannedTraining:
    """One training: an experiment under one fold."""

    experiment: Experiment
    protocol: Protocol
    folder: Path

    @property
    def done(self) -> bool:
        """Whether it has come to its end before, and all that results are made of is whole."""
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
        rows = read_predictions(folder)
        best = max(row[checkpoints.BEST_BY] for row in read_history(folder) if checkpoints.BEST_BY in row)
        classes: list[str] = read_metrics(folder)["classes"]
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise CorpusError(f"{folder}: expected a finished RUN, found {type(error).__name__}: {error}") from None
    return rows, classes, best


@dataclass(frozen=True)
class Plan:
    """Which trainings a set of tables needs, each once.

    Attributes:
        jobs: by the name of their folder.
        rows: (table, row) -> for every seed the names of its jobs, a fold each.
    """

    jobs: dict[str, PlannedTraining]
    rows: dict[tuple[str, str], list[list[str]]]


def plan_trainings(study: Study, tables: Sequence[Table], out: Path) -> Plan:
    """Lay out the trainings; rows with equal experiments share them.

    Raises:
        ConfigError: a setting or fold that does not exist, or tables of another corpus.
        CorpusError: features that were not extracted; says which layers to extract.
    """
    utterances, corpus = manifest.read(study.manifest), manifest.read_corpus(study.manifest)
    for table in tables:
        if table.corpus not in (corpus.corpus, "any"):
            raise ConfigError(f"{table.name}: expected a manifest of {table.corpus}, found {corpus.corpus}")
    _require_once([table.name for table in tables], "table")
    _require_once(list(study.folds), "fold")
    folds = divide_parts(study.protocol, utterances, corpus.classes)
    chosen = [1] if study.smoke and not study.folds else study.folds or range(1, len(folds) + 1)
    for number in chosen:
        if not 1 <= number <= len(folds):
            raise ConfigError(f"--folds: expected 1 to {len(folds)} of protocol {folds[0].name}, found {number}")
    parts = [_thinned(folds[number - 1]) if study.smoke else folds[number - 1] for number in chosen]
    common = {**(study.common or {}), **({"train.epochs": str(SMOKE_EPOCHS)} if study.smoke else {})}
    data = _digest(utterances, study.store)
    jobs: dict[str, PlannedTraining] = {}
    rows: dict[tuple[str, str], list[list[str]]] = {}
    for table in tables:
        for seed in range(study.first_seed, study.first_seed + (1 if study.smoke else study.seeds)):
            for row, experiment in table.experiments(study.base, seed, common, study.extra).items():
                names = []
                for fold in parts:
                    job = _job(experiment, fold, data, out)
                    names.append(job.folder.name)
                    jobs.setdefault(job.folder.name, job)
                rows.setdefault((table.name, row), []).append(names)
    if not jobs:
        raise ConfigError(f"{tables[0].name}: expected a row to train, found none")
    _require_features(study.store, [job.experiment for job in jobs.values()], corpus.classes)
    return Plan(jobs, rows)


def _require_once(names: Sequence[object], what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"expected each {what} once, found {what} {name} {names.count(name)} times")


def _digest(utterances: Sequence[Utterance], store: Path) -> str:
    """What a training learns from, beside its setting and its fold: labels, rows and encoders."""
    rows = [[each.id, each.emotion, each.votes, each.dialogue, each.speaker, row_digest(each)] for each in utterances]
    encoders = {name: asdict(each) for name, each in read_feature_sets(Store(store)).items()}
    for each in encoders.values():  # what else is stored does not matter
        each["audio_layers"] = each["text_layers"] = None
    return hashlib.sha256(json.dumps([rows, encoders], sort_keys=True).encode()).hexdigest()


def _job(experiment: Experiment, fold: Protocol, data: str, out: Path) -> PlannedTraining:
    """A training's folder is named by everything that decides it."""
    said = hashlib.sha256(f"{experiment.to_yaml()}{fold.hash}{data}".encode()).hexdigest()[:10]
    return PlannedTraining(experiment, fold, out / "runs" / f"{said}-fold{fold.fold}-seed{experiment.seed}")


def _thinned(fold: Protocol) -> Protocol:
    """A few utterances of each part, from all over it."""
    kept: set[str] = set()
    for part, count in SMOKE_ROWS.items():
        ids = fold.ids(part)
        kept.update(ids[:: max(1, len(ids) // count)][:count])
    return fold.restricted(kept)


def _require_features(store: Path, experiments: Sequence[Experiment], classes: Sequence[str]) -> None:
    """Name at once all layers that the rows need and the store lacks."""
    features = choose_features(Store(store), experiments[0].preset)
    needed = {model_config(each.model, features, classes).input_layer for each in experiments}
    if lacking := sorted(needed - set(features.audio_layers)):
        layers = ",".join(map(str, sorted(needed)))
        raise CorpusError(
            f"{store}: expected audio features of layers {layers}, found none of {', '.join(map(str, lacking))}; "
            f"run extract --layers {layers}"
        )


# ---------------------------------------------------------------------- running


def run_trainings(
    study: Study, jobs: Sequence[PlannedTraining], workers: int, device: str = "cpu", progress: bool = False
) -> dict[str, str]:
    """Train what has not been trained yet, several at once; one that fails does not stop the others.

    Args:
        study: names manifest and store.
        jobs: those that are done are passed over.
        workers: processes.
        device: of every run.
        progress: show a bar with the time left on stderr.

    Returns:
        Why each failed run failed, by its folder's name.
    """
    todo = [job for job in jobs if not job.done]
    failed: dict[str, str] = {}
    with tqdm(total=len(todo), desc="reproduce", unit="run", disable=not progress or not todo) as bar:
        broken = _run_pool(study, todo, workers, device, failed, bar)
        for job in broken:  # a worker died; alone, each shows whether it was the cause
            if _run_pool(study, [job], 1, device, failed, bar):
                failed[job.folder.name] = "its process was killed"
                bar.update()
    return failed


def _run_pool(
    study: Study, jobs: Sequence[PlannedTraining], workers: int, device: str, failed: dict[str, str], bar: Any
) -> list[PlannedTraining]:
    """Run jobs in a pool; returns those that a dead worker left."""
    if not jobs:
        return []
    left: list[PlannedTraining] = []
    with _pool(workers) as pool:
        waiting: dict[Future[float], PlannedTraining] = {pool.submit(_train, study, job, device): job for job in jobs}
        try:
            for future in as_completed(waiting):
                job = waiting[future]
                try:
                    seconds = future.result()
                except BrokenProcessPool:
                    left.append(job)
                    continue
                except Exception as error:  # whatever one run dies of, the others go on
                    failed[job.folder.name] = " ".join(f"{type(error).__name__}: {error}".split())
                    log.error("%s: %s", job.folder.name, failed[job.folder.name])
                else:
                    log.info("%s: done in %.0f s", job.folder.name, seconds)
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return left


def _pool(workers: int) -> ProcessPoolExecutor:
    """Processes that share the cores and end with this one; spawned, since torch's threads do not survive a fork."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, _start, (os.getpid(), threads))


def _start(parent: int, threads: int) -> None:
    """Prepare a worker: it must not go on writing when its parent was killed."""
    torch.set_num_threads(threads)

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()


def _train(study: Study, job: PlannedTraining, device: str) -> float:
    """Train one job to its end in this process; returns the seconds that it took."""
    started = time.monotonic()
    with _alone(job.folder):
        if not job.done:
            damaged = (job.folder / METRICS).exists()  # the last that is written is there, others are not whole
            train.train(job.experiment, data_of(study, job), job.folder, device, resume=not damaged, force=damaged)
    return time.monotonic() - started


def data_of(study: Study, job: PlannedTraining) -> train.Data:
    """Open what a training reads."""
    utterances, corpus = manifest.read(study.manifest), manifest.read_corpus(study.manifest)
    store = Store(study.store)
    media = Media(store, corpus.root, corpus.root)
    return train.Data(utterances, corpus, job.protocol, store, media, str(study.manifest))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a RUN's folder against another process, and send its messages into its own log."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log.txt", "a", encoding="utf-8") as file, redirect_stderr(file):
        fcntl.flock(file, fcntl.LOCK_EX)
        handler = logging.StreamHandler(file)
        logging.getLogger().addHandler(handler)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(handler)


# ---------------------------------------------------------------------- what it will cost

STARTUP = 8.0  # seconds of a worker until its first training begins, on the two cores of docs/results.md
FILES = 3.0  # times the seconds that a training's data and model take to open: its figures and files at the end too
STEPS = 4  # timed training steps of each experiment


def estimate(study: Study, jobs: Sequence[PlannedTraining], workers: int, device: str = "cpu") -> dict[str, float]:
    """Seconds that each training will take at most, from a few steps of it beside `workers` - 1 others.

    Early stopping is not foreseen.
    """
    kinds: dict[str, PlannedTraining] = {}
    for job in jobs:
        kinds.setdefault(replace(job.experiment, seed=0).to_yaml(), job)
    with _pool(workers) as pool:
        timed = pool.map(_time_step, itertools.repeat(study), kinds.values(), itertools.repeat(device))
        measured = dict(zip(kinds, timed, strict=True))
    found = {}
    for job in jobs:
        setting = job.experiment.train
        count = {part: len(job.protocol.ids(part)) / setting.batch_size for part in ("train", "valid", "test")}
        every = 2 ** len(job.experiment.model.modalities) - 1 if job.experiment.model.modality_dropout else 1
        # A forward pass alone takes about a third of a step.
        looks = setting.epochs * count["valid"] + every * count["test"]
        opening, step = measured[replace(job.experiment, seed=0).to_yaml()]
        found[job.folder.name] = FILES * opening + step * (setting.epochs * count["train"] + looks / 3)
    return found


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
    return "\n".join([*lines, f"{len(left)} trainings to do, {workers} at once: at most about {hours:.2f} hours"])


def _time_step(study: Study, job: PlannedTraining, device: str) -> tuple[float, float]:
    """Seconds to open data and model, and mean seconds of a training step on batches of all lengths."""
    opened = time.monotonic()
    data = data_of(study, job)
    features = choose_features(data.store, job.experiment.preset)
    experiment = train.resolved(job.experiment, features)
    config = model_config(experiment.model, features, data.protocol.classes)
    live = experiment.train.mode != "cached" and "audio" in config.modalities
    samples = Features(data.part("train"), data.store, data.media, features, config, first_window=True, live=live)
    model, network = train.build(experiment.train, config, train.load_trained_on(features, config))
    step = stepper(network.to(device), model, (0.0, 0.0), experiment.train.clip)
    size = experiment.train.batch_size
    order = list(LengthBatches(samples.lengths(), size, 0))
    opening, seconds = time.monotonic() - opened, []
    for first in np.linspace(0, max(0, len(order) - size), STEPS + 1).astype(int):
        started = time.monotonic()
        batch = model_inputs(collate([samples[i] for i in order[first : first + size]]), config.modalities, device)
        step(batch)
        seconds.append(time.monotonic() - started)
    return opening, sum(seconds[1:]) / STEPS
