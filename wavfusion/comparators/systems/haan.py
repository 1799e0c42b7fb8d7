"""HAAN-ERC (Zhang, Tan and Wu 2023): own and other speakers with hard selection, then all at once."""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from wavfusion.dialogues.attention import EncoderLayer, past_turns, real_pairs, same_speaker, sinusoids
from wavfusion.dialogues.batch import DialogueBatch
from wavfusion.dialogues.model import DialogueModel
from wavfusion.model.sequence import MaskedBatchNorm

HEADS, INNER, LAYERS, EPS = 8, 2048, 3, 1e-6
REFUSED = -1e7  # joins the score of a pair that the selector leaves out


class Selector(nn.Module):
    """Decides for every pair of turns whether the later one may look at the other, alike for all heads.

    Straight-through Gumbel (Jang et al. 2017), noise in training only; the gradient of a decision is that of the soft
    one. The first layer of the pair's network is split in two, which gives the same function.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.hidden, self.decision = nn.Linear(2 * width, 2 * width), nn.Linear(2 * width, 2)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B 1 N N"]:
        """Return what joins the scores: 0 where a pair is kept, `REFUSED` where not and never on the diagonal."""
        of_query, of_key = self.hidden.weight.chunk(2, dim=1)
        first = F.linear(self.query(x), of_query, self.hidden.bias)[:, :, None]
        pair = self.decision(F.relu(first + F.linear(self.key(x), of_key)[:, None, :]))
        soft = (pair - torch.log(-torch.log(torch.rand_like(pair))) if self.training else pair).softmax(-1)[..., 1]
        refused = (soft < 0.5) & ~torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        return (refused * REFUSED + soft - soft.detach())[:, None]


class SpeakerEncoder(nn.Module):
    """Layers under one mask; the first has the selector.

    Args:
        width: of the turns' vectors.
        dropout: everywhere.
        selector: `learned`; `fixed` = its decisions do not learn, as the published code on IEMOCAP; `off`.
    """

    def __init__(self, width: int, dropout: float, selector: Literal["learned", "fixed", "off"]) -> None:
        super().__init__()
        self.selector = None if selector == "off" else Selector(width)
        if self.selector is not None:
            self.selector.requires_grad_(selector == "learned")
        self.layers = nn.ModuleList(haan_layer(width, dropout) for _ in range(LAYERS))

    def forward(self, x: Float[Tensor, "B N D"], allowed: Bool[Tensor, "B N N"]) -> Float[Tensor, "B N D"]:
        """Run the layers."""
        bias = None if self.selector is None else self.selector(x).expand(-1, HEADS, -1, -1)
        for number, layer in enumerate(self.layers):
            x = layer(x, allowed, None if number else bias)
        return x


def haan_layer(width: int, dropout: float) -> EncoderLayer:
    """A layer as all its encoders have it."""
    return EncoderLayer(width, HEADS, INNER, dropout=dropout, eps=EPS, bias=False)


class ReadOut(nn.Module):
    """Weighs the modalities of a turn by a learned query each."""

    def __init__(self, width: int, modalities: int, dropout: float) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(modalities, width) * width**-0.5)
        self.value = nn.Linear(width, width, bias=False)
        self.dropout, self.norm, self.final_norm = nn.Dropout(dropout), *(nn.LayerNorm(width, EPS) for _ in range(2))
        self.expand, self.contract = nn.Linear(width, INNER), nn.Linear(INNER, width)

    def forward(self, f: Float[Tensor, "B M N D"]) -> Float[Tensor, "B N D"]:
        """Sum the modalities by their weights, then feed forward."""
        x = self.norm(self.dropout((self.weights(f)[..., None] * self.value(f)).sum(1)))
        return self.final_norm(x + self.dropout(self.contract(self.dropout(F.relu(self.expand(x))))))

    def weights(self, f: Float[Tensor, "B M N D"]) -> Float[Tensor, "B M N"]:
        """Weights of the modalities of each turn."""
        return (torch.einsum("bmnd,md->bmn", f, self.queries) * f.shape[-1] ** -0.5).softmax(1)


class HAAN(DialogueModel):
    """Every modality through the past of its own speaker, then of the others; then all modalities attend to all.

    Args:
        widths: of the vectors, by modality.
        num_classes: the number of emotions.
        width: of the turns' vectors.
        dropout: everywhere.
        selector: of the first layers (`SpeakerEncoder`).
        past: the cross-modal encoder sees no later turn; the published one sees all.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        num_classes: int,
        *,
        width: int = 512,
        dropout: float = 0.1,
        selector: Literal["learned", "fixed", "off"] = "learned",
        past: bool = False,
    ) -> None:
        super().__init__(widths, num_classes)
        self.past = past
        self.text_norm = MaskedBatchNorm(self.widths["text"]) if "text" in self.widths else None
        self.to_width = nn.ModuleDict({name: nn.Linear(size, width) for name, size in self.widths.items()})
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(width, EPS)
        self.own, self.others = (
            nn.ModuleDict({name: SpeakerEncoder(width, dropout, selector) for name in self.widths}) for _ in range(2)
        )
        self.cross_modal = nn.ModuleList(haan_layer(width, dropout) for _ in range(LAYERS))
        self.read_out = ReadOut(width, len(self.widths), dropout)
        self.head = nn.Linear(width, num_classes)

    def forward(self, batch: DialogueBatch) -> Float[Tensor, "B N C"]:
        """Run the speakers' encoders, the cross-modal one and the read-out."""
        past, same = past_turns(batch.mask), same_speaker(batch.slot)
        own, others = (real_pairs(past & each, batch.mask) for each in (same, ~same))
        streams = [self.others[name](self.own[name](x, own), others) for name, x in self.embed(batch).items()]
        seen = real_pairs(past if self.past else torch.ones_like(past), batch.mask)
        x, count = torch.cat(streams, dim=1), len(streams)
        every = seen.repeat(1, count, count) & batch.mask.repeat(1, count)[:, None, :]
        every = every | torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        for layer in self.cross_modal:
            x = layer(x, every)
        return self.head(self.read_out(x.view(len(x), count, batch.mask.shape[1], -1)))

    def embed(self, batch: DialogueBatch) -> dict[str, Float[Tensor, "B N D"]]:
        """Bring every modality to one width, with places; one norm serves all."""
        found = {}
        for name, x in self.inputs(batch).items():
            if name == "text" and self.text_norm is not None:
                x = self.text_norm(x, batch.mask)
            x = self.to_width[name](x)
            found[name] = self.norm(self.dropout(x + sinusoids(x.shape[1], x.shape[2], x)))
        return found
