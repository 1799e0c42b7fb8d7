"""Dialogues as batches: one vector a turn and modality, padded to the longest dialogue."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from wavfusion.manifest import Utterance

NOBODY, UNLABELLED = -1, -1  # the speaker slot of padding, and the label of padding and of turns without a class

Vectors = Mapping[str, tuple[Float[Tensor, "U _"], Bool[Tensor, " U"]]]  # by modality: every utterance's, and if it has


@dataclass(frozen=True)
class DialogueVectors:
    """The turns of one dialogue, in order.

    Attributes:
        ids: of the utterances.
        vectors: one a turn, by modality.
        present: which turns have the modality.
        slot: speakers numbered from 0 by their first turn; a turn without a known speaker is a speaker of its own.
        label: number of the emotion, `UNLABELLED` where a turn has none of the classes.
        steps: the features [T, D] of each turn before they are averaged, where a model reads them; [0, D] if absent.
    """

    ids: list[str]
    vectors: dict[str, Float[Tensor, "N _"]]
    present: dict[str, Bool[Tensor, " N"]]
    slot: Int[Tensor, " N"]
    label: Int[Tensor, " N"]
    steps: dict[str, list[Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class DialogueBatch:
    """Several dialogues, padded behind; fields as in `DialogueVectors`.

    Attributes:
        mask: which turns are real.
    """

    ids: list[list[str]]
    vectors: dict[str, Float[Tensor, "B N _"]]
    present: dict[str, Bool[Tensor, "B N"]]
    mask: Bool[Tensor, "B N"]
    slot: Int[Tensor, "B N"]
    label: Int[Tensor, "B N"]
    steps: dict[str, list[list[Tensor]]] = field(default_factory=dict)

    def to(self, device: str) -> "DialogueBatch":
        """Move the tensors to a device."""
        moved = {name: getattr(self, name).to(device) for name in ("mask", "slot", "label")}
        vectors, present = ({name: x.to(device) for name, x in each.items()} for each in (self.vectors, self.present))
        return DialogueBatch(self.ids, vectors, present, **moved, steps=self.steps)


def group_by_dialogue(utterances: Sequence[Utterance]) -> list[list[int]]:
    """Return the positions of the utterances of each dialogue, in the order of their index.

    An utterance without a dialogue is a dialogue of its own; one without an index stands where the manifest has it.
    """
    found: dict[str, list[int]] = {}
    for number, row in enumerate(utterances):
        found.setdefault(f"dialogue {row.dialogue}" if row.dialogue else f"utterance {row.id}", []).append(number)
    order = {number: row.index for number, row in enumerate(utterances)}
    if any(index is None for index in order.values()):
        return list(found.values())
    return [sorted(numbers, key=lambda number: order[number] or 0) for numbers in found.values()]


def number_speakers(speakers: Sequence[str | None]) -> Int[Tensor, " N"]:
    """Number the speakers of a dialogue by their first turn."""
    slots: dict[object, int] = {}
    keys = [speaker if speaker else number for number, speaker in enumerate(speakers)]
    return torch.tensor([slots.setdefault(key, len(slots)) for key in keys], dtype=torch.long)


def make_dialogues(
    utterances: Sequence[Utterance],
    vectors: Vectors,
    classes: Sequence[str],
    steps: Mapping[str, Sequence[Tensor]] | None = None,
) -> list[DialogueVectors]:
    """Cut utterances and their vectors, which are in the same order, into dialogues."""
    numbers = {name: number for number, name in enumerate(classes)}
    dialogues = []
    for places in group_by_dialogue(utterances):
        rows = [utterances[place] for place in places]
        labels = [numbers.get(row.emotion or "", UNLABELLED) for row in rows]
        dialogues.append(
            DialogueVectors(
                ids=[row.id for row in rows],
                vectors={name: x[places] for name, (x, _) in vectors.items()},
                present={name: has[places] for name, (_, has) in vectors.items()},
                slot=number_speakers([row.speaker for row in rows]),
                label=torch.tensor(labels, dtype=torch.long),
                steps={name: [each[place] for place in places] for name, each in (steps or {}).items()},
            )
        )
    return dialogues


def collate_dialogues(dialogues: Sequence[DialogueVectors]) -> DialogueBatch:
    """Pad dialogues to a batch."""
    names = dialogues[0].vectors

    def padded(tensors: Sequence[Tensor], value: int = 0) -> Tensor:
        return pad_sequence(list(tensors), batch_first=True, padding_value=value)

    return DialogueBatch(
        ids=[each.ids for each in dialogues],
        vectors={name: padded([each.vectors[name] for each in dialogues]) for name in names},
        present={name: padded([each.present[name] for each in dialogues]) for name in names},
        mask=padded([torch.ones(len(each.ids), dtype=torch.bool) for each in dialogues]),
        slot=padded([each.slot for each in dialogues], NOBODY),
        label=padded([each.label for each in dialogues], UNLABELLED),
        steps={name: [each.steps[name] for each in dialogues] for name in dialogues[0].steps},
    )


def dialogue_batches(
    dialogues: Sequence[DialogueVectors], size: int, seed: int | None = None
) -> Iterator[DialogueBatch]:
    """Batch whole dialogues, in their order, or shuffled by a seed."""
    order = list(range(len(dialogues)))
    if seed is not None:
        order = torch.randperm(len(dialogues), generator=torch.Generator().manual_seed(seed)).tolist()
    for start in range(0, len(order), size):
        yield collate_dialogues([dialogues[number] for number in order[start : start + size]])
