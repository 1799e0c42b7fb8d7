"""DialogXL (Shen et al., AAAI 2021, arXiv 2012.08695): recurrence over turns with a memory, and heads by speaker."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from wavfusion.dialogues.attention import (
    TurnAttention,
    nearby_turns,
    past_turns,
    real_pairs,
    same_speaker,
    turn_distance,
)
from wavfusion.dialogues.batch import DialogueBatch
from wavfusion.dialogues.model import DialogueModel

HEADS = [2, 2, 4, 4]  # local, global, speaker and listener heads, published for IEMOCAP
OLDEST = 128  # of the learned values an age; older turns share the last


class MemoryAttention(TurnAttention):
    """Attention to the own turn, and without gradient to earlier turns, as a memory of the layer below has it."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__(width, num_heads, dropout)
        self.age_bias = nn.Parameter(torch.zeros(num_heads, OLDEST + 1))

    def recall(self, x: Float[Tensor, "B N D"], allowed: Bool[Tensor, "B heads N N"]) -> Float[Tensor, "B N D"]:
        """Attend within `x`; the diagonal alone passes gradients to keys and values."""
        query = self.split(self.q_proj(x))
        (key, value), (old_key, old_value) = (
            (self.split(self.k_proj(source)), self.split(self.v_proj(source))) for source in (x, x.detach())
        )
        count, scale = x.shape[1], query.shape[-1] ** -0.5
        own = torch.eye(count, dtype=torch.bool, device=x.device)
        scores = torch.where(own, (query * key).sum(-1)[..., None], query @ old_key.transpose(-1, -2)) * scale
        age = (-turn_distance(allowed[:, 0, 0])).clamp(0, OLDEST)
        scores = (scores + self.age_bias[:, age]).masked_fill(~allowed, float("-inf"))
        weights = F.dropout(scores.softmax(-1), self.dropout, self.training)
        heads = weights.masked_fill(own, 0.0) @ old_value + weights.diagonal(dim1=-2, dim2=-1)[..., None] * value
        return self.out_proj(heads.transpose(1, 2).flatten(2))


class DialogXLLayer(nn.Module):
    """A transformer layer, norms before its blocks, whose attention recalls earlier turns."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = MemoryAttention(width, num_heads, dropout)
        self.attention_norm, self.final_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B N D"], allowed: Bool[Tensor, "B heads N N"]) -> Float[Tensor, "B N D"]:
        """Recall, then feed forward."""
        x = x + self.dropout(self.attention.recall(self.attention_norm(x), allowed))
        return x + self.dropout(self.contract(self.dropout(F.gelu(self.expand(self.final_norm(x))))))


class DialogXL(DialogueModel):
    """Text alone, the past alone: heads for near turns, for all, for the same speaker and for the others."""

    sees = "past"
    modalities = ("text",)

    def __init__(
        self,
        widths: Mapping[str, int],
        num_classes: int,
        *,
        width: int = 768,
        dropout: float = 0.1,
        layers: int = 3,
        window: int = 10,
        heads: list[int] | None = None,
        head_width: int = 300,
    ) -> None:
        super().__init__(widths, num_classes)
        heads = heads or HEADS
        self.window, self.kinds = window, heads
        self.to_width = nn.Linear(self.widths["text"], width)
        self.layers = nn.ModuleList(DialogXLLayer(width, sum(heads), dropout) for _ in range(layers))
        self.head = nn.Sequential(
            nn.Linear(width, head_width),
            nn.ReLU(),
            nn.Dropout(dropout),
            *(each for _ in range(2) for each in (nn.Linear(head_width, head_width), nn.ReLU())),
            nn.Linear(head_width, num_classes),
        )

    def allowed(self, batch: DialogueBatch) -> Bool[Tensor, "B heads N N"]:
        """Which turn each head may look at: local, global, speaker, listener heads, in this order."""
        past, same = past_turns(batch.mask), same_speaker(batch.slot)
        local = nearby_turns(batch.mask, self.window, 0)
        kinds = zip((local, past, past & same, past & ~same), self.kinds, strict=True)
        return real_pairs(torch.stack([mask for mask, count in kinds for _ in range(count)], dim=1), batch.mask)

    def forward(self, batch: DialogueBatch) -> Float[Tensor, "B N C"]:
        """Score every turn from itself and what the layers remember of earlier ones."""
        x, allowed = self.to_width(self.inputs(batch)["text"]), self.allowed(batch)
        for layer in self.layers:
            x = layer(x, allowed)
        return self.head(x)
