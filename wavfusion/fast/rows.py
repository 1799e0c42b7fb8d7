"""The real steps of a batch one after the other, so that on a CPU nothing is computed at padding."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from wavfusion.model.fusion import Source


class PackedRows:
    """Packs the steps that a mask calls real into rows, and puts rows back into their places."""

    def __init__(self, mask: Bool[Tensor, "B T"]) -> None:
        self.shape = mask.shape
        self.places = mask.flatten().nonzero()[:, 0]

    def pack(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "R D"]:
        """Leave padding out."""
        return x.flatten(0, 1).index_select(0, self.places)

    def pad(self, x: Float[Tensor, "R D"]) -> Float[Tensor, "B T D"]:
        """Put rows where they were; 0 at padding."""
        padded = x.new_zeros(self.shape.numel(), x.shape[1])
        return padded.index_copy(0, self.places, x).view(*self.shape, x.shape[1])

    def repeat(self, x: Bool[Tensor, " B"]) -> Bool[Tensor, "R 1"]:
        """Give the value of a sample to each of its rows."""
        return x[self.places // self.shape[1], None]


@dataclass(kw_only=True)
class PackedSource(Source):
    """A source of keys and values for packed queries.

    Attributes:
        rows: how the queries are packed.
    """

    rows: PackedRows

    @property
    def present(self) -> Bool[Tensor, "R 1"]:
        """Whether a sample has the modality, for each of its packed steps."""
        return self.rows.repeat(self.mask.any(1))
