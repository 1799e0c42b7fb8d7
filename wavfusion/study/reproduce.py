"""Results of a study's trainings: figures of every row with intervals, and a verdict on each claim."""

import csv
import io
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from wavfusion.comparators import baselines
from wavfusion.corpora.protocol import describe_protocol, join_folds
from wavfusion.errors import ConfigError, counted
from wavfusion.features.dataset import Features, choose_features, model_config
from wavfusion.files import write_atomic, write_json
from wavfusion.manifest import Utterance
from wavfusion.metrics import comparison as stats
from wavfusion.metrics import scores as metrics
from wavfusion.metrics.clusters import MIN_CLUSTERS
from wavfusion.pages import fill
from wavfusion.runs.results import clusters_of
from wavfusion.study.comparing import PooledPredictions
from wavfusion.study.tables import FIGURES, Table
from wavfusion.study.trainings import Plan, Study, read_run_results
from wavfusion.training import train

PRIMARY = "accuracy"  # the figure of the verdicts; the other is shown beside it
COLUMNS = (
    *("table", "row", "figure", "stated", "mean", "seed_sd", "low", "high", "low_new_speakers", "high_new_speakers"),
    *("n", "seeds", "protocol", "hash", "unit", "clusters"),
)


def pool_folds(folders: Sequence[Path]) -> PooledPredictions:
    """Pool the test parts of a row's folds.

    Raises:
        ConfigError: an utterance is tested twice: the folds are not of one protocol.
        CorpusError: a RUN is damaged.
    """
    runs = [read_run_results(folder) for folder in folders]
    rows = [row for each, _, _ in runs for row in each]
    if len(ids := {row["id"] for row in rows}) < len(rows):
        found = f"{len(rows)} of {len(ids)}"
        raise ConfigError(f"{folders[0].parent}: expected each utterance to be tested once, found {found}")
    return PooledPredictions(rows, runs[0][1], float(np.mean([validation for _, _, validation in runs])))


def results(
    plan: Plan,
    tables: Sequence[Table],
    failed: Mapping[str, str],
    compared: Mapping[str, PooledPredictions] | None = None,
) -> dict[str, Any]:
    """Figures of every row over its folds and seeds, and a verdict for every claim.

    Rows with a failed training have no figures; claims about them have no verdict. `compared` are the predictions of
    comparators by their names; in `failed`, one that failed has its name for that of a training.
    """
    found: dict[str, Any] = {}
    for table in tables:
        predictions = {
            row: [pool_folds([plan.jobs[name].folder for name in names]) for names in seeds]
            for (of, row), seeds in plan.rows.items()
            if of == table.name and not any(name in failed for names in seeds for name in names)
        }
        known = {row.name: row.comparator for row in table.rows if row.comparator}
        predictions |= {row: [compared[name]] for row, name in known.items() if compared and name in compared}
        rows = []
        for row in table.rows:
            runs = plan.rows.get((table.name, row.name), [])
            if row.extra and not runs and row.name not in predictions:
                continue
            ours = _figures(predictions[row.name]) if row.name in predictions else None
            used = {name for names in runs for name in names} | ({row.comparator} if row.comparator else set())
            failures = sorted({failed[name] for name in used if name in failed})
            trained = row.trained or row.comparator is not None
            about = {"name": row.name, "stated": row.stated, "trained": trained, "extra": row.extra}
            about |= {"comparator": row.comparator} if row.comparator else {}
            rows.append({**about, "ours": ours, "runs": runs, "failed": failures})
        found[table.name] = {"title": table.title, "rows": rows, "claims": _claims(table, predictions)}
    return found


def _figures(seeds: Sequence[PooledPredictions]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of every figure, with intervals of the mean, from averaged counts."""

    def averaged(groups: Sequence[Hashable] | None) -> np.ndarray:
        return np.asarray(np.mean([each.confusions(groups) for each in seeds], axis=0))

    scores = [each.score() for each in seeds]
    figures: dict[str, Any] = {}
    for name in ("accuracy", "weighted_f1", "macro_f1", "uar", "nll", "ece"):
        values = [score[name] for score in scores]
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        figures[name] = {"mean": float(np.mean(values)), "seed_sd": deviation}
    for name, bounds in metrics.intervals(averaged, seeds[0].clusters.names, seeds[0].speakers).items():
        figures[name] |= bounds
    per_class = {
        name: float(np.mean([score["per_class"][name]["f1"] for score in scores])) for name in seeds[0].classes
    }
    return {
        "n": len(seeds[0].rows),
        "seeds": len(seeds),
        "validation_weighted_f1": float(np.mean([each.validation for each in seeds])),
        "figures": figures,
        "per_class_f1": per_class,
        "worst_class": min(per_class, key=lambda emotion: per_class[emotion]),
        "clusters": seeds[0].count_clusters(),
    }


def score_baselines(study: Study, plan: Plan) -> dict[str, Any]:
    """Figures of the baselines on the features of the first row that has all modalities, over the same folds."""
    most = plan.fullest
    folds = {job.protocol.fold: job for job in plan.jobs.values() if job.experiment == most.experiment}
    predicted: dict[str, list[Float64[np.ndarray, "N C"]]] = {}
    tested: list[Utterance] = []
    for job in folds.values():
        data = train.read_data(study.manifest, study.store, job.protocol)
        features = choose_features(data.store, job.experiment.preset)
        config = model_config(job.experiment.model, features, data.protocol.classes)
        (train_ids, train_pooled), (test_ids, test_pooled) = (
            baselines.pool(Features(data.part(part), data.store, data.media, features, config), config.modalities)
            for part in ("train", "test")
        )
        rows, balanced = {row.id: row for row in data.utterances}, config.task_loss == "balanced"
        labels = [config.classes.index(str(rows[key].emotion)) for key in train_ids]
        found = baselines.predict_baselines(train_pooled, labels, test_pooled, len(config.classes), balanced)
        for name, probabilities in found.items():
            predicted.setdefault(name, []).append(probabilities)
        tested += [rows[key] for key in test_ids]
    classes, pooled = most.protocol.classes, {name: np.vstack(parts) for name, parts in predicted.items()}
    truth, (unit, groups) = [str(row.emotion) for row in tested], clusters_of(tested)
    return {
        name: metrics.score(truth, [classes[i] for i in each.argmax(1)], classes, groups, each, unit=unit)
        for name, each in pooled.items()
    }


def _claims(table: Table, predictions: Mapping[str, Sequence[PooledPredictions]]) -> list[dict[str, Any]]:
    """Compare the two rows of each claim; p-values and intervals are adjusted for the table's claims."""
    tested = [claim for claim in table.claims or () if claim.better in predictions and claim.than in predictions]
    compared = [_compare(predictions[claim.better], predictions[claim.than]) for claim in tested]
    adjusted = {figure: stats.adjust([each[figure] for each in compared]) for figure in FIGURES}
    figures_of = {row.name: row.stated for row in table.rows}
    found = []
    for number, (claim, each) in enumerate(zip(tested, compared, strict=True)):
        figures = {}
        for figure in FIGURES:
            of_all = adjusted[figure][number]
            verdict, reason = stats.judge_better(each[figure], of_all)
            about = {"p_adjusted": of_all.p_value, "interval_adjusted": of_all.interval}
            figures[figure] = {**asdict(each[figure]), "verdict": str(verdict), "reason": reason, **about}
        better, than = figures_of[claim.better], figures_of[claim.than]
        stated = {name: round(better[name] - than[name], 2) for name in FIGURES if name in better and name in than}
        found.append({**asdict(claim), "stated": stated, "verdict": figures[PRIMARY]["verdict"], "figures": figures})
    return found


def _compare(first: Sequence[PooledPredictions], second: Sequence[PooledPredictions]) -> dict[str, stats.Comparison]:
    unit, groups = first[0].clusters
    one, other = (np.stack([each.confusions(groups) for each in system]) for system in (first, second))
    return stats.compare(one, other, metrics.figures, unit)


def stem(names: Sequence[str], smoke: bool) -> str:
    """Name the result files of some tables (none = all of the corpus): no others, nor a smoke run, overwrite them."""
    return "-".join(["results", *names, *(["smoke"] if smoke else [])])


def write_results_folder(
    out: Path,
    name: str,
    study: Study,
    plan: Plan,
    found: Mapping[str, Any],
    baselines: Mapping[str, Any],
    failed: Mapping[str, str],
) -> dict[str, Any]:
    """Write JSON, CSV and a page of one name (see `stem`); returns the content of the JSON."""
    folds = {job.protocol.fold: job.protocol for job in plan.jobs.values()}
    first = next(iter(folds.values())).to_json()
    seeds = len(next(iter(plan.rows.values())))
    places = {"manifest": study.manifest.name, "store": study.store.name}
    about = {**asdict(study), "seeds": seeds, **places, "common": study.common or {}}
    protocol = join_folds([folds[number].to_json() for number in sorted(folds)])
    content = {"study": about, "protocol": protocol, "tables": found, "baselines": baselines, "failed": failed}
    write_json(out / f"{name}.json", content)
    write_atomic(out / f"{name}.csv", results_to_csv(found, protocol).encode("utf-8", "surrogatepass"))
    words = {"described": describe_protocol({**first, "folds": 1}), "same_within": 100 * stats.SAME_WITHIN}
    words["min_clusters"] = MIN_CLUSTERS
    fill.write_tables(out / f"{name}.html", {**content, **words})
    return content


def results_to_csv(found: Mapping[str, Any], protocol: Mapping[str, Any]) -> str:
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
                    line += [row["ours"]["clusters"][name] for name in ("unit", "n")]
                writer.writerow(line + [None] * (len(COLUMNS) - len(line)))
    return file.getvalue()


def results_to_text(content: Mapping[str, Any]) -> str:
    """Lay the content of the JSON out for a terminal."""
    lines = ["a smoke run: its figures mean nothing"] if content["study"]["smoke"] else []
    for name, table in content["tables"].items():
        lines.append(f"{name}: {table['title']}")
        for row in table["rows"]:
            stated = "  ".join(f"{figure} {row['stated'][figure]:.2f}" for figure in FIGURES if figure in row["stated"])
            lines.append(f"  {row['name']:<36} stated {stated or '-':<34} {_ours(row)}")
        lines += [
            f"  {each['better']} better than {each['than']}: {each['verdict']}; {each['figures'][PRIMARY]['reason']}"
            for each in table["claims"]
        ]
    lines += [f"baseline {name}: accuracy {100 * each['accuracy']:.2f}" for name, each in content["baselines"].items()]
    lines += [f"failed: {name}: {reason}" for name, reason in content["failed"].items()]
    return "\n".join(lines)


def _ours(row: Mapping[str, Any]) -> str:
    if row["ours"] is None:
        return f"failed: {row['failed'][0]}" if row["failed"] else "not run" if row["trained"] else "another system"
    figures = []
    for figure in FIGURES:
        found = row["ours"]["figures"][figure]
        low, high = found["this_test_set"]
        spread = "" if found["seed_sd"] is None else f" ± {100 * found['seed_sd']:.2f}"
        figures.append(f"{figure} {100 * found['mean']:.2f}{spread} [{100 * low:.2f}, {100 * high:.2f}]")
    ours, clusters = row["ours"], row["ours"]["clusters"]
    count = f"n {ours['n']} in {counted(clusters['n'], clusters['unit'])}, {counted(ours['seeds'], 'seed')}"
    chosen = f"validation weighted_f1 {100 * ours['validation_weighted_f1']:.2f}"
    return "ours " + "  ".join(figures) + f"  {count}, {chosen}"
