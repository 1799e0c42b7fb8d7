"""Losses over the labelled turns of dialogues."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from wavfusion.dialogues.batch import UNLABELLED


def turn_loss(
    logits: Float[Tensor, "B N C"], label: Int[Tensor, "B N"], class_weights: Float[Tensor, " C"] | None = None
) -> Float[Tensor, ""]:
    """Cross-entropy, mean over the labelled turns, weighted by class where weights are given; 0 without any."""
    chosen = label != UNLABELLED
    if not chosen.any():
        return logits.sum() * 0
    return F.cross_entropy(logits[chosen].float(), label[chosen], class_weights)


def focal_loss(
    logits: Float[Tensor, "B N C"],
    label: Int[Tensor, "B N"],
    gamma: float,
    class_weights: Float[Tensor, " C"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over the labelled turns of -w (1 - p)^gamma log p; the factor (1 - p)^gamma has no gradient.

    Source: Lin et al. 2017, eq. 5; as MM-DFN's code has it, the weights are not divided by their sum.
    """
    chosen = label != UNLABELLED
    if not chosen.any():
        return logits.sum() * 0
    truth = label[chosen]
    log_probability = F.log_softmax(logits[chosen].float(), dim=-1).gather(1, truth[:, None])[:, 0]
    factor = (1 - log_probability.detach().exp()) ** gamma
    weights = torch.ones_like(log_probability) if class_weights is None else class_weights[truth]
    return -(weights * factor * log_probability).mean()


def info_nce(first: Float[Tensor, "n d"], second: Float[Tensor, "n d"], temperature: float = 0.1) -> Float[Tensor, ""]:
    """Cross-entropy of finding each row's partner among all rows of `second` by cosine (van den Oord et al. 2018)."""
    similarity = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T / temperature
    return F.cross_entropy(similarity, torch.arange(len(first), device=first.device))
