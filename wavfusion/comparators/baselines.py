"""Baselines on the same stored features: majority, prior, logistic regression on pooled vectors."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float64
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wavfusion.evaluation.inference import subsets
from wavfusion.features.dataset import Features

MAX_STEPS = 2_000  # of the solver; no other setting is chosen or tuned

Pooled = Mapping[str, Float64[np.ndarray, "_ _"]]


def pool(samples: Features, modalities: Sequence[str]) -> tuple[list[str], dict[str, Float64[np.ndarray, "N _"]]]:
    """Average the features of each utterance and modality over windows and steps, and append 1 where it has any.

    With `pooling: mean_deviation` the standard deviation over the steps of a window stands beside their mean.

    Returns:
        The utterances' ids, in order, and the vectors by modality; zeros where an utterance lacks one.
    """
    sums: dict[str, dict[str, list[np.ndarray]]] = {name: {} for name in modalities}
    ids: dict[str, None] = {}
    for number in range(len(samples)):
        sample = samples[number]
        ids.setdefault(sample.row.id)
        for name in modalities:
            features = getattr(sample, name)
            if features is not None:
                last = (features[-1] if features.dim() == 3 else features).double()  # of several stored layers
                moments = [last.mean(0), last.std(0, correction=0)][: 1 if samples.config.pooling == "mean" else 2]
                sums[name].setdefault(sample.row.id, []).append(torch.cat(moments).numpy())
    pooled = {}
    for name, found in sums.items():
        width = len(next(iter(found.values()))[0]) if found else 0
        rows = [np.append(np.mean(found[key], axis=0), 1.0) if key in found else np.zeros(width + 1) for key in ids]
        pooled[name] = np.stack(rows)
    return list(ids), pooled


def predict_baselines(
    train: Pooled, labels: Sequence[int], test: Pooled, num_classes: int, balanced: bool
) -> dict[str, Float64[np.ndarray, "M C"]]:
    """Predict by every baseline: `majority`, `prior` and a logistic regression on each subset of the modalities.

    Args:
        train: pooled vectors of the training utterances.
        labels: their emotions.
        test: pooled vectors of the utterances to classify.
        num_classes: the number of emotions.
        balanced: weight the emotions by inverse frequency, as `task_loss: balanced`.

    Returns:
        Probabilities by name of the baseline.
    """
    prior = np.bincount(labels, minlength=num_classes) / len(labels)
    size = len(next(iter(test.values())))
    probabilities = {
        "majority": np.tile(np.eye(num_classes)[prior.argmax()], (size, 1)),
        "prior": np.tile(prior, (size, 1)),
    }
    for chosen in subsets(list(train)):
        model = make_pipeline(
            StandardScaler(),
            LogisticRegression(max_iter=MAX_STEPS, class_weight="balanced" if balanced else None),
        )
        model.fit(np.hstack([train[name] for name in chosen]), labels)
        found = np.zeros((size, num_classes))
        found[:, model.classes_] = model.predict_proba(np.hstack([test[name] for name in chosen]))
        probabilities[f"logistic regression {'+'.join(chosen)}"] = found
    return probabilities
