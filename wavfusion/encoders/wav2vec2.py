"""wav2vec 2.0 (Baevski et al. 2020) and the models of its form: HuBERT, WavLM, UniSpeech-SAT and data2vec."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from wavfusion.encoders import tiny
from wavfusion.encoders.checkpoint import save_checkpoint
from wavfusion.encoders.stack import AudioEncoder
from wavfusion.fast.encoders import (
    convolve_together,
    fuse_relative_attention,
    replace_convolutions,
    replace_positional_convolution,
    skip_onednn_gelu,
)

MIN_SAMPLES = 400  # receptive field of one step of the convolutions
MISMATCHED = "Support for mismatched key_padding_mask"
FAMILY = ("wav2vec2", "hubert", "wavlm", "unispeech-sat", "data2vec-audio")


class Wav2Vec2Encoder(AudioEncoder):
    """Convolutions of 400 samples a step, positional convolution, transformer layers."""

    def __init__(self, model: Any, preprocessing: Mapping[str, Any], name: str) -> None:
        self.do_normalize = bool(preprocessing.get("do_normalize", True))
        super().__init__(model, preprocessing, name, {"do_normalize": self.do_normalize})
        self.together = False  # whether the convolutions take a padded batch, or one utterance after the other

    def front(
        self, waveforms: Sequence[Float[Tensor, " _"]]
    ) -> tuple[Float[Tensor, "B T D"], Bool[Tensor, "B T"], Bool[Tensor, "B T"]]:
        """Convolve and project.

        The convolutions see every utterance without padding, which Hugging Face's group norm over time would include.
        """
        convolved, lengths = self._convolved([self._normalized(waveform) for waveform in waveforms])
        projected = self.model.feature_projection(convolved)
        x = projected[0] if isinstance(projected, tuple) else projected
        mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        return x, mask, mask

    def run(self, x: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"], depth: int) -> None:
        """Run the positional convolution and the first `depth` layers."""
        positional = self.model.encoder.pos_conv_embed
        _ignore_mismatched_masks()
        with self._up_to(depth), _in_fp32(positional, x.device.type), _zero_padding(positional, mask):
            self.model.encoder(x, attention_mask=mask)

    def _convolved(self, waveforms: Sequence[Float[Tensor, " _"]]) -> tuple[Float[Tensor, "B T D"], Int[Tensor, " B"]]:
        """Run the convolutions; returns the number of real steps of each row, too."""
        if self.together:
            return convolve_together(self.model.feature_extractor, waveforms)
        alone = [self.model.feature_extractor(waveform[None])[0].T for waveform in waveforms]
        lengths = torch.tensor([len(each) for each in alone], device=alone[0].device)
        return pad_sequence(alone, batch_first=True), lengths

    def _normalized(self, waveform: Tensor) -> Tensor:
        if self.do_normalize:
            waveform = (waveform - waveform.mean()) / torch.sqrt(waveform.var(correction=0) + 1e-7)
        return nn.functional.pad(waveform, (0, max(0, MIN_SAMPLES - len(waveform))))

    @contextmanager
    def _up_to(self, depth: int) -> Iterator[None]:
        """Leave out the layers above `depth`."""
        encoder = self.model.encoder
        every = encoder.layers
        encoder.layers = every[:depth]
        try:
            yield
        finally:
            encoder.layers = every

    def sizes(self) -> dict[str, Any]:
        """Return the sizes of a `WavFusionConfig`."""
        relative = self.config.model_type == "wavlm"
        return {
            "num_heads": self.config.num_attention_heads,
            "intermediate_size": self.config.intermediate_size,
            "layer_norm_eps": self.config.layer_norm_eps,
            "pre_norm": bool(getattr(self.config, "do_stable_layer_norm", False)),
            "position_buckets": self.config.num_buckets if relative else 0,
            "position_distance": self.config.max_bucket_distance if relative else 800,
        }

    def transformer(self) -> dict[str, Tensor]:
        """Return the transformer's tensors."""
        return dict(self.model.encoder.state_dict())

    def quick(self) -> "Wav2Vec2Encoder":
        """A twin that shares the tensors and encodes the same faster; only one thread at a time may use it."""
        twin = self.twin()
        replace_positional_convolution(twin.model.encoder.pos_conv_embed)
        # One utterance keeps a CPU core busy, but not a GPU.
        twin.together = self.device.type != "cpu"
        if not twin.together:
            skip_onednn_gelu(twin.model)
            replace_convolutions(twin.model)
        fuse_relative_attention(twin.model)
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


@contextmanager
def _zero_padding(positional: nn.Module, mask: Bool[Tensor, "B T"]) -> Iterator[None]:
    """Keep padding at 0 before every convolution over time, which would carry it into the clip.

    data2vec's positions have several convolutions; some HuBERTs have a batch norm before theirs.
    """
    before = [*getattr(positional, "layers", ()), getattr(positional, "batch_norm", None)]
    hooks = [
        each.register_forward_hook(lambda _, __, output: output.masked_fill(~mask[:, None], 0.0))
        for each in before
        if each is not None
    ]
    try:
        yield
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
