"""Out-of-distribution distance of an utterance: Mahalanobis, in the space that the model's head classifies."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, Float64
from scipy.linalg import pinvh

SHARE = 0.99  # of the validation part lies within the limit
_BLOCK = 1_000  # vectors in double precision at once
WARN_SHARE = 0.05  # of a recording's utterances out of distribution from which a warning is due


@dataclass(frozen=True)
class Familiarity:
    """The distribution of the training data, and the limit beyond which an utterance is out of it."""

    mean: Float32[np.ndarray, " D"]
    precision: Float32[np.ndarray, "D D"]  # inverse of the covariance
    limit: float  # the distance within which 99 % of the validation part lies

    def distances(self, vectors: Float[np.ndarray, "N D"]) -> Float[np.ndarray, " N"]:
        """Mahalanobis distances from the mean (Lee et al., A simple unified framework, NeurIPS 2018)."""
        deviations, precision = vectors.astype(np.float64) - self.mean, self.precision.astype(np.float64)
        return np.sqrt(np.maximum(np.einsum("nd,de,ne->n", deviations, precision, deviations), 0.0))


def fit(training: Float[np.ndarray, "N D"], validation: Float[np.ndarray, "M D"]) -> Familiarity:
    """Fit on the vectors of the training part; the limit is that of the validation part."""
    mean = training.mean(0, dtype=np.float64)
    precision = pinvh(shrunk_covariance(training, mean))
    found = Familiarity(mean.astype(np.float32), precision.astype(np.float32), 0.0)
    return replace(found, limit=float(np.quantile(found.distances(validation), SHARE)))


def shrunk_covariance(vectors: Float[np.ndarray, "N D"], mean: Float64[np.ndarray, " D"]) -> Float64[np.ndarray, "D D"]:
    """Covariance, shrunk towards a multiple of the identity, since vectors are often wider than their number.

    Source: Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance matrices, J. Multivariate
    Analysis 88, 2004. Some vectors at a time: scikit-learn's takes four copies of all in double precision.
    """
    (number, width), fourth = vectors.shape, 0.0
    covariance = np.zeros((width, width))
    for first in range(0, number, _BLOCK):
        deviations = vectors[first : first + _BLOCK] - mean
        covariance += deviations.T @ deviations / number
        fourth += float((np.square(deviations).sum(1) ** 2).sum()) / number
    scale, squares = float(np.trace(covariance)) / width, float(np.square(covariance).sum())
    noise, spread = (fourth - squares) / number, squares - width * scale**2
    shrinkage = min(noise / spread, 1.0) if spread > 0 else 0.0
    shrunk: np.ndarray = (1 - shrinkage) * covariance
    shrunk.flat[:: width + 1] += shrinkage * scale
    return shrunk
