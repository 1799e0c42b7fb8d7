"""The network and its transformer layers, which on a CPU compute nothing at padding and no stand-ins without need."""

from collections.abc import Mapping

from jaxtyping import Bool, Float
from torch import Tensor

from wavfusion.fast.rows import PackedRows, PackedSource
from wavfusion.model.fusion import DeepLayer, SelfAttentionLayer, Source
from wavfusion.model.wavfusion import WavFusion


def rows_of(mask: Bool[Tensor, "B T"]) -> PackedRows | None:
    """The rows to pack; None without padding, and on a GPU, which would wait for their number."""
    return None if mask.device.type != "cpu" or bool(mask.all()) else PackedRows(mask)


class FastSelfAttentionLayer(SelfAttentionLayer):
    """`SelfAttentionLayer` over packed steps."""

    def forward(
        self,
        hidden: Float[Tensor, "B Ta D"],
        mask: Bool[Tensor, "B Ta"],
        relative: Float[Tensor, "heads Ta Ta"] | None = None,
    ) -> Float[Tensor, "B Ta D"]:
        """Self-attention, then feed-forward; 0 at padding."""
        rows = rows_of(mask)
        if rows is None:
            return super().forward(hidden, mask, relative)
        return rows.pad(super().forward(rows.pack(hidden), mask, relative))


class FastDeepLayer(DeepLayer):
    """`DeepLayer` over packed steps."""

    def forward(
        self,
        hidden: Float[Tensor, "B Ta D"],
        mask: Bool[Tensor, "B Ta"],
        text: Source | None = None,
        video: Source | None = None,
        positions: Float[Tensor, "B Ta D"] | None = None,
        relative: Float[Tensor, "heads Ta Ta"] | None = None,
    ) -> tuple[Float[Tensor, "B Ta D"], Float[Tensor, "B Ta D"] | None]:
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
    """`WavFusion` without stand-in queries for a batch in which every sample has audio."""

    def with_queries(
        self, streams: Mapping[str, Tensor], masks: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, "B Ta D"], Bool[Tensor, "B Ta"]]:
        """Let the learned queries stand in where a sample has no audio."""
        if "audio" in streams and masks["audio"].device.type == "cpu" and bool(masks["audio"].any(1).all()):
            return streams["audio"], masks["audio"]
        return super().with_queries(streams, masks)
