"""What every model over dialogues has: standardised vectors, weights of the emotions, and its loss."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from wavfusion.dialogues.batch import UNLABELLED, DialogueBatch, DialogueVectors
from wavfusion.dialogues.losses import turn_loss
from wavfusion.model.config import MODALITIES


class DialogueModel(nn.Module):
    """A model that classifies every turn of a dialogue from one vector a turn and modality.

    Args:
        widths: of the vectors, by modality; a model may be built for some of the modalities only.
        num_classes: the number of emotions.
    """

    reads_steps = False  # whether it needs the features of every step, beside their mean
    sees: Literal["turn", "past", "whole"] = "whole"  # which turns it looks at to score one

    def __init__(self, widths: Mapping[str, int], num_classes: int) -> None:
        super().__init__()
        self.widths = {name: widths[name] for name in MODALITIES if name in widths}
        self.num_classes = num_classes
        self.register_buffer("class_weights", torch.ones(num_classes))  # in the loss
        for name, width in self.widths.items():
            self.register_buffer(f"{name}_mean", torch.zeros(width))
            self.register_buffer(f"{name}_deviation", torch.ones(width))

    @torch.no_grad()
    def fit(self, dialogues: Sequence[DialogueVectors], balanced: bool) -> None:
        """Standardise by the present vectors of the training part, and weigh emotions by 1 / share where `balanced`."""
        for name in self.widths:
            known = torch.cat([each.vectors[name][each.present[name]] for each in dialogues]).double()
            if len(known):
                deviation = known.std(0, correction=0)
                self.get_buffer(f"{name}_mean").copy_(known.mean(0))
                self.get_buffer(f"{name}_deviation").copy_(torch.where(deviation > 0, deviation, 1.0))
        if balanced:
            labels = torch.cat([each.label for each in dialogues])
            counts = torch.bincount(labels[labels != UNLABELLED], minlength=self.num_classes)
            self.get_buffer("class_weights").copy_(torch.where(counts > 0, len(labels) / counts.clamp(min=1), 0.0))

    def inputs(self, batch: DialogueBatch) -> dict[str, Float[Tensor, "B N _"]]:
        """Standardise the vectors; 0 where a turn lacks the modality, and at padding."""
        found = {}
        for name in self.widths:
            x = (batch.vectors[name] - self.get_buffer(f"{name}_mean")) / self.get_buffer(f"{name}_deviation")
            found[name] = x.masked_fill(~batch.present[name][..., None], 0.0)
        return found

    def forward(self, batch: DialogueBatch) -> Float[Tensor, "B N C"]:
        """Score the emotions of every turn; what comes out at padding has no meaning."""
        raise NotImplementedError

    def loss(self, batch: DialogueBatch) -> Float[Tensor, ""]:
        """Return what training minimises: the cross-entropy of the labelled turns, unless a model says otherwise."""
        return turn_loss(self(batch), batch.label, self.get_buffer("class_weights"))


def turn_probabilities(
    model: nn.Module, batches: Iterator[DialogueBatch], device: str = "cpu"
) -> Iterator[tuple[str, Float[Tensor, " C"], Bool[Tensor, ""]]]:
    """Classify turns; gives the id, the probabilities and whether the turn has any modality, dialogue by dialogue."""
    model.eval()
    for batch in batches:
        with torch.inference_mode():
            probabilities = model(batch.to(device)).double().softmax(-1).cpu()
        known = torch.stack(list(batch.present.values())).any(0)
        for ids, rows, has in zip(batch.ids, probabilities, known, strict=True):
            yield from zip(ids, rows, has, strict=False)
