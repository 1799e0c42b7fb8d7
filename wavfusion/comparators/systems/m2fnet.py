"""M2FNet (Chudasama et al., CVPRW 2022, arXiv 2206.02187), its fusion: text queries and values, other keys."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from wavfusion.dialogues.attention import EncoderLayer, TurnAttention, past_turns, real_pairs, sinusoids
from wavfusion.dialogues.batch import DialogueBatch
from wavfusion.dialogues.model import DialogueModel

HEADS = 8


class FusionAttention(nn.Module):
    """Fusion module: what is fused so far, reweighted over the turns by the keys of each other modality."""

    def __init__(self, width: int, others: int, dropout: float) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(TurnAttention(width, HEADS, dropout) for _ in range(others))
        self.fc = nn.Linear(others * width, width)

    def forward(
        self, fused: Float[Tensor, "B N D"], keys: list[Float[Tensor, "B N D"]], allowed: Bool[Tensor, "B N N"]
    ) -> Float[Tensor, "B N D"]:
        """Attend with each modality's keys, and join."""
        attended = [attend(fused, key, fused, allowed) for attend, key in zip(self.attentions, keys, strict=True)]
        return F.relu(self.fc(torch.cat(attended, dim=-1)))


class M2FNet(DialogueModel):
    """Transformers over the turns of each modality, then stacked fusion modules.

    Args:
        widths: of the vectors, by modality.
        num_classes: the number of emotions.
        width: of the turns' vectors.
        dropout: everywhere.
        encoders: layers of each modality.
        fusions: fusion modules.
        places: add sinusoidal positions, which the published description does not name.
        past: no later turn is seen.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        num_classes: int,
        *,
        width: int = 512,
        dropout: float = 0.3,
        encoders: int = 2,
        fusions: int = 5,
        places: bool = False,
        past: bool = False,
    ) -> None:
        super().__init__(widths, num_classes)
        self.past, self.places = past, places
        self.first = "text" if "text" in self.widths else next(iter(self.widths))
        self.others = [name for name in self.widths if name != self.first]
        self.to_width = nn.ModuleDict({name: nn.Linear(size, width) for name, size in self.widths.items()})
        self.encoders = nn.ModuleDict(
            {
                name: nn.ModuleList(
                    EncoderLayer(width, HEADS, 2 * width, F.gelu, dropout=dropout) for _ in range(encoders)
                )
                for name in self.widths
            }
        )
        self.fusions = nn.ModuleList(
            FusionAttention(width, len(self.others), dropout) for _ in range(fusions if self.others else 0)
        )
        self.head = nn.Sequential(
            nn.Linear(width * len(self.widths), width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, num_classes)
        )

    def forward(self, batch: DialogueBatch) -> Float[Tensor, "B N C"]:
        """Encode every modality with skips, fuse, and join the result with audio and video."""
        seen = past_turns(batch.mask)
        allowed = real_pairs(seen if self.past else torch.ones_like(seen), batch.mask)
        streams = {}
        for name, x in self.inputs(batch).items():
            x = self.to_width[name](x)
            x = x + sinusoids(x.shape[1], x.shape[2], x) if self.places else x
            encoders = self.encoders[name]
            assert isinstance(encoders, nn.ModuleList)
            for encoder in encoders:
                x = x + encoder(x, allowed)
            streams[name] = x
        fused, keys = streams[self.first], [streams[name] for name in self.others]
        for fusion in self.fusions:
            fused = fusion(fused, keys, allowed)
        return self.head(torch.cat([fused, *keys], dim=-1))
