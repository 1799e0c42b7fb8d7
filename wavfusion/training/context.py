"""Training of WavFusion's dialogue context on the vectors of a trained model, which stays as it is."""

import copy
import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from wavfusion.dialogues.batch import DialogueVectors, dialogue_batches
from wavfusion.dialogues.context import ContextConfig, FittedContext, TurnContext
from wavfusion.dialogues.losses import turn_loss
from wavfusion.evaluation.context import BATCH, SCORES, VECTORS, add_context, turns_of
from wavfusion.evaluation.evaluate import network, samples_of
from wavfusion.evaluation.inference import Utterances, classify
from wavfusion.manifest import Utterance
from wavfusion.metrics.calibration import fit_temperature
from wavfusion.metrics.scores import confusion_matrix, figures
from wavfusion.runs.folder import Run
from wavfusion.training.data import Data

log = logging.getLogger(__name__)

EPOCHS, PATIENCE, RATE, WEIGHT_DECAY, WARMUP, CLIP = 60, 10, 3e-4, 0.01, 0.1, 1.0


def train_context(trained: Run, data: Data, kind: Any, seed: int, device: str = "cpu") -> FittedContext:
    """Train a `past` or `whole` context on the training part, keep its best epoch by validation weighted F1.

    The epoch before the first, which is WavFusion itself, is among those that are compared.
    """
    parts = {
        name: _classified(trained, data, data.part(part), device)
        for name, part in (("train", "train"), ("valid", data.protocol.selected_on))
    }
    (rows, found), valid = parts["train"], parts["valid"]
    torch.manual_seed(seed)
    vectors = found.vectors
    assert vectors is not None
    config = ContextConfig(vectors.shape[1], len(trained.classes), kind)
    model = TurnContext(config).to(device)
    model.get_buffer("log_prior").copy_(torch.tensor(trained.prior).clamp(min=1e-6).log())
    weights = trained.model.class_weights if trained.model.config.task_loss == "balanced" else None
    dialogues = turns_of(rows, found, trained.classes)
    steps = EPOCHS * math.ceil(len(dialogues) / BATCH)
    optimiser = torch.optim.AdamW(model.parameters(), RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _share(step / steps))
    best, best_score, since = copy.deepcopy(model), _weighted_f1(model, trained, *valid, device), 0
    for epoch in range(EPOCHS):
        _epoch(model, optimiser, schedule, dialogues, weights, seed + epoch, device)
        score = _weighted_f1(model, trained, *valid, device)
        since = 0 if score > best_score else since + 1
        if since == 0:
            best, best_score = copy.deepcopy(model), score
        if since >= PATIENCE:
            break
    log.info("context: %d epochs, validation weighted F1 %.4f", epoch + 1, best_score)
    return FittedContext(best.cpu(), _temperature(best, trained, *valid, device))


def _share(done: float) -> float:
    """Of the rate: from 0 in the first tenth of the steps, then back to it."""
    return min(done / WARMUP, (1 - done) / (1 - WARMUP))


def _classified(trained: Run, data: Data, rows: Sequence[Utterance], device: str) -> tuple[list[Utterance], Utterances]:
    """Classify rows by the model alone, without a temperature; the rows in the order of the predictions."""
    samples = samples_of(trained, rows, data.store, data.media)
    found = classify(network(trained).to(device), samples, trained.model.config.modalities, trained.prior, device)
    by_id = {row.id: row for row in rows}
    return [by_id[key] for key in found.ids], found


def _epoch(
    model: TurnContext,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    dialogues: Sequence[DialogueVectors],
    weights: torch.Tensor | None,
    seed: int,
    device: str,
) -> None:
    torch.manual_seed(seed)
    model.train()
    for batch in dialogue_batches(dialogues, BATCH, seed):
        moved = batch.to(device)
        optimiser.zero_grad()
        scores = model(moved.vectors[VECTORS], moved.vectors[SCORES], moved.present[VECTORS], moved.mask, moved.slot)
        loss = turn_loss(scores, moved.label, weights)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        schedule.step()


def _truth(trained: Run, rows: Sequence[Utterance]) -> np.ndarray:
    return np.array([trained.classes.index(str(row.emotion)) for row in rows], dtype=np.int64)


def _weighted_f1(model: TurnContext, trained: Run, rows: Sequence[Utterance], found: Utterances, device: str) -> float:
    predicted = add_context(FittedContext(model, 1.0), rows, found, device).probabilities.argmax(1)
    return float(figures(confusion_matrix(_truth(trained, rows), predicted, len(trained.classes)))["weighted_f1"])


def _temperature(model: TurnContext, trained: Run, rows: Sequence[Utterance], found: Utterances, device: str) -> float:
    probabilities = add_context(FittedContext(model, 1.0), rows, found, device).probabilities
    known = [number for number, names in enumerate(found.modalities) if names]
    return fit_temperature(probabilities[known], _truth(trained, rows)[known]) if known else 1.0
