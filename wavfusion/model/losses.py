"""The shared space, the margin loss and the task loss (section 2.2.4, eq. 12-15)."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor, nn

ABSENT = -1  # the modality number of a vector that stands for nothing
CUBE = 96  # vectors up to which the hinges are summed as printed; sorting is faster from 48 on, four times at 96, but
# 32 utterances of three modalities, as in the shipped experiments, shall give the numbers that they always gave


class SharedEncoder(nn.Module):
    """SD of eq. 12: an entry per modality, since one map cannot take three widths, then one shared linear layer."""

    fast = True  # of the margin loss on what comes out

    def __init__(self, widths: Mapping[str, int], size: int = 64) -> None:
        super().__init__()
        self.entries = nn.ModuleDict({name: nn.Linear(width, size) for name, width in widths.items()})
        self.shared = nn.Linear(size, size)

    def forward(self, means: Mapping[str, Tensor]) -> Float[Tensor, "M B d"]:
        """Map each modality's mean over time; every map is affine, so mapping first would give the same."""
        return torch.stack([self.shared(self.entries[name](mean)) for name, mean in means.items()])


def margin_loss(
    vectors: Float[Tensor, "n d"],
    modality: Int[Tensor, " n"],
    label: Int[Tensor, " n"],
    alpha: float,
    reduction: Literal["triplet", "anchor"] = "triplet",
    fast: bool = True,
) -> Float[Tensor, ""]:
    """Mean over all triplets of eq. 13: max(0, alpha - cos(x_i, x_j) + cos(x_i, x_k)).

    j has the emotion of i in another modality, k another emotion in the same modality. Without any triplet the value is
    an exact, differentiable 0.

    Args:
        vectors: shared representations; normalised here, in float32.
        modality: the modality of each vector; a negative one marks a vector that takes no part.
        label: the emotion of each vector.
        alpha: the margin between the two cosines.
        reduction: `triplet` = over all triplets alike, as printed; `anchor` = mean per anchor first, then over anchors.
        fast: sort the cosines where there are many vectors, instead of forming all triplets.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        unit = F.normalize(vectors.float(), dim=-1, eps=1e-8)
        cosine = unit @ unit.T
        real = modality >= 0
        real = real[:, None] & real[None, :]
        same_modality = modality[:, None] == modality[None, :]
        same_label = label[:, None] == label[None, :]
        positive, negative = real & ~same_modality & same_label, real & same_modality & ~same_label
        hinges = _sorted if fast and len(vectors) > CUBE else _cube
        total = hinges(cosine, positive, negative, alpha)
        count = positive.sum(1) * negative.sum(1)
        if reduction == "anchor":
            total, count = total / count.clamp(min=1), count > 0
        return (total.sum() / count.sum().clamp(min=1)).float()


def _cube(
    cosine: Float[Tensor, "n n"], positive: Bool[Tensor, "n n"], negative: Bool[Tensor, "n n"], alpha: float
) -> Float[Tensor, " n"]:
    """Sum each anchor's hinges, as printed."""
    hinge = F.relu(alpha - cosine[:, :, None] + cosine[:, None, :])
    return torch.einsum("ij,ik,ijk->i", positive.float(), negative.float(), hinge)


def _sorted(
    cosine: Float[Tensor, "n n"], positive: Bool[Tensor, "n n"], negative: Bool[Tensor, "n n"], alpha: float
) -> Float64[Tensor, " n"]:
    """The same in O(n^2) memory: a hinge above 0 is a difference, so how many each cosine is in gives sum and gradient.

    A triplet is active where cos(x_i, x_k) exceeds cos(x_i, x_j) - alpha; counting is a search in sorted rows.
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


def task_loss(
    logits: Float[Tensor, "B C"],
    labels: Int[Tensor, " B"] | Float[Tensor, "B C"],
    class_weights: Float[Tensor, " C"] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of eq. 14, over emotions or over the raters' shares.

    Args:
        logits: scores of the emotions.
        labels: an emotion's number each, or a share of each emotion.
        class_weights: a factor per emotion of the truth, mean 1 over the training part; None weighs all alike.
    """
    log_probability = F.log_softmax(logits.float(), dim=-1)
    share = labels if labels.is_floating_point() else F.one_hot(labels, logits.shape[-1]).to(log_probability.dtype)
    if class_weights is not None:
        share = share * class_weights
    return -(share * log_probability).sum(-1).mean()
