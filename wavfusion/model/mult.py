"""The control that fuses without gates: cross-modal transformers after MulT (Tsai et al., ACL 2019, section 3)."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from wavfusion.model.attention import Attention, positions
from wavfusion.model.fusion import FeedForward


class CrossModalLayer(nn.Module):
    """One pre-norm layer whose queries are the target's and whose keys and values are the source's."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, num_heads, dropout)
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = FeedForward(width, 4 * width, dropout)

    def forward(
        self, target: Float[Tensor, "B T D"], source: Float[Tensor, "B S D"], mask: Bool[Tensor, "B S"]
    ) -> Float[Tensor, "B T D"]:
        """Let the target attend to the source; it stays as it is where the sample has no source."""
        fused = target + self.dropout(self.attention(self.norm(target), self.norm(source), mask))
        fused = fused + self.feed_forward(self.feed_forward_norm(fused))
        return torch.where(mask.any(1)[:, None, None], fused, target)


class MulT(nn.Module):
    """Every modality as the target of every other: a stack of `num_layers` layers for each ordered pair.

    At half the width of the deep layers and with as many layers, three modalities have the deep layers' number of
    weights (54 D^2 for three layers of width D). The self-attention stacks that MulT puts on top are left out.
    """

    def __init__(self, widths: Mapping[str, int], width: int, num_heads: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.entries = nn.ModuleDict({name: nn.Linear(size, width) for name, size in widths.items()})
        pairs = [f"{target}_from_{source}" for target in widths for source in widths if target != source]
        self.stacks = nn.ModuleDict(
            {
                pair: nn.ModuleList(CrossModalLayer(width, num_heads, dropout) for _ in range(num_layers))
                for pair in pairs
            }
        )
        self.widths = {target: width * (len(widths) - 1) for target in widths}

    def forward(
        self,
        streams: Mapping[str, Float[Tensor, "B _ _"]],
        masks: Mapping[str, Bool[Tensor, "B _"]],
        times: Mapping[str, Float[Tensor, "B _"]],
    ) -> dict[str, Float[Tensor, "B _ _"]]:
        """Return each of X^a, X^t and X^v as its sources have changed it, joined along the last axis.

        `masks` says which are given and where they are real, `times` the seconds of their steps.
        """
        entered = {
            name: self.entries[name](streams[name]) + positions(times[name], self.width).to(streams[name].dtype)
            for name in masks
        }
        fused: dict[str, list[Tensor]] = {name: [] for name in entered}
        for pair, stack in self.stacks.items():
            target, _, source = pair.partition("_from_")
            if target in entered:
                x = entered[target]
                if source in entered:
                    for layer in stack.children():
                        x = layer(x, entered[source], masks[source])
                fused[target].append(x)
        return {name: torch.cat(parts, dim=-1) for name, parts in fused.items()}
