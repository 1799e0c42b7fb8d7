"""WavFusion's dialogue context: a small transformer over turns whose scores join those of the model."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from wavfusion.dialogues.attention import EncoderLayer, past_turns, real_pairs, same_speaker, turn_distance


@dataclass(frozen=True)
class ContextConfig:
    """Sizes of a `TurnContext`.

    Attributes:
        size: of the vectors that WavFusion's head classifies.
        num_classes: the number of emotions.
        kind: `past` = a turn and those before it, as a conversation goes on; `whole` = later ones, too.
        width, layers, heads, inner: of the transformer.
        dropout, attention_dropout: of its blocks, and of its attention weights.
        reach: turns farther away share one learned value.
        hidden_share: chance of a turn in training to lose its own vector and scores.
    """

    size: int
    num_classes: int
    kind: Literal["past", "whole"]
    width: int = 256
    layers: int = 2
    heads: int = 4
    inner: int = 512
    dropout: float = 0.3
    attention_dropout: float = 0.1
    reach: int = 32
    hidden_share: float = 0.3


class PairBias(nn.Module):
    """What joins the attention scores of a layer: a value a head for same and other speaker, and one a distance."""

    def __init__(self, config: ContextConfig) -> None:
        super().__init__()
        self.reach, self.ahead = config.reach, config.reach if config.kind == "whole" else 0
        self.speaker = nn.Parameter(torch.zeros(config.heads, 2))
        self.distance = nn.Parameter(torch.zeros(config.heads, self.reach + self.ahead + 1))

    def forward(self, same: Bool[Tensor, "B N N"], ahead: Int[Tensor, "N N"]) -> Float[Tensor, "B heads N N"]:
        """Return the bias of every pair [query, key]; `ahead` says how many turns later the key comes."""
        number = ahead.clamp(-self.reach, self.ahead) + self.reach
        return self.speaker[:, same.long()].transpose(0, 1) + self.distance[:, number]


class TurnContext(nn.Module):
    """Scores of a turn = those of WavFusion + a linear map, 0 at the start, of what a transformer makes of the turns.

    It knows no speaker and no place: attention is biased by same or other speaker, and by the distance in turns. In
    training some turns lose their own vector and scores, since those of the training part are surer than others: the
    model has seen their labels.
    """

    def __init__(self, config: ContextConfig) -> None:
        super().__init__()
        self.config = config
        self.input_norm, self.to_width = nn.LayerNorm(config.size), nn.Linear(config.size, config.width)
        self.unknown = nn.Parameter(torch.zeros(config.width))  # stands in for a turn without any modality
        self.layers = nn.ModuleList(
            EncoderLayer(
                *(config.width, config.heads, config.inner, F.gelu),
                norm="pre",
                dropout=config.dropout,
                attention_dropout=config.attention_dropout,
            )
            for _ in range(config.layers)
        )
        self.biases = nn.ModuleList(PairBias(config) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("log_prior", torch.zeros(config.num_classes))  # scores of a turn that has none

    def forward(
        self,
        vectors: Float[Tensor, "B N D"],
        scores: Float[Tensor, "B N C"],
        known: Bool[Tensor, "B N"],
        mask: Bool[Tensor, "B N"],
        slot: Int[Tensor, "B N"],
    ) -> Float[Tensor, "B N C"]:
        """Return the scores in context.

        Args:
            vectors: what WavFusion's head classifies.
            scores: WavFusion's own, such as its log-probabilities.
            known: turns that have any modality.
            mask: turns that are real.
            slot: the speaker's number in the dialogue.
        """
        if self.training:
            known = known & (torch.rand(known.shape, device=known.device) >= self.config.hidden_share)
        x = torch.where(known[..., None], self.to_width(self.input_norm(vectors)), self.unknown)
        own = torch.where(known[..., None], scores, self.get_buffer("log_prior"))
        seen = past_turns(mask) if self.config.kind == "past" else torch.ones_like(past_turns(mask))
        allowed, same, ahead = real_pairs(seen, mask), same_speaker(slot), turn_distance(mask)
        for layer, bias in zip(self.layers, self.biases, strict=True):
            x = layer(x, allowed, bias(same, ahead))
        return own + self.head(self.final_norm(x))


@dataclass(frozen=True)
class FittedContext:
    """A trained context and the temperature of its probabilities."""

    model: TurnContext
    temperature: float
