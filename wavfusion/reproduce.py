"""The paper's tables, or the user's, from stored features: rows x folds x seeds, several runs at once, resumable."""

import csv
import fcntl
import hashlib
import io
import itertools
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import nn
from tqdm import tqdm

from wavfusion import checkpoints, controls, manifest, metrics, report, train
from wavfusion import statistics as stats
from wavfusion.clips import FeatureSet, Media
from wavfusion.dataset import Features, LengthBatches, choose_features, collate, model_config, model_inputs
from wavfusion.errors import ConfigError, CorpusError
from wavfusion.experiment import Experiment
from wavfusion.files import write_whole
from wavfusion.model.config import WavFusionConfig
from wavfusion.protocol import SAID, Protocol, describe, divide
from wavfusion.run import read_json, write_json
from wavfusion.store import Store
from wavfusion.tables import FIGURES, Claim, Table

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
        seeds: how many, from 0.
        smoke: one epoch of a few utterances, one fold, one seed: shows that everything runs, and nothing else.
    """

    manifest: Path
    store: Path
    base: str = "paper"
    common: Mapping[str, str] | None = None
    protocol: str | None = None
    folds: Sequence[int] = ()
    seeds: int = 1
    extra: bool = False
    smoke: bool = False


@dataclass(frozen=True)
class Job:
    """One training: an experiment under one fold."""

    experiment: Experiment
    protocol: Protocol
    folder: Path

    @property
    def done(self) -> bool:
        """Whether it has come to its end before."""
        return (self.folder / "metrics.json").is_file()


@dataclass(frozen=True)
class Plan:
    """Which trainings a set of tables needs, each once.

    Attributes:
        jobs: by the name of their folder.
        rows: (table, row) -> for every seed the names of its jobs, a fold each.
    """

    jobs: dict[str, Job]
    rows: dict[tuple[str, str], list[list[str]]]


def plan(study: Study, tables: Sequence[Table], out: Path) -> Plan:
    """Lay out the trainings; rows with equal experiments share them.

    Raises:
        ConfigError: a setting or fold that does not exist, or tables of another corpus.
        CorpusError: features that were not extracted; says which layers to extract.
    """
    utterances, corpus = manifest.read(study.manifest), manifest.read_corpus(study.manifest)
    for table in tables:
        if table.corpus not in (corpus.corpus, "any"):
            raise ConfigError(f"{table.name}: expected a manifest of {table.corpus}, found {corpus.corpus}")
    folds = divide(study.protocol, utterances, corpus.classes)
    chosen = [1] if study.smoke and not study.folds else study.folds or range(1, len(folds) + 1)
    for number in chosen:
        if not 1 <= number <= len(folds):
            raise ConfigError(f"--folds: expected 1 to {len(folds)} of protocol {folds[0].name}, found {number}")
    parts = [_thinned(folds[number - 1]) if study.smoke else folds[number - 1] for number in chosen]
    common = {**(study.common or {}), **({"train.epochs": str(SMOKE_EPOCHS)} if study.smoke else {})}
    jobs: dict[str, Job] = {}
    rows: dict[tuple[str, str], list[list[str]]] = {}
    for table in tables:
        for seed in range(1 if study.smoke else study.seeds):
            for row, experiment in table.experiments(study.base, seed, common, study.extra).items():
                names = []
                for fold in parts:
                    job = _job(experiment, fold, out)
                    names.append(job.folder.name)
                    jobs.setdefault(job.folder.name, job)
                rows.setdefault((table.name, row), []).append(names)
    _require_features(study.store, [job.experiment for job in jobs.values()], corpus.classes)
    return Plan(jobs, rows)


def _job(experiment: Experiment, fold: Protocol, out: Path) -> Job:
    """A training's folder is named by everything that decides it."""
    said = hashlib.sha256(f"{experiment.to_yaml()}{fold.hash}".encode()).hexdigest()[:10]
    return Job(experiment, fold, out / "runs" / f"{said}-fold{fold.fold}-seed{experiment.seed}")


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


def run(study: Study, jobs: Sequence[Job], workers: int, device: str = "cpu", progress: bool = False) -> dict[str, str]:
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
    study: Study, jobs: Sequence[Job], workers: int, device: str, failed: dict[str, str], bar: Any
) -> list[Job]:
    """Run jobs in a pool; returns those that a dead worker left."""
    if not jobs:
        return []
    left: list[Job] = []
    with _pool(workers) as pool:
        waiting: dict[Future[float], Job] = {pool.submit(_train, study, job, device): job for job in jobs}
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


def _train(study: Study, job: Job, device: str) -> float:
    """Train one job to its end in this process; returns the seconds that it took."""
    started = time.monotonic()
    with _alone(job.folder):
        if not job.done:
            train.train(job.experiment, _data(study, job), job.folder, device, resume=True)
    return time.monotonic() - started


def _data(study: Study, job: Job) -> train.Data:
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

STARTUP = 8.0  # seconds of a worker until its first training begins, on the machine of docs/results.md
STEPS = 4  # timed training steps of each experiment


def estimate(study: Study, jobs: Sequence[Job], workers: int, device: str = "cpu") -> dict[str, float]:
    """Seconds that each training will take at most, from a few steps of it beside `workers` - 1 others.

    Early stopping is not foreseen.
    """
    kinds: dict[str, Job] = {}
    for job in jobs:
        kinds.setdefault(replace(job.experiment, seed=0).to_yaml(), job)
    with _pool(workers) as pool:
        step = dict(
            zip(
                kinds,
                pool.map(_time_step, itertools.repeat(study), kinds.values(), itertools.repeat(device)),
                strict=True,
            )
        )
    found = {}
    for job in jobs:
        setting = job.experiment.train
        count = {part: len(job.protocol.ids(part)) / setting.batch_size for part in ("train", "valid", "test")}
        every = 2 ** len(job.experiment.model.modalities) - 1 if job.experiment.model.modality_dropout else 1
        # A forward pass alone takes about a third of a step.
        looks = setting.epochs * count["valid"] + every * count["test"]
        found[job.folder.name] = step[replace(job.experiment, seed=0).to_yaml()] * (
            setting.epochs * count["train"] + looks / 3
        )
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


def _time_step(study: Study, job: Job, device: str) -> float:
    """Median seconds of a training step, on batches of all lengths."""
    data = _data(study, job)
    features = choose_features(data.store, job.experiment.preset)
    experiment = train.resolved(job.experiment, features)
    config = model_config(experiment.model, features, data.protocol.classes)
    live = experiment.train.mode != "cached" and "audio" in config.modalities
    samples = Features(data.part("train"), data.store, data.media, features, config, first_window=True, live=live)
    model, network = train.build(experiment.train.mode, config, train.load_trained_on(features, config))
    optimiser = torch.optim.AdamW(train.parameter_groups(network.to(device).train(), model, (0.0, 0.0), 0.0))
    size = experiment.train.batch_size
    order = list(LengthBatches(samples.lengths(), size, 0))
    seconds = []
    for first in np.linspace(0, max(0, len(order) - size), STEPS + 1).astype(int):
        started = time.monotonic()
        batch = model_inputs(collate([samples[i] for i in order[first : first + size]]), config.modalities, device)
        network(**batch).loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), experiment.train.clip)
        optimiser.step()
        optimiser.zero_grad()
        seconds.append(time.monotonic() - started)
    return sum(seconds[1:]) / STEPS


# ---------------------------------------------------------------------- what came of it


@dataclass(frozen=True)
class Said:
    """What one seed's models said of all test utterances of the folds.

    Attributes:
        rows: of predictions.csv, folds one after the other.
        classes: emotions in class order.
        validation: the weighted F1 that chose the epoch, mean of the folds; what configurations may be chosen by.
    """

    rows: list[dict[str, str]]
    classes: list[str]
    validation: float

    def column(self, name: str) -> list[str]:
        """One column."""
        return [row[name] for row in self.rows]

    @property
    def probabilities(self) -> Float64[np.ndarray, "N C"]:
        """Of the emotions, in class order."""
        return np.array([[float(row[f"p_{name}"]) for name in self.classes] for row in self.rows])

    @property
    def groups(self) -> list[str | None]:
        """The dialogue of each utterance; None where it has none."""
        return [row["dialogue"] or None for row in self.rows]

    @property
    def speakers(self) -> list[str | None]:
        """The speaker of each utterance; None where it is not known."""
        return [row["speaker"] or None for row in self.rows]

    def confusions(self, groups: Sequence[Hashable]) -> Int64[np.ndarray, "G C C"]:
        """One confusion matrix a group, in the order in which they come; an utterance without one is a group."""
        return metrics.confusions_by_group(self.column("truth"), self.column("predicted"), self.classes, groups)


def read_said(folders: Sequence[Path]) -> Said:
    """Pool the test parts of a row's folds.

    Raises:
        ConfigError: an utterance is tested twice: the folds are not of one protocol.
    """
    rows: list[dict[str, str]] = []
    validation = []
    for folder in folders:
        with open(folder / "predictions.csv", encoding="utf-8", errors="surrogatepass", newline="") as file:
            rows += csv.DictReader(file)
        with open(folder / "history.csv", encoding="utf-8", newline="") as file:
            scores = [row[checkpoints.BEST_BY] for row in csv.DictReader(file)]
        validation.append(max(float(score) for score in scores if score))
    ids = {row["id"] for row in rows}
    if len(ids) < len(rows):
        raise ConfigError(
            f"{folders[0].parent}: expected each utterance to be tested once, found {len(rows)} of {len(ids)}"
        )
    classes: list[str] = read_json(folders[0] / "metrics.json")["classes"]
    return Said(rows, classes, float(np.mean(validation)))


PRIMARY = "accuracy"  # the figure that verdicts go by; the other stands beside it


def results(plan: Plan, tables: Sequence[Table], failed: Mapping[str, str]) -> dict[str, Any]:
    """Figures of every row over its folds and seeds, and a verdict for every claim.

    Rows with a failed training have no figures; claims about them have no verdict.
    """
    found: dict[str, Any] = {}
    for table in tables:
        said = {
            row: [read_said([plan.jobs[name].folder for name in names]) for names in seeds]
            for (of, row), seeds in plan.rows.items()
            if of == table.name and not any(name in failed for names in seeds for name in names)
        }
        rows = []
        for row in table.rows:
            runs = plan.rows.get((table.name, row.name), [])
            if row.extra and not runs:
                continue
            ours = _figures(said[row.name]) if row.name in said else None
            failures = sorted({failed[name] for names in runs for name in names if name in failed})
            about = {"name": row.name, "stated": row.stated, "trained": row.settings is not None, "extra": row.extra}
            rows.append({**about, "ours": ours, "runs": runs, "failed": failures})
        found[table.name] = {"title": table.title, "rows": rows, "claims": _claims(table, said)}
    return found


def _figures(said: Sequence[Said]) -> dict[str, Any]:
    """Mean and spread over seeds of every figure, with intervals of the mean."""
    scores = [
        metrics.score(
            each.column("truth"),
            each.column("predicted"),
            each.classes,
            each.groups,
            each.probabilities,
            speakers=each.speakers,
        )
        for each in said
    ]
    names = ("accuracy", "weighted_f1", "macro_f1", "uar", "nll", "ece")
    figures: dict[str, Any] = {}
    for name in names:
        values = [score[name] for score in scores]
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
        figures[name] = {"mean": float(np.mean(values)), "seed_sd": spread}
    for name, bounds in _intervals(said).items():
        figures[name] |= bounds
    per_class = {
        emotion: float(np.mean([score["per_class"][emotion]["f1"] for score in scores])) for emotion in said[0].classes
    }
    worst = min(per_class, key=lambda emotion: per_class[emotion])
    return {
        "n": len(said[0].rows),
        "seeds": len(said),
        "validation_weighted_f1": float(np.mean([each.validation for each in said])),
        "figures": figures,
        "per_class_f1": per_class,
        "worst_class": worst,
    }


def _intervals(said: Sequence[Said]) -> dict[str, dict[str, list[float] | None]]:
    """Intervals of the mean over seeds, from counts that are averaged over them."""

    def averaged(groups: Sequence[Hashable]) -> np.ndarray:
        return np.asarray(np.mean([each.confusions(groups) for each in said], axis=0))

    here = metrics.intervals(averaged(said[0].groups))
    apart = metrics.independent_speakers(said[0].groups, said[0].speakers)
    new = metrics.speaker_intervals(averaged(apart)) if apart else None
    return {name: {"this_test_set": here[name], "new_speakers": None if new is None else new[name]} for name in here}


def score_controls(study: Study, plan: Plan) -> dict[str, Any]:
    """Figures of the controls on the features of the first row that has all modalities, over the same folds."""
    most = max(plan.jobs.values(), key=lambda job: len(job.experiment.model.modalities))
    folds = {job.protocol.fold: job for job in plan.jobs.values() if job.experiment == most.experiment}
    said: dict[str, list[Float64[np.ndarray, "N C"]]] = {}
    truth: list[str] = []
    groups: list[str | None] = []
    for job in folds.values():
        data = _data(study, job)
        features = choose_features(data.store, job.experiment.preset)
        config = model_config(job.experiment.model, features, data.protocol.classes)
        train_ids, train_pooled = controls.pool(_samples(data, "train", config, features), config.modalities)
        test_ids, test_pooled = controls.pool(_samples(data, "test", config, features), config.modalities)
        rows = {row.id: row for row in data.utterances}
        labels = [config.classes.index(str(rows[key].emotion)) for key in train_ids]
        found = controls.predict(train_pooled, labels, test_pooled, len(config.classes), config.task_loss == "balanced")
        for name, probabilities in found.items():
            said.setdefault(name, []).append(probabilities)
        truth += [str(rows[key].emotion) for key in test_ids]
        groups += [rows[key].dialogue for key in test_ids]
    classes = most.protocol.classes
    scores = {}
    for name, parts in said.items():
        pooled = np.vstack(parts)
        predicted = [classes[i] for i in pooled.argmax(1)]
        scores[name] = metrics.score(truth, predicted, classes, groups, pooled)
    return scores


def _samples(data: train.Data, part: str, config: WavFusionConfig, features: FeatureSet) -> Features:
    return Features(data.part(part), data.store, data.media, features, config)


def _claims(table: Table, said: Mapping[str, Sequence[Said]]) -> list[dict[str, Any]]:
    """Compare the two rows of each claim, utterance by utterance; p-values are adjusted for the table's claims."""
    tested = [claim for claim in table.claims if claim.better in said and claim.than in said]
    compared = [_compare(said[claim.better], said[claim.than]) for claim in tested]
    adjusted = {
        figure: stats.holm([each[figure].p_value for each in compared]) for figure in (compared[0] if compared else {})
    }
    found = []
    for number, (claim, each) in enumerate(zip(tested, compared, strict=True)):
        figures = {}
        for figure in FIGURES:
            p_value = adjusted[figure][number]
            judged = stats.judge_better(each[figure], p_value=p_value)
            about = {"verdict": str(judged.verdict), "reason": judged.reason, "p_adjusted": p_value}
            figures[figure] = {**asdict(each[figure]), **about}
        stated = _stated_difference(table, claim)
        found.append({**asdict(claim), "stated": stated, "verdict": figures[PRIMARY]["verdict"], "figures": figures})
    return found


def _stated_difference(table: Table, claim: Claim) -> dict[str, float]:
    """The paper's difference in points."""
    stated = {row.name: row.stated for row in table.rows}
    better, than = stated[claim.better], stated[claim.than]
    return {
        figure: round(better[figure] - than[figure], 2) for figure in FIGURES if figure in better and figure in than
    }


def _compare(first: Sequence[Said], second: Sequence[Said]) -> dict[str, stats.Comparison]:
    one, other = (np.stack([each.confusions(each.groups) for each in system]) for system in (first, second))
    return stats.compare(one, other, metrics.figures)


# ---------------------------------------------------------------------- files


def write(
    out: Path,
    study: Study,
    plan: Plan,
    found: Mapping[str, Any],
    controls: Mapping[str, Any],
    failed: Mapping[str, str],
) -> dict[str, Any]:
    """Write results.json, results.csv and results.html; returns what the first holds."""
    folds = {job.protocol.fold: job.protocol for job in plan.jobs.values()}
    first = next(iter(folds.values())).to_json()
    seeds = len(next(iter(plan.rows.values())))
    about = {
        **asdict(study),
        "seeds": seeds,
        "manifest": study.manifest.name,
        "store": study.store.name,
        "common": study.common or {},
    }
    protocol = {**{name: first[name] for name in SAID if name != "fold"}, "tested": sorted(folds)}
    protocol["hash"] = hashlib.sha256("".join(folds[number].hash for number in sorted(folds)).encode()).hexdigest()
    every = {"study": about, "protocol": protocol, "tables": found, "controls": controls, "failed": failed}
    write_json(out / "results.json", every)
    write_whole(out / "results.csv", to_csv(found, protocol).encode("utf-8", "surrogatepass"))
    words = describe({**first, "folds": 1})
    report.write_tables(out / "results.html", {**every, "said": words, "same_within": 100 * stats.SAME_WITHIN})
    return every


COLUMNS = (
    *("table", "row", "figure", "stated", "mean", "seed_sd", "low", "high", "low_new_speakers", "high_new_speakers"),
    *("n", "seeds", "protocol", "hash"),
)


def to_csv(found: Mapping[str, Any], protocol: Mapping[str, Any]) -> str:
    """One line a row and figure, all in percent."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, table in found.items():
        for row in table["rows"]:
            for figure in FIGURES:
                ours = row["ours"] and row["ours"]["figures"][figure]
                if ours is None and figure not in row["stated"]:
                    continue
                line = [name, row["name"], figure, row["stated"].get(figure)]
                if ours:
                    bounds = [*ours["this_test_set"], *(ours["new_speakers"] or (None, None))]
                    numbers = [ours["mean"], ours["seed_sd"], *bounds]
                    line += [None if number is None else round(100 * number, 2) for number in numbers]
                    line += [row["ours"]["n"], row["ours"]["seeds"], protocol["name"], protocol["hash"]]
                writer.writerow(["" if cell is None else cell for cell in line + [None] * (len(COLUMNS) - len(line))])
    return file.getvalue()


def to_text(every: Mapping[str, Any]) -> str:
    """Lay what `write` returned out for a terminal."""
    lines = ["a smoke run: its figures mean nothing"] if every["study"]["smoke"] else []
    for name, table in every["tables"].items():
        lines.append(f"{name}: {table['title']}")
        for row in table["rows"]:
            stated = "  ".join(f"{figure} {row['stated'][figure]:.2f}" for figure in FIGURES if figure in row["stated"])
            lines.append(f"  {row['name']:<36} stated {stated or '-':<34} {_ours(row)}")
        lines += [
            f"  {each['better']} better than {each['than']}: {each['verdict']}; {each['figures'][PRIMARY]['reason']}"
            for each in table["claims"]
        ]
    lines += [f"control {name}: accuracy {100 * found['accuracy']:.2f}" for name, found in every["controls"].items()]
    lines += [f"failed: {name}: {reason}" for name, reason in every["failed"].items()]
    return "\n".join(lines)


def _ours(row: Mapping[str, Any]) -> str:
    if row["ours"] is None:
        return f"failed: {row['failed'][0]}" if row["failed"] else "not run" if row["trained"] else "another system"
    words = []
    for figure in FIGURES:
        found = row["ours"]["figures"][figure]
        low, high = found["this_test_set"]
        spread = "" if found["seed_sd"] is None else f" ± {100 * found['seed_sd']:.2f}"
        words.append(f"{figure} {100 * found['mean']:.2f}{spread} [{100 * low:.2f}, {100 * high:.2f}]")
    chosen = f"validation weighted_f1 {100 * row['ours']['validation_weighted_f1']:.2f}"
    return "ours " + "  ".join(words) + f"  n {row['ours']['n']}, {row['ours']['seeds']} seeds, {chosen}"
