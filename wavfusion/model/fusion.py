"""Gated cross-modal attention inside wav2vec 2.0's transformer layers (section 2.2.3, eq. 8-11)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from wavfusion.model.attention import Attention, SelfAttention


@dataclass
class Source:
    """Keys and values of an auxiliary modality for every deep layer: features, attention mask, positions."""

    hidden: Float[Tensor, "B T D"]
    mask: Bool[Tensor, "B T"]
    positions: Float[Tensor, "B T D"] | None = None

    @property
    def present(self) -> Bool[Tensor, "... 1"]:
        """Whether a sample has the modality, for each of its audio steps."""
        return self.mask.any(1)[:, None, None]


class CrossModalAttention(Attention):
    """CM_{A-M}: queries from audio, keys and values from text or video (eq. 8-9); 0 for a sample without them."""

    def fuse(
        self, audio: Float[Tensor, "*T D"], source: Source, audio_positions: Float[Tensor, "*T D"] | None
    ) -> Float[Tensor, "*T D"]:
        """Return X^F1 or X^F2."""
        return self(audio, source.hidden, source.mask, audio_positions, source.positions)


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

    def text_weight(
        self, text_fused: Float[Tensor, "*T D"], video_fused: Float[Tensor, "*T D"]
    ) -> Float[Tensor, "*T D"]:
        """Return P of eq. 10, the weight of the text stream."""
        if self.fc is None:
            return torch.full_like(text_fused, 0.5)
        return torch.sigmoid(self.fc(torch.cat([text_fused, video_fused], dim=-1)))

    def forward(
        self,
        text_fused: Float[Tensor, "*T D"],
        video_fused: Float[Tensor, "*T D"],
        has_text: Bool[Tensor, "... 1"],
        has_video: Bool[Tensor, "... 1"],
    ) -> tuple[Float[Tensor, "*T D"], Float[Tensor, "*T D"]]:
        """Mix the streams, and return the text weight too: 0 without text, else 1 without video."""
        weight = self.text_weight(text_fused, video_fused)
        weight = weight.masked_fill(~has_video, 1.0).masked_fill(~has_text, 0.0)
        return weight * text_fused + (1 - weight) * video_fused, weight


class FeedForward(nn.Module):
    """The position-wise network of a wav2vec 2.0 layer."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(width, inner)
        self.output_dense = nn.Linear(inner, width)
        self.activation = nn.GELU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "*T D"]) -> Float[Tensor, "*T D"]:
        """Widen, GELU, narrow, drop."""
        return self.dropout(self.output_dense(self.activation(self.intermediate_dense(x))))


class TransformerLayer(nn.Module):
    """What a wav2vec 2.0 layer has beside its attentions: norms and feed-forward, post-norm or "stable" pre-norm."""

    def __init__(
        self, width: int, inner: int, dropout: float, attention: SelfAttention | None, pre_norm: bool, eps: float
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.attention = attention
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(width, eps=eps)
        self.feed_forward = FeedForward(width, inner, dropout)
        self.final_layer_norm = nn.LayerNorm(width, eps=eps)

    def self_attend(
        self, hidden: Float[Tensor, "*T D"], mask: Bool[Tensor, "B Ta"], relative: Float[Tensor, "heads Ta Ta"] | None
    ) -> Float[Tensor, "*T D"]:
        """Self-attention with its residual path and norm."""
        assert self.attention is not None
        if self.pre_norm:
            return hidden + self.dropout(self.attention.within(self.layer_norm(hidden), mask, relative))
        return self.layer_norm(hidden + self.dropout(self.attention.within(hidden, mask, relative)))

    def feed(self, hidden: Float[Tensor, "*T D"]) -> Float[Tensor, "*T D"]:
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
        hidden: Float[Tensor, "*T D"],
        mask: Bool[Tensor, "B Ta"],
        relative: Float[Tensor, "heads Ta Ta"] | None = None,
    ) -> Float[Tensor, "*T D"]:
        """Self-attention, then feed-forward; `hidden` is [B, Ta, D]."""
        return self.feed(self.self_attend(hidden, mask, relative))

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
        hidden: Float[Tensor, "*T D"],
        mask: Bool[Tensor, "B Ta"],
        text: Source | None = None,
        video: Source | None = None,
        positions: Float[Tensor, "*T D"] | None = None,
        relative: Float[Tensor, "heads Ta Ta"] | None = None,
    ) -> tuple[Float[Tensor, "*T D"], Float[Tensor, "*T D"] | None]:
        """Fuse one layer; `hidden` is [B, Ta, D].

        Returns:
            The new audio stream, and the gate: None without both branches.
        """
        if self.attention is not None:
            hidden = self.self_attend(hidden, mask, relative)
        query = self.layer_norm(hidden) if self.pre_norm else hidden
        fused, gate = self.cross(query, text, video, positions)
        if self.cross_scale is not None:
            hidden = hidden + self.cross_scale * self.dropout(fused)
        elif self.pre_norm:
            hidden = hidden + self.dropout(fused)
        else:
            hidden = self.layer_norm(hidden + self.dropout(fused))
        return self.feed(hidden), gate

    def cross(
        self,
        query: Float[Tensor, "*T D"],
        text: Source | None,
        video: Source | None,
        positions: Float[Tensor, "*T D"] | None = None,
    ) -> tuple[Float[Tensor, "*T D"], Float[Tensor, "*T D"] | None]:
        """Return X^F of eq. 11 and the gate; 0 for a sample without text and video."""
        fused = [
            attention.fuse(query, source, positions) if attention and source else torch.zeros_like(query)
            for attention, source in ((self.text_attention, text), (self.video_attention, video))
        ]
        if self.gate is None:
            return fused[0] + fused[1], None
        if text is None or video is None:  # nothing to mix: what the gate would give, at no cost
            gate = torch.zeros_like(query) if text is None else text.present.to(query.dtype).expand_as(query)
            return fused[0] + fused[1], gate
        mixed: tuple[Tensor, Tensor] = self.gate(*fused, text.present, video.present)
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
        state = self.state_dict()
        loaded = {name: tensor for name, tensor in tensors.items() if name in state}
        new = ("text_attention.", "video_attention.", "gate.", "cross_scale")
        missing = [name for name in state if name not in loaded and not name.startswith(new)]
        if missing:
            raise ValueError(f"expected every tensor of the layer, {len(missing)} are missing, first {missing[0]!r}")
        if init_cross == "pretrained_all":
            for name, tensor in tensors.items():
                for branch in ("text_attention", "video_attention"):
                    copy = name.replace("attention", branch, 1)
                    if name.startswith("attention.") and copy in state:
                        loaded[copy] = tensor
        self.load_state_dict({**state, **loaded})
