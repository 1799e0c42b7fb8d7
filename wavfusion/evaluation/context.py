"""Predictions in their dialogue: `TurnContext` applied to what WavFusion says of each turn."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from wavfusion.dialogues.batch import DialogueVectors, dialogue_batches, make_dialogues
from wavfusion.dialogues.context import FittedContext
from wavfusion.errors import ConfigError
from wavfusion.evaluation.inference import Utterances
from wavfusion.manifest import Utterance
from wavfusion.metrics.calibration import FLOOR, tempered

VECTORS, SCORES = "vectors", "scores"
BATCH = 16  # dialogues


def turns_of(rows: Sequence[Utterance], found: Utterances, classes: Sequence[str]) -> list[DialogueVectors]:
    """Cut predictions without a temperature into dialogues; `rows` are the utterances in the same order.

    Raises:
        ConfigError: the model does not return what its head classifies.
    """
    if found.vectors is None:
        raise ConfigError("a RUN with dialogue context needs the vectors of its model: runtime torch, not onnx")
    known = torch.tensor([bool(names) for names in found.modalities], dtype=torch.bool)
    scores = torch.from_numpy(np.log(np.maximum(found.probabilities, FLOOR))).float()
    vectors = {VECTORS: (torch.from_numpy(found.vectors).float(), known), SCORES: (scores, known)}
    return make_dialogues(rows, vectors, classes)


def as_dialogue(groups: Sequence[Utterances], speakers: Sequence[str | None]) -> tuple[list[Utterance], Utterances]:
    """Join the predictions of a recording to one dialogue; `speakers` are those of turns that have any modality."""
    places = [(group, i) for group in groups for i, names in enumerate(group.modalities) if names]
    vectors = [None if group.vectors is None else group.vectors[i] for group, i in places]
    found = Utterances(
        ids=[str(number) for number in range(len(places))],
        probabilities=np.stack([group.probabilities[i] for group, i in places]),
        text_share=[group.text_share[i] for group, i in places],
        modalities=[group.modalities[i] for group, i in places],
        vectors=None if any(x is None for x in vectors) else np.stack([x for x in vectors if x is not None]),
    )
    rows = [
        Utterance(id=key, corpus="recording", dialogue="recording", index=number, speaker=speaker)
        for number, (key, speaker) in enumerate(zip(found.ids, speakers, strict=True))
    ]
    return rows, found


def add_context(
    context: FittedContext, rows: Sequence[Utterance], found: Utterances, device: str = "cpu"
) -> Utterances:
    """Return the predictions in context; turns without any modality keep theirs."""
    context.model.to(device).eval()
    probabilities, place = found.probabilities.copy(), {key: number for number, key in enumerate(found.ids)}
    for batch in dialogue_batches(turns_of(rows, found, []), BATCH):
        moved = batch.to(device)
        with torch.inference_mode():
            vectors, scores = moved.vectors[VECTORS], moved.vectors[SCORES]
            output = context.model(vectors, scores, moved.present[VECTORS], moved.mask, moved.slot)
        shares = output.double().softmax(-1).cpu().numpy()
        for ids, of_dialogue, known in zip(batch.ids, shares, batch.present[VECTORS], strict=True):
            for key, row, has in zip(ids, of_dialogue, known, strict=False):
                if has:
                    probabilities[place[key]] = tempered(row, context.temperature)
    return replace(found, probabilities=probabilities)
