"""Controls for the systems over dialogues: the same vectors with no context, and with a plain recurrence."""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wavfusion.dialogues.batch import DialogueBatch
from wavfusion.dialogues.model import DialogueModel
from wavfusion.dialogues.recurrence import TurnRNN


class TurnMLP(DialogueModel):
    """A hidden layer on the joined vectors of one turn: what the features give without context."""

    sees: Literal["turn", "past", "whole"] = "turn"

    def __init__(self, widths: Mapping[str, int], num_classes: int, *, width: int = 512, dropout: float = 0.3) -> None:
        super().__init__(widths, num_classes)
        self.hidden = nn.Linear(sum(self.widths.values()) + len(self.widths), width)
        self.head = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, num_classes))

    def turns(self, batch: DialogueBatch) -> Float[Tensor, "B N D"]:
        """Map every turn's vectors, and which of them it has, to one vector."""
        x, present = self.inputs(batch), batch.present
        return self.hidden(torch.cat([each for name in x for each in (x[name], present[name][..., None])], dim=-1))

    def forward(self, batch: DialogueBatch) -> Float[Tensor, "B N C"]:
        """Score every turn by itself."""
        return self.head(self.turns(batch))


class TurnGRU(TurnMLP):
    """A GRU over the turns' vectors, in both directions or over the past."""

    sees: Literal["turn", "past", "whole"] = "whole"

    def __init__(
        self,
        widths: Mapping[str, int],
        num_classes: int,
        *,
        width: int = 512,
        dropout: float = 0.3,
        past: bool = False,
    ) -> None:
        super().__init__(widths, num_classes, width=width, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.past = past
        self.rnn = TurnRNN("gru", width, width, bidirectional=not past)

    def forward(self, batch: DialogueBatch) -> Float[Tensor, "B N C"]:
        """Run over the turns and score each."""
        return self.head(self.rnn(self.dropout(self.turns(batch).relu()), batch.mask))
