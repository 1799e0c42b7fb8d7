"""Dropout and GELU for a CPU."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

BITS = 16  # random bits an element takes


def noise(x: Float[Tensor, "..."], probability: float) -> Float[Tensor, "..."]:
    """Draw the factors of dropout for a tensor on CPU: 0 with `probability`, else what keeps the mean.

    PyTorch takes a tenth of a training step for it. The probability is rounded to 1/65536 (0.1 becomes 0.100006) and
    the other factor is exact for it. The bits are those of SFC64, seeded from torch's generator, so that a training
    that is resumed or repeated draws the same ones.
    """
    dropped = round(probability * 2**BITS)
    seed = int(torch.empty((), dtype=torch.int64).random_())
    words = np.random.Generator(np.random.SFC64(seed)).integers(2**64, size=-(-x.numel() // 4), dtype=np.uint64)
    bits = torch.from_numpy(words.view(np.int16))[: x.numel()].view(x.shape)
    kept = (bits >= dropped - 2 ** (BITS - 1)) if dropped < 2**BITS else torch.zeros(x.shape, dtype=torch.bool)
    return kept.to(x.dtype).mul_(2**BITS / max(2**BITS - dropped, 1))


class FastDropout(nn.Dropout):
    """Dropout by `noise` on a CPU."""

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Drop in training."""
        if x.device.type != "cpu" or not self.training or self.p == 0:
            return super().forward(x)
        return x * noise(x, self.p)


class FastGELU(nn.GELU):
    """GELU by PyTorch's own kernel on a CPU: oneDNN's makes code for every shape and keeps a megabyte for each."""

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Activate."""
        if x.device.type != "cpu":
            return F.gelu(x)
        return F.gelu(x.mT).mT  # only what lies in memory row by row is given to oneDNN
