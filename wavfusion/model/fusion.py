"""Gated cross-modal attention inside wav2vec 2.0's transformer layers (section 2.2.3, eq. 8-11)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from wavfusion.model.attention import Attention, SelfAttention
from wavfusion.model.dropout import Dropout
from wavfusion.model.steps import Steps, is_counted


@dataclass
class Source:
    """What an auxiliary modality offers to every deep layer: features, where they are real, and their positions."""

    hidden: Float[Tensor, "B T D"]
    mask: Bool[Tensor, "B T"]
    positions: Float[Tensor, "B T D"] | None = None


class CrossModalAttention(Attention):
    """CM_{A-M}: audio asks, text or video answers (eq. 8-9); exactly 0 for a sample without that modality."""

    def fuse(
        self,
        audio: Float[Tensor, "... D"],
        source: Source,
        audio_positions: Float[Tensor, "... D"] | None,
        steps: Steps | None = None,
    ) -> Float[Tensor, "... D"]:
        """Return X^F1 or X^F2; `steps` say how `audio` is packed."""
        return self(audio, source.hidden, source.mask, audio_positions, source.positions, query_steps=steps)


class Gate(nn.Module):
    """Per-channel convex mix of the two fused streams (eq. 10-11).

    The print of eq. 10 joins F1 with itself; we read F1 and F2 (docs/paper.md).
    """

    def __init__(self, width: int, kind: Literal["vector", "mean"] = "vector") -> None:
        super().__init__()
        self.fc = nn.Linear(2 * width, width) if kind == "vector" else None
        if self.fc is not None:
            nn.init.xavier_uniform_(self.fc.weight)
            nn.init.zeros_(self.fc.bias)

    def share(self, text_fused: Float[Tensor, "... D"], video_fused: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Return P of eq. 10: the share of the text stream."""
        if self.fc is None:
            return torch.full_like(text_fused, 0.5)
        return torch.sigmoid(self.fc(torch.cat([text_fused, video_fused], dim=-1)))

    def forward(
        self,
        text_fused: Float[Tensor, "... D"],
        video_fused: Float[Tensor, "... D"],
        has_text: Bool[Tensor, " B"] | None = None,
        has_video: Bool[Tensor, " B"] | None = None,
        steps: Steps | None = None,
    ) -> tuple[Float[Tensor, "... D"], Float[Tensor, "... D"]]:
        """Mix the streams and return the share too; an absent modality is overridden, not learned from zeros.

        `steps` say how the streams are packed.
        """
        share, steps = self.share(text_fused, video_fused), steps or Steps()
        if has_video is not None:
            share = steps.fill(share, ~has_video, 1.0)
        if has_text is not None:
            share = steps.fill(share, ~has_text, 0.0)
        return share * text_fused + (1 - share) * video_fused, share


class Gelu(nn.Module):
    """GELU; on CPU by PyTorch's own kernel: oneDNN's makes code for every shape, and keeps a megabyte for each."""

    fast = True

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Activate."""
        if not self.fast or x.device.type != "cpu" or torch.compiler.is_exporting():
            return F.gelu(x)
        return F.gelu(x.mT).mT  # only what lies in memory row by row is given to oneDNN


class FeedForward(nn.Module):
    """The position-wise network of a wav2vec 2.0 layer."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(width, inner)
        self.output_dense = nn.Linear(inner, width)
        self.activation = Gelu()
        self.dropout = Dropout(dropout)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Widen, GELU, narrow, drop."""
        return self.dropout(self.output_dense(self.activation(self.intermediate_dense(x))))


class TransformerLayer(nn.Module):
    """What a wav2vec 2.0 layer has beside its attentions: norms and feed-forward, post-norm or "stable" pre-norm."""

    fast = True  # on CPU nothing is computed at padding

    def __init__(
        self, width: int, inner: int, dropout: float, attention: SelfAttention | None, pre_norm: bool, eps: float
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.attention = attention
        self.dropout = Dropout(dropout)
        self.layer_norm = nn.LayerNorm(width, eps=eps)
        self.feed_forward = FeedForward(width, inner, dropout)
        self.final_layer_norm = nn.LayerNorm(width, eps=eps)

    def steps(self, mask: Bool[Tensor, "B T"]) -> Steps:
        """The steps that are computed: the real ones, where they can be counted."""
        return Steps(mask if self.fast and is_counted(mask) else None)

    def self_attend(
        self,
        hidden: Float[Tensor, "... D"],
        mask: Bool[Tensor, "B T"],
        relative: Float[Tensor, "heads T T"] | None,
        steps: Steps,
    ) -> Float[Tensor, "... D"]:
        """Self-attention with its residual path and norm; `steps` say how `hidden` is packed."""
        assert self.attention is not None
        if self.pre_norm:
            return hidden + self.dropout(self.attention.attend(self.layer_norm(hidden), mask, relative, steps))
        return self.layer_norm(hidden + self.dropout(self.attention.attend(hidden, mask, relative, steps)))

    def feed(self, hidden: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Feed-forward with its residual path and norm."""
        if self.pre_norm:
            return hidden + self.feed_forward(self.final_layer_norm(hidden))
        return self.final_layer_norm(hidden + self.feed_forward(hidden))


class SelfAttentionLayer(TransformerLayer):
    """An unmodified transformer layer: shallow, or all there is when audio stands alone (table 3, row A)."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        inner: int,
        dropout: float = 0.1,
        *,
        pre_norm: bool = False,
        eps: float = 1e-5,
        relative: bool = False,
    ) -> None:
        super().__init__(width, inner, dropout, SelfAttention(width, num_heads, dropout, relative), pre_norm, eps)

    def forward(
        self,
        hidden: Float[Tensor, "B Ta D"],
        mask: Bool[Tensor, "B Ta"],
        relative: Float[Tensor, "heads Ta Ta"] | None = None,
    ) -> Float[Tensor, "B Ta D"]:
        """Self-attention, then feed-forward."""
        steps = self.steps(mask)
        return steps.pad(self.feed(self.self_attend(steps.pack(hidden), mask, relative, steps)))

    def load_pretrained(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the tensors of one layer of a wav2vec 2.0, HuBERT or WavLM checkpoint."""
        self.load_state_dict({name: tensor for name, tensor in tensors.items() if name in self.state_dict()})


class DeepLayer(TransformerLayer):
    """The deep transformer layer: gated cross-modal attention where self-attention stood (eq. 8-11).

    h = LN(h + F), h = LN(h + FFN(h)); parents with "stable layer norm" normalise before each sub-layer
    instead. With `keep_self_attn` the self-attention stays and s F, s starting from 0, is added behind it.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        inner: int,
        dropout: float = 0.1,
        *,
        branches: tuple[str, ...] = ("text", "video"),
        gate: Literal["vector", "mean"] = "vector",
        pre_norm: bool = False,
        keep_self_attn: bool = False,
        eps: float = 1e-5,
        relative: bool = False,
    ) -> None:
        text = CrossModalAttention(width, num_heads, dropout) if "text" in branches else None
        video = CrossModalAttention(width, num_heads, dropout) if "video" in branches else None
        mix = Gate(width, gate) if text is not None and video is not None else None
        attention = SelfAttention(width, num_heads, dropout, relative) if keep_self_attn else None
        super().__init__(width, inner, dropout, attention, pre_norm, eps)
        self.text_attention, self.video_attention, self.gate = text, video, mix
        self.cross_scale = nn.Parameter(torch.zeros(1)) if keep_self_attn else None

    def forward(
        self,
        hidden: Float[Tensor, "B Ta D"],
        mask: Bool[Tensor, "B Ta"],
        text: Source | None = None,
        video: Source | None = None,
        positions: Float[Tensor, "B Ta D"] | None = None,
        relative: Float[Tensor, "heads Ta Ta"] | None = None,
    ) -> tuple[Float[Tensor, "B Ta D"], Float[Tensor, "B Ta D"] | None]:
        """Fuse one layer; returns the new audio stream and the gate (None without both branches)."""
        steps = self.steps(mask)
        hidden, positions = steps.pack(hidden), None if positions is None else steps.pack(positions)
        if self.attention is not None:
            hidden = self.self_attend(hidden, mask, relative, steps)
        query = self.layer_norm(hidden) if self.pre_norm else hidden
        fused, share = self.cross(query, text, video, positions, steps)
        if self.cross_scale is not None:
            hidden = hidden + self.cross_scale * self.dropout(fused)
        elif self.pre_norm:
            hidden = hidden + self.dropout(fused)
        else:
            hidden = self.layer_norm(hidden + self.dropout(fused))
        return steps.pad(self.feed(hidden)), None if share is None else steps.pad(share)

    def cross(
        self,
        query: Float[Tensor, "... D"],
        text: Source | None,
        video: Source | None,
        positions: Float[Tensor, "... D"] | None = None,
        steps: Steps | None = None,
    ) -> tuple[Float[Tensor, "... D"], Float[Tensor, "... D"] | None]:
        """Return X^F of eq. 11 and the gate; 0 where neither text nor video is there.

        `steps` say how `query` and `positions` are packed.
        """
        steps = steps or Steps()
        fused = [
            attention.fuse(query, source, positions, steps) if attention and source else torch.zeros_like(query)
            for attention, source in ((self.text_attention, text), (self.video_attention, video))
        ]
        if self.gate is None:
            return fused[0] + fused[1], None
        if text is None or video is None:  # nothing to mix: what the gate's override would say, at no cost
            share = torch.zeros_like(query) if text is None else steps.spread(text.mask.any(1)).to(query.dtype)
            return fused[0] + fused[1], share.expand_as(query)
        mixed: tuple[Tensor, Tensor] = self.gate(*fused, text.mask.any(1), video.mask.any(1), steps)
        return mixed

    def load_pretrained(
        self,
        tensors: Mapping[str, Tensor],
        init_cross: Literal["pretrained_all", "xavier_all"] = "pretrained_all",
    ) -> None:
        """Take the tensors of the layer that this one replaces; both cross-attentions start from its self-attention.

        Raises:
            ValueError: a tensor of the layer is not among them.
        """
        own = self.state_dict()
        loaded = {name: tensor for name, tensor in tensors.items() if name in own}
        new = ("text_attention.", "video_attention.", "gate.", "cross_scale")
        missing = [name for name in own if name not in loaded and not name.startswith(new)]
        if missing:
            raise ValueError(f"expected every tensor of the layer, {len(missing)} are missing, first {missing[0]!r}")
        if init_cross == "pretrained_all":
            for name, tensor in tensors.items():
                for branch in ("text_attention", "video_attention"):
                    copy = name.replace("attention", branch, 1)
                    if name.startswith("attention.") and copy in own:
                        loaded[copy] = tensor
        self.load_state_dict({**own, **loaded})
