"""Multi-head attention whose tensors carry wav2vec 2.0's names, over masked and possibly empty sources."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from wavfusion.model.dropout import noise
from wavfusion.model.steps import Steps

# Sinusoids in seconds: from the fastest change that frames 20 ms apart can show to the length of a long utterance.
SHORTEST_PERIOD, LONGEST_PERIOD = 0.1, 100.0


def positions(times: Float[Tensor, "B T"], width: int) -> Float[Tensor, "B T D"]:
    """Sinusoidal positions of times in seconds, so that modalities of different rates share one clock."""
    periods = torch.logspace(
        math.log10(SHORTEST_PERIOD), math.log10(LONGEST_PERIOD), width // 2, device=times.device, dtype=torch.float32
    )
    angles = 2 * math.pi * times.float()[..., None] / periods
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def attend(
    query: Float[Tensor, "B heads Tq d"],
    key: Float[Tensor, "B heads Ts d"],
    value: Float[Tensor, "B heads Ts d"],
    allowed: Bool[Tensor, "..."] | Float[Tensor, "..."],
    chance: float,
) -> Float[Tensor, "B heads Tq d"]:
    """Scaled dot-product attention with dropout, for a CPU: PyTorch's own has no kernel for the two together there.

    The softmax runs over the last axis but one, since torch's over a short last axis (a dozen frames) uses no vector
    instructions. `allowed` [B, 1 or heads, 1 or Tq, Ts] is a mask or what is added to the scores, `chance` that of
    dropout on the weights.
    """
    scores = (key * key.shape[-1] ** -0.5) @ query.transpose(-2, -1)
    allowed = allowed.transpose(-2, -1)
    scores = scores.masked_fill(~allowed, float("-inf")) if allowed.dtype == torch.bool else scores + allowed
    weights = scores.softmax(dim=-2)
    if chance:
        weights = weights * noise(weights, chance)
    return weights.transpose(-2, -1) @ value


class Attention(nn.Module):
    """Scaled dot-product attention of `num_heads` heads with four biased projections.

    A row whose source has no real step gives exactly 0, not the NaN of an empty softmax, and stops all gradient.
    """

    fast = True  # on CPU in training, `attend`

    def __init__(self, width: int, num_heads: int, dropout: float = 0.1) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"attention width {width} does not divide into {num_heads} heads")
        self.num_heads, self.dropout = num_heads, dropout
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.xavier()

    def xavier(self) -> None:
        """Draw the four projections from Xavier's uniform distribution, with zero biases."""
        for projection in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: Float[Tensor, "... D"],
        source: Float[Tensor, "... D"],
        mask: Bool[Tensor, "B Ts"],
        query_positions: Float[Tensor, "... D"] | None = None,
        source_positions: Float[Tensor, "B Ts D"] | None = None,
        bias: Float[Tensor, "B heads Tq Ts"] | None = None,
        query_steps: Steps | None = None,
        source_steps: Steps | None = None,
    ) -> Float[Tensor, "... D"]:
        """Attend from `query` to the real steps of `source`; positions join queries and keys but not values.

        Either is packed where its steps are given; what comes out is as `query` is.
        """
        asked, told = query_steps or Steps(), source_steps or Steps()
        present = mask.any(dim=1)
        keys = source if source_positions is None else source + source_positions.to(source.dtype)
        query = query if query_positions is None else query + query_positions.to(query.dtype)
        usable = mask | (~present[:, None] & (torch.arange(mask.shape[1], device=mask.device) == 0))
        allowed: Tensor = usable[:, None, None, :]
        if bias is not None:
            allowed = bias.masked_fill(~allowed, float("-inf"))
        chance = self.dropout if self.training else 0.0
        of_query, of_keys, of_values = self.q_proj(query), self.k_proj(keys), self.v_proj(source)
        parts = self._split(asked.pad(of_query)), self._split(told.pad(of_keys)), self._split(told.pad(of_values))
        if chance and self.fast and query.device.type == "cpu":
            heads = attend(*parts, allowed, chance)
        else:
            heads = F.scaled_dot_product_attention(*parts, attn_mask=allowed, dropout_p=chance)
        return asked.fill(self.out_proj(asked.pack(heads.transpose(1, 2).flatten(2))), ~present, 0.0)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.num_heads, x.shape[-1] // self.num_heads).transpose(1, 2)


class RelativePositions(nn.Module):
    """WavLM's bucketed relative positions, one learned value a head (Chen et al. 2022, section 3.1)."""

    def __init__(self, num_buckets: int, max_distance: int, num_heads: int) -> None:
        super().__init__()
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.rel_attn_embed = nn.Embedding(num_buckets, num_heads)

    def forward(self, length: int) -> Float[Tensor, "heads T T"]:
        """Return the bias of every pair of steps: near ones have a bucket each, far ones share logarithmic buckets."""
        half = self.num_buckets // 2
        exact = half // 2
        steps = torch.arange(length, device=self.rel_attn_embed.weight.device)
        distance = steps[None, :] - steps[:, None]
        # float32 throughout, since a boundary rounded otherwise lands in another bucket than WavLM's own
        far = (
            torch.log(distance.abs().clamp(min=1).float() / exact)
            / math.log(self.max_distance / exact)
            * (half - exact)
        )
        bucket = torch.where(distance.abs() < exact, distance.abs(), (exact + far).long().clamp(max=half - 1))
        values = self.rel_attn_embed(bucket + (distance > 0) * half)
        return values.permute(2, 0, 1)


class SelfAttention(Attention):
    """A transformer layer's own attention, with WavLM's gate on relative positions where the parent has one."""

    def __init__(self, width: int, num_heads: int, dropout: float = 0.1, relative: bool = False) -> None:
        super().__init__(width, num_heads, dropout)
        self.relative = relative
        if relative:
            self.gru_rel_pos_const = nn.Parameter(torch.ones(1, num_heads, 1, 1))
            self.gru_rel_pos_linear = nn.Linear(width // num_heads, 8)

    def attend(
        self,
        x: Float[Tensor, "... D"],
        mask: Bool[Tensor, "B T"],
        relative: Float[Tensor, "heads T T"] | None,
        steps: Steps,
    ) -> Float[Tensor, "... D"]:
        """Attend within `x`; `relative` is the output of `RelativePositions`, `steps` say how `x` is packed."""
        bias = None if relative is None else self._gated(steps.pad(x), relative)
        return self(x, x, mask, bias=bias, query_steps=steps, source_steps=steps)

    def _gated(self, x: Tensor, relative: Tensor) -> Tensor:
        doors = self.gru_rel_pos_linear(self._split(x)).unflatten(-1, (2, 4)).sum(-1).sigmoid()
        a, b = doors.chunk(2, dim=-1)
        return (a * (b * self.gru_rel_pos_const - 1.0) + 2.0) * relative
