"""A trained model over samples: probabilities of utterances, windows averaged by length, any subset of modalities."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor, nn

from wavfusion.calibration import tempered
from wavfusion.dataset import Sample, collate, model_inputs
from wavfusion.errors import ConfigError, nearest
from wavfusion.model.config import MODALITIES
from wavfusion.model.sequence import masked_mean
from wavfusion.model.wavfusion import WavFusionOutput

BATCH = 32


@runtime_checkable
class Samples(Protocol):
    """A sequence of samples: a list, or `dataset.Features`."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Sample: ...


@dataclass(frozen=True)
class Utterances:
    """What a model says of utterances, in the order in which their first windows came.

    Attributes:
        ids: of the utterances.
        probabilities: (utterances, emotions).
        text_share: mean gate of each, text against video; None where nothing was gated.
        modalities: what each had of the modalities that were asked for.
        vectors: what the model's head classified of each; None where a model does not say.
    """

    ids: list[str]
    probabilities: Float64[np.ndarray, "N C"]
    text_share: list[float | None]
    modalities: list[list[str]]
    vectors: Float32[np.ndarray, "N D"] | None = None

    def rows(self, chosen: Sequence[int]) -> "Utterances":
        """What is said of some of them."""
        shares, modalities = [self.text_share[i] for i in chosen], [self.modalities[i] for i in chosen]
        vectors = None if self.vectors is None else self.vectors[list(chosen)]
        return Utterances([self.ids[i] for i in chosen], self.probabilities[list(chosen)], shares, modalities, vectors)


def subsets(modalities: Sequence[str]) -> list[list[str]]:
    """All non-empty subsets, the single modalities first."""
    return [list(chosen) for size in range(1, len(modalities) + 1) for chosen in combinations(modalities, size)]


def parse_subset(text: str, available: Sequence[str]) -> list[str]:
    """Read `audio+text` or `audio,text`.

    Raises:
        ConfigError: a modality that does not exist or that the model does not have.
    """
    names = text.replace("+", ",").split(",")
    for name in names:
        if name not in available:
            raise ConfigError(
                f"modalities: expected a choice of {'+'.join(available)}, found {name!r}; {nearest(name, available)}"
            )
    return [name for name in MODALITIES if name in names]


def pick_device(name: str) -> str:
    """The device that `auto` or a name means.

    Raises:
        ConfigError: no such device here.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    valid = ["auto", "cpu", *(["cuda"] if count else []), *(f"cuda:{number}" for number in range(count))]
    if name not in valid:
        raise ConfigError(f"device: expected one that is there, found {name!r}; {nearest(str(name), valid)}")
    return ("cuda" if count else "cpu") if name == "auto" else name


@dataclass(frozen=True)
class _Window:
    """What a model says of one window."""

    id: str
    weight: float
    probabilities: Float64[np.ndarray, " C"]
    text_share: float | None
    modalities: list[str]
    vector: Float32[np.ndarray, " D"] | None


def run(
    model: nn.Module,
    samples: Samples,
    modalities: Sequence[str],
    prior: Sequence[float],
    device: str = "cpu",
    temperature: float = 1.0,
) -> Utterances:
    """Classify samples from the given modalities alone; see `run_sets`."""
    return run_sets(model, samples, [modalities], prior, device, temperature)[0]


@torch.inference_mode()
def run_sets(
    model: nn.Module,
    samples: Samples,
    modality_sets: Sequence[Sequence[str]],
    prior: Sequence[float],
    device: str = "cpu",
    temperature: float = 1.0,
) -> list[Utterances]:
    """Classify samples from each of several sets of modalities; every sample is asked for once.

    Args:
        model: `WavFusion` or `LiveWavFusion`.
        samples: windows of utterances.
        modality_sets: what may be used of them.
        prior: probabilities of an utterance that has none of the modalities.
        device: where the model is.
        temperature: of the model (`calibration.tempered`); of utterances without evidence the prior is said.
    """
    model.eval()
    windows: list[list[_Window]] = [[] for _ in modality_sets]
    for batch in batches(samples):
        said: dict[tuple[str, ...], list[_Window]] = {}
        for modalities, rows in zip(modality_sets, windows, strict=True):
            there = tuple(name for name in modalities if any(has(sample, name) for sample in batch))
            if there not in said:
                said[there] = _run_batch(model, batch, there, prior, device)
            rows += said[there]
    return [_average(rows, temperature) for rows in windows]


def batches(samples: Samples) -> Iterator[list[Sample]]:
    """Ask for samples, some at a time."""
    for start in range(0, len(samples), BATCH):
        yield [samples[number] for number in range(start, min(start + BATCH, len(samples)))]


def forward(model: nn.Module, batch: Sequence[Sample], modalities: Sequence[str], device: str) -> WavFusionOutput:
    """Run a model on some modalities of samples."""
    return model(**model_inputs({**collate(batch), "labels": None}, modalities, device))


def _run_batch(
    model: nn.Module, batch: Sequence[Sample], modalities: Sequence[str], prior: Sequence[float], device: str
) -> list[_Window]:
    present = [[name for name in modalities if has(sample, name)] for sample in batch]
    rows = [np.array(prior, dtype=np.float64) for _ in batch]
    shares: list[float] | None = None
    vectors: Float32[np.ndarray, "B D"] | None = None
    if any(present):
        output = forward(model, batch, modalities, device)
        vectors = None if output.pooled is None else output.pooled.float().cpu().numpy()
        said = output.logits.double().softmax(-1).cpu().numpy()
        rows = [row if names else nothing for row, names, nothing in zip(said, present, rows, strict=True)]
        each = layer_shares(output)
        shares = None if each is None else each.mean(1).tolist()
    return [
        _Window(
            sample.row.id,
            # A transcript alone has no duration; a window without evidence has no say.
            max(sample.row.duration, 1e-6) if names else 0.0,
            row,
            shares[i] if shares is not None and "text" in names and "video" in names else None,
            names,
            None if vectors is None else vectors[i],
        )
        for i, (sample, names, row) in enumerate(zip(batch, present, rows, strict=True))
    ]


def has(sample: Sample, modality: str) -> bool:
    """Whether a sample has a modality."""
    return getattr(sample, modality) is not None or (modality == "audio" and sample.waveform is not None)


def layer_shares(output: WavFusionOutput) -> Float[Tensor, "B L"] | None:
    """Average the gate of every deep layer over channels and real steps: text's share against video."""
    if not output.gates or output.steps is None:
        return None
    return torch.stack([masked_mean(gate, output.steps).mean(-1) for gate in output.gates], dim=1)


def _average(windows: Sequence[_Window], temperature: float) -> Utterances:
    """Join the windows of each utterance, weighted by their seconds."""
    grouped: dict[str, list[_Window]] = {}
    for window in windows:
        grouped.setdefault(window.id, []).append(window)
    rows, shares, modalities, vectors = [], [], [], []
    for parts in grouped.values():
        weights = np.array([part.weight for part in parts])
        weights = weights / weights.sum() if weights.sum() > 0 else np.full(len(parts), 1 / len(parts))
        row = weights @ np.stack([part.probabilities for part in parts])
        rows.append(tempered(row, temperature) if any(part.modalities for part in parts) else row)
        known = [(weight, part.vector) for weight, part in zip(weights, parts, strict=True) if part.vector is not None]
        vectors.append(sum(weight * vector for weight, vector in known) if known else None)
        gated = [(part.weight, part.text_share) for part in parts if part.text_share is not None]
        shares.append(sum(w * x for w, x in gated) / sum(w for w, _ in gated) if gated else None)
        modalities.append([name for name in MODALITIES if any(name in part.modalities for part in parts)])
    told = [vector for vector in vectors if vector is not None]
    stacked = np.stack(told).astype(np.float32) if len(told) == len(vectors) else None
    return Utterances(list(grouped), np.stack(rows), shares, modalities, stacked)
