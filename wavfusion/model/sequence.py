"""The auxiliary encoders: A-GRU for text and video, LVC beside it for video (section 2.2, eq. 1-6)."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from wavfusion.model.attention import Attention


def masked_mean(x: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
    """Average the real steps; 0 where there is none."""
    return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def masked_moments(x: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B 2*D"]:
    """Join mean and standard deviation of the real steps; 0 where there is none."""
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean[:, None]).square(), mask)
    # Its root has no gradient at 0: a single step, or steps that are all alike.
    deviation = torch.where(variance > 0, variance, 1.0).sqrt() * (variance > 0)
    return torch.cat([mean, deviation], dim=-1)


class GRU(nn.Module):
    """One GRU layer over right-padded rows, in one direction, or in both with half the width each.

    Backwards, every row is turned round within its own length: exact without packing, at any length.
    """

    def __init__(self, width: int, bidirectional: bool = False) -> None:
        super().__init__()
        self.forwards = nn.GRU(width, width // 2 if bidirectional else width, batch_first=True)
        self.backwards = nn.GRU(width, width - width // 2, batch_first=True) if bidirectional else None

    def forward(self, x: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Run over the real steps; what comes out at padding has no meaning."""
        ahead = self.forwards(x)[0]
        if self.backwards is None:
            return ahead
        last = mask.sum(1, keepdim=True) - 1
        steps = torch.arange(x.shape[1], device=x.device)[None]
        turned = torch.where(mask, last - steps, steps)[..., None]
        back = self.backwards(x.gather(1, turned.expand_as(x)))[0]
        return torch.cat([ahead, back.gather(1, turned.expand_as(back))], dim=-1)


class AGRU(nn.Module):
    """A-GRU: X = F_SA(F_GRU(e)) (eq. 2 and 6).

    The self-attention block has a residual path and a LayerNorm; order is carried by the GRU alone.
    """

    def __init__(self, width: int, num_heads: int, dropout: float = 0.1, bidirectional: bool = False) -> None:
        super().__init__()
        self.gru = GRU(width, bidirectional)
        self.attention = Attention(width, num_heads, dropout)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Encode right-padded rows; 0 at padding."""
        if x.numel() == 0:
            return x
        x = x.masked_fill(~mask[..., None], 0.0)
        recurrent = self.gru(x, mask)
        attended = self.attention(recurrent, recurrent, mask)
        hidden = self.layer_norm(recurrent + self.dropout(attended))
        return hidden.masked_fill(~mask[..., None], 0.0)


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of the last axis whose moments come from real positions only.

    With fewer than two real positions there is no variance: the running moments serve, and stay as they are.
    """

    def forward(self, x: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T D"]:  # type: ignore[override]
        """Normalise; what comes out at padding has no meaning."""
        mean, variance = self.running_mean, self.running_var
        assert mean is not None and variance is not None
        if self.training:
            real = mask[..., None].to(x.dtype)
            count = self.total(real.sum())
            own_mean = self.total((x * real).sum((0, 1))) / count.clamp(min=1)
            own_variance = self.total(((x - own_mean).square() * real).sum((0, 1))) / count.clamp(min=1)
            enough = count >= 2
            with torch.no_grad():
                rate = torch.where(enough, self.momentum or 0.1, 0.0)
                mean.lerp_(own_mean, rate)
                variance.lerp_(own_variance * count / (count - 1).clamp(min=1), rate)
            mean, variance = torch.where(enough, own_mean, mean), torch.where(enough, own_variance, variance)
        return (x - mean) * torch.rsqrt(variance + self.eps) * self.weight + self.bias

    def total(self, x: Tensor) -> Tensor:
        """Sum over the processes that train together: here one."""
        return x


class ConvBlock(nn.Module):
    """LVC's residual bottleneck: 1x1, 3 and 1x1 convolutions beside a 1x1 one (CFPNet, in one dimension)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = max(1, width // 4)
        # A 1x1 convolution over time is a linear map of the channels.
        self.reduce = nn.Linear(width, inner, bias=False)
        self.reduce_norm = MaskedBatchNorm(inner, eps=1e-6)
        self.local = nn.Conv1d(inner, inner, kernel_size=3, padding=1, bias=False)
        self.local_norm = MaskedBatchNorm(inner, eps=1e-6)
        self.expand = nn.Linear(inner, width, bias=False)
        self.expand_norm = MaskedBatchNorm(width, eps=1e-6)
        self.residual = nn.Linear(width, width, bias=False)
        self.residual_norm = MaskedBatchNorm(width, eps=1e-6)

    def forward(self, x: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Convolve; padding stays 0, so the last real frame sees zeros beside it, as a clip alone would."""
        real = mask[..., None]
        inner = F.relu(self.reduce_norm(self.reduce(x), mask)) * real
        inner = self.local(inner.transpose(1, 2)).transpose(1, 2)
        inner = F.relu(self.local_norm(inner, mask))
        return F.relu(self.expand_norm(self.expand(inner), mask) + self.residual_norm(self.residual(x), mask)) * real


class Codebook(nn.Module):
    """Residuals of the frames to learned codewords, softly assigned (CFPNet's encoding).

    e_k = sum_i a_ik (z_i - c_k) with a_i = softmax_k(s_k |z_i - c_k|^2); `mean` divides by the number of frames.
    """

    def __init__(self, width: int, num_codewords: int, pool: Literal["sum", "mean"]) -> None:
        super().__init__()
        bound = (num_codewords * width) ** -0.5
        self.codewords = nn.Parameter(torch.empty(num_codewords, width).uniform_(-bound, bound))
        self.scales = nn.Parameter(torch.empty(num_codewords).uniform_(-1, 0))
        self.pool = pool

    def forward(self, z: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B K D"]:
        """Sum or average the assigned residuals over the real frames."""
        distance = z.square().sum(-1, keepdim=True) - 2 * z @ self.codewords.T + self.codewords.square().sum(-1)
        assigned = (self.scales * distance).softmax(-1) * mask[..., None]
        residuals = assigned.transpose(1, 2) @ z - assigned.sum(1)[..., None] * self.codewords
        if self.pool == "mean":
            residuals = residuals / mask.sum(1).clamp(min=1)[:, None, None]
        return residuals


class LVC(nn.Module):
    """Learnable visual centre over time (eq. 3; Quan et al. 2023, with one-dimensional convolutions).

    Its squared distances want float32, so autocast is off inside.
    """

    def __init__(self, width: int, num_codewords: int = 64, pool: Literal["sum", "mean"] = "sum") -> None:
        super().__init__()
        self.block = ConvBlock(width)
        self.conv = nn.Linear(width, width, bias=False)
        self.conv_norm = MaskedBatchNorm(width)
        self.codebook = Codebook(width, num_codewords, pool)
        self.codeword_norm = MaskedBatchNorm(num_codewords)
        self.fc = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Emphasise the channels that the codewords find in the clip; 0 at padding."""
        if x.numel() == 0:
            return x
        with torch.autocast(x.device.type, enabled=False):
            real = mask[..., None]
            x = self.block(x.float().masked_fill(~real, 0.0), mask)
            z = F.relu(self.conv_norm(self.conv(x), mask)) * real
            residuals = self.codebook(z, mask).transpose(1, 2)
            clip = mask.any(1, keepdim=True).expand(-1, residuals.shape[1])
            summary = F.relu(self.codeword_norm(residuals, clip)).mean(-1)
            gamma = torch.sigmoid(self.fc(summary))[:, None]
            return F.relu(x + x * gamma) * real


class AGRULVC(nn.Module):
    """A-GRU-LVC: X^v = F_SA(F_GRU(e^v)) joined with F_LVC(e^v) on the last axis (eq. 2-4)."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        dropout: float = 0.1,
        num_codewords: int = 64,
        pool: Literal["sum", "mean"] = "sum",
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        self.agru = AGRU(width, num_heads, dropout, bidirectional)
        self.lvc = LVC(width, num_codewords, pool)

    def forward(self, x: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T 2*D"]:
        """Encode the frames globally and locally; 0 at padding."""
        return torch.cat([self.agru(x, mask), self.lvc(x, mask)], dim=-1)
