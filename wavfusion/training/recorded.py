"""Training steps recorded as CUDA graphs, one for each shape of a batch: one launch in place of thousands."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wavfusion.model.wavfusion import WavFusion, WavFusionOutput

Steps = Callable[..., tuple[Tensor, ...]]


class Losses(nn.Module):
    """A model from tensors to tensors, as a recording wants it: the total loss, the logits, and the loss's parts.

    Args:
        names: of the inputs, in the order in which they are given; the others are None.
    """

    def __init__(self, model: WavFusion, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, names
        self.parts: list[str] = []

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run the model; what autocast has rounded is not kept from step to step, since weights change."""
        kind = tensors[0].device.type
        half, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        with torch.autocast(kind, dtype, enabled=half, cache_enabled=False):
            output: WavFusionOutput = self.model(**dict(zip(self.names, tensors, strict=True)))
        assert output.loss is not None
        self.parts = list(output.losses)
        return output.loss, output.logits.detach(), *(part.detach() for part in output.losses.values())


def on_gpu(tensor: Tensor) -> bool:
    """Whether there is something to record."""
    return tensor.is_cuda


def record(steps: Losses, tensors: tuple[Tensor, ...]) -> Steps:
    """Record forward and backward pass for tensors of these shapes; a CPU has nothing to record and runs them.

    What is run to warm up moves running moments, which are put back.
    """
    if not on_gpu(tensors[0]):
        return steps
    own = tuple(x.clone() for x in tensors)  # where every later batch is copied to
    kept = {name: buffer.clone() for name, buffer in steps.named_buffers()}
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)  # else PyTorch refuses to record under autocast
    try:
        recorded: Any = torch.cuda.make_graphed_callables(steps, own, allow_unused_input=True)
    finally:
        torch.set_autocast_cache_enabled(cached)
    for name, buffer in steps.named_buffers():
        buffer.copy_(kept[name])
    return recorded


class Recorded:
    """Runs a model's training steps from recordings; a shape that comes for the second time is recorded.

    Evaluate the model without this.
    """

    def __init__(self, model: WavFusion) -> None:
        self.model = model
        self._recordings: dict[tuple[Any, ...], tuple[Losses, Steps] | None] = {}

    def __call__(self, **inputs: Tensor | None) -> WavFusionOutput:
        """Run the model; a recording returns logits and losses, and nothing else that the model says."""
        given = {name: x for name, x in inputs.items() if x is not None}
        recording = self._recording(given)
        if recording is None:
            output: WavFusionOutput = self.model(**given)
            return output
        steps, recorded = recording
        # A recording writes into the same memory every time.
        loss, logits, *parts = (x.clone() for x in recorded(*given.values()))
        return WavFusionOutput(logits, loss=loss, losses=dict(zip(steps.parts, parts, strict=True)))

    def __len__(self) -> int:
        return sum(recording is not None for recording in self._recordings.values())

    def _recording(self, given: Mapping[str, Tensor]) -> tuple[Losses, Steps] | None:
        """The recording of these shapes; None the first time, as a shape of a single batch is not worth one."""
        shapes = tuple((name, *x.shape) for name, x in given.items())
        if shapes not in self._recordings:
            self._recordings[shapes] = None
            return None
        if self._recordings[shapes] is None:
            steps = Losses(self.model, list(given)).train()
            self._recordings[shapes] = steps, record(steps, tuple(given.values()))
        return self._recordings[shapes]
