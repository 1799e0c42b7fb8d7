"""Gated cross-modal attention inside wav2vec 2.0's transformer layers (section 2.2.3, eq. 8-11)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from wavfusion.model.attention import Attention, Relative, SelfAttention, Stream, xavier
from wavfusion.model.config import WavFusionConfig


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

    def fuse(self, audio: Stream, source: Source, audio_positions: Stream | None) -> Stream:
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
            xavier(self.fc)

    def text_weight(self, text_fused: Stream, video_fused: Stream) -> Stream:
        """Return P of eq. 10, the weight of the text stream."""
        if self.fc is None:
            return torch.full_like(text_fused, 0.5)
        return torch.sigmoid(self.fc(torch.cat([text_fused, video_fused], dim=-1)))

    def forward(
        self, text_fused: Stream, video_fused: Stream, has_text: Bool[Tensor, "... 1"], has_video: Bool[Tensor, "... 1"]
    ) -> tuple[Stream, Stream]:
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

    def forward(self, x: Stream) -> Stream:
        """Widen, GELU, narrow, drop."""
        return self.dropout(self.output_dense(self.activation(self.intermediate_dense(x))))


class TransformerLayer(nn.Module):
    """What a wav2vec 2.0 layer has beside cross-attention; post-norm or "stable" pre-norm."""

    copies: tuple[str, ...] = ()  # attentions of ours that start from the checkpoint's self-attention

    def __init__(self, config: WavFusionConfig, keep_self_attn: bool) -> None:
        super().__init__()
        shape = (config.hidden_size, config.num_heads, config.dropout, config.position_buckets > 0)
        self.pre_norm = config.pre_norm
        self.attention = SelfAttention(*shape) if keep_self_attn else None
        self.dropout = nn.Dropout(config.dropout)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config.hidden_size, config.intermediate_size, config.dropout)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def self_attend(self, hidden: Stream, mask: Bool[Tensor, "B T"], relative: Relative | None) -> Stream:
        """Self-attention with its residual path and norm."""
        assert self.attention is not None
        if self.pre_norm:
            return hidden + self.dropout(self.attention.within(self.layer_norm(hidden), mask, relative))
        return self.layer_norm(hidden + self.dropout(self.attention.within(hidden, mask, relative)))

    def feed(self, hidden: Stream) -> Stream:
        """Feed-forward with its residual path and norm."""
        if self.pre_norm:
            return hidden + self.feed_forward(self.final_layer_norm(hidden))
        return self.final_layer_norm(hidden + self.feed_forward(hidden))

    def load_pretrained(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the tensors of the layer of a wav2vec 2.0, HuBERT or WavLM checkpoint that this one replaces.

        Raises:
            ValueError: a tensor of the layer is not among them.
        """
        given, state = dict(tensors), self.state_dict()
        for name in self.copies:
            given |= {
                key.replace("attention", name, 1): x for key, x in tensors.items() if key.startswith("attention.")
            }
        new = ("text_attention.", "video_attention.", "gate.", "cross_scale")
        missing = [key for key in state if key not in given and not key.startswith(new)]
        if missing:
            raise ValueError(f"expected every tensor of the layer, {len(missing)} are missing, first {missing[0]!r}")
        self.load_state_dict({key: given.get(key, x) for key, x in state.items()})


class SelfAttentionLayer(TransformerLayer):
    """An unmodified transformer layer: shallow, or all there is when audio stands alone (table 3, row A)."""

    def __init__(self, config: WavFusionConfig) -> None:
        super().__init__(config, keep_self_attn=True)

    def forward(self, hidden: Stream, mask: Bool[Tensor, "B T"], relative: Relative | None = None) -> Stream:
        """Self-attention, then feed-forward; `hidden` is [B, Ta, D]."""
        return self.feed(self.self_attend(hidden, mask, relative))


class DeepLayer(TransformerLayer):
    """The deep transformer layer: gated cross-modal attention where self-attention stood (eq. 8-11).

    h = LN(h + F), h = LN(h + FFN(h)); parents with "stable layer norm" normalise before each sub-layer
    instead. With `keep_self_attn` the self-attention stays and s F, s starting from 0, is added behind it.
    """

    def __init__(self, config: WavFusionConfig) -> None:
        # Drawn before the layer's own tensors: the weights of a seed follow from the order.
        shape = (config.hidden_size, config.num_heads, config.dropout)
        text, video = (CrossModalAttention(*shape) if name in config.modalities else None for name in ("text", "video"))
        gate = Gate(config.hidden_size, config.gate) if text is not None and video is not None else None
        super().__init__(config, config.keep_self_attn)
        self.text_attention, self.video_attention, self.gate = text, video, gate
        self.cross_scale = nn.Parameter(torch.zeros(1)) if config.keep_self_attn else None
        self.copies = ("text_attention", "video_attention") if config.init_cross == "pretrained_all" else ()

    def forward(
        self,
        hidden: Stream,
        mask: Bool[Tensor, "B T"],
        text: Source | None = None,
        video: Source | None = None,
        positions: Stream | None = None,
        relative: Relative | None = None,
    ) -> tuple[Stream, Stream | None]:
        """Fuse one layer; returns the new audio stream [B, Ta, D], and the gate: None without both branches."""
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
        self, query: Stream, text: Source | None, video: Source | None, positions: Stream | None = None
    ) -> tuple[Stream, Stream | None]:
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
        return self.gate(*fused, text.present, video.present)
