"""Attention over turns: which turn may look at which, a layer with masks of pairs and heads, and places of turns."""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

Pairs = Bool[Tensor, "B N N"]  # [query, key]
Activation = Callable[[Tensor], Tensor]


def past_turns(mask: Bool[Tensor, "B N"]) -> Pairs:
    """Every turn and all before it."""
    count = mask.shape[1]
    return torch.ones(count, count, dtype=torch.bool, device=mask.device).tril().expand(len(mask), -1, -1)


def same_speaker(slot: Int[Tensor, "B N"]) -> Pairs:
    """Turns of the query's speaker."""
    return slot[:, :, None] == slot[:, None, :]


def nearby_turns(mask: Bool[Tensor, "B N"], before: int, after: int) -> Pairs:
    """Turns from `before` earlier to `after` later."""
    ahead = turn_distance(mask)
    return ((ahead >= -before) & (ahead <= after)).expand(len(mask), -1, -1)


def chunk_turns(mask: Bool[Tensor, "B N"], size: int) -> Pairs:
    """Turns of the query's chunk: the first `size` turns, the next ones, and so on."""
    chunk = torch.arange(mask.shape[1], device=mask.device) // size
    return (chunk[:, None] == chunk[None, :]).expand(len(mask), -1, -1)


def turn_distance(mask: Bool[Tensor, "B N"]) -> Int[Tensor, "N N"]:
    """How many turns after the query the key comes."""
    steps = torch.arange(mask.shape[1], device=mask.device)
    return steps[None, :] - steps[:, None]


def real_pairs(allowed: Bool[Tensor, "*B N N"], mask: Bool[Tensor, "B N"]) -> Bool[Tensor, "*B N N"]:
    """Leave out padded keys; every turn, a padded one too, may look at itself, so that no softmax is empty."""
    shape = [len(mask), *[1] * (allowed.dim() - 2), mask.shape[1]]
    own = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    return (allowed & mask.view(shape)) | own


class TurnAttention(nn.Module):
    """Multi-head attention whose mask, and bias, are of pairs of turns, alike or different for every head."""

    def __init__(self, width: int, num_heads: int, dropout: float = 0.1, bias: bool = True) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width, bias) for _ in range(4))

    def forward(
        self,
        query: Float[Tensor, "B N D"],
        key: Float[Tensor, "B M D"],
        value: Float[Tensor, "B M D"],
        allowed: Bool[Tensor, "B N M"] | Bool[Tensor, "B heads N M"],
        bias: Float[Tensor, "*B heads N M"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        """Attend to the allowed pairs."""
        mask: Tensor = allowed if allowed.dim() == 4 else allowed[:, None]
        if bias is not None:
            mask = bias.masked_fill(~mask, float("-inf"))
        q, k, v = self.split(self.q_proj(query)), self.split(self.k_proj(key)), self.split(self.v_proj(value))
        dropout = self.dropout if self.training else 0.0
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(heads.transpose(1, 2).flatten(2))

    def split(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B heads N d"]:
        """Divide the channels among the heads."""
        return x.view(*x.shape[:-1], self.num_heads, -1).transpose(1, 2)


class EncoderLayer(nn.Module):
    """A transformer layer over turns, with its norms behind each block (`post`) or before it (`pre`).

    Args:
        width: of the turns' vectors.
        num_heads: of the attention.
        inner: width of the feed-forward block.
        activation: of the feed-forward block.
        norm: `post` (Vaswani et al. 2017) or `pre`.
        dropout: of the blocks' outputs and inside the feed-forward block.
        attention_dropout: of the attention weights; None = `dropout`.
        eps: of the norms.
        bias: of the four projections of the attention.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        inner: int,
        activation: Activation = F.relu,
        norm: Literal["post", "pre"] = "post",
        dropout: float = 0.1,
        attention_dropout: float | None = None,
        eps: float = 1e-5,
        bias: bool = True,
    ) -> None:
        super().__init__()
        weights = dropout if attention_dropout is None else attention_dropout
        self.attention = TurnAttention(width, num_heads, weights, bias)
        self.attention_norm, self.final_norm = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.expand, self.contract = nn.Linear(width, inner), nn.Linear(inner, width)
        self.activation, self.norm, self.dropout = activation, norm, nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        allowed: Bool[Tensor, "B N M"] | Bool[Tensor, "B heads N M"],
        bias: Float[Tensor, "*B heads N M"] | None = None,
        source: Float[Tensor, "B M D"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        """Attend within `x`, or to `source`, which a `pre` layer takes as it is, then feed forward."""
        if self.norm == "pre":
            normed = self.attention_norm(x)
            other = normed if source is None else source
            x = x + self.dropout(self.attention(normed, other, other, allowed, bias))
            return x + self.feed_forward(self.final_norm(x))
        other = x if source is None else source
        x = self.attention_norm(x + self.dropout(self.attention(x, other, other, allowed, bias)))
        return self.final_norm(x + self.feed_forward(x))

    def feed_forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Two linear layers with the activation between."""
        return self.dropout(self.contract(self.dropout(self.activation(self.expand(x)))))


def sinusoids(count: int, width: int, like: Tensor) -> Float[Tensor, "N D"]:
    """Sinusoidal positions 0 to `count` - 1, sines and cosines in turn (Vaswani et al. 2017, section 3.5)."""
    places = torch.arange(count, device=like.device)[:, None]
    rates = torch.exp(torch.arange(0, width, 2, device=like.device) * (-math.log(10_000) / width))
    return torch.stack([(places * rates).sin(), (places * rates).cos()], dim=-1).flatten(1)[:, :width].to(like.dtype)
