"""A trained model over samples: probabilities of utterances, windows averaged by length, any subset of the modalities."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn

from wavfusion.dataset import Sample, collate, model_inputs
from wavfusion.errors import ConfigError, nearest
from wavfusion.model.config import MODALITIES
from wavfusion.model.wavfusion import WavFusionOutput

BATCH = 32


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
    """

    ids: list[str]
    probabilities: Float64[np.ndarray, "N C"]
    text_share: list[float | None]
    modalities: list[list[str]]


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


@torch.inference_mode()
def run(model: nn.Module, samples: Samples, modalities: Sequence[str], device: str = "cpu") -> Utterances:
    """Classify samples from the given modalities alone; samples that have none of them count as an utterance without evidence.

    Such an utterance gets equal probabilities, since nothing is known of it.
    """
    model.eval()
    windows: list[tuple[str, float, np.ndarray, float | None, list[str]]] = []
    for numbers in _batches(samples):
        batch = [samples[number] for number in numbers]
        windows += _run_batch(model, batch, modalities, device)
    return _average(windows)


def _batches(samples: Samples) -> Iterator[list[int]]:
    numbers = list(range(len(samples)))
    return (numbers[start : start + BATCH] for start in range(0, len(numbers), BATCH))


def _run_batch(
    model: nn.Module, batch: Sequence[Sample], modalities: Sequence[str], device: str
) -> Iterable[tuple[str, float, np.ndarray, float | None, list[str]]]:
    present = [[name for name in modalities if _has(sample, name)] for sample in batch]
    inputs = model_inputs({**collate(batch), "labels": None}, modalities, device)
    if not any(present):
        raise ConfigError(
            f"expected at least one of {'+'.join(modalities)} in {batch[0].row.id!r} and its neighbours, found none of them"
        )
    output: WavFusionOutput = model(**inputs)
    probabilities = output.logits.double().softmax(-1).cpu().numpy()
    shares = _text_shares(output, inputs)
    for i, (sample, names) in enumerate(zip(batch, present, strict=True)):
        row = probabilities[i] if names else np.full_like(probabilities[i], 1 / probabilities.shape[1])
        both = "text" in names and "video" in names
        yield sample.row.id, sample.row.duration, row, shares[i] if both and shares is not None else None, names


def _has(sample: Sample, modality: str) -> bool:
    return getattr(sample, modality) is not None or (modality == "audio" and sample.waveform is not None)


def _text_shares(output: WavFusionOutput, inputs: dict[str, Any]) -> list[float] | None:
    """Average the gate over layers, real audio steps (all steps where queries stood in) and channels."""
    if not output.gates:
        return None
    mean = torch.stack(output.gates).mean((0, -1))
    mask: Tensor | None = inputs.get("audio_mask")
    real = torch.ones_like(mean)
    if mask is not None and mask.any():
        padded = nn.functional.pad(mask, (0, mean.shape[1] - mask.shape[1]))
        real = torch.where(mask.any(1, keepdim=True), padded.to(mean.dtype), real)
    shares: list[float] = ((mean * real).sum(1) / real.sum(1)).tolist()
    return shares


def _average(windows: Sequence[tuple[str, float, np.ndarray, float | None, list[str]]]) -> Utterances:
    """Join the windows of each utterance, weighted by their seconds."""
    grouped: dict[str, list[tuple[float, np.ndarray, float | None, list[str]]]] = {}
    for name, duration, row, share, present in windows:
        # A transcript alone has no duration.
        grouped.setdefault(name, []).append((max(duration, 1e-6) if present else 0.0, row, share, present))
    rows, shares, modalities = [], [], []
    for parts in grouped.values():
        weights = np.array([weight for weight, *_ in parts])
        weights = weights / weights.sum() if weights.sum() > 0 else np.full(len(parts), 1 / len(parts))
        rows.append(sum(weight * row for weight, (_, row, *_) in zip(weights, parts, strict=True)))
        gated = [(weight, share) for weight, (_, _, share, _) in zip(weights, parts, strict=True) if share is not None]
        shares.append(sum(w * s for w, s in gated) / sum(w for w, _ in gated) if gated else None)
        modalities.append([name for name in MODALITIES if any(name in present for *_, present in parts)])
    return Utterances(list(grouped), np.array(rows, dtype=np.float64), shares, modalities)
