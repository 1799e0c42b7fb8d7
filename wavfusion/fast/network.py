"""One call that makes a model fast, and one that undoes it; weights and their names stay as they are."""

from collections.abc import Mapping
from typing import TypeVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from wavfusion.fast.attention import (
    FastAttention,
    FastCrossModalAttention,
    FastSelfAttention,
    PackedRows,
    PackedSource,
)
from wavfusion.fast.elementwise import FastDropout, FastGELU
from wavfusion.fast.margin import fast_hinge_sums
from wavfusion.model.attention import Attention, Relative, SelfAttention
from wavfusion.model.fusion import CrossModalAttention, DeepLayer, SelfAttentionLayer, Source
from wavfusion.model.wavfusion import WavFusion

Network = TypeVar("Network", bound=nn.Module)


def rows_of(mask: Bool[Tensor, "B T"]) -> PackedRows | None:
    """The rows to pack; None without padding, and on a GPU, which would wait for their number."""
    return None if mask.device.type != "cpu" or bool(mask.all()) else PackedRows(mask)


class FastSelfAttentionLayer(SelfAttentionLayer):
    """`SelfAttentionLayer` over packed steps."""

    def forward(
        self, hidden: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"], relative: Relative | None = None
    ) -> Float[Tensor, "B T D"]:
        """Self-attention, then feed-forward; 0 at padding."""
        rows = rows_of(mask)
        if rows is None:
            return super().forward(hidden, mask, relative)
        return rows.pad(super().forward(rows.pack(hidden), mask, relative))


class FastDeepLayer(DeepLayer):
    """`DeepLayer` over packed steps."""

    def forward(
        self,
        hidden: Float[Tensor, "B T D"],
        mask: Bool[Tensor, "B T"],
        text: Source | None = None,
        video: Source | None = None,
        positions: Float[Tensor, "B T D"] | None = None,
        relative: Relative | None = None,
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T D"] | None]:
        """Fuse one layer; 0 at padding. Returns the new audio stream and the gate."""
        rows = rows_of(mask)
        if rows is None:
            return super().forward(hidden, mask, text, video, positions, relative)
        text, video = (
            None if each is None else PackedSource(each.hidden, each.mask, each.positions, rows=rows)
            for each in (text, video)
        )
        packed = None if positions is None else rows.pack(positions)
        fused, gate = super().forward(rows.pack(hidden), mask, text, video, packed, relative)
        return rows.pad(fused), None if gate is None else rows.pad(gate)


class FastWavFusion(WavFusion):
    """`WavFusion` without stand-in queries for a batch in which every sample has audio; a margin loss by sorting."""

    hinges = staticmethod(fast_hinge_sums)

    def with_queries(
        self, streams: Mapping[str, Tensor], masks: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, "B T D"], Bool[Tensor, "B T"]]:
        """Let the learned queries stand in where a sample has no audio."""
        if "audio" in streams and masks["audio"].device.type == "cpu" and bool(masks["audio"].any(1).all()):
            return streams["audio"], masks["audio"]
        return super().with_queries(streams, masks)


FASTER: dict[type[nn.Module], type[nn.Module]] = {
    nn.Dropout: FastDropout,
    nn.GELU: FastGELU,
    Attention: FastAttention,
    SelfAttention: FastSelfAttention,
    CrossModalAttention: FastCrossModalAttention,
    SelfAttentionLayer: FastSelfAttentionLayer,
    DeepLayer: FastDeepLayer,
    WavFusion: FastWavFusion,
}


def swap_classes(network: Network, classes: Mapping[type[nn.Module], type[nn.Module]]) -> Network:
    """Replace the class of every module that is exactly of one of some classes, in place."""
    for module in network.modules():
        module.__class__ = classes.get(type(module), type(module))
    return network


def accelerate(network: Network) -> Network:
    """Give every module its faster class, in place: the same attributes, parameters and hooks, another `forward`."""
    return swap_classes(network, FASTER)


def restore(network: Network) -> Network:
    """Undo `accelerate`, in place."""
    return swap_classes(network, {fast: plain for plain, fast in FASTER.items()})
