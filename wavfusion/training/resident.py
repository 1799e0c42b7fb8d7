"""The training part held on one device, so that a batch is gathered there and nothing waits for the host."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Float16, Int
from torch import Tensor
from torch.utils.data import Dataset

from wavfusion.encoders.checkpoint import send
from wavfusion.features.dataset import Features, Sample
from wavfusion.model.config import MODALITIES

LEVELS, STEP = 12, 0.8  # padded shapes, each of windows up to 0.8 of the next one's length: about 12 % more padding
SHARE = 0.5  # of a device's free memory; the rest is the model's and its activations'


@dataclass
class ResidentTrack:
    """One modality of all samples, one after the other.

    Attributes:
        steps: (all steps, width), or (all steps, layers, width).
        starts: of each sample in `steps`.
        counts: steps of each sample, 0 where it lacks the modality.
        lengths: the same, on the host.
    """

    steps: Float16[Tensor, "N ..."]
    starts: Int[Tensor, " S"]
    counts: Int[Tensor, " S"]
    lengths: list[int]

    def gather(self, rows: Int[Tensor, " B"], length: int) -> tuple[Float[Tensor, "B ..."], Bool[Tensor, "B T"]]:
        """Cut some samples out, padded with zeros to `length` steps; returns their mask too."""
        times = torch.arange(length, device=rows.device)
        mask = times < self.counts[rows][:, None]
        x = self.steps[(self.starts[rows][:, None] + times).clamp(max=len(self.steps) - 1)].float()
        x = x.masked_fill(~mask.view(*mask.shape, *[1] * (x.dim() - 2)), 0.0)
        return x.movedim(1, -2), mask  # stored layers stand before the steps


class Resident(Dataset[int | None]):
    """What `Features` gives out, read once and held on a device; an item is a sample's number.

    Args:
        samples: of the store, without waveforms.
        device: where the features are held and batches gathered.
        few_shapes: pad every batch to one of `LEVELS` shapes, for steps that are recorded for each shape.
        room: bytes that may be taken.

    Raises:
        MemoryError: the features take more than `room`.
    """

    def __init__(
        self, samples: Features, device: torch.device | str, few_shapes: bool = False, room: float = math.inf
    ) -> None:
        self.device = torch.device(device)
        read: list[Sample] = []
        size = 0
        for number in (*range(len(samples)), None):  # None: the empty place of a batch
            read.append(samples[number])
            size += sum(x.nbytes for name in MODALITIES if (x := getattr(read[-1], name)) is not None)
            if size > room:
                raise MemoryError(f"expected features of at most {room / 1e6:.0f} MB, found more")
        self.rows, self.labels = [sample.row for sample in read], [sample.label for sample in read]
        tracks = {name: _track([getattr(sample, name) for sample in read], self.device) for name in MODALITIES}
        self.tracks = {name: track for name, track in tracks.items() if track is not None}
        self._levels = self._shapes() if few_shapes else []

    def __len__(self) -> int:
        return len(self.rows) - 1

    def __getitem__(self, number: int | None) -> int | None:
        return number

    def lengths(self) -> list[float]:
        """Seconds of each window."""
        return [row.duration for row in self.rows[:-1]]

    def collate(self, numbers: Sequence[int | None]) -> dict[str, Any]:
        """Gather a batch, padded as `dataset.collate` pads it or to one of few shapes, without waiting for the device.

        None is an empty place.
        """
        chosen = [len(self) if number is None else number for number in numbers]
        rows, shape = self._sent(chosen), self._shape(chosen)
        batch: dict[str, Any] = {"rows": [self.rows[number] for number in chosen]}
        for name in MODALITIES:
            there = name in self.tracks and any(self.tracks[name].lengths[number] for number in chosen)
            batch[name], batch[f"{name}_mask"] = self.tracks[name].gather(rows, shape[name]) if there else (None, None)
        labels = [self.labels[number] for number in chosen]
        batch["labels"] = None if any(label is None for label in labels) else self._sent(labels)
        return batch

    def _sent(self, values: Sequence[Any]) -> Tensor:
        return send(torch.tensor(values), self.device)

    def _shape(self, chosen: Sequence[int]) -> Mapping[str, int]:
        """Steps of each modality to which a batch is padded."""
        longest = max(self.rows[number].duration for number in chosen)
        for seconds, shape in self._levels:
            if longest <= seconds:
                return shape
        return {name: max(track.lengths[number] for number in chosen) for name, track in self.tracks.items()}

    def _shapes(self) -> list[tuple[float, dict[str, int]]]:
        """The longest windows of each level, and the most steps that a window up to there has of each modality."""
        longest = max(self.lengths())
        return [
            (seconds, self._most(seconds)) for seconds in (longest * STEP**level for level in reversed(range(LEVELS)))
        ]

    def _most(self, seconds: float) -> dict[str, int]:
        """The most steps of each modality that a window of at most some seconds has."""
        within = [number for number, row in enumerate(self.rows) if row.duration <= seconds]
        return {name: max(1, *(track.lengths[number] for number in within)) for name, track in self.tracks.items()}


def _track(tensors: Sequence[Tensor | None], device: torch.device) -> ResidentTrack | None:
    """Put one modality of all samples on a device; None where no sample has it."""
    there = [x.movedim(-2, 0) for x in tensors if x is not None]
    if not there:
        return None
    lengths = [0 if x is None else x.shape[-2] for x in tensors]
    counts = torch.tensor(lengths)
    return ResidentTrack(
        torch.cat(there).to(device), (counts.cumsum(0) - counts).to(device), counts.to(device), lengths
    )
