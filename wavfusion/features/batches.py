"""Samples padded to batches of similar length, and batches as the arguments of the model."""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Sampler

from wavfusion.features.dataset import Sample
from wavfusion.manifest import MODALITIES
from wavfusion.model.config import WavFusionConfig

Item = TypeVar("Item")

MEGABATCH = 16  # batches that are sorted by length together: little padding, yet another order every epoch


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Cut a sequence into lists of at most `size` (itertools has it from Python 3.12)."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def drawn_ahead(items: Iterable[Item], count: int) -> Iterator[Item]:
    """Pass items on, each after `count` more have been drawn."""
    waiting: deque[Item] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting


def collate(samples: Sequence[Sample]) -> dict[str, Any]:
    """Pad samples to a batch: the arguments of `WavFusion.forward`, `rows`, and `waveforms` where they are given.

    A modality that no sample has is None, tensor and mask.
    """
    batch: dict[str, Any] = {"rows": [sample.row for sample in samples]}
    for name in MODALITIES:
        batch[name], batch[f"{name}_mask"] = _pad([getattr(sample, name) for sample in samples])
    if any(sample.waveform is not None for sample in samples):
        batch["waveforms"] = [sample.waveform for sample in samples]
    labels = [sample.label for sample in samples]
    batch["labels"] = None if any(label is None for label in labels) else torch.tensor(labels)
    return batch


def _pad(rows: Sequence[Tensor | None]) -> tuple[Tensor | None, Tensor | None]:
    present = [row for row in rows if row is not None]
    if not present:
        return None, None
    length = max(row.shape[-2] for row in present)
    first = present[0]
    padded = torch.zeros(len(rows), *first.shape[:-2], length, first.shape[-1])
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for i, row in enumerate(rows):
        if row is not None:
            padded[i, ..., : row.shape[-2], :] = row
            mask[i, : row.shape[-2]] = True
    return padded, mask


class LengthBatches(Sampler[int | None]):
    """A random order for every epoch, with neighbours of similar length; seed and epoch decide it.

    Each sample is drawn as it is or as one of `variants`, whose numbers lie beyond the length (`dataset.Features`).
    Several processes share a step, `batch_size` samples each in turn; None fills up the last step.
    """

    def __init__(
        self, lengths: Sequence[float], batch_size: int, seed: int, processes: int = 1, variants: int = 0
    ) -> None:
        self.lengths, self.seed, self.epoch, self.variants = lengths, seed, 0, variants
        self.batch_size, self.processes = batch_size * processes, processes

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths) + (-len(self.lengths) % self.batch_size if self.processes > 1 else 0)

    def __iter__(self) -> Iterator[int | None]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        size = self.batch_size * MEGABATCH
        batches: list[list[int | None]] = []
        for start in range(0, len(order), size):
            near = sorted(order[start : start + size], key=lambda i: -self.lengths[i])
            batches += [[*near[i : i + self.batch_size]] for i in range(0, len(near), self.batch_size)]
        # A short batch stays last, since every other must be full.
        last = [batches.pop()] if batches and len(batches[-1]) < self.batch_size else []
        batches = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
        count = len(self.lengths)
        drawn = torch.randint(self.variants + 1, (count,), generator=generator).tolist()
        for numbers in batches + last:
            batch = [number if number is None else number + count * drawn[number] for number in numbers]
            if self.processes > 1:
                batch += [None] * (self.batch_size - len(batch))
            for first in range(self.processes):
                yield from batch[first :: self.processes]


def model_inputs(batch: Mapping[str, Any], modalities: Iterable[str], device: torch.device | str) -> dict[str, Any]:
    """Take the arguments of a model's forward pass out of a batch, with the other modalities left out."""
    chosen = {*modalities, "labels"}

    def sent(name: str, x: Tensor | None) -> Tensor | None:
        return x.to(device, non_blocking=True) if x is not None and name in chosen else None

    inputs: dict[str, Any] = {key: sent(name, batch[key]) for name in MODALITIES for key in (name, f"{name}_mask")}
    if "waveforms" in batch:
        inputs["waveforms"] = [sent("audio", x) for x in batch["waveforms"]]
    return {**inputs, "labels": sent("labels", batch["labels"])}


def add_absent_modalities(
    inputs: Mapping[str, Any], present: Collection[str], config: WavFusionConfig
) -> dict[str, Any]:
    """Add one masked step of each modality of `present` that the inputs lack."""
    labels, filled = inputs["labels"], dict(inputs)
    for name in present:
        if inputs[name] is None:
            filled[name] = torch.zeros(len(labels), *config.feature_shape(name, 1), device=labels.device)
            filled[f"{name}_mask"] = torch.zeros(len(labels), 1, dtype=torch.bool, device=labels.device)
    return filled
