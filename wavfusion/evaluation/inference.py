"""Classification of encoded samples by a trained model, from any subset of modalities."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor, nn

from wavfusion.errors import ConfigError, nearest
from wavfusion.features.batches import collate, model_inputs
from wavfusion.features.dataset import Features, Sample
from wavfusion.metrics.calibration import tempered
from wavfusion.model.config import MODALITIES
from wavfusion.model.sequence import masked_mean
from wavfusion.model.wavfusion import WavFusionOutput

BATCH = 32

Samples: TypeAlias = Sequence[Sample] | Features


@dataclass(frozen=True)
class Utterances:
    """Predictions for utterances, in the order of their first windows.

    Attributes:
        text_share: mean gate value (text weight, against video) of each; None where nothing was gated.
        modalities: which of the given modalities each has.
        vectors: the inputs of the model's classification head; None where a model does not return them.
    """

    ids: list[str]
    probabilities: Float64[np.ndarray, "N C"]
    text_share: list[float | None]
    modalities: list[list[str]]
    vectors: Float32[np.ndarray, "N D"] | None = None

    def emotions(self, classes: Sequence[str]) -> list[str]:
        """Return the most probable emotion of each."""
        return [classes[number] for number in self.probabilities.argmax(1)]


def subsets(modalities: Sequence[str]) -> list[list[str]]:
    """Return all non-empty subsets, the single modalities first."""
    return [list(chosen) for size in range(1, len(modalities) + 1) for chosen in combinations(modalities, size)]


def parse_subset(text: str, available: Sequence[str]) -> list[str]:
    """Parse `audio+text` or `audio,text`; a ConfigError for a modality that the model does not use."""
    names = text.replace("+", ",").split(",")
    for name in names:
        if name not in available:
            raise ConfigError(
                f"modalities: expected a choice of {'+'.join(available)}, found {name!r}; {nearest(name, available)}"
            )
    return [name for name in MODALITIES if name in names]


def pick_device(name: str) -> str:
    """Resolve `auto` or a device name; a ConfigError for a device that this machine does not have."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    valid = ["auto", "cpu", *(["cuda"] if count else []), *(f"cuda:{number}" for number in range(count))]
    if name not in valid:
        raise ConfigError(f"device: expected one of this machine's, found {name!r}; {nearest(str(name), valid)}")
    return ("cuda" if count else "cpu") if name == "auto" else name


class Classifier:
    """Classify windows batch by batch, from each of several sets of modalities.

    Args:
        model: `WavFusion`, `LiveWavFusion` or `OnnxWavFusion`, on the device.
        modality_sets: the sets.
        prior: probabilities of an utterance that has none of the modalities, whatever the temperature.
        count: number of windows that will be added.
        device: where to compute.
        temperature: of the model (`calibration.tempered`).
    """

    def __init__(
        self,
        model: nn.Module,
        modality_sets: Sequence[Sequence[str]],
        prior: Sequence[float],
        count: int,
        device: str = "cpu",
        temperature: float = 1.0,
    ) -> None:
        self.model, self.modality_sets, self.prior, self.count = model.eval(), modality_sets, prior, count
        self.device, self.temperature = device, temperature
        self.ids: list[str] = []
        self._tables: list[dict[str, np.ndarray]] = [{} for _ in modality_sets]

    @torch.inference_mode()
    def add(self, samples: Sequence[Sample]) -> None:
        """Classify a batch of windows; sets that leave it the same modalities are computed once."""
        rows = slice(len(self.ids), len(self.ids) + len(samples))
        self.ids += [sample.row.id for sample in samples]
        done: dict[tuple[str, ...], dict[str, np.ndarray]] = {}
        for modalities, table in zip(self.modality_sets, self._tables, strict=True):
            present = tuple(name for name in modalities if any(has(sample, name) for sample in samples))
            if present not in done:
                done[present] = self._predict(samples, present)
            for name, values in done[present].items():
                # Allocated for all windows: small arrays, kept among tensors that come and go, would fragment memory.
                if name not in table:
                    table[name] = np.zeros((self.count, *values.shape[1:]), values.dtype)
                table[name][rows] = values

    def _predict(self, batch: Sequence[Sample], modalities: Sequence[str]) -> dict[str, np.ndarray]:
        """A row a window; `vectors` where the model returns them, `text_share` NaN without a gate."""
        present = np.array([[name in modalities and has(sample, name) for name in MODALITIES] for sample in batch])
        # A transcript alone has no duration; a window without any modality has no weight.
        seconds = np.array([max(sample.row.duration, 1e-6) for sample in batch]) * present.any(1)
        priors = np.tile(np.array(self.prior, dtype=np.float64), (len(batch), 1))
        columns = {"probabilities": priors, "text_share": np.full(len(batch), np.nan)}
        if present.any():
            output = forward(self.model, batch, modalities, self.device)
            probabilities = output.logits.double().softmax(-1).cpu().numpy()
            columns["probabilities"] = np.where(present.any(1, keepdims=True), probabilities, priors)
            if (shares := layer_shares(output)) is not None:
                both = present[:, MODALITIES.index("text")] & present[:, MODALITIES.index("video")]
                columns["text_share"] = np.where(both, shares.mean(1).double().cpu().numpy(), np.nan)
            if output.pooled is not None:
                columns |= {
                    "vectors": output.pooled.float().cpu().numpy(),
                    "has_vector": np.ones(len(batch), dtype=bool),
                }
        return {**columns, "present": present, "seconds": seconds}

    def utterances(self) -> list[Utterances]:
        """Return the predictions from each set, windows averaged into utterances."""
        return [self._averaged(table) for table in self._tables]

    def _averaged(self, columns: dict[str, np.ndarray]) -> Utterances:
        """Average the windows of each utterance, weighted by their seconds."""
        numbers = {name: number for number, name in enumerate(dict.fromkeys(self.ids))}
        owner, count = np.array([numbers[name] for name in self.ids]), len(numbers)
        once = np.ones(len(owner))
        weights, text_share, vectors = columns["seconds"], columns["text_share"], columns.get("vectors")

        def total(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
            sums = np.zeros((count, *values.shape[1:]))
            np.add.at(sums, owner, values * weights.reshape(-1, *[1] * (values.ndim - 1)))
            return sums

        seconds = total(weights, once)[owner]
        equal = 1 / np.bincount(owner)[owner]  # for utterances without any modality
        shares = np.divide(weights, seconds, out=equal, where=seconds > 0)
        present = total(columns["present"], once) > 0
        probabilities, known = total(columns["probabilities"], shares), present.any(1)
        probabilities[known] = tempered(probabilities[known], self.temperature)
        gated = ~np.isnan(text_share)
        gates = zip(total(np.where(gated, text_share, 0.0), weights), total(gated, weights), strict=True)
        if vectors is not None and not (total(columns["has_vector"], once) > 0).all():
            vectors = None
        if vectors is not None and count < len(owner):
            vectors *= shares[:, None].astype(np.float32)  # in place: there may be many
            joined = np.zeros((count, vectors.shape[1]), dtype=np.float32)
            np.add.at(joined, owner, vectors)
            vectors = joined
        return Utterances(
            ids=list(numbers),
            probabilities=probabilities,
            text_share=[float(gate / seconds) if seconds > 0 else None for gate, seconds in gates],
            modalities=[
                [name for name, has_it in zip(MODALITIES, row, strict=True) if has_it] for row in present.tolist()
            ],
            vectors=vectors,
        )


def classify(
    model: nn.Module, samples: Samples, modalities: Sequence[str], prior: Sequence[float], device: str = "cpu"
) -> Utterances:
    """Classify samples from one set of modalities, without a temperature; the arguments are those of `Classifier`."""
    return classify_subsets(model, samples, [modalities], prior, device)[0]


def classify_subsets(
    model: nn.Module,
    samples: Samples,
    modality_sets: Sequence[Sequence[str]],
    prior: Sequence[float],
    device: str = "cpu",
    temperature: float = 1.0,
) -> list[Utterances]:
    """Classify samples from each of several sets of modalities; every sample is read once."""
    classifier = Classifier(model, modality_sets, prior, len(samples), device, temperature)
    for batch in batches(samples):
        classifier.add(batch)
    return classifier.utterances()


def batches(samples: Samples) -> Iterator[list[Sample]]:
    """Read samples in batches of `BATCH`."""
    for start in range(0, len(samples), BATCH):
        yield [samples[number] for number in range(start, min(start + BATCH, len(samples)))]


def forward(model: nn.Module, batch: Sequence[Sample], modalities: Sequence[str], device: str) -> WavFusionOutput:
    """Run a model on some modalities of samples."""
    return model(**model_inputs({**collate(batch), "labels": None}, modalities, device))


def has(sample: Sample, modality: str) -> bool:
    """Whether a sample has a modality."""
    return getattr(sample, modality) is not None or (modality == "audio" and sample.waveform is not None)


def layer_shares(output: WavFusionOutput) -> Float[Tensor, "B L"] | None:
    """Average the gate value (text weight) of every deep layer over channels and unmasked steps."""
    if not output.gates or output.steps is None:
        return None
    return torch.stack([masked_mean(gate, output.steps).mean(-1) for gate in output.gates], dim=1)
