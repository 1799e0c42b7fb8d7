"""MM-DFN (Hu et al., ICASSP 2022, arXiv 2203.02385): MMGCN's graph with a memory over depth and a GRU a speaker."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wavfusion.comparators.systems.mmgcn import MMGCN
from wavfusion.dialogues.batch import DialogueBatch
from wavfusion.dialogues.losses import focal_loss
from wavfusion.dialogues.recurrence import TurnRNN, by_speaker
from wavfusion.model.config import MODALITIES

SPEAKER_WEIGHTS = (3.0, 1.0, 0.0)  # published for IEMOCAP


class MMDFN(MMGCN):
    """Dynamic fusion: an LSTM cell, shared by all layers, reads every node before each layer of the graph.

    Args:
        widths: of the vectors, by modality.
        num_classes: the number of emotions.
        width: of the nodes; the graph's layers have half of it.
        dropout: everywhere.
        layers: of the graph.
        speaker_weights: of what the GRU over a speaker's turns gives, for audio, text and video; None = IEMOCAP's.
        gamma: of the focal loss.
    """

    alpha = 0.2

    def __init__(
        self,
        widths: Mapping[str, int],
        num_classes: int,
        *,
        width: int = 200,
        dropout: float = 0.4,
        layers: int = 16,
        speaker_weights: list[float] | None = None,
        gamma: float = 1.0,
    ) -> None:
        super().__init__(widths, num_classes, width=width, dropout=dropout, layers=layers)
        self.speaker_weights = dict(zip(MODALITIES, speaker_weights or SPEAKER_WEIGHTS, strict=True))
        self.gamma = gamma
        self.speaker_rnn = TurnRNN("gru", width, width, 2, dropout)
        self.memory = nn.LSTMCell(width // 2, width // 2)

    def recurrence(self, width: int, dropout: float) -> TurnRNN:
        """The network over the texts of the turns."""
        return TurnRNN("gru", width, width, 2, dropout)

    def embedding(self, speakers: int, width: int) -> None:
        """Speakers enter by their own GRU alone."""

    def nodes(self, batch: DialogueBatch) -> Float[Tensor, "B M N D"]:
        """One vector a modality and turn, with that of the speaker's own turns."""
        found = []
        for name, x in self.inputs(batch).items():
            x = self.to_width[name](x)
            base = self.text_rnn(x, batch.mask) if name == "text" else x
            found.append(base + self.speaker_weights[name] * by_speaker(self.speaker_rnn, x, batch.mask, batch.slot))
        return torch.stack(found, dim=1)

    def spread(self, first: Float[Tensor, "B V E"], adjacency: Float[Tensor, "B V V"]) -> Float[Tensor, "B V E"]:
        """Run the layers of the graph, each on what the memory makes of its input, with a residual path."""
        h, state = self.dropout(first), None
        for layer in self.layers:
            state = self.memory(h.flatten(0, 1), state)
            h = h + self.dropout(layer(state[0].view_as(h), first, adjacency))
        return h

    def loss(self, batch: DialogueBatch) -> Float[Tensor, ""]:
        """The focal loss."""
        return focal_loss(self(batch), batch.label, self.gamma, self.get_buffer("class_weights"))
