"""What all audio encoders share: a front from the waveform, then transformer layers whose outputs are the features."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor, nn

from wavfusion.encoders.checkpoint import FrozenEncoder, send
from wavfusion.errors import ConfigError
from wavfusion.media import SAMPLE_RATE


class AudioEncoder(FrozenEncoder):
    """A speech encoder whose last layers are transformer layers, 50 steps a second (eq. 7).

    A family gives the front, the layers and the names of their tensors; `model.encoder.layers` is the stack.
    """

    def __init__(self, model: Any, preprocessing: Mapping[str, Any], name: str, prepared: dict[str, Any]) -> None:
        super().__init__(model, name, int(model.config.hidden_size), prepared)
        self.config = model.config
        self.num_layers = int(self.config.num_hidden_layers)
        rate = preprocessing.get("sampling_rate", SAMPLE_RATE)
        if rate != SAMPLE_RATE:
            raise ConfigError(f"audio encoder {name!r}: expected a model of {SAMPLE_RATE} Hz, found {rate} Hz")

    def front(
        self, waveforms: Sequence[Float[Tensor, " _"]]
    ) -> tuple[Float[Tensor, "B T D"], Bool[Tensor, "B T"], Bool[Tensor, "B T"]]:
        """Return the input of the transformer, the mask of the steps it attends to, and that of real steps."""
        raise NotImplementedError

    def run(self, x: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"], depth: int) -> None:
        """Run the transformer's first `depth` layers on the front's output."""
        raise NotImplementedError

    def sizes(self) -> dict[str, Any]:
        """Return those sizes of a `WavFusionConfig` that the encoder sets, beside its width and number of layers."""
        raise NotImplementedError

    def transformer(self) -> dict[str, Tensor]:
        """Return the transformer's tensors under the names of wav2vec 2.0's, for `WavFusion.load_pretrained`."""
        raise NotImplementedError

    def randomize(self) -> None:
        """Give the encoder the random weights from which its library starts training."""
        self.model = type(self.model)(self.config)
        for module in self.model.modules():
            if isinstance(module, nn.LayerNorm | nn.GroupNorm):
                nn.init.ones_(module.weight)

    def hidden(
        self, waveforms: Sequence[Float[Tensor, " _"]], layers: Sequence[int]
    ) -> tuple[dict[int, Float[Tensor, "B Ta D"]], Bool[Tensor, "B Ta"]]:
        """Return the outputs of `layers` (0 = the input of the first), and the mask of real steps.

        Layers above the highest of `layers` are not run; one that the model does not have is a ConfigError.
        """
        for layer in layers:
            if not 0 <= layer <= self.num_layers:
                raise ConfigError(f"audio encoder {self.name!r}: expected layers 0 to {self.num_layers}, found {layer}")
        with self.autocast(), _outputs(self.model.encoder.layers, layers) as outputs:
            x, mask, real = self.front(waveforms)
            self.run(x, mask, max(1, *layers))
        return outputs, real

    @torch.inference_mode()
    def encode(
        self, waveforms: Sequence[Float32[np.ndarray, " _"]], layers: Sequence[int]
    ) -> list[dict[int, Float[Tensor, "Ta D"]]]:
        """Encode 16 kHz waveforms; returns one {layer: features} each, 50 steps per second."""
        outputs, mask = self.hidden([send(torch.from_numpy(x), self.device) for x in waveforms], layers)
        lengths = mask.sum(1).tolist()
        return [
            {layer: outputs[layer][i, :length].float().cpu() for layer in layers} for i, length in enumerate(lengths)
        ]


def stack_layers(layers: Sequence[Float[Tensor, "*B T D"]]) -> Float[Tensor, "*B T D"] | Float[Tensor, "*B L T D"]:
    """Join the outputs of several layers, which stand before the steps; a single one stays as it is."""
    return torch.stack(list(layers), dim=-3) if len(layers) > 1 else layers[0]


@contextmanager
def _outputs(stack: nn.ModuleList, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Catch the outputs of layers as they run, before any norm that ends the stack."""
    caught: dict[int, Tensor] = {}

    def keep(number: int, output: Any) -> None:
        caught[number] = output[0] if isinstance(output, tuple) else output

    hooks = [
        stack[number - 1].register_forward_hook(lambda _, __, output, number=number: keep(number, output))
        for number in layers
        if number > 0
    ]
    if 0 in layers:
        hooks.append(stack[0].register_forward_pre_hook(lambda _, inputs: keep(0, inputs[0])))
    try:
        yield caught
    finally:
        for hook in hooks:
            hook.remove()
