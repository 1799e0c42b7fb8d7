"""Attention for a CPU: dropout on its weights, and queries packed to the real steps of a batch."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wavfusion.fast.dropout import noise
from wavfusion.fast.rows import PackedRows, PackedSource
from wavfusion.model.attention import Attention, SelfAttention, added
from wavfusion.model.fusion import CrossModalAttention, Source


def attend(
    query: Float[Tensor, "B heads Tq d"],
    key: Float[Tensor, "B heads Ts d"],
    value: Float[Tensor, "B heads Ts d"],
    allowed: Bool[Tensor, "..."] | Float[Tensor, "..."],
    dropout: float,
) -> Float[Tensor, "B heads Tq d"]:
    """Compute `Attention.attend` where PyTorch's own has no kernel: with dropout on a CPU.

    The softmax runs over the last axis but one, since torch's over a short last axis (a dozen frames) uses no vector
    instructions.
    """
    scores = (key * key.shape[-1] ** -0.5) @ query.transpose(-2, -1)
    allowed = allowed.transpose(-2, -1)
    scores = scores.masked_fill(~allowed, float("-inf")) if allowed.dtype == torch.bool else scores + allowed
    weights = scores.softmax(dim=-2)
    if dropout:
        weights = weights * noise(weights, dropout)
    return weights.transpose(-2, -1) @ value


class FastAttention(Attention):
    """`Attention` by `attend` in training on a CPU."""

    def attend(
        self,
        query: Float[Tensor, "B heads Tq d"],
        key: Float[Tensor, "B heads Ts d"],
        value: Float[Tensor, "B heads Ts d"],
        allowed: Bool[Tensor, "..."] | Float[Tensor, "..."],
    ) -> Float[Tensor, "B heads Tq d"]:
        """softmax(Q K^T / sqrt(d)) V (eq. 9)."""
        if self.training and self.dropout and query.device.type == "cpu":
            return attend(query, key, value, allowed, self.dropout)
        return super().attend(query, key, value, allowed)


class FastSelfAttention(FastAttention, SelfAttention):
    """`SelfAttention` that also takes packed steps."""

    def within(
        self, x: Float[Tensor, "*T D"], mask: Bool[Tensor, "B T"], relative: Float[Tensor, "heads T T"] | None
    ) -> Float[Tensor, "*T D"]:
        """Attend within `x`, which is packed by `mask` where it has two axes."""
        if x.dim() == 3:
            return super().within(x, mask, relative)
        rows = PackedRows(mask)
        bias = None if relative is None else self.gated_bias(rows.pad(x), relative)
        query, key, value = (rows.pad(projection(x)) for projection in (self.q_proj, self.k_proj, self.v_proj))
        attended: Tensor = self.out_proj(rows.pack(self.heads(query, key, value, mask, bias)))
        return attended


class FastCrossModalAttention(FastAttention, CrossModalAttention):
    """`CrossModalAttention` that also takes packed queries."""

    def fuse(
        self, audio: Float[Tensor, "*T D"], source: Source, audio_positions: Float[Tensor, "*T D"] | None
    ) -> Float[Tensor, "*T D"]:
        """Return X^F1 or X^F2; `audio` is packed where the source is a `PackedSource`."""
        if not isinstance(source, PackedSource):
            return super().fuse(audio, source, audio_positions)
        rows, key = source.rows, added(source.hidden, source.positions)
        query = rows.pad(self.q_proj(added(audio, audio_positions)))
        heads = self.heads(query, self.k_proj(key), self.v_proj(source.hidden), source.mask, None)
        fused: Tensor = self.out_proj(rows.pack(heads)).masked_fill(~source.present, 0.0)
        return fused
