"""Faster equal forms of parts of the frozen encoders, as Hugging Face loads them (docs/measurements/performance.md)."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.rnn import pad_sequence
from transformers.activations import GELUActivation

from wavfusion.fast.elementwise import FastGELU

BLOCK = 384  # steps of one Fourier transform: a kernel of 128 leaves 257 of them whole
STEPS = 64  # feature steps that the convolutions compute at once: what a CPU's caches hold
LONG = 64  # taps from which on the Fourier transform is faster
# Convolutions of Hugging Face's EfficientNet, each with the norm that follows it in the same module.
FOLLOWED = (
    ("convolution", "batchnorm"),
    ("expand_conv", "expand_bn"),
    ("depthwise_conv", "depthwise_norm"),
    ("project_conv", "project_bn"),
    ("top_conv", "top_bn"),
)


class FourierConv(nn.Module):
    """A grouped convolution over time, stride 1, by Fourier transforms of overlapping blocks (overlap-save).

    wav2vec 2.0's positional convolution has 128 taps over 48 channels: 6,144 multiplications a value.
    """

    spectra: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        weight = conv.weight.detach()
        self.groups, self.taps, self.padding = conv.groups, weight.shape[-1], int(conv.padding[0])
        # A convolution layer correlates: the spectrum is conjugated.
        spectra = torch.fft.rfft(weight.double(), n=BLOCK).conj().to(torch.complex64)
        rows = spectra.unflatten(0, (self.groups, -1)).permute(3, 0, 2, 1).contiguous()
        self.register_buffer("spectra", rows, persistent=False)
        bias = conv.bias if conv.bias is not None else weight.new_zeros(len(weight))
        self.register_buffer("bias", bias.detach(), persistent=False)

    def forward(self, x: Float[Tensor, "B D T"]) -> Float[Tensor, "B C _"]:
        """Convolve; gives as many steps as the replaced layer."""
        whole = BLOCK - self.taps + 1
        length = x.shape[-1] + 2 * self.padding - self.taps + 1
        blocks = -(-length // whole)
        after = blocks * whole + self.taps - 1 - self.padding - x.shape[-1]
        padded = nn.functional.pad(x.float(), (self.padding, after))  # half precision has no transform on CPU
        spectra = torch.fft.rfft(padded.unfold(-1, BLOCK, whole)).unflatten(1, (self.groups, -1))
        # (frequency, group, batch and block, channel): a matrix multiplication for each frequency and group.
        mixed = spectra.permute(4, 1, 0, 3, 2).flatten(2, 3) @ self.spectra
        y = torch.fft.irfft(mixed.permute(1, 3, 2, 0), n=BLOCK)[..., :whole]
        y = y.unflatten(2, (len(x), blocks)).permute(2, 0, 1, 3, 4).flatten(1, 2).flatten(2, 3)
        return y[..., :length] + self.bias[:, None]


class WindowConv(nn.Module):
    """A convolutional layer of wav2vec 2.0: matrix multiplication of windows, norm, GELU."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, layer: Any) -> None:
        super().__init__()
        conv, self.norm, self.activation = layer.conv, getattr(layer, "layer_norm", None), layer.activation
        self.taps, self.stride = int(conv.kernel_size[0]), int(conv.stride[0])
        self.register_buffer("weight", conv.weight.detach().transpose(1, 2).flatten(1), persistent=False)
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach(), persistent=False)

    def windows(self, x: Float[Tensor, "T D"]) -> Float[Tensor, "_ _"]:
        """Return the window of `x` behind each step, a row each, without a copy."""
        width = x.shape[1]
        shape = ((len(x) - self.taps) // self.stride + 1, self.taps * width)
        return x.as_strided(shape, (self.stride * width, 1), x.storage_offset())

    def matrix(self, windows: Float[Tensor, "T _"]) -> tuple[Tensor, Tensor | None]:
        """Return matrix and bias, with the group norm over all steps folded in where there is one.

        Mean and variance of a linear map follow from those of its input. The mean takes the layer's own bias away.
        """
        if not isinstance(self.norm, nn.GroupNorm):
            return self.weight, self.bias
        exact, mean = self.weight.double(), windows.double().mean(0)
        centred = windows.double() - mean
        variance = ((exact @ (centred.T @ centred / len(centred))) * exact).sum(1)
        scale = self.norm.weight.double() * torch.rsqrt(variance + self.norm.eps)
        return (exact * scale[:, None]).float(), (self.norm.bias - exact @ mean * scale).float()

    def forward(self, windows: Float[Tensor, "T _"], weight: Tensor, bias: Tensor | None) -> Float[Tensor, "T D"]:
        """Compute the steps of some windows, by what `matrix` returned."""
        y = nn.functional.linear(windows, weight, bias)
        return self.activation(self.norm(y) if isinstance(self.norm, nn.LayerNorm) else y)


class WindowConvs(nn.Module):
    """wav2vec 2.0's convolutions of one waveform, `STEPS` output steps at a time.

    None of them pads, so that a step is a linear map of its window. oneDNN's convolutions take four times as long in
    bfloat16, and keep compiled code for every length; matrix multiplications do not.
    """

    def __init__(self, layers: Iterable[Any]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(WindowConv(layer) for layer in layers)

    def forward(self, waveform: Float[Tensor, "1 _"]) -> Float[Tensor, "1 D T"]:
        """Convolve; gives what Hugging Face's feature encoder gives."""
        layers: list[Any] = list(self.layers)
        head, *rest = layers
        first = head.windows(waveform[0, :, None])
        weight, bias = head.matrix(first)
        steps, needed, hop = len(first), STEPS, 1
        for layer in rest:
            steps, hop = (steps - layer.taps) // layer.stride + 1, hop * layer.stride
        for layer in reversed(rest):
            needed = (needed - 1) * layer.stride + layer.taps
        blocks = []
        for start in range(0, steps, STEPS):
            x = head(first[start * hop : start * hop + needed], weight, bias)
            for layer in rest:
                x = layer(layer.windows(x), layer.weight, layer.bias)
            blocks.append(x)
        return torch.cat(blocks).T[None]


def replace_convolutions(model: Any) -> None:
    """Put `WindowConvs` into a wav2vec 2.0, HuBERT or WavLM whose convolutions it can compute."""
    layers = list(getattr(model.feature_extractor, "conv_layers", ()))
    unpadded = all((each.conv.padding, each.conv.dilation, each.conv.groups) == ((0,), (1,), 1) for each in layers)
    norms = [getattr(layer, "layer_norm", None) for layer in layers]
    first = [norm for norm in norms[:1] if not isinstance(norm, nn.GroupNorm) or norm.num_groups < norm.num_channels]
    if layers and unpadded and all(norm is None or isinstance(norm, nn.LayerNorm) for norm in (*first, *norms[1:])):
        model.feature_extractor = WindowConvs(layers)


def skip_onednn_gelu(network: nn.Module) -> None:
    """Put `FastGELU` in the place of every GELU of a network."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, GELUActivation):
                setattr(module, name, FastGELU())


def convolve_together(
    front: Any, waveforms: Sequence[Float[Tensor, " _"]]
) -> tuple[Float[Tensor, "B T D"], Int[Tensor, " B"]]:
    """Run wav2vec 2.0's convolutions on waveforms padded to one length, each as if it were alone.

    The group norm takes a channel's mean and variance over real steps only. No convolution pads, so that the window of
    a real step is real.

    Returns:
        The last convolution's output, and how many steps of each row are real.
    """
    lengths = torch.tensor([len(each) for each in waveforms], device=waveforms[0].device)
    x = pad_sequence(list(waveforms), batch_first=True)[:, None]
    for layer in front.conv_layers:
        lengths = (lengths - layer.conv.kernel_size[0]).div(layer.conv.stride[0], rounding_mode="floor") + 1
        norm = getattr(layer, "layer_norm", None)
        if isinstance(norm, nn.GroupNorm):
            x = layer.activation(_normed(layer.conv(x), lengths, norm))
        else:
            x = layer(x)
    return x.transpose(1, 2), lengths


def _normed(x: Float[Tensor, "B D T"], lengths: Int[Tensor, " B"], norm: nn.GroupNorm) -> Float[Tensor, "B D T"]:
    """A group norm of one channel a group over real steps (as wav2vec 2.0 has it: `num_groups` = its channels)."""
    x = x.float()
    real = (torch.arange(x.shape[-1], device=x.device) < lengths[:, None])[:, None]
    count = lengths[:, None, None]
    mean = x.masked_fill(~real, 0).sum(-1, keepdim=True) / count
    variance = (x - mean).masked_fill(~real, 0).square().sum(-1, keepdim=True) / count
    return (x - mean) * torch.rsqrt(variance + norm.eps) * norm.weight[:, None] + norm.bias[:, None]


def replace_positional_convolution(positions: nn.Module) -> None:
    """Put a `FourierConv` into a positional convolution, where it has one long kernel."""
    conv = getattr(positions, "conv", None)
    dense = isinstance(conv, nn.Conv1d) and conv.stride == (1,) and conv.dilation == (1,)
    if isinstance(conv, nn.Conv1d) and dense and conv.padding_mode == "zeros" and conv.kernel_size[0] >= LONG:
        positions.conv = FourierConv(conv)


class RelativeAttention(nn.Module):
    """WavLM's attention with its gated relative positions as the mask of PyTorch's fused kernel; without dropout.

    Hugging Face's takes `multi_head_attention_forward`, which holds the weights of all heads in memory.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.attention = attention

    def forward(
        self,
        hidden_states: Float[Tensor, "B T D"],
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        **_: Any,
    ) -> tuple[Float[Tensor, "B T D"], None, Tensor]:
        """Attend within `hidden_states`; returns the ungated bias of all layers, too: the first layer makes it."""
        own = self.attention
        if position_bias is None:
            length = hidden_states.shape[1]
            position_bias = own.compute_bias(length, length)

        def split(x: Float[Tensor, "B T D"]) -> Float[Tensor, "B heads T d"]:
            return x.view(*x.shape[:-1], own.num_heads, -1).transpose(1, 2)

        gates = own.gru_rel_pos_linear(split(hidden_states)).unflatten(-1, (2, 4)).sum(-1).sigmoid()
        update, reset = gates.chunk(2, dim=-1)
        bias = (update * (reset * own.gru_rel_pos_const - 1.0) + 2.0) * position_bias
        if attention_mask is not None:
            bias = bias.masked_fill(~attention_mask.bool()[:, None, None, :], float("-inf"))
        query, key, value = (split(layer(hidden_states)) for layer in (own.q_proj, own.k_proj, own.v_proj))
        attended = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        return own.out_proj(attended.transpose(1, 2).flatten(2)), None, position_bias


def fuse_relative_attention(model: Any) -> None:
    """Put `RelativeAttention` into the layers of a WavLM."""
    for layer in model.encoder.layers:
        if hasattr(layer.attention, "gru_rel_pos_linear"):
            layer.attention = RelativeAttention(layer.attention)


def fold_norms(network: nn.Module) -> None:
    """Fold the batch norms of an EfficientNet into the convolutions before them, and let SiLU write in place."""
    for module in list(network.modules()):
        for convolution, norm in FOLLOWED:
            before, after = getattr(module, convolution, None), getattr(module, norm, None)
            if isinstance(before, nn.Conv2d) and isinstance(after, nn.BatchNorm2d):
                setattr(module, convolution, fuse_conv_bn_eval(before, after))
                setattr(module, norm, nn.Identity())
        for name, child in module.named_children():
            if isinstance(child, nn.SiLU):
                setattr(module, name, nn.SiLU(inplace=True))
