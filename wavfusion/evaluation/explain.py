"""What the parts of a trained model do: contributions, gates, the margin loss, timing (docs/explain.md)."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from wavfusion.evaluation.inference import (
    Samples,
    Utterances,
    batches,
    classify,
    classify_subsets,
    forward,
    has,
    layer_shares,
    subsets,
)
from wavfusion.evaluation.shared_space import post_hoc, score_space
from wavfusion.features.dataset import Sample
from wavfusion.model.config import MODALITIES, WavFusionConfig
from wavfusion.model.wavfusion import AUDIO_CENTRE, AUDIO_STEP, TOKEN_STEP, WavFusionOutput

log = logging.getLogger(__name__)

FLOOR = 1e-12  # of a probability under a logarithm: an emotion that the training part lacked has prior 0
SHIFTS = (-2.0, -1.0, -0.4, -0.2, 0.0, 0.2, 0.4, 1.0, 2.0)  # seconds; 0.2 is one frame at 5 a second
SOUND_RATE = 320 / AUDIO_STEP  # samples a second of a waveform


def shapley(players: Sequence[str], values: Mapping[frozenset[str], float]) -> dict[str, float]:
    """Share value(all) - value(none) out among players: what each adds when it joins, averaged over all orders.

    Source: Shapley, A value for n-person games, Contributions to the Theory of Games II, 1953; exact.
    """
    orders = list(permutations(players))
    shares = dict.fromkeys(players, 0.0)
    for order in orders:
        for i, player in enumerate(order):
            shares[player] += (values[frozenset(order[: i + 1])] - values[frozenset(order[:i])]) / len(orders)
    return shares


def contributions(
    modality_sets: Sequence[Sequence[str]], said: Sequence[Utterances], prior: Sequence[float]
) -> list[dict[str, float]]:
    """Exact Shapley values of the predicted emotion's log-probability over the modalities that an utterance has.

    They add up to log p - log prior, in nats.

    Args:
        modality_sets: all subsets of the last of them.
        said: what the model says from each.
        prior: the probabilities of an utterance without evidence.

    Returns:
        For each utterance a value for each modality that it has.
    """
    told = {frozenset(names): each.probabilities for names, each in zip(modality_sets, said, strict=True)}
    every = frozenset(modality_sets[-1])
    found = []
    for i, present in enumerate(said[-1].modalities):
        emotion = int(told[every][i].argmax())
        absent = every - set(present)
        chances = {some - absent: float(rows[i, emotion]) for some, rows in told.items() if absent < some}
        chances[frozenset()] = prior[emotion]
        found.append(shapley(present, {some: math.log(max(chance, FLOOR)) for some, chance in chances.items()}))
    return found


def mean_contributions(
    rows: Sequence[Mapping[str, float]], predicted: Sequence[str], classes: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Average contributions over the utterances that were called by an emotion, each modality where it was there."""
    means = {}
    for emotion in (each for each in classes if each in predicted):
        own = [row for row, name in zip(rows, predicted, strict=True) if name == emotion]
        values = {modality: [row[modality] for row in own if modality in row] for modality in MODALITIES}
        means[emotion] = {modality: float(np.mean(each)) for modality, each in values.items() if each}
    return means


def warn_of_untrained_subsets(config: WavFusionConfig) -> None:
    """Say when what a model makes of a subset of its modalities was never trained (design A.4)."""
    if len(config.modalities) > 1 and config.modality_dropout == 0:
        log.warning(
            "this model was trained without modality dropout: figures of subsets, and contributions, which are made of "
            "them, show answers that it never learned to give"
        )


@dataclass(frozen=True)
class Watched:
    """What the parts did in one window.

    Attributes:
        seconds: of the window.
        layer_shares: text's share, against video, in each deep layer; None unless both were there.
        step_shares: the same at each step of the sound; None without sound.
        means, vectors: of the modalities that were there, as in `WavFusionOutput`.
    """

    id: str
    seconds: float
    layer_shares: Float[np.ndarray, " L"] | None = None
    step_shares: Float[np.ndarray, " Ta"] | None = None
    means: dict[str, np.ndarray] = field(default_factory=dict)
    vectors: dict[str, np.ndarray] = field(default_factory=dict)


@torch.inference_mode()
def watch(model: nn.Module, samples: Samples, modalities: Sequence[str], device: str = "cpu") -> list[Watched]:
    """Run a model on all that its samples have, and keep what its parts did in each window."""
    model.eval()
    watched = []
    for batch in batches(samples):
        there = [[name for name in modalities if has(sample, name)] for sample in batch]
        output = forward(model, batch, modalities, device) if any(there) else None
        for i, (sample, names) in enumerate(zip(batch, there, strict=True)):
            did = _did(output, i, names) if output is not None and names else {}
            watched.append(Watched(sample.row.id, sample.row.duration, **did))
    return watched


def _did(output: WavFusionOutput, i: int, names: Sequence[str]) -> dict[str, Any]:
    did: dict[str, Any] = {
        "means": {name: _array(x[i]) for name, x in output.means.items() if name in names},
        "vectors": {name: _array(x[i]) for name, x in output.vectors.items() if name in names},
    }
    layers = layer_shares(output)
    if layers is not None and output.steps is not None and {"text", "video"} <= set(names):
        did["layer_shares"] = _array(layers[i])
        if "audio" in names:
            did["step_shares"] = _array(torch.stack([gate[i] for gate in output.gates]).mean((0, -1))[output.steps[i]])
    return did


def _array(x: Tensor) -> np.ndarray:
    array: np.ndarray = x.double().cpu().numpy()
    return array


def gate_statistics(
    watched: Sequence[Watched], truth: Mapping[str, str], classes: Sequence[str]
) -> dict[str, Any] | None:
    """Average text's share in the gates by layer, by emotion (truth) and by second; None where nothing was gated.

    By layer and emotion every utterance counts alike, its windows by their length; by second every step of the sound.
    """
    layers: dict[str, list[tuple[float, np.ndarray]]] = {}
    begun: dict[str, float] = {}
    steps: dict[int, list[tuple[str, float]]] = {}
    for window in watched:
        start = begun.get(window.id, 0.0)
        begun[window.id] = start + window.seconds
        if window.layer_shares is not None:
            layers.setdefault(window.id, []).append((max(window.seconds, 1e-6), window.layer_shares))
        for step, share in enumerate([] if window.step_shares is None else window.step_shares.tolist()):
            second = math.floor(start + AUDIO_CENTRE + step * AUDIO_STEP)
            steps.setdefault(second, []).append((window.id, share))
    if not layers:
        return None
    means = {name: np.average([x for _, x in parts], 0, [w for w, _ in parts]) for name, parts in layers.items()}
    emotions = {each: [means[name].mean() for name in means if truth[name] == each] for each in classes}
    seconds = [
        {
            "second": second,
            "text_share": float(np.mean([x for _, x in own])),
            "utterances": len({name for name, _ in own}),
        }
        for second, own in sorted(steps.items())
    ]
    return {
        "utterances": len(means),
        "by_layer": np.mean(list(means.values()), axis=0).tolist(),
        "by_emotion": {name: float(np.mean(shares)) for name, shares in emotions.items() if shares},
        "by_second": seconds,
    }


def gate_auc(shares: Mapping[str, float | None], flags: Mapping[str, bool]) -> float:
    """How well text's share tells flagged utterances from others (0.5 = not at all); for corpora whose truth is known.

    Source: area under the ROC curve = P(share of a flagged one > share of another); Hanley and McNeil, 1982.
    """
    from sklearn.metrics import roc_auc_score

    gated = {name: share for name, share in shares.items() if share is not None}
    return float(roc_auc_score([flags[name] for name in gated], list(gated.values())))


def margin_statistics(
    watched: Sequence[Watched],
    truth: Mapping[str, str],
    classes: Sequence[str],
    alpha: float,
    training: tuple[Sequence[Watched], Mapping[str, str]] | None = None,
) -> dict[str, Any]:
    """Judge the shared space on held-out clips; the first window of each utterance counts, as in training.

    Returns:
        `own`: figures of the model's own space, null where it has none; `post_hoc`: those of a linear SD that is fitted
        on windows of the training part, where they are given with their truth.
    """
    clips, labels = _first(watched, truth, classes)
    own = score_space([clip.vectors for clip in clips], labels, alpha)
    if training is None:
        return {"alpha": alpha, "own": own, "post_hoc": None}
    learned, known = _first(*training, classes)
    mapped = post_hoc([clip.means for clip in learned], known, [clip.means for clip in clips])
    return {"alpha": alpha, "own": own, "post_hoc": score_space(mapped, labels, alpha)}


def _first(
    watched: Sequence[Watched], truth: Mapping[str, str], classes: Sequence[str]
) -> tuple[list[Watched], list[int]]:
    """The first window of each utterance, and its emotion's number."""
    first = {window.id: window for window in reversed(watched)}
    return list(first.values()), [classes.index(truth[name]) for name in first]


@dataclass(frozen=True)
class Shifted:
    """Samples whose features of one modality come later by some seconds; the end enters at the beginning."""

    samples: Samples
    modality: str
    seconds: float
    frame_rate: float

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> Sample:
        sample = self.samples[number]
        x = getattr(sample, self.modality)
        if self.modality == "audio" and sample.waveform is not None:
            return replace(sample, waveform=sample.waveform.roll(round(self.seconds * SOUND_RATE)))
        if x is None:
            return sample
        tokens = x.shape[-2] / sample.row.duration if sample.row.duration > 0 else 1 / TOKEN_STEP
        rate = {"audio": 1 / AUDIO_STEP, "text": tokens, "video": self.frame_rate}[self.modality]
        changed: dict[str, Any] = {self.modality: x.roll(round(self.seconds * rate), dims=-2)}
        return replace(sample, **changed)


def shifted_accuracy(
    model: nn.Module,
    samples: Samples,
    truth: Mapping[str, str],
    config: WavFusionConfig,
    prior: Sequence[float],
    device: str = "cpu",
    shifts: Sequence[float] = SHIFTS,
) -> dict[str, list[float]]:
    """Measure the accuracy when one modality comes earlier (below 0) or later than the others, by seconds.

    Sound and picture move by whole steps, words by whole tokens of the stretch over which they are spread.
    """

    def accuracy(moved: Samples) -> float:
        said = classify(model, moved, config.modalities, prior, device)
        called = [config.classes[number] for number in said.probabilities.argmax(1)]
        return float(np.mean([truth[name] == emotion for name, emotion in zip(said.ids, called, strict=True)]))

    found: dict[str, list[float]] = {"seconds": list(shifts)}
    for name in config.modalities:
        found[name] = [accuracy(Shifted(samples, name, shift, config.frame_rate)) for shift in shifts]
    return found


def explain_parts(
    model: nn.Module,
    samples: Samples,
    truth: Mapping[str, str],
    config: WavFusionConfig,
    prior: Sequence[float],
    training: tuple[Samples, Mapping[str, str]] | None = None,
    device: str = "cpu",
    temperature: float = 1.0,
) -> dict[str, Any]:
    """Return what `explain.json` holds (docs/explain.md), from windows of utterances and the utterances' emotions.

    With the training part's windows and emotions, a shared space is fitted afterwards too.
    """
    names, classes = config.modalities, config.classes
    sets = subsets(names)
    said = classify_subsets(model, samples, sets, prior, device, temperature)
    parts = contributions(sets, said, prior)
    predicted = [classes[row.argmax()] for row in said[-1].probabilities]
    watched = watch(model, samples, names, device)
    learned = (watch(model, training[0], names, device), training[1]) if training else None
    return {
        "n": len(predicted),
        "modalities": names,
        "contributions": mean_contributions(parts, predicted, classes),
        "gates": gate_statistics(watched, truth, classes),
        "margin": margin_statistics(watched, truth, classes, config.margin.alpha, learned) if names[1:] else None,
        "shift": shifted_accuracy(model, samples, truth, config, prior, device),
        "utterances": {
            name: {"text_share": share, "contribution": own}
            for name, share, own in zip(said[-1].ids, said[-1].text_share, parts, strict=True)
        },
    }
