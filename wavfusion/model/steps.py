"""The real steps of a batch one after the other, so that on a CPU nothing is computed at padding."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def is_counted(mask: Bool[Tensor, "..."]) -> bool:
    """Whether what is computed may hang on what a mask says: it makes a GPU wait, and ties a traced model to it."""
    return mask.device.type == "cpu" and not torch.compiler.is_compiling()


class Steps:
    """What is computed step by step: all of a batch, or its real steps alone.

    Args:
        mask: of the real steps [B, T], which are then computed alone; None for all of the batch.
    """

    def __init__(self, mask: Bool[Tensor, "B T"] | None = None) -> None:
        self.counted = mask is not None
        self.shape = torch.Size() if mask is None else mask.shape
        self.places = None if mask is None or bool(mask.all()) else mask.flatten().nonzero()[:, 0]

    def pack(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "R D"] | Float[Tensor, "B T D"]:
        """Leave padding out."""
        return x if self.places is None else x.flatten(0, 1).index_select(0, self.places)

    def pad(self, x: Float[Tensor, "R D"] | Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Put packed steps where they were; 0 at padding."""
        if self.places is None:
            return x
        whole = x.new_zeros(self.shape.numel(), x.shape[1])
        return whole.index_copy(0, self.places, x).view(*self.shape, x.shape[1])

    def spread(self, x: Bool[Tensor, " B"]) -> Bool[Tensor, "R 1"] | Bool[Tensor, "B 1 1"]:
        """Give what is said of a sample to each of its steps."""
        return x[:, None, None] if self.places is None else x[self.places // self.shape[1], None]

    def fill(self, x: Float[Tensor, "..."], samples: Bool[Tensor, " B"], value: float) -> Float[Tensor, "..."]:
        """Fill all steps of some samples, packed or not."""
        if self.counted and not bool(samples.any()):
            return x
        return x.masked_fill(self.spread(samples), value)
