"""The margin loss of many vectors without forming all of their triplets."""

import math

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from wavfusion.model.losses import hinge_sums

CUBE = 96  # vectors up to which the hinges are summed as printed: 32 utterances of three modalities, as in the shipped
# experiments, keep their numbers to the last bit; sorting is faster from 48 vectors on, and four times at 96


def sorted_hinge_sums(
    cosine: Float[Tensor, "n n"], positive: Bool[Tensor, "n n"], negative: Bool[Tensor, "n n"], alpha: float
) -> Float64[Tensor, " n"]:
    """Compute `hinge_sums` in O(n^2) memory.

    A hinge above 0 is a difference of cos(x_i, x_k) and cos(x_i, x_j) - alpha, so that how many of them each cosine is
    in (a search in sorted rows) gives sum and gradient.
    """
    bound = cosine - alpha
    with torch.no_grad():
        ascending = cosine.masked_fill(~negative, -math.inf).sort(1).values
        above = len(cosine) - torch.searchsorted(ascending, bound, right=True, out_int32=True)
        ascending = bound.masked_fill(~positive, math.inf).sort(1).values
        below = torch.searchsorted(ascending, cosine, out_int32=True)
        above.masked_fill_(~positive, 0)
        below.masked_fill_(~negative, 0)
    # Summed in float64, as the two nearly cancel.
    return (below * cosine).sum(1, dtype=torch.float64) - (above * bound).sum(1, dtype=torch.float64)


def fast_hinge_sums(
    cosine: Float[Tensor, "n n"], positive: Bool[Tensor, "n n"], negative: Bool[Tensor, "n n"], alpha: float
) -> Float[Tensor, " n"]:
    """Compute `hinge_sums`, by sorting from more than `CUBE` vectors on."""
    return (sorted_hinge_sums if len(cosine) > CUBE else hinge_sums)(cosine, positive, negative, alpha)
