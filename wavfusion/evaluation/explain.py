"""Analysis of a trained model: contributions, gate values, the margin loss, shifts in time (docs/howto/explain.md)."""

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

from wavfusion.evaluation.inference import Classifier, Samples, Utterances, batches, forward, has, layer_shares
from wavfusion.evaluation.shared_space import post_hoc, score_space
from wavfusion.features.dataset import Sample
from wavfusion.model.config import AUDIO_STEP, MODALITIES, WavFusionConfig
from wavfusion.model.wavfusion import TOKEN_STEP, WavFusionOutput

log = logging.getLogger(__name__)

FLOOR = 1e-12  # of a probability under a logarithm: an emotion missing from the training part has prior 0
SHIFTS = (-2.0, -1.0, -0.4, -0.2, 0.0, 0.2, 0.4, 1.0, 2.0)  # seconds; 0.2 is one frame at 5 a second
SAMPLES_A_SECOND = 320 / AUDIO_STEP  # of a waveform


def shapley(players: Sequence[str], values: Mapping[frozenset[str], float]) -> dict[str, float]:
    """Divide value(all) - value(none) among players: the gain when each joins, averaged over all orders.

    Source: Shapley, A value for n-person games, Contributions to the Theory of Games II, 1953; exact.
    """
    orders = list(permutations(players))
    shares = dict.fromkeys(players, 0.0)
    for order in orders:
        for i, player in enumerate(order):
            shares[player] += (values[frozenset(order[: i + 1])] - values[frozenset(order[:i])]) / len(orders)
    return shares


def contributions(
    modality_sets: Sequence[Sequence[str]], predicted: Sequence[Utterances], prior: Sequence[float]
) -> list[dict[str, float]]:
    """Exact Shapley values of the predicted emotion's log-probability over the modalities that an utterance has.

    They add up to log p - log prior, in nats. `predicted` are the predictions from each of the sets: all subsets of the
    last one; `prior` are the probabilities of an utterance without evidence.
    """
    tables = {frozenset(names): each.probabilities for names, each in zip(modality_sets, predicted, strict=True)}
    every = frozenset(modality_sets[-1])
    found = []
    for i, present in enumerate(predicted[-1].modalities):
        emotion = int(tables[every][i].argmax())
        missing = every - set(present)
        values = {some - missing: float(table[i, emotion]) for some, table in tables.items() if missing < some}
        values[frozenset()] = prior[emotion]
        found.append(shapley(present, {some: math.log(max(value, FLOOR)) for some, value in values.items()}))
    return found


def mean_contributions(
    rows: Sequence[Mapping[str, float]], predicted: Sequence[str], classes: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Average contributions by predicted emotion, each modality over the utterances that have it."""
    means = {}
    for emotion in (each for each in classes if each in predicted):
        chosen = [row for row, name in zip(rows, predicted, strict=True) if name == emotion]
        values = {modality: [row[modality] for row in chosen if modality in row] for modality in MODALITIES}
        means[emotion] = {modality: float(np.mean(each)) for modality, each in values.items() if each}
    return means


def warn_of_untrained_subsets(config: WavFusionConfig) -> None:
    """Warn of a model that was trained on all modalities together only, and never on subsets."""
    if len(config.modalities) > 1 and config.modality_dropout == 0:
        log.warning(
            "this model was trained without modality dropout: subsets of modalities, and contributions, which are "
            "computed from them, show predictions that it was never trained for"
        )


@dataclass(frozen=True)
class WindowParts:
    """Intermediate results of the model for one window.

    Attributes:
        layer_shares: gate value (text weight, against video) in each deep layer; None unless both are present.
        step_shares: the same at each audio step; None without audio.
        means, vectors: of the modalities that are present, as in `WavFusionOutput`.
    """

    id: str
    seconds: float
    layer_shares: Float[np.ndarray, " L"] | None = None
    step_shares: Float[np.ndarray, " Ta"] | None = None
    means: dict[str, np.ndarray] = field(default_factory=dict)
    vectors: dict[str, np.ndarray] = field(default_factory=dict)


@torch.inference_mode()
def window_parts(
    model: nn.Module, samples: Samples, modalities: Sequence[str], device: str = "cpu"
) -> list[WindowParts]:
    """Run a model on all modalities of its samples, and return its intermediate results for each window."""
    model.eval()
    found = []
    for batch in batches(samples):
        present = [[name for name in modalities if has(sample, name)] for sample in batch]
        output = forward(model, batch, modalities, device) if any(present) else None
        for i, (sample, names) in enumerate(zip(batch, present, strict=True)):
            parts = _parts(output, i, names) if output is not None and names else {}
            found.append(WindowParts(sample.row.id, sample.row.duration, **parts))
    return found


def _parts(output: WavFusionOutput, i: int, names: Sequence[str]) -> dict[str, Any]:
    parts: dict[str, Any] = {
        what: {name: _array(x[i]) for name, x in getattr(output, what).items() if name in names}
        for what in ("means", "vectors")
    }
    layers = layer_shares(output)
    if layers is not None and output.steps is not None and {"text", "video"} <= set(names):
        parts["layer_shares"] = _array(layers[i])
        if "audio" in names:
            gates = torch.stack([gate[i] for gate in output.gates]).mean((0, -1))
            parts["step_shares"] = _array(gates[output.steps[i]])
    return parts


def _array(x: Tensor) -> np.ndarray:
    return np.asarray(x.double().cpu())


def gate_statistics(
    windows: Sequence[WindowParts],
    truth: Mapping[str, str],
    classes: Sequence[str],
    audio_step: float = AUDIO_STEP,
) -> dict[str, Any] | None:
    """Average gate values (text weights) by layer, by true emotion and by second; None where nothing was gated.

    By layer and emotion every utterance has the same weight, its windows by their length; by second every audio step.
    """
    layers: dict[str, list[tuple[float, np.ndarray]]] = {}
    elapsed: dict[str, float] = {}
    steps: dict[int, list[tuple[str, float]]] = {}
    for window in windows:
        start = elapsed.get(window.id, 0.0)
        elapsed[window.id] = start + window.seconds
        if window.layer_shares is not None:
            layers.setdefault(window.id, []).append((max(window.seconds, 1e-6), window.layer_shares))
        for step, share in enumerate([] if window.step_shares is None else window.step_shares.tolist()):
            second = math.floor(start + (step + 0.5) * audio_step)
            steps.setdefault(second, []).append((window.id, share))
    if not layers:
        return None
    means = {name: np.average([x for _, x in parts], 0, [w for w, _ in parts]) for name, parts in layers.items()}
    emotions = {each: [means[name].mean() for name in means if truth[name] == each] for each in classes}
    seconds = []
    for second, pairs in sorted(steps.items()):
        names, shares = zip(*pairs, strict=True)
        seconds.append({"second": second, "text_share": float(np.mean(shares)), "utterances": len(set(names))})
    return {
        "utterances": len(means),
        "by_layer": np.mean(list(means.values()), axis=0).tolist(),
        "by_emotion": {name: float(np.mean(shares)) for name, shares in emotions.items() if shares},
        "by_second": seconds,
    }


def gate_auc(shares: Mapping[str, float | None], flags: Mapping[str, bool]) -> float:
    """Area under the ROC curve of gate values (text weights) as a detector of flagged utterances (0.5 = chance).

    It is P(weight of a flagged one > weight of another). Source: Hanley and McNeil, Radiology 143, 1982.
    """
    from sklearn.metrics import roc_auc_score

    gated = {name: share for name, share in shares.items() if share is not None}
    return float(roc_auc_score([flags[name] for name in gated], list(gated.values())))


def margin_statistics(
    windows: Sequence[WindowParts], training: Sequence[WindowParts], truth: Mapping[str, str], config: WavFusionConfig
) -> dict[str, Any]:
    """Evaluate the shared space on held-out clips, on the first window of each utterance, as in training.

    `own` are the figures of the model's own space, null where it has none; `post_hoc` those of a linear SD that is
    fitted on windows of the training part, null without them.
    """
    clips, learned = ({window.id: window for window in reversed(each)} for each in (windows, training))
    labels, known = ([config.classes.index(truth[name]) for name in each] for each in (clips, learned))
    means, others = ([clip.means for clip in each.values()] for each in (clips, learned))
    alpha = config.margin.alpha
    own = score_space([clip.vectors for clip in clips.values()], labels, alpha)
    fitted = score_space(post_hoc(others, known, means), labels, alpha) if learned else None
    return {"alpha": alpha, "own": own, "post_hoc": fitted}


def shift(sample: Sample, modality: str, seconds: float, frame_rate: float) -> Sample:
    """Roll a sample's features of one modality forward by some seconds."""
    x = getattr(sample, modality)
    if modality == "audio" and sample.waveform is not None:
        return replace(sample, waveform=sample.waveform.roll(round(seconds * SAMPLES_A_SECOND)))
    if x is None:
        return sample
    tokens = x.shape[-2] / sample.row.duration if sample.row.duration > 0 else 1 / TOKEN_STEP
    rate = {"audio": 1 / AUDIO_STEP, "text": tokens, "video": frame_rate}[modality]
    changed: dict[str, Any] = {modality: x.roll(round(seconds * rate), dims=-2)}
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
    """Measure the accuracy when one modality is shifted against the others by seconds, earlier below 0.

    Audio and video move by whole steps, text by whole tokens, which are spread evenly over the window.
    """

    def accuracy(modality: str, seconds: float) -> float:
        classifier = Classifier(model, [config.modalities], prior, len(samples), device)
        for batch in batches(samples):
            classifier.add([shift(sample, modality, seconds, config.frame_rate) for sample in batch])
        (found,) = classifier.utterances()
        emotions = zip(found.ids, found.emotions(config.classes), strict=True)
        return float(np.mean([truth[name] == emotion for name, emotion in emotions]))

    found = {name: [accuracy(name, seconds) for seconds in shifts] for name in config.modalities}
    return {"seconds": list(shifts), **found}
