"""Training over several processes: sums and rows of them all, through which gradients pass."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, distributed, nn

from wavfusion.fast.network import FastWavFusion, Network, swap_classes
from wavfusion.model.sequence import MaskedBatchNorm
from wavfusion.model.wavfusion import WavFusion


def num_processes() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


class _Total(torch.autograd.Function):
    """The losses of all processes depend on the sum, so that its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        result = x.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return total(gradients[0])


def total(x: Tensor) -> Tensor:
    """Sum a tensor of one shape over the processes."""
    return _Total.apply(x) if num_processes() > 1 else x  # type: ignore[no-untyped-call]


def gather(x: Tensor) -> Tensor:
    """Join the rows of all processes, equally many of each."""
    if num_processes() == 1:
        return x
    rank = distributed.get_rank()
    return total(torch.cat([x if number == rank else torch.zeros_like(x) for number in range(num_processes())]))


class JointBatchNorm(MaskedBatchNorm):
    """`MaskedBatchNorm` whose moments come from the real positions of all processes."""

    def total(self, x: Tensor) -> Tensor:
        """Sum over the processes."""
        return total(x)


class JointWavFusion(WavFusion):
    """`WavFusion` whose losses in training are those of a batch of all processes' rows, in each of them."""

    def losses(
        self,
        logits: Float[Tensor, "B C"],
        vectors: Float[Tensor, "M B d"] | None,
        present: Bool[Tensor, "M B"],
        labels: Int[Tensor, " B"] | Float[Tensor, "B C"],
    ) -> dict[str, Tensor]:
        """Compute the parts of eq. 15; a row without any modality only fills up the batch of one of the processes."""
        if not self.training:
            return super().losses(logits, vectors, present, labels)
        present = gather(present.T.long()).T > 0
        real = present.any(0)
        joined = None if vectors is None else gather(vectors.transpose(0, 1)).transpose(0, 1)[:, real]
        return super().losses(gather(logits)[real], joined, present[:, real], gather(labels)[real])


class FastJointWavFusion(JointWavFusion, FastWavFusion):
    """`JointWavFusion` of an accelerated model."""


JOINT: dict[type[nn.Module], type[nn.Module]] = {
    MaskedBatchNorm: JointBatchNorm,
    WavFusion: JointWavFusion,
    FastWavFusion: FastJointWavFusion,
}


def synchronise(network: Network) -> Network:
    """Make losses and batch norms those of all processes together, in place."""
    return swap_classes(network, JOINT)
