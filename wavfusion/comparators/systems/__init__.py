"""The nine systems that the paper compares with, on our features, one file each, and two controls.

Given a batch of dialogues, each scores every turn. `SYSTEMS` names them as experiments do. docs/systems has a page of
each: what of the published system is kept, and what differs. May import `dialogues`, `model` and what lies below them.
"""

from wavfusion.comparators.systems.cogmen import COGMEN
from wavfusion.comparators.systems.controls import TurnGRU, TurnMLP
from wavfusion.comparators.systems.dialoguetrm import DialogueTRM
from wavfusion.comparators.systems.dialogxl import DialogXL
from wavfusion.comparators.systems.haan import HAAN
from wavfusion.comparators.systems.hitrans import HiTrans
from wavfusion.comparators.systems.m2fnet import M2FNet
from wavfusion.comparators.systems.mmdfn import MMDFN
from wavfusion.comparators.systems.mmgcn import MMGCN
from wavfusion.comparators.systems.unimse import UniMSE
from wavfusion.dialogues.model import DialogueModel

SYSTEMS: dict[str, type[DialogueModel]] = {
    "dialoguetrm": DialogueTRM,
    "hitrans": HiTrans,
    "dialogxl": DialogXL,
    "mmgcn": MMGCN,
    "cogmen": COGMEN,
    "mmdfn": MMDFN,
    "m2fnet": M2FNet,
    "unimse": UniMSE,
    "haan": HAAN,
    "turn_mlp": TurnMLP,
    "turn_gru": TurnGRU,
}
