"""How unlike its training data a model finds what it is given: a distance in the space that its head classifies."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

SHARE = 0.99  # of the utterances that chose the epoch lie within the limit
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
    """Fit on the vectors of the training part; the limit is that of the part that chose the epoch.

    The covariance is shrunk (Ledoit and Wolf, A well-conditioned estimator, 2004), since vectors are often wider than
    their number.
    """
    from sklearn.covariance import LedoitWolf

    fitted = LedoitWolf().fit(training.astype(np.float64))
    found = Familiarity(fitted.location_.astype(np.float32), fitted.precision_.astype(np.float32), 0.0)
    limit = float(np.quantile(found.distances(chosen), SHARE))
    return Familiarity(found.mean, found.precision, limit)
