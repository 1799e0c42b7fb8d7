"""Multi-head attention whose tensors carry wav2vec 2.0's names, over masked and possibly empty sources."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

# Sinusoids in seconds: from the fastest change that frames 20 ms apart can show to the length of a long utterance.
SHORTEST_PERIOD, LONGEST_PERIOD = 0.1, 100.0

Stream = Float[Tensor, "*T D"]  # [B, T, D], or the real steps of a batch one after the other, [R, D]
Relative = Float[Tensor, "heads T T"]  # the output of `RelativePositions`
Queries = Float[Tensor, "B heads Tq d"]
Keys = Float[Tensor, "B heads Ts d"]  # and values
Allowed = Bool[Tensor, "..."] | Float[Tensor, "..."]  # [B, 1 or heads, 1 or Tq, Ts]: a mask, or what is added to scores


def positions(times: Float[Tensor, "B T"], width: int) -> Float[Tensor, "B T D"]:
    """Sinusoidal positions of times in seconds, so that modalities of different rates share one clock."""
    periods = torch.logspace(
        math.log10(SHORTEST_PERIOD), math.log10(LONGEST_PERIOD), width // 2, device=times.device, dtype=torch.float32
    )
    angles = 2 * math.pi * times.float()[..., None] / periods
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def xavier(*layers: nn.Linear) -> None:
    """Draw weights from Xavier's uniform distribution, with zero biases."""
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)


def added(x: Stream, where: Stream | None) -> Stream:
    """Add positions, if there are any."""
    return x if where is None else x + where.to(x.dtype)


class Attention(nn.Module):
    """Scaled dot-product attention of `num_heads` heads with four biased projections.

    A row whose source has no real step gives exactly 0, not the NaN of an empty softmax, and stops all gradient.
    """

    def __init__(self, width: int, num_heads: int, dropout: float = 0.1) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"attention width {width} does not divide into {num_heads} heads")
        self.num_heads, self.dropout = num_heads, dropout
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        xavier(self.q_proj, self.k_proj, self.v_proj, self.out_proj)

    def forward(
        self,
        query: Float[Tensor, "B Tq D"],
        source: Float[Tensor, "B Ts D"],
        mask: Bool[Tensor, "B Ts"],
        query_positions: Float[Tensor, "B Tq D"] | None = None,
        source_positions: Float[Tensor, "B Ts D"] | None = None,
        bias: Float[Tensor, "B heads Tq Ts"] | None = None,
    ) -> Float[Tensor, "B Tq D"]:
        """Attend from `query` to the real steps of `source`; positions join queries and keys but not values."""
        query, key = added(query, query_positions), added(source, source_positions)
        heads = self.heads(self.q_proj(query), self.k_proj(key), self.v_proj(source), mask, bias)
        return self.out_proj(heads).masked_fill(~mask.any(1)[:, None, None], 0.0)

    def heads(
        self,
        query: Float[Tensor, "B Tq D"],
        key: Float[Tensor, "B Ts D"],
        value: Float[Tensor, "B Ts D"],
        mask: Bool[Tensor, "B Ts"],
        bias: Float[Tensor, "B heads Tq Ts"] | None,
    ) -> Float[Tensor, "B Tq D"]:
        """Run every head on projected tensors and join them; an empty source counts as its first step here."""
        usable = mask | (~mask.any(1, keepdim=True) & (torch.arange(mask.shape[1], device=mask.device) == 0))
        allowed: Tensor = usable[:, None, None, :]
        if bias is not None:
            allowed = bias.masked_fill(~allowed, float("-inf"))
        return self.attend(self.split(query), self.split(key), self.split(value), allowed).transpose(1, 2).flatten(2)

    def attend(self, query: Queries, key: Keys, value: Keys, allowed: Allowed) -> Queries:
        """softmax(Q K^T / sqrt(d)) V of each head, with dropout on the weights in training (eq. 9)."""
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, dropout_p=dropout)

    def split(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B heads T d"]:
        """Divide the channels among the heads."""
        return x.view(*x.shape[:-1], self.num_heads, x.shape[-1] // self.num_heads).transpose(1, 2)


class RelativePositions(nn.Module):
    """WavLM's bucketed relative positions, one learned value a head (Chen et al. 2022, section 3.1)."""

    def __init__(self, num_buckets: int, max_distance: int, num_heads: int) -> None:
        super().__init__()
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.rel_attn_embed = nn.Embedding(num_buckets, num_heads)

    def forward(self, length: int) -> Relative:
        """Return the bias of every pair of steps: near ones have a bucket each, far ones share logarithmic buckets."""
        half, exact = self.num_buckets // 2, self.num_buckets // 4
        steps = torch.arange(length, device=self.rel_attn_embed.weight.device)
        distance = steps[None, :] - steps[:, None]
        # float32 throughout, since a boundary rounded otherwise lands in another bucket than WavLM's own
        logarithm = torch.log(distance.abs().clamp(min=1).float() / exact)
        far = logarithm / math.log(self.max_distance / exact) * (half - exact)
        bucket = torch.where(distance.abs() < exact, distance.abs(), (exact + far).long().clamp(max=half - 1))
        return self.rel_attn_embed(bucket + (distance > 0) * half).permute(2, 0, 1)


class SelfAttention(Attention):
    """A transformer layer's own attention, with WavLM's gate on relative positions where the parent has one."""

    def __init__(self, width: int, num_heads: int, dropout: float = 0.1, relative: bool = False) -> None:
        super().__init__(width, num_heads, dropout)
        self.relative = relative
        if relative:
            self.gru_rel_pos_const = nn.Parameter(torch.ones(1, num_heads, 1, 1))
            self.gru_rel_pos_linear = nn.Linear(width // num_heads, 8)

    def within(self, x: Stream, mask: Bool[Tensor, "B T"], relative: Relative | None) -> Stream:
        """Attend within `x`."""
        return self(x, x, mask, bias=None if relative is None else self.gated_bias(x, relative))

    def gated_bias(self, x: Float[Tensor, "B T D"], relative: Relative) -> Float[Tensor, "B heads T T"]:
        """Scale the relative positions by two gates of each step (Chen et al. 2022, section 3.1)."""
        gates = self.gru_rel_pos_linear(self.split(x)).unflatten(-1, (2, 4)).sum(-1).sigmoid()
        update, reset = gates.chunk(2, dim=-1)
        return (update * (reset * self.gru_rel_pos_const - 1.0) + 2.0) * relative
