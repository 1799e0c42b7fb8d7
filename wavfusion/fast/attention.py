"""Attention for a CPU: dropout on its weights, and the real steps of a batch one after the other, without padding."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wavfusion.fast.elementwise import noise
from wavfusion.model.attention import Allowed, Attention, Keys, Queries, Relative, SelfAttention, Stream, added
from wavfusion.model.fusion import CrossModalAttention, Source


class PackedRows:
    """Packs the steps that a mask calls real into rows, and puts rows back into their places."""

    def __init__(self, mask: Bool[Tensor, "B T"]) -> None:
        self.shape = mask.shape
        self.places = mask.flatten().nonzero()[:, 0]

    def pack(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "R D"]:
        """Leave padding out."""
        return x.flatten(0, 1).index_select(0, self.places)

    def pad(self, x: Float[Tensor, "R D"]) -> Float[Tensor, "B T D"]:
        """Put rows where they were; 0 at padding."""
        padded = x.new_zeros(self.shape.numel(), x.shape[1])
        return padded.index_copy(0, self.places, x).view(*self.shape, x.shape[1])


@dataclass(kw_only=True)
class PackedSource(Source):
    """A source of keys and values for queries packed as `rows` says."""

    rows: PackedRows

    @property
    def present(self) -> Bool[Tensor, "R 1"]:
        """Whether a sample has the modality, for each of its packed steps."""
        return self.mask.any(1)[self.rows.places // self.rows.shape[1], None]


def attend(query: Queries, key: Keys, value: Keys, allowed: Allowed, dropout: float) -> Queries:
    """Compute `Attention.attend` where PyTorch's own has no kernel: with dropout on a CPU."""
    # Softmax over the last axis but one: torch's over a short last axis (a dozen frames) uses no vector instructions.
    scores = (key * key.shape[-1] ** -0.5) @ query.transpose(-2, -1)
    allowed = allowed.transpose(-2, -1)
    scores = scores.masked_fill(~allowed, float("-inf")) if allowed.dtype == torch.bool else scores + allowed
    weights = scores.softmax(dim=-2)
    if dropout:
        weights = weights * noise(weights, dropout)
    return weights.transpose(-2, -1) @ value


class FastAttention(Attention):
    """`Attention` by `attend` in training on a CPU."""

    def attend(self, query: Queries, key: Keys, value: Keys, allowed: Allowed) -> Queries:
        """softmax(Q K^T / sqrt(d)) V (eq. 9)."""
        if self.training and self.dropout and query.device.type == "cpu":
            return attend(query, key, value, allowed, self.dropout)
        return super().attend(query, key, value, allowed)


class FastSelfAttention(FastAttention, SelfAttention):
    """`SelfAttention` that also takes packed steps."""

    def within(self, x: Stream, mask: Bool[Tensor, "B T"], relative: Relative | None) -> Stream:
        """Attend within `x`, which is packed by `mask` where it has two axes."""
        if x.dim() == 3:
            return super().within(x, mask, relative)
        rows = PackedRows(mask)
        bias = None if relative is None else self.gated_bias(rows.pad(x), relative)
        query, key, value = (rows.pad(projection(x)) for projection in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(rows.pack(self.heads(query, key, value, mask, bias)))


class FastCrossModalAttention(FastAttention, CrossModalAttention):
    """`CrossModalAttention` that also takes packed queries."""

    def fuse(self, audio: Stream, source: Source, audio_positions: Stream | None) -> Stream:
        """Return X^F1 or X^F2; `audio` is packed where the source is a `PackedSource`."""
        if not isinstance(source, PackedSource):
            return super().fuse(audio, source, audio_positions)
        rows, key = source.rows, added(source.hidden, source.positions)
        query = rows.pad(self.q_proj(added(audio, audio_positions)))
        heads = self.heads(query, self.k_proj(key), self.v_proj(source.hidden), source.mask, None)
        return self.out_proj(rows.pack(heads)).masked_fill(~source.present, 0.0)
