"""What the margin loss does: its pull while training, and the space that it shapes on held-out clips (design F.3)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from wavfusion.model.config import MODALITIES
from wavfusion.model.sequence import AGRULVC
from wavfusion.model.wavfusion import WavFusion

PENALTIES = np.logspace(0, 5, 6)  # of the ridge regression, among which leaving one out chooses


def pulls(network: nn.Module, inputs: Mapping[str, Any], fusion: WavFusion) -> dict[str, float]:
    """Compare what the margin loss and the task loss ask of the A-GRUs and of LVC.

    Run without dropout and with LVC's running moments: nothing random is drawn and no state of a training changes.

    Args:
        network: `fusion`, or an encoder before it.
        inputs: of its forward pass, labels among them.
        fusion: the model, with a margin loss.

    Returns:
        `gradient_ratio_PART` = lambda |g_margin| / |g_task| and `gradient_cosine_PART` of the two, for `text_agru`,
        `video_agru` and `lvc`; without a part at which one of them is 0.
    """
    parts = {name: list(part.parameters()) for name, part in _sequence_parts(fusion).items()}
    tensors = [tensor for own in parts.values() for tensor in own]
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
    for name, own in parts.items():
        here = slice(first, first := first + len(own))
        asked, pulled = (torch.cat([x.flatten() for x in each[here]]).double() for each in (task, margin))
        if asked.any() and pulled.any():
            found[f"gradient_ratio_{name}"] = fusion.config.margin.weight * float(pulled.norm() / asked.norm())
            found[f"gradient_cosine_{name}"] = float(torch.cosine_similarity(asked, pulled, dim=0))
    return found


def _sequence_parts(fusion: WavFusion) -> dict[str, nn.Module]:
    """The parts through which the margin loss acts on the classification."""
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
    """Count the triplets of eq. 13: those that are violated (their hinge is above 0), and all.

    Args:
        vectors: of unit length.
        modality: the number of each one's modality.
        label: the number of each one's emotion.
        alpha: the margin.
    """
    violated = total = 0
    for i, anchor in enumerate(vectors):
        cosine = vectors @ anchor
        own, same = modality == modality[i], label == label[i]
        positive, negative = np.sort(cosine[~own & same]), cosine[own & ~same]
        violated += int(np.searchsorted(positive, negative + alpha, side="left").sum())
        total += len(positive) * len(negative)
    return violated, total


def retrieve(
    vectors: Float[np.ndarray, "N D"],
    modality: Int[np.ndarray, " N"],
    label: Int[np.ndarray, " N"],
    clip: Int[np.ndarray, " N"],
) -> Float[np.ndarray, "Q 2"]:
    """Ask with every vector for the nearest of each other modality; the same clip's is no answer.

    Args:
        vectors: of unit length.
        modality: the number of each one's modality.
        label: the number of each one's emotion.
        clip: the number of each one's clip.

    Returns:
        For each query whether the answer has its emotion (1 or 0), and the share of possible answers that have it.
    """
    rows = []
    for gallery in np.unique(modality):
        there = modality == gallery
        for i in np.flatnonzero(~there):
            others = clip[there] != clip[i]
            if others.any():
                nearest = np.where(others, vectors[there] @ vectors[i], -np.inf).argmax()
                same = label[there] == label[i]
                rows.append((float(same[nearest]), float(same[others].mean())))
    return np.array(rows, dtype=np.float64).reshape(-1, 2)


def post_hoc(
    training: Sequence[Mapping[str, np.ndarray]], labels: Sequence[int], clips: Sequence[Mapping[str, np.ndarray]]
) -> list[dict[str, np.ndarray]]:
    """Map clips' means of X^a, X^t and X^v by a linear SD fitted afterwards: ridge regression onto the emotions.

    One map for each modality, so that models with and without a margin loss are asked the same: what is linearly there.

    Args:
        training: means of training clips, by modality.
        labels: their emotions.
        clips: the means to map.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    target = np.eye(max(labels) + 1)[list(labels)]
    mapped: list[dict[str, np.ndarray]] = [{} for _ in clips]
    for name in MODALITIES:
        rows = [i for i, clip in enumerate(training) if name in clip]
        asked = [i for i, clip in enumerate(clips) if name in clip]
        if len(rows) > 1 and asked:
            reader = make_pipeline(StandardScaler(), RidgeCV(PENALTIES))
            reader.fit(np.stack([training[i][name] for i in rows]), target[rows] - target[rows].mean(axis=0))
            for i, vector in zip(asked, reader.predict(np.stack([clips[i][name] for i in asked])), strict=True):
                mapped[i][name] = vector
    return mapped


def judge(clips: Sequence[Mapping[str, np.ndarray]], labels: Sequence[int], alpha: float) -> dict[str, Any] | None:
    """Judge a shared space by what the margin loss claims: violated triplets, and retrieval of the same emotion.

    Args:
        clips: vectors of each clip by modality, of any length.
        labels: the clips' emotions.
        alpha: the margin.

    Returns:
        `violated`: share of the `triplets` whose hinge is above 0; `inverted`: the same with margin 0, where chance is
        0.5; `retrieval` {`precision_at_1`, `chance`, `queries`}. None with fewer than two modalities; a figure is null
        where there is nothing to count.
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
