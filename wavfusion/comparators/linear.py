"""Linear classifiers on one vector an utterance: a support vector machine, and logistic regression."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from wavfusion.comparators.baselines import MAX_STEPS
from wavfusion.errors import CorpusError
from wavfusion.metrics.calibration import fit_temperature, tempered
from wavfusion.metrics.scores import confusion_matrix, figures

# Features and classifier of each comparator that a row of a table may name.
COMPARATORS = {
    "egemaps_svm": ("egemaps", "svm"),
    "egemaps_logistic": ("egemaps", "logistic"),
    "mfcc_logistic": ("mfcc", "logistic"),
}
STRENGTHS = tuple(10.0**power for power in range(-5, 2))  # of C, the inverse of the regularisation

Vectors = Mapping[str, Float64[np.ndarray, " D"]]  # by the utterance's id


class LinearPredictions(NamedTuple):
    """What a linear classifier predicts for a test part, and how it was chosen."""

    probabilities: Float64[np.ndarray, "N C"]
    validation: float  # the weighted F1 that chose C
    strength: float  # C


def predict_linear(
    classifier: str,
    vectors: Vectors,
    labels: Mapping[str, int],
    parts: Mapping[str, Sequence[str]],
    num_classes: int,
    balanced: bool,
) -> LinearPredictions:
    """Train on the train part, choose C and the temperature on the valid part, and predict the test part.

    Vectors are standardised by the train part. Of several C with the same weighted F1 the smallest is taken. The
    probabilities of the support vector machine are the softmax of its distances from one class against all others,
    at the temperature, so that its decision is its own. An utterance without a vector gets the shares of the emotions
    in the train part.

    Args:
        classifier: `svm` or `logistic`.
        vectors: of the utterances that have any.
        labels: number of each utterance's emotion.
        parts: ids of `train`, `valid` and `test`.
        num_classes: the number of emotions.
        balanced: weight the emotions by inverse frequency.

    Raises:
        CorpusError: no utterance of the train or the valid part has a vector, or there is one emotion only.
    """
    known = {part: [key for key in ids if key in vectors] for part, ids in parts.items()}
    truth = {part: np.array([labels[key] for key in ids], dtype=np.int64) for part, ids in known.items()}
    for part in ("train", "valid"):
        if not known[part] or len(set(truth["train"].tolist())) < 2:
            raise CorpusError(f"expected utterances of two emotions with audio features in part {part!r}, found none")
    x = {part: np.stack([vectors[key] for key in ids]) for part, ids in known.items() if ids}
    prior = np.bincount([labels[key] for key in parts["train"]], minlength=num_classes) / len(parts["train"])
    seen = np.unique(truth["train"])  # a class that was not is no matter of the temperature
    known_rows = np.isin(truth["valid"], seen)
    best: LinearPredictions | None = None
    for strength in STRENGTHS:
        model = make_pipeline(StandardScaler(), _classifier(classifier, strength, balanced))
        model.fit(x["train"], truth["train"])
        shares = {part: _probabilities(model, each, num_classes) for part, each in x.items()}
        validation = _weighted_f1(truth["valid"], shares["valid"], num_classes)
        if best is not None and validation <= best.validation:
            continue
        temperature = fit_temperature(
            shares["valid"][known_rows][:, seen], np.searchsorted(seen, truth["valid"][known_rows])
        )
        places = np.array([number for number, key in enumerate(parts["test"]) if key in vectors], dtype=np.int64)
        predicted = np.tile(prior, (len(parts["test"]), 1))
        if len(places):
            predicted[places] = 0.0
            predicted[np.ix_(places, seen)] = tempered(shares["test"][:, seen], temperature)
        best = LinearPredictions(predicted, validation, strength)
    assert best is not None
    return best


def _classifier(name: str, strength: float, balanced: bool) -> LogisticRegression | LinearSVC:
    weights = "balanced" if balanced else None
    if name == "svm":
        return LinearSVC(C=strength, class_weight=weights, dual=False, max_iter=MAX_STEPS)
    return LogisticRegression(C=strength, class_weight=weights, max_iter=MAX_STEPS)


def _probabilities(model: object, vectors: Float64[np.ndarray, "N D"], num_classes: int) -> Float64[np.ndarray, "N C"]:
    """Softmax of the decision values, which is a logistic regression's own probability; 0 for unseen classes."""
    values = model.decision_function(vectors)  # type: ignore[attr-defined]
    if values.ndim == 1:  # of two classes: how far it is the second
        values = np.stack([np.zeros(len(values)), values], axis=1)
    found = np.zeros((len(vectors), num_classes))
    found[:, model.classes_] = softmax(values, axis=1)  # type: ignore[attr-defined]
    return found


def _weighted_f1(truth: Int64[np.ndarray, " N"], shares: Float64[np.ndarray, "N C"], num_classes: int) -> float:
    return float(figures(confusion_matrix(truth, shares.argmax(1), num_classes))["weighted_f1"])
