"""MMGCN (Hu et al., ACL 2021, arXiv 2107.06779): a graph of all turns and modalities with angular weights."""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from wavfusion.dialogues.batch import UNLABELLED, DialogueBatch
from wavfusion.dialogues.graphs import GCNIILayer, angular_graph
from wavfusion.dialogues.model import DialogueModel
from wavfusion.dialogues.recurrence import TurnRNN

SHARPNESS = 2.5  # of the published loss on MELD


class MMGCN(DialogueModel):
    """Layers of GCNII on a graph of one node a turn and modality.

    Args:
        widths: of the vectors, by modality.
        num_classes: the number of emotions.
        width: of the nodes; the graph's layers have half of it.
        dropout: everywhere.
        layers: of the graph: 4 in the paper, 64 in the published code.
        speakers: rows of the embedding; later speakers of a dialogue share the last.
        speaker_on: nodes that the speaker's embedding joins.
        published_loss: that of the code on MELD, which is no focal loss.
    """

    alpha = 0.1

    def __init__(
        self,
        widths: Mapping[str, int],
        num_classes: int,
        *,
        width: int = 200,
        dropout: float = 0.4,
        layers: int = 4,
        speakers: int = 2,
        speaker_on: Literal["text", "all"] = "text",
        published_loss: bool = False,
    ) -> None:
        super().__init__(widths, num_classes)
        self.speaker_on, self.published_loss = speaker_on, published_loss
        self.to_width = nn.ModuleDict({name: nn.Linear(size, width) for name, size in self.widths.items()})
        self.text_rnn = self.recurrence(width, dropout)
        self.dropout = nn.Dropout(dropout)
        self.to_graph = nn.Linear(width, width // 2)
        self.layers = nn.ModuleList(GCNIILayer(width // 2, depth, self.alpha) for depth in range(1, layers + 1))
        self.head = nn.Linear((width + width // 2) * len(self.widths), num_classes)
        self.speaker = self.embedding(speakers, width)

    def recurrence(self, width: int, dropout: float) -> TurnRNN:
        """The network over the texts of the turns."""
        return TurnRNN("lstm", width, width, 2, dropout)

    def embedding(self, speakers: int, width: int) -> nn.Module | None:
        """What tells the speakers apart."""
        return nn.Embedding(speakers, width)

    def forward(self, batch: DialogueBatch) -> Float[Tensor, "B N C"]:
        """Make the nodes, spread them over the graph, and join each turn's."""
        nodes = self.nodes(batch)
        real = torch.stack([batch.present[name] for name in self.widths], dim=1)
        adjacency = angular_graph(nodes, real)
        x = self.dropout(nodes.flatten(1, 2))
        h = self.dropout(self.spread(F.relu(self.to_graph(x)), adjacency))
        joined = torch.cat([x, h], dim=-1).view(len(x), len(self.widths), batch.mask.shape[1], -1)
        return self.head(F.relu(self.dropout(joined.transpose(1, 2).flatten(2))))

    def nodes(self, batch: DialogueBatch) -> Float[Tensor, "B M N D"]:
        """One vector a modality and turn: text through the recurrence, and who speaks."""
        found = {name: self.to_width[name](x) for name, x in self.inputs(batch).items()}
        if "text" in found:
            found["text"] = self.text_rnn(found["text"], batch.mask)
        assert isinstance(self.speaker, nn.Embedding)
        speaker = self.speaker(batch.slot.clamp(0, self.speaker.num_embeddings - 1))
        return torch.stack([x + speaker if self.speaker_on in (name, "all") else x for name, x in found.items()], dim=1)

    def spread(self, first: Float[Tensor, "B V E"], adjacency: Float[Tensor, "B V V"]) -> Float[Tensor, "B V E"]:
        """Run the layers of the graph."""
        h = first
        for layer in self.layers:
            h = layer(self.dropout(h), first, adjacency)
        return h

    def loss(self, batch: DialogueBatch) -> Float[Tensor, ""]:
        """Cross-entropy, or the published loss on MELD."""
        return quasi_focal(self(batch), batch.label) if self.published_loss else super().loss(batch)


def quasi_focal(logits: Float[Tensor, "B N C"], label: Int[Tensor, "B N"]) -> Float[Tensor, ""]:
    """Mean over turns and classes of (1 - y log p)^2.5 (-log p), y one-hot: what MMGCN's code trains on MELD."""
    chosen = label != UNLABELLED
    if not chosen.any():
        return logits.sum() * 0
    log_probability = F.log_softmax(logits[chosen].float(), dim=-1)
    truth = F.one_hot(label[chosen], logits.shape[-1])
    return ((1 - truth * log_probability) ** SHARPNESS * -log_probability).mean()
