"""HiTrans (Li et al., COLING 2020): a transformer over the turns, and the task of finding turns of one speaker."""

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from wavfusion.dialogues.attention import TurnAttention, past_turns, real_pairs, same_speaker, sinusoids
from wavfusion.dialogues.batch import DialogueBatch
from wavfusion.dialogues.losses import turn_loss
from wavfusion.dialogues.model import DialogueModel

HEADS, EPS, LEAK = range(6, 0, -1), 1e-6, 0.1  # as many heads as divide the width, 6 at most


class HiTransLayer(nn.Module):
    """A transformer layer of which the first has no norm before its attention; none has one behind.

    The first layer owns that norm all the same, as the published one does: its parameters count.
    """

    def __init__(self, width: int, dropout: float, first: bool) -> None:
        super().__init__()
        heads = next(number for number in HEADS if width % number == 0)
        self.attention, self.first = TurnAttention(width, heads, dropout), first
        self.attention_norm, self.final_norm = nn.LayerNorm(width, EPS), nn.LayerNorm(width, EPS)
        self.expand, self.contract = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B N D"], allowed: Bool[Tensor, "B N N"]) -> Float[Tensor, "B N D"]:
        """Attend within `x`, then feed forward."""
        normed = x if self.first else self.attention_norm(x)
        x = x + self.dropout(self.attention(normed, normed, normed, allowed))
        inner = self.dropout(F.gelu(self.expand(self.final_norm(x)), approximate="tanh"))
        return x + self.dropout(self.contract(inner))


class Biaffine(nn.Module):
    """Scores of ordered pairs: [u, 1]^T W [v, 1] for every output."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, width + 1, width + 1))
        nn.init.xavier_normal_(self.weight)

    def forward(self, first: Float[Tensor, "B N D"], second: Float[Tensor, "B N D"]) -> Float[Tensor, "B N N O"]:
        """Score every pair."""
        one, other = F.pad(first, (0, 1), value=1.0), F.pad(second, (0, 1), value=1.0)
        return torch.einsum("bxi,oij,byj->bxyo", one, self.weight, other)


class HiTrans(DialogueModel):
    """Text alone: one transformer layer over the dialogue; emotion and same-speaker task with learned weights."""

    modalities = ("text",)

    def __init__(
        self,
        widths: Mapping[str, int],
        num_classes: int,
        *,
        width: int | None = None,
        dropout: float = 0.1,
        head_dropout: float = 0.5,
        layers: int = 1,
        past: bool = False,
    ) -> None:
        super().__init__(widths, num_classes)
        size = self.widths["text"]
        width, self.past = size if width is None else width, past
        self.to_width = nn.Identity() if width == size else nn.Linear(size, width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(HiTransLayer(width, dropout, first=number == 0) for number in range(layers))
        self.head = nn.Sequential(nn.Dropout(head_dropout), nn.Linear(width, num_classes))
        side = partial(nn.Linear, width, width // 2)
        self.first, self.second = (
            nn.Sequential(nn.Dropout(head_dropout), side(), nn.LeakyReLU(LEAK)) for _ in range(2)
        )
        self.pair = Biaffine(width // 2, 2)
        self.task_scales = nn.Parameter(torch.ones(2))  # s of Kendall et al. 2018

    def turns(self, batch: DialogueBatch) -> Float[Tensor, "B N D"]:
        """Mix the turns of each dialogue."""
        x = self.to_width(self.inputs(batch)["text"])
        x = self.dropout(x + sinusoids(x.shape[1], x.shape[2], x))
        seen = past_turns(batch.mask)
        allowed = real_pairs(seen if self.past else torch.ones_like(seen), batch.mask)
        for layer in self.layers:
            x = layer(x, allowed)
        return x

    def forward(self, batch: DialogueBatch) -> Float[Tensor, "B N C"]:
        """Score the emotions of every turn."""
        return self.head(self.turns(batch))

    def loss(self, batch: DialogueBatch) -> Float[Tensor, ""]:
        """0.5 / s^2 L + log s of both tasks; the second asks of every ordered pair whether one speaker speaks."""
        turns = self.turns(batch)
        emotion = turn_loss(self.head(turns), batch.label, self.get_buffer("class_weights"))
        pairs = batch.mask[:, :, None] & batch.mask[:, None, :]
        scores = self.pair(self.first(turns), self.second(turns))[pairs]
        speaker = F.cross_entropy(scores, same_speaker(batch.slot)[pairs].long())
        return (0.5 / self.task_scales.square() * torch.stack([emotion, speaker]) + self.task_scales.log()).sum()
