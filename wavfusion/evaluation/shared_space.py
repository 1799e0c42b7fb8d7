"""Effect of the margin loss (paper, eq. 12-13): its gradients in training, and the shared space on held-out clips."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from wavfusion.model.config import MODALITIES
from wavfusion.model.sequence import AGRULVC
from wavfusion.model.wavfusion import WavFusion

PENALTIES = np.logspace(0, 5, 6)  # of the ridge regression, chosen by leave-one-out


def compare_gradients(network: nn.Module, inputs: Mapping[str, Any], fusion: WavFusion) -> dict[str, float]:
    """Compare the gradients of the margin loss and of the task loss at the A-GRUs and at LVC.

    Computed without dropout and with LVC's running moments: no random number is drawn and the training's state stays.

    Args:
        network: `fusion`, or the audio encoder in front of it.
        inputs: of its forward pass, with labels.
        fusion: the model, with a margin loss.

    Returns:
        `gradient_ratio_PART` = lambda |g_margin| / |g_task| and `gradient_cosine_PART` of the two, for the parts
        `text_agru`, `video_agru` and `lvc` at which neither is 0.
    """
    parts = {name: list(part.parameters()) for name, part in _sequence_parts(fusion).items()}
    tensors = [tensor for part in parts.values() for tensor in part]
    if not tensors:
        return {}
    training = network.training
    network.eval()
    # cuDNN's GRU has no backward pass outside training.
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        losses = network(**inputs).losses
        task = torch.autograd.grad(losses["task"], tensors, retain_graph=True, materialize_grads=True)
        margin = torch.autograd.grad(losses["margin"], tensors, materialize_grads=True)
    network.train(training)
    found, first = {}, 0
    for name, part in parts.items():
        rows = slice(first, first := first + len(part))
        of_task, of_margin = (torch.cat([x.flatten() for x in each[rows]]).double() for each in (task, margin))
        if of_task.any() and of_margin.any():
            found[f"gradient_ratio_{name}"] = fusion.config.margin.weight * float(of_margin.norm() / of_task.norm())
            found[f"gradient_cosine_{name}"] = float(torch.cosine_similarity(of_task, of_margin, dim=0))
    return found


def _sequence_parts(fusion: WavFusion) -> dict[str, nn.Module]:
    """Return the parts through which the margin loss acts on the classification."""
    parts: dict[str, nn.Module] = {}
    if fusion.text_encoder is not None:
        parts["text_agru"] = fusion.text_encoder.agru
    if fusion.video_encoder is not None:
        block = fusion.video_encoder.block
        parts |= {"video_agru": block.agru, "lvc": block.lvc} if isinstance(block, AGRULVC) else {"video_agru": block}
    return parts


def violations(
    vectors: Float[np.ndarray, "N D"], modality: Int[np.ndarray, " N"], label: Int[np.ndarray, " N"], alpha: float
) -> tuple[int, int]:
    """Count the triplets of eq. 13 of unit vectors: those whose hinge is above 0 at margin `alpha`, and all."""
    violated = total = 0
    for i, anchor in enumerate(vectors):
        cosine = vectors @ anchor
        within, same = modality == modality[i], label == label[i]
        positive, negative = np.sort(cosine[~within & same]), cosine[within & ~same]
        violated += int(np.searchsorted(positive, negative + alpha, side="left").sum())
        total += len(positive) * len(negative)
    return violated, total


def retrieve(
    vectors: Float[np.ndarray, "N D"],
    modality: Int[np.ndarray, " N"],
    label: Int[np.ndarray, " N"],
    clip: Int[np.ndarray, " N"],
) -> Float[np.ndarray, "Q 2"]:
    """Retrieve for every vector, of unit length, the nearest of each other modality, except that of the same clip.

    Returns:
        For each query whether the retrieved vector has its emotion (1 or 0), and the share of candidates that have it.
    """
    rows = []
    for gallery in np.unique(modality):
        inside = modality == gallery
        for i in np.flatnonzero(~inside):
            others = clip[inside] != clip[i]
            if others.any():
                nearest = np.where(others, vectors[inside] @ vectors[i], -np.inf).argmax()
                same = label[inside] == label[i]
                rows.append((float(same[nearest]), float(same[others].mean())))
    return np.array(rows, dtype=np.float64).reshape(-1, 2)


def post_hoc(
    training: Sequence[Mapping[str, np.ndarray]], labels: Sequence[int], clips: Sequence[Mapping[str, np.ndarray]]
) -> list[dict[str, np.ndarray]]:
    """Map clips' means of X^a, X^t and X^v by a linear SD fitted post hoc: ridge regression onto the emotions.

    One map for each modality, fitted on the means of training clips with `labels`, so that models with and without a
    margin loss are compared by what is linearly decodable.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    target = np.eye(max(labels) + 1)[list(labels)]
    mapped: list[dict[str, np.ndarray]] = [{} for _ in clips]
    for name in MODALITIES:
        rows = [i for i, clip in enumerate(training) if name in clip]
        queries = [i for i, clip in enumerate(clips) if name in clip]
        if len(rows) > 1 and queries:
            regression = make_pipeline(StandardScaler(), RidgeCV(PENALTIES))
            regression.fit(np.stack([training[i][name] for i in rows]), target[rows] - target[rows].mean(axis=0))
            for i, vector in zip(queries, regression.predict(np.stack([clips[i][name] for i in queries])), strict=True):
                mapped[i][name] = vector
    return mapped


def score_space(
    clips: Sequence[Mapping[str, np.ndarray]], labels: Sequence[int], alpha: float
) -> dict[str, Any] | None:
    """Score clips' vectors, of any length, by the aims of the margin loss: triplets, and retrieval of the same emotion.

    Returns:
        `violated`: share of the `triplets` whose hinge is above 0; `inverted`: the same with margin 0, where chance is
        0.5; `retrieval` {`precision_at_1`, `chance`, `queries`}. None with fewer than two modalities; a value is null
        where nothing can be counted.
    """
    names = sorted({name for clip in clips for name in clip})
    if len(names) < 2:
        return None
    rows = [(clip[name], names.index(name), labels[i], i) for i, clip in enumerate(clips) for name in clip]
    vectors = np.stack([row[0] for row in rows])
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-8)
    modality, label, number = np.array([row[1:] for row in rows]).T
    (violated, total), (inverted, _) = (violations(vectors, modality, label, margin) for margin in (alpha, 0.0))
    answers = retrieve(vectors, modality, label, number)
    hits, chance = answers.mean(axis=0).tolist() if len(answers) else (None, None)
    return {
        "violated": violated / total if total else None,
        "inverted": inverted / total if total else None,
        "triplets": total,
        "retrieval": {"precision_at_1": hits, "chance": chance, "queries": len(answers)},
    }
