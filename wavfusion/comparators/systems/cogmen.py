"""COGMEN (Joshi et al., NAACL 2022, arXiv 2205.02455): a transformer over joined vectors, then a graph of speakers."""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from wavfusion.dialogues.attention import (
    EncoderLayer,
    nearby_turns,
    past_turns,
    real_pairs,
    same_speaker,
    turn_distance,
)
from wavfusion.dialogues.batch import DialogueBatch
from wavfusion.dialogues.graphs import GraphAttention, RelationalConvolution
from wavfusion.dialogues.model import DialogueModel
from wavfusion.model.sequence import MaskedBatchNorm

PUBLISHED = {"audio": 100, "video": 512}  # widths of the published features; text keeps its own
INNER, HEADS = 2048, range(7, 15)  # the first number of heads that divides the width is taken


class COGMEN(DialogueModel):
    """Context of the whole dialogue by a transformer, then of a window by a graph with typed edges.

    Args:
        widths: of the vectors, by modality.
        num_classes: the number of emotions.
        width: of the graph's nodes.
        dropout: of the transformer and the head.
        window: turns to either side that an edge reaches.
        relations: `pair` = both speakers' slots and the direction; `relative` = same or other speaker, and direction.
        speakers: slots that `pair` tells apart; later speakers of a dialogue share the last.
        past: neither transformer nor graph sees later turns.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        num_classes: int,
        *,
        width: int = 100,
        dropout: float = 0.5,
        window: int = 5,
        relations: Literal["pair", "relative"] = "pair",
        speakers: int = 2,
        past: bool = False,
    ) -> None:
        super().__init__(widths, num_classes)
        self.window, self.relations, self.speakers, self.past = window, relations, speakers, past
        sizes = {name: PUBLISHED.get(name, size) for name, size in self.widths.items()}
        self.project = nn.ModuleDict(
            {name: nn.Linear(self.widths[name], sizes[name]) for name in sizes if name != "text"}
        )
        joined = sum(sizes.values())
        heads = next((number for number in HEADS if joined % number == 0), 1)
        self.layers = nn.ModuleList(EncoderLayer(joined, heads, INNER, dropout=dropout) for _ in range(2))
        self.to_graph = nn.Linear(joined, width)
        types = 2 * (speakers**2 if relations == "pair" else 2)
        self.convolution, self.attention = RelationalConvolution(width, width, types), GraphAttention(width, width)
        self.norm = MaskedBatchNorm(width)
        self.head = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, num_classes)
        )

    def forward(self, batch: DialogueBatch) -> Float[Tensor, "B N C"]:
        """Join the modalities, mix the turns, and pass them over the graph."""
        x = self.inputs(batch)
        h = torch.cat([self.project[name](each) if name in self.project else each for name, each in x.items()], dim=-1)
        seen = past_turns(batch.mask)
        allowed = real_pairs(seen if self.past else torch.ones_like(seen), batch.mask)
        for layer in self.layers:
            h = layer(h, allowed)
        return self.head(self.graph(self.to_graph(h), batch))

    def graph(self, x: Float[Tensor, "B N D"], batch: DialogueBatch) -> Float[Tensor, "B N D"]:
        """Two hops over the typed edges."""
        edges = real_pairs(nearby_turns(batch.mask, self.window, 0 if self.past else self.window), batch.mask)
        x = self.convolution(x, self.types(batch) & edges[:, None])
        return nn.functional.leaky_relu(self.norm(self.attention(x, edges), batch.mask))

    def types(self, batch: DialogueBatch) -> Bool[Tensor, "B R N N"]:
        """Which pairs [target, source] are of each type; a turn is no earlier than itself."""
        earlier = (turn_distance(batch.mask) < 0).expand(len(batch.mask), -1, -1)
        if self.relations == "relative":
            same = same_speaker(batch.slot)
            kinds = [same, ~same]
        else:
            slot = batch.slot.clamp(0, self.speakers - 1)
            numbers = range(self.speakers)
            kinds = [(slot == i)[:, :, None] & (slot == j)[:, None, :] for i in numbers for j in numbers]
        return torch.stack([kind & side for kind in kinds for side in (earlier, ~earlier)], dim=1)
