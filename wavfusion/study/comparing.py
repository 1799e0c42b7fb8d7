"""Rows of tables that are comparators: trained and tested on the same parts as the RUNs beside them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wavfusion import manifest
from wavfusion.comparators.acoustic import describe_audio
from wavfusion.comparators.linear import COMPARATORS, Vectors, predict_linear
from wavfusion.corpora.protocol import Protocol
from wavfusion.errors import ConfigError, CorpusError, MediaError
from wavfusion.features.clips import Media
from wavfusion.features.store import Store
from wavfusion.manifest import SPLITS, Utterance
from wavfusion.runs.results import CsvRow, Predictions, prediction_rows
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
    found = [predict_fold(classifier, vectors, every, fold, balanced) for fold in folds.values()]
    rows = [row for some, _ in found for row in some]
    return PooledPredictions(rows, list(plan.fullest.protocol.classes), float(np.mean([score for _, score in found])))


def predict_fold(
    classifier: str, vectors: Vectors, utterances: Sequence[Utterance], fold: Protocol, balanced: bool
) -> tuple[list[CsvRow], float]:
    """Train a classifier on a fold and predict its test part, or the valid part where there is none.

    Returns:
        The rows of predictions.csv in the order of the utterances, and the weighted F1 that chose the classifier.
    """
    classes = list(fold.classes)
    parts = {part: [row.id for row in utterances if fold.parts.get(row.id) == part] for part in SPLITS}
    parts["test"] = parts["test"] or parts["valid"]
    labels = {row.id: classes.index(str(row.emotion)) for row in utterances if row.id in fold.parts}
    predicted = predict_linear(classifier, vectors, labels, parts, len(classes), balanced)
    chosen = set(parts["test"])
    tested = [row for row in utterances if row.id in chosen]
    return prediction_rows(tested, predicted.probabilities, classes, fold.hash), predicted.validation
