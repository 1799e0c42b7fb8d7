"""Recurrent networks over the turns of a dialogue, or over those of each speaker in it, exact at any padding."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from wavfusion.dialogues.attention import same_speaker


class TurnRNN(nn.Module):
    """A recurrent network over turns in both directions, or forwards only; 0 at padding.

    Args:
        kind: `gru` or `lstm`.
        width: of the turns' vectors.
        size: of the output, both directions together.
        layers: how many.
        dropout: between the layers.
        bidirectional: whether it sees later turns.
    """

    def __init__(
        self,
        kind: Literal["gru", "lstm"],
        width: int,
        size: int,
        layers: int = 1,
        dropout: float = 0.0,
        bidirectional: bool = True,
    ) -> None:
        super().__init__()
        network = nn.GRU if kind == "gru" else nn.LSTM
        self.rnn = network(
            width,
            size // 2 if bidirectional else size,
            layers,
            batch_first=True,
            dropout=dropout if layers > 1 else 0.0,
            bidirectional=bidirectional,
        )

    def forward(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B N E"]:
        """Run over the real turns of each dialogue, of which each has one at least."""
        packed = pack_padded_sequence(x, mask.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=x.shape[1])[0]


def by_speaker(
    network: TurnRNN, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"], slot: Int[Tensor, "B N"]
) -> Float[Tensor, "B N E"]:
    """Run a network over the turns of each speaker in their order, and put what it gives back to the turns."""
    earlier = same_speaker(slot) & torch.ones(slot.shape[1], slot.shape[1], device=x.device).tril(-1).bool()
    rank = earlier.sum(-1)  # how many turns of the same speaker came before
    dialogue = torch.arange(len(x), device=x.device)[:, None].expand_as(slot)
    speakers, row = torch.unique(torch.stack([dialogue[mask], slot[mask]]), dim=1, return_inverse=True)
    turns = x.new_zeros(speakers.shape[1], int(rank[mask].max()) + 1, x.shape[-1])
    real = torch.zeros(turns.shape[:2], dtype=torch.bool, device=x.device)
    place = (row, rank[mask])
    found = network(turns.index_put(place, x[mask]), real.index_put(place, torch.ones_like(row, dtype=torch.bool)))
    out = x.new_zeros(*x.shape[:2], found.shape[-1])
    out[mask] = found[place]
    return out
