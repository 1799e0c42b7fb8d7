"""A trained model over samples: probabilities of utterances, windows averaged by length, any subset of modalities."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor, nn

from wavfusion.errors import ConfigError, nearest
from wavfusion.features.dataset import Sample, collate, model_inputs
from wavfusion.metrics.calibration import tempered
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


class _Windows:
    """What a model says of windows, in arrays that hold all of them from the start.

    Small ones of a batch, kept among the tensors that come and go, would leave memory in pieces.
    """

    def __init__(self, count: int, classes: int) -> None:
        self.ids: list[str] = []
        self.weights = np.zeros(count)
        self.probabilities = np.zeros((count, classes))
        self.text_share = np.full(count, np.nan)
        self.present = np.zeros((count, len(MODALITIES)), dtype=bool)
        self.told = np.zeros(count, dtype=bool)  # whether there is a vector
        self.vectors: Float32[np.ndarray, "N D"] | None = None

    def add(self, batch: "_Batch", samples: Sequence[Sample]) -> None:
        """Put a batch behind those that are there."""
        rows = slice(len(self.ids), len(self.ids) + len(samples))
        self.ids += [sample.row.id for sample in samples]
        # A transcript alone has no duration; a window without evidence has no say.
        seconds = np.array([max(sample.row.duration, 1e-6) for sample in samples])
        self.weights[rows] = np.where(batch.present.any(1), seconds, 0.0)
        self.probabilities[rows], self.present[rows] = batch.probabilities, batch.present
        if batch.text_share is not None:
            self.text_share[rows] = batch.text_share
        if batch.vectors is not None:
            if self.vectors is None:
                self.vectors = np.zeros((len(self.weights), batch.vectors.shape[1]), dtype=np.float32)
            self.told[rows], self.vectors[rows] = True, batch.vectors

    def averaged(self, temperature: float) -> Utterances:
        """Join the windows of each utterance, weighted by their seconds."""
        numbers = {name: number for number, name in enumerate(dict.fromkeys(self.ids))}
        owner, count = np.array([numbers[name] for name in self.ids]), len(numbers)

        def join(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
            found = np.zeros((count, *values.shape[1:]))
            np.add.at(found, owner, values * weights.reshape(-1, *[1] * (values.ndim - 1)))
            return found

        seconds = join(self.weights, np.ones(len(owner)))[owner]
        alike = 1 / np.bincount(owner)[owner]  # where no window has a say
        shares = np.divide(self.weights, seconds, out=alike, where=seconds > 0)
        present = join(self.present, np.ones(len(owner))) > 0
        rows, there = join(self.probabilities, shares), present.any(1)
        rows[there] = tempered(rows[there], temperature)
        gated = ~np.isnan(self.text_share)
        gates = join(np.where(gated, self.text_share, 0.0), self.weights)
        of = join(gated, self.weights)
        vectors = self.vectors
        if vectors is not None and not (join(self.told, np.ones(len(owner))) > 0).all():
            vectors = None
        if vectors is not None and count < len(owner):
            vectors *= shares[:, None].astype(np.float32)  # in place: there may be many
            joined = np.zeros((count, vectors.shape[1]), dtype=np.float32)
            np.add.at(joined, owner, vectors)
            vectors = joined
        return Utterances(
            list(numbers),
            rows,
            [float(gate / weight) if weight > 0 else None for gate, weight in zip(gates, of, strict=True)],
            [[name for name, has_it in zip(MODALITIES, row, strict=True) if has_it] for row in present.tolist()],
            vectors,
        )


@dataclass(frozen=True)
class _Batch:
    """What a model says of a batch of windows.

    Attributes:
        text_share: NaN where text or video is absent; None where nothing was gated.
        present: which of `MODALITIES` each window has.
    """

    probabilities: Float64[np.ndarray, "B C"]
    present: Bool[np.ndarray, "B M"]
    text_share: Float64[np.ndarray, " B"] | None = None
    vectors: Float32[np.ndarray, "B D"] | None = None


def classify(
    model: nn.Module,
    samples: Samples,
    modalities: Sequence[str],
    prior: Sequence[float],
    device: str = "cpu",
    temperature: float = 1.0,
) -> Utterances:
    """Classify samples from the given modalities alone; see `run_sets`."""
    return classify_subsets(model, samples, [modalities], prior, device, temperature)[0]


@torch.inference_mode()
def classify_subsets(
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
    windows = [_Windows(len(samples), len(prior)) for _ in modality_sets]
    for batch in batches(samples):
        said: dict[tuple[str, ...], _Batch] = {}
        for modalities, all_said in zip(modality_sets, windows, strict=True):
            there = tuple(name for name in modalities if any(has(sample, name) for sample in batch))
            if there not in said:
                said[there] = _run_batch(model, batch, there, prior, device)
            all_said.add(said[there], batch)
    return [each.averaged(temperature) for each in windows]


def batches(samples: Samples) -> Iterator[list[Sample]]:
    """Ask for samples, some at a time."""
    for start in range(0, len(samples), BATCH):
        yield [samples[number] for number in range(start, min(start + BATCH, len(samples)))]


def forward(model: nn.Module, batch: Sequence[Sample], modalities: Sequence[str], device: str) -> WavFusionOutput:
    """Run a model on some modalities of samples."""
    return model(**model_inputs({**collate(batch), "labels": None}, modalities, device))


def _run_batch(
    model: nn.Module, batch: Sequence[Sample], modalities: Sequence[str], prior: Sequence[float], device: str
) -> _Batch:
    present = np.array([[name in modalities and has(sample, name) for name in MODALITIES] for sample in batch])
    nothing = np.tile(np.array(prior, dtype=np.float64), (len(batch), 1))
    if not present.any():
        return _Batch(nothing, present)
    output = forward(model, batch, modalities, device)
    said = output.logits.double().softmax(-1).cpu().numpy()
    both = present[:, MODALITIES.index("text")] & present[:, MODALITIES.index("video")]
    each = layer_shares(output)
    return _Batch(
        np.where(present.any(1, keepdims=True), said, nothing),
        present,
        None if each is None else np.where(both, each.mean(1).double().cpu().numpy(), np.nan),
        None if output.pooled is None else output.pooled.float().cpu().numpy(),
    )


def has(sample: Sample, modality: str) -> bool:
    """Whether a sample has a modality."""
    return getattr(sample, modality) is not None or (modality == "audio" and sample.waveform is not None)


def layer_shares(output: WavFusionOutput) -> Float[Tensor, "B L"] | None:
    """Average the gate of every deep layer over channels and real steps: text's share against video."""
    if not output.gates or output.steps is None:
        return None
    return torch.stack([masked_mean(gate, output.steps).mean(-1) for gate in output.gates], dim=1)
