"""The shared space, the margin loss and the task loss (section 2.2.4, eq. 12-15)."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

ABSENT = -1  # the modality number of a missing modality's vector


class SharedEncoder(nn.Module):
    """SD of eq. 12: an entry per modality, since one map cannot take three widths, then one shared linear layer."""

    def __init__(self, widths: Mapping[str, int], size: int = 64) -> None:
        super().__init__()
        self.entries = nn.ModuleDict({name: nn.Linear(width, size) for name, width in widths.items()})
        self.shared = nn.Linear(size, size)

    def forward(self, means: Mapping[str, Tensor]) -> Float[Tensor, "M B d"]:
        """Map each modality's mean over time; every map is affine, so mapping first would give the same."""
        return torch.stack([self.shared(self.entries[name](mean)) for name, mean in means.items()])


def hinge_sums(
    cosine: Float[Tensor, "n n"], positive: Bool[Tensor, "n n"], negative: Bool[Tensor, "n n"], alpha: float
) -> Float[Tensor, " n"]:
    """Sum the hinges of each anchor i over its positives j and negatives k, as printed (eq. 13)."""
    hinge = F.relu(alpha - cosine[:, :, None] + cosine[:, None, :])
    return torch.einsum("ij,ik,ijk->i", positive.float(), negative.float(), hinge)


def margin_loss(
    vectors: Float[Tensor, "n d"],
    modality: Int[Tensor, " n"],
    label: Int[Tensor, " n"],
    alpha: float,
    reduction: Literal["triplet", "anchor"] = "triplet",
    hinges: Callable[..., Tensor] = hinge_sums,
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
        hinges: sums the hinges of each anchor.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        unit = F.normalize(vectors.float(), dim=-1, eps=1e-8)
        cosine = unit @ unit.T
        real = (modality >= 0)[:, None] & (modality >= 0)[None, :]
        same_modality = modality[:, None] == modality[None, :]
        same_label = label[:, None] == label[None, :]
        positive, negative = real & ~same_modality & same_label, real & same_modality & ~same_label
        total = hinges(cosine, positive, negative, alpha)
        count = positive.sum(1) * negative.sum(1)
        if reduction == "anchor":
            total, count = total / count.clamp(min=1), count > 0
        return (total.sum() / count.sum().clamp(min=1)).float()


def task_loss(
    logits: Float[Tensor, "B C"],
    labels: Int[Tensor, " B"] | Float[Tensor, "B C"],
    class_weights: Float[Tensor, " C"] | None = None,
    smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Cross-entropy of eq. 14, over emotions or over the raters' shares.

    Args:
        logits: scores of the emotions.
        labels: an emotion's number each, or the raters' share of each emotion.
        class_weights: a factor per emotion of the truth, mean 1 over the training part; None weighs all alike.
        smoothing: share of every label that is spread evenly over all emotions (Szegedy et al. 2016).
    """
    log_probability = F.log_softmax(logits.float(), dim=-1)
    target = labels if labels.is_floating_point() else F.one_hot(labels, logits.shape[-1]).to(log_probability.dtype)
    target = torch.lerp(target, torch.full_like(target, 1 / logits.shape[-1]), smoothing) if smoothing else target
    if class_weights is not None:
        target = target * class_weights
    return -(target * log_probability).sum(-1).mean()
