"""DialogueTRM (Mao et al. 2020, arXiv 2010.07637): text in its dialogue, audio and video alone, fused in two grains."""

from collections.abc import Mapping
from itertools import combinations
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from wavfusion.dialogues.attention import EncoderLayer, chunk_turns, nearby_turns, past_turns, real_pairs, same_speaker
from wavfusion.dialogues.batch import DialogueBatch
from wavfusion.dialogues.model import DialogueModel

EARLIER = 14  # turns among which a speaker's own earlier ones are averaged
CHUNK, HEADS, INNER, LAYERS = 7, 12, 2048, 3


class PairGate(nn.Module):
    """Neuron grain: a gate a channel between two modalities (Arevalo et al. 2017), or each through the other's gate."""

    def __init__(self, width: int, kind: Literal["unit", "crossed"]) -> None:
        super().__init__()
        self.gate, self.kind = nn.Linear(2 * width, width), kind

    def forward(
        self,
        first: Float[Tensor, "*B D"],
        second: Float[Tensor, "*B D"],
        h_first: Float[Tensor, "*B D"],
        h_second: Float[Tensor, "*B D"],
    ) -> Float[Tensor, "*B D"]:
        """Mix two modalities' hidden vectors by their inputs."""
        if self.kind == "crossed":
            return first.sigmoid() * F.leaky_relu(second) + second.sigmoid() * F.leaky_relu(first)
        gate = self.gate(torch.cat([first, second], dim=-1)).sigmoid()
        return gate * h_first + (1 - gate) * h_second


class DialogueTRM(DialogueModel):
    """Text through a transformer over chunks of turns, audio and video feed-forward; gates, then attention."""

    def __init__(
        self,
        widths: Mapping[str, int],
        num_classes: int,
        *,
        width: int = 768,
        dropout: float = 0.1,
        past: bool = False,
        gate: Literal["unit", "crossed"] = "unit",
    ) -> None:
        super().__init__(widths, num_classes)
        self.past = past
        self.encode = nn.ModuleDict()
        for name, size in self.widths.items():
            self.encode[name] = (
                nn.Linear(2 * size, width)
                if name == "text"
                else nn.Sequential(nn.Linear(size, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width))
            )
        self.layers = nn.ModuleList(
            EncoderLayer(width, HEADS, INNER, dropout=dropout) for _ in range(LAYERS if "text" in self.widths else 0)
        )
        self.pairs = list(combinations(sorted(self.widths, key=["text", "audio", "video"].index), 2))
        self.hidden = nn.ModuleDict({name: nn.Linear(width, width) for name in self.widths if self.pairs})
        self.gates = nn.ModuleList(PairGate(width, gate) for _ in self.pairs)
        self.grains = EncoderLayer(width, HEADS, INNER, dropout=dropout) if self.pairs else None
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width * max(1, len(self.pairs)), num_classes)

    def forward(self, batch: DialogueBatch) -> Float[Tensor, "B N C"]:
        """Encode each modality, fuse every pair by a gate, and the pairs of a turn by attention."""
        x = self.inputs(batch)
        encoded = {
            name: self.encode_text(each, batch) if name == "text" else self.encode[name](each)
            for name, each in x.items()
        }
        if self.grains is None:
            return self.head(self.dropout(next(iter(encoded.values()))))
        hidden = {name: self.hidden[name](each).tanh() for name, each in encoded.items()}
        fused = [
            gate(encoded[m], encoded[n], hidden[m], hidden[n])
            for gate, (m, n) in zip(self.gates, self.pairs, strict=True)
        ]
        turns = torch.stack(fused, dim=2).flatten(0, 1)
        count = turns.shape[1]
        mixed = self.grains(turns, torch.ones(len(turns), count, count, dtype=torch.bool, device=turns.device))
        return self.head(self.dropout(mixed.view(*batch.mask.shape, -1)))

    def encode_text(self, text: Float[Tensor, "B N _"], batch: DialogueBatch) -> Float[Tensor, "B N D"]:
        """Join a turn with the mean of its speaker's turns among the last 14, and mix the turns of a chunk."""
        own = same_speaker(batch.slot) & nearby_turns(batch.mask, EARLIER, -1) & batch.present["text"][:, None, :]
        shares = own / own.sum(-1, keepdim=True).clamp(min=1)
        h = self.encode["text"](torch.cat([text, shares.to(text.dtype) @ text], dim=-1))
        seen = nearby_turns(batch.mask, EARLIER, 0) & past_turns(batch.mask)
        allowed = real_pairs(seen if self.past else chunk_turns(batch.mask, CHUNK), batch.mask)
        for layer in self.layers:
            h = layer(h, allowed)
        return h
