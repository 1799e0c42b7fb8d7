"""Rows of tables that are comparators: trained and tested on the same parts as the RUNs beside them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wavfusion import manifest
from wavfusion.comparators.acoustic import describe_audio
from wavfusion.comparators.linear import COMPARATORS, predict_linear
from wavfusion.errors import ConfigError, CorpusError, MediaError
from wavfusion.features.clips import Media
from wavfusion.features.store import Store
from wavfusion.runs.results import Predictions, prediction_rows
from wavfusion.study.tables import Table
from wavfusion.study.trainings import Plan, Study


@dataclass(frozen=True)
class PooledPredictions(Predictions):
    """Predictions of one seed's models for all test utterances of the folds."""

    validation: float  # the weighted F1 that chose the epoch, mean of the folds; what configurations may be chosen by


def predict_comparators(
    study: Study, plan: Plan, tables: Sequence[Table], out: Path, progress: bool = False
) -> tuple[dict[str, PooledPredictions], dict[str, str]]:
    """Predict by every comparator that rows of the tables name, and say of the others why they failed.

    Emotions are weighted as by the task loss of the row with the most modalities. There is nothing random in them, so
    they count as one seed.
    """
    names = sorted({name for table in tables for name in table.comparators(study.extra)})
    found: dict[str, PooledPredictions] = {}
    failed: dict[str, str] = {}
    for name in names:
        try:
            found[name] = _predict(study, plan, name, out, progress)
        except (ConfigError, CorpusError, MediaError, OSError) as error:
            failed[name] = f"{type(error).__name__}: {error}"
    return found, failed


def _predict(study: Study, plan: Plan, name: str, out: Path, progress: bool) -> PooledPredictions:
    features, classifier = COMPARATORS[name]
    balanced = plan.fullest.experiment.model.task_loss == "balanced"
    folds = {job.protocol.fold: job.protocol for job in plan.jobs.values()}
    wanted = {key for fold in folds.values() for key in fold.parts}
    every = [row for row in manifest.read(study.manifest) if row.id in wanted]
    root = manifest.read_corpus(study.manifest).root
    media = Media(Store(study.store), root, root)
    vectors = describe_audio(every, media, features, out / "comparators", progress)
    rows, scores, classes = [], [], list(plan.fullest.protocol.classes)
    for fold in folds.values():
        parts = {part: [row.id for row in every if fold.parts.get(row.id) == part] for part in manifest.SPLITS}
        parts["test"] = parts["test"] or parts["valid"]
        labels = {row.id: classes.index(str(row.emotion)) for row in every if row.id in fold.parts}
        predicted = predict_linear(classifier, vectors, labels, parts, len(classes), balanced)
        chosen = set(parts["test"])
        tested = [row for row in every if row.id in chosen]
        rows += prediction_rows(tested, predicted.probabilities, classes, fold.hash)
        scores.append(predicted.validation)
    return PooledPredictions(rows, classes, float(np.mean(scores)))
