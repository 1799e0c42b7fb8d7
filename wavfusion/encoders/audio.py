"""The audio encoder (eq. 7): wav2vec 2.0, HuBERT or WavLM from the waveform to the output of a layer."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from wavfusion.encoders import tiny
from wavfusion.encoders.checkpoint import FrozenEncoder, load_model, load_preprocessor, save_checkpoint, send
from wavfusion.errors import ConfigError
from wavfusion.fast.encoders import (
    convolve_together,
    replace_convolutions,
    replace_positional_convolution,
    skip_onednn_gelu,
)
from wavfusion.media import SAMPLE_RATE

MIN_SAMPLES = 400  # receptive field of one step of the convolutions
FAMILY = ("wav2vec2", "hubert", "wavlm")
MISMATCHED = "Support for mismatched key_padding_mask"


class AudioEncoder(FrozenEncoder):
    """A wav2vec 2.0, HuBERT or WavLM: convolutions, positional convolution and N Transformer layers."""

    def __init__(self, model: Any, preprocessing: dict[str, Any], name: str) -> None:
        self.do_normalize = bool(preprocessing.get("do_normalize", True))
        super().__init__(model, name, int(model.config.hidden_size), {"do_normalize": self.do_normalize})
        self.config = model.config
        self.num_layers = int(self.config.num_hidden_layers)
        rate = preprocessing.get("sampling_rate", SAMPLE_RATE)
        if rate != SAMPLE_RATE:
            raise ConfigError(f"audio encoder {name!r}: expected a model of {SAMPLE_RATE} Hz, found {rate} Hz")
        self.together = False  # whether the convolutions take a padded batch, or one utterance after the other

    def hidden(
        self, waveforms: Sequence[Float[Tensor, " _"]], layers: Sequence[int]
    ) -> tuple[dict[int, Float[Tensor, "B Ta D"]], Bool[Tensor, "B Ta"]]:
        """Return the outputs of `layers` (0 = the input of the first), and the mask of real steps.

        Layers above the highest of `layers` are not run; one that the model does not have is a ConfigError. The
        convolutions see every utterance without padding, which Hugging Face's group norm over time would include.
        """
        for layer in layers:
            if not 0 <= layer <= self.num_layers:
                raise ConfigError(f"audio encoder {self.name!r}: expected layers 0 to {self.num_layers}, found {layer}")
        normalized = [self._normalized(waveform) for waveform in waveforms]
        with self.autocast(), _in_fp32(self.model.encoder.pos_conv_embed, normalized[0].device.type):
            convolved, lengths = self._convolved(normalized)
            projected = self.model.feature_projection(convolved)
            x = projected[0] if isinstance(projected, tuple) else projected
            mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
            _ignore_mismatched_masks()
            with self._up_to(max(1, *layers)) as stack, _outputs(stack, layers) as outputs:
                self.model.encoder(x, attention_mask=mask)
        return outputs, mask

    def _convolved(self, waveforms: Sequence[Float[Tensor, " _"]]) -> tuple[Float[Tensor, "B T D"], Int[Tensor, " B"]]:
        """Run the convolutions; returns the number of real steps of each row, too."""
        if self.together:
            return convolve_together(self.model.feature_extractor, waveforms)
        alone = [self.model.feature_extractor(waveform[None])[0].T for waveform in waveforms]
        lengths = torch.tensor([len(each) for each in alone], device=alone[0].device)
        return pad_sequence(alone, batch_first=True), lengths

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

    def _normalized(self, waveform: Tensor) -> Tensor:
        if self.do_normalize:
            waveform = (waveform - waveform.mean()) / torch.sqrt(waveform.var(correction=0) + 1e-7)
        return nn.functional.pad(waveform, (0, max(0, MIN_SAMPLES - len(waveform))))

    @contextmanager
    def _up_to(self, depth: int) -> Iterator[nn.ModuleList]:
        """Leave out the layers above `depth`."""
        encoder = self.model.encoder
        every = encoder.layers
        encoder.layers = every[:depth]
        try:
            yield encoder.layers
        finally:
            encoder.layers = every

    def quick(self) -> "AudioEncoder":
        """A twin that shares the tensors and encodes the same faster; only one thread at a time may use it."""
        twin = self.twin()
        replace_positional_convolution(twin.model.encoder.pos_conv_embed)
        # One utterance keeps a CPU core busy, but not a GPU.
        twin.together = self.device.type != "cpu"
        if not twin.together:
            skip_onednn_gelu(twin.model)
            replace_convolutions(twin.model)
        return twin

    def save(self, folder: Path) -> None:
        """Write the encoder in the hub's file format, for `load_audio`."""
        save_checkpoint(self.model, folder, {**tiny.audio_preprocessor(), "do_normalize": self.do_normalize})


def _ignore_mismatched_masks() -> None:
    """Ignore what torch says of the bool and the float mask of WavLM's own code, whose result is right.

    In the whole process: a thread that leaves its `catch_warnings` ends that of the others.
    """
    if not any(getattr(pattern, "pattern", None) == MISMATCHED for _, pattern, *_ in warnings.filters):
        warnings.filterwarnings("ignore", MISMATCHED, UserWarning)


def load_audio(name: str) -> AudioEncoder:
    """Load an audio encoder: `tiny`, a local folder or a hub id.

    Raises:
        ConfigError: it cannot be read, is of another family, or lacks tensors.
    """
    if name == "tiny":
        return AudioEncoder(tiny.audio_model(), tiny.audio_preprocessor(), name)
    model = load_model(name, FAMILY, layerdrop=0.0, apply_spec_augment=False)
    return AudioEncoder(model, load_preprocessor(name), name)


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


@contextmanager
def _in_fp32(module: nn.Module, kind: str) -> Iterator[None]:
    """Run a module in float32 on a kind of device, under autocast too.

    oneDNN's grouped convolution of 4 or 8 channels a group and 16 taps or more is wrong in bfloat16: on an Intel CPU
    with AMX its result is off by more than its own standard deviation (PyTorch 2.13).
    """
    enabled = torch.is_autocast_enabled(kind)

    def enter(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        torch.set_autocast_enabled(kind, False)
        return tuple(x.float() for x in inputs)

    def leave(*_: object) -> None:
        torch.set_autocast_enabled(kind, enabled)

    hooks = [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
