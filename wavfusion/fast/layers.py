"""Transformer layers that on a CPU compute nothing at padding."""

from jaxtyping import Bool, Float
from torch import Tensor

from wavfusion.fast.rows import PackedSource, Rows
from wavfusion.model.fusion import DeepLayer, SelfAttentionLayer, Source


def rows_of(mask: Bool[Tensor, "B T"]) -> Rows | None:
    """The rows to pack; None without padding, and on a GPU, which would wait for their number."""
    return None if mask.device.type != "cpu" or bool(mask.all()) else Rows(mask)


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
        sources = (
            None if each is None else PackedSource(each.hidden, each.mask, each.positions, rows=rows)
            for each in (text, video)
        )
        packed = None if positions is None else rows.pack(positions)
        fused, gate = super().forward(rows.pack(hidden), mask, *sources, packed, relative)
        return rows.pad(fused), None if gate is None else rows.pad(gate)
