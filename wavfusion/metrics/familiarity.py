"""How unlike its training data a model finds what it is given: a distance in the space that its head classifies."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64
from scipy.linalg import pinvh

SHARE = 0.99  # of the utterances that chose the epoch lie within the limit
_BLOCK = 1_000  # vectors in double precision at once
UNLIKE = 0.05  # share of a recording's utterances beyond it from which a warning is due


@dataclass(frozen=True)
class Familiarity:
    """Where the training data lie.

    Attributes:
        mean: of the training part's vectors.
        precision: inverse of their covariance.
        limit: the distance within which 99 % of the utterances lie that chose the epoch.
    """

    mean: Float32[np.ndarray, " D"]
    precision: Float32[np.ndarray, "D D"]
    limit: float

    def distances(self, vectors: Float[np.ndarray, "N D"]) -> Float[np.ndarray, " N"]:
        """Mahalanobis distances from the mean (Lee et al., A simple unified framework, NeurIPS 2018)."""
        apart = vectors.astype(np.float64) - self.mean
        return np.sqrt(np.maximum(np.einsum("nd,de,ne->n", apart, self.precision.astype(np.float64), apart), 0.0))


def fit(training: Float[np.ndarray, "N D"], chosen: Float[np.ndarray, "M D"]) -> Familiarity:
    """Fit on the vectors of the training part; the limit is that of the part that chose the epoch."""
    mean = training.mean(0, dtype=np.float64)
    precision = pinvh(shrunk_covariance(training, mean))
    found = Familiarity(mean.astype(np.float32), precision.astype(np.float32), 0.0)
    return Familiarity(found.mean, found.precision, float(np.quantile(found.distances(chosen), SHARE)))


def shrunk_covariance(vectors: Float[np.ndarray, "N D"], mean: Float64[np.ndarray, " D"]) -> Float64[np.ndarray, "D D"]:
    """Covariance, shrunk towards a multiple of the identity, since vectors are often wider than their number.

    Source: Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance matrices, J. Multivariate
    Analysis 88, 2004. Some vectors at a time: scikit-learn's takes four copies of all in double precision.
    """
    (number, width), fourth = vectors.shape, 0.0
    covariance = np.zeros((width, width))
    for first in range(0, number, _BLOCK):
        apart = vectors[first : first + _BLOCK] - mean
        covariance += apart.T @ apart / number
        fourth += float((np.square(apart).sum(1) ** 2).sum()) / number
    scale, squares = float(np.trace(covariance)) / width, float(np.square(covariance).sum())
    noise, spread = (fourth - squares) / number, squares - width * scale**2
    shrinkage = min(noise / spread, 1.0) if spread > 0 else 0.0
    shrunk: np.ndarray = (1 - shrinkage) * covariance
    shrunk.flat[:: width + 1] += shrinkage * scale
    return shrunk
