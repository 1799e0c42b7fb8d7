"""The training part held on one device, so that batches are gathered there without waiting for the host."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Float16, Int
from torch import Tensor
from torch.utils.data import Dataset

from wavfusion.encoders.checkpoint import send
from wavfusion.features.dataset import Features, Sample
from wavfusion.model.config import MODALITIES

SHARE = 0.5  # of a device's free memory; the rest is for the model and its activations


@dataclass
class ResidentTrack:
    """One modality of all samples, concatenated along time."""

    steps: Float16[Tensor, "N ..."]  # (all steps, width), or (all steps, layers, width)
    starts: Int[Tensor, " S"]  # of each sample in `steps`
    counts: Int[Tensor, " S"]  # steps of each sample, 0 where it lacks the modality
    lengths: list[int]  # the same, on the host

    def gather(self, rows: Int[Tensor, " B"], length: int) -> tuple[Float[Tensor, "B ..."], Bool[Tensor, "B T"]]:
        """Return some samples, padded with zeros to `length` steps, and their mask."""
        times = torch.arange(length, device=rows.device)
        mask = times < self.counts[rows][:, None]
        x = self.steps[(self.starts[rows][:, None] + times).clamp(max=len(self.steps) - 1)].float()
        x = x.masked_fill(~mask.view(*mask.shape, *[1] * (x.dim() - 2)), 0.0)
        return x.movedim(1, -2), mask  # stored layers stand before the steps


class Resident(Dataset[int | None]):
    """The samples of `Features` without waveforms, read once and held on a device; an item is a sample's number.

    Variants of a sample share its text and video.

    Raises:
        MemoryError: the features take more than `room` bytes.
    """

    def __init__(self, samples: Features, device: torch.device | str, room: float = math.inf) -> None:
        self.device = torch.device(device)
        self.count, self.variants = len(samples), samples.variants
        held: list[Sample] = []
        size = 0
        for number in (*range(self.count * (1 + self.variants)), None):  # None: the empty place of a batch
            sample = samples[number]
            held.append(sample if number is None or number < self.count else Sample(sample.row, sample.audio))
            size += sum(x.nbytes for name in MODALITIES if (x := getattr(held[-1], name)) is not None)
            if size > room:
                raise MemoryError(f"expected features of at most {room / 1e6:.0f} MB, found more")
        first = [*list(range(self.count)) * (1 + self.variants), len(held) - 1]  # where text and video of each are held
        self.rows, self.labels = [held[i].row for i in first], [held[i].label for i in first]
        self.tracks: dict[str, ResidentTrack] = {}
        for name in MODALITIES:
            places = range(len(held)) if name == "audio" else first
            if (track := _track([getattr(sample, name) for sample in held], places, self.device)) is not None:
                self.tracks[name] = track

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int | None) -> int | None:
        return number

    def lengths(self) -> list[float]:
        """Seconds of each window."""
        return [row.duration for row in self.rows[: self.count]]

    def collate(self, numbers: Sequence[int | None]) -> dict[str, Any]:
        """Gather a batch as `dataset.collate` pads it, without waiting for the device; None is an empty place."""
        chosen = [len(self.rows) - 1 if number is None else number for number in numbers]
        rows = send(torch.tensor(chosen), self.device)
        batch: dict[str, Any] = {"rows": [self.rows[number] for number in chosen]}
        for name in MODALITIES:
            track = self.tracks.get(name)
            length = max(track.lengths[number] for number in chosen) if track is not None else 0
            found = track.gather(rows, length) if track is not None and length else (None, None)
            batch[name], batch[f"{name}_mask"] = found
        labels = [self.labels[number] for number in chosen]
        batch["labels"] = None if any(label is None for label in labels) else send(torch.tensor(labels), self.device)
        return batch


def _track(tensors: Sequence[Tensor | None], places: Sequence[int], device: torch.device) -> ResidentTrack | None:
    """Put one modality on a device, for samples whose tensors are at `places`; None where no sample has it."""
    present = [x.movedim(-2, 0) for x in tensors if x is not None]
    if not present:
        return None
    lengths = [0 if x is None else x.shape[-2] for x in tensors]
    counts = torch.tensor(lengths)
    starts, chosen = counts.cumsum(0) - counts, torch.tensor(places)
    steps = torch.cat(present).to(device)
    return ResidentTrack(
        steps, starts[chosen].to(device), counts[chosen].to(device), [lengths[place] for place in places]
    )
