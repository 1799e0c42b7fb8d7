"""Calibration: one temperature that scales a model's probabilities (Guo et al., ICML 2017)."""

import math

import numpy as np
from jaxtyping import Float64, Integer
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

BOUNDS = (0.05, 20.0)  # of a temperature
FLOOR = 1e-30  # of a probability under a logarithm


def tempered(probabilities: Float64[np.ndarray, "*N C"], temperature: float) -> Float64[np.ndarray, "*N C"]:
    """Raise probabilities to 1 / temperature and make them add up again; the order of a row never changes.

    Source: Guo et al., On calibration of modern neural networks, ICML 2017 (temperature scaling), on the probabilities
    of whole utterances instead of logits, which is the same for an utterance of one window.
    """
    if temperature == 1.0:
        return probabilities
    logits = np.log(np.maximum(probabilities, FLOOR)) / temperature
    return np.exp(logits - logsumexp(logits, axis=-1, keepdims=True))


def fit_temperature(probabilities: Float64[np.ndarray, "N C"], truth: Integer[np.ndarray, " N"]) -> float:
    """Find the temperature of the least negative log-likelihood of the validation part.

    Every label is taken to be wrong with the chance 1 / (N + 2), else a part that is predicted without an error would
    ask for a certainty that its size does not warrant (Platt, Probabilistic outputs for support vector machines, 1999).

    Args:
        probabilities: of the emotions, as the model predicts them.
        truth: the class of each utterance.
    """
    number, classes = probabilities.shape
    wrong = 1 / (number + 2)
    targets = np.full(probabilities.shape, wrong / max(1, classes - 1))
    targets[np.arange(number), truth] = 1 - wrong

    def loss(logarithm: float) -> float:
        predicted = np.maximum(tempered(probabilities, math.exp(logarithm)), FLOOR)
        return float(-(targets * np.log(predicted)).sum(1).mean())

    found = minimize_scalar(loss, bounds=(math.log(BOUNDS[0]), math.log(BOUNDS[1])), method="bounded")
    # Rounded, so that another order of summation does not change it.
    return float(f"{math.exp(found.x):.3g}") if loss(found.x) < loss(0.0) else 1.0
