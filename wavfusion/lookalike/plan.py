"""Dialogues of the look-alike corpus in both layouts, drawn before anything is rendered."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np

from wavfusion.lookalike.conversation import Conversation
from wavfusion.lookalike.face import Identity, draw_identity
from wavfusion.lookalike.sentences import sentence
from wavfusion.lookalike.voice import Timbre, draw_timbre
from wavfusion.lookalike.world import PlantedClip, World, draw

TURNS = 12  # utterances in a dialogue
CAST = 3  # speakers of one MELD dialogue

NAMES = (
    "Alice Boris Clara Dmitri Elena Felix Greta Hugo Irene Jonas Karin Leo Maria Nils Olga Pavel Quinn Rosa Stefan "
    "Ulrich Vera Walter Xenia Yusuf Zelda Anton Berta Carlo Dora Emil Flora"
).split()


@dataclass(frozen=True)
class Speaker:
    """An invented person; `offset` is added to the arousal of every utterance."""

    name: str
    timbre: Timbre
    identity: Identity
    offset: float


@dataclass(frozen=True)
class Turn:
    """One utterance; `seed` draws its audio and video, rendering gives its seconds on the dialogue's clock."""

    id: str
    speaker: Speaker
    clip: PlantedClip
    text: str
    seed: tuple[int, ...]
    start: float = 0.0
    end: float = 0.0


@dataclass(frozen=True)
class Dialogue:
    """The turns of one dialogue; `cast` begins with the actor on the left."""

    name: str
    part: str
    cast: tuple[Speaker, ...]
    turns: tuple[Turn, ...]


def plan_dialogues(
    world: World,
    parts: dict[str, int],
    speakers: dict[str, int],
    seed: int,
    conversation: Conversation | None = None,
) -> list[Dialogue]:
    """Draw every dialogue of a corpus, from the clips and speakers of each part; for IEMOCAP two make a session.

    Without a conversation the turns of a dialogue have nothing to do with each other.
    """
    numbers, voices = count(), count()
    layout = _iemocap_dialogues if world.corpus == "iemocap" else _meld_dialogues
    dialogues: list[Dialogue] = []
    for part, clips in parts.items():
        people = [_speaker(world, next(voices), seed) for _ in range(speakers[part])]
        for name, cast, heads in layout(part, clips, people):
            emotions: list[str | None] = [None] * len(heads)
            if conversation is not None:
                rng = np.random.default_rng((seed, 4, len(dialogues)))
                emotions = [*conversation.draw_emotions(world, [speaker.name for _, speaker in heads], rng)]
            turns = [
                _turn(world, key, speaker, (seed, next(numbers)), emotion)
                for (key, speaker), emotion in zip(heads, emotions, strict=True)
            ]
            dialogues.append(Dialogue(name, part, cast, tuple(turns)))
    return dialogues


# Name, cast, and the id and speaker of every turn.
Layout = Iterator[tuple[str, tuple[Speaker, ...], list[tuple[str, Speaker]]]]


def _speaker(world: World, number: int, seed: int) -> Speaker:
    rng = np.random.default_rng((seed, 1, number))
    cycle, place = divmod(number, len(NAMES))
    name = f"Ses{number // 2 + 1:02d}{'FM'[number % 2]}"
    if world.corpus == "meld":
        name = NAMES[place] + (f" {cycle + 1}" if cycle else "")
    offset = float(rng.normal(0, world.offset_sd))
    return Speaker(name, draw_timbre(rng), draw_identity(rng), offset)


def _turn(world: World, key: str, speaker: Speaker, seed: tuple[int, int], emotion: str | None) -> Turn:
    rng = np.random.default_rng((seed[0], 2, seed[1]))
    clip = draw(world, rng, emotion)
    return Turn(key, speaker, clip, sentence(rng, clip.group, clip.phone), (seed[0], 3, seed[1]))


def _iemocap_dialogues(part: str, clips: int, people: list[Speaker]) -> Layout:
    """Plan sessions of two, who take turns on the left."""
    pairs = list(zip(people[::2], people[1::2], strict=True))
    for pair, share in zip(pairs, _shares(clips, len(pairs)), strict=True):
        for number, size in enumerate(_sizes(share)):
            cast = pair if number % 2 == 0 else pair[::-1]
            name = f"{cast[0].name}_impro{number // 2 + 1:02d}"
            heads = [(f"{name}_{cast[turn % 2].name[-1]}{turn // 2:03d}", cast[turn % 2]) for turn in range(size)]
            yield name, cast, heads


def _meld_dialogues(part: str, clips: int, people: list[Speaker]) -> Layout:
    """Plan dialogues of three, in which all speakers take part equally often."""
    for number, size in enumerate(_sizes(clips)):
        cast = tuple(people[(CAST * number + seat) % len(people)] for seat in range(CAST))
        name = f"{part}_dia{number}"
        yield name, cast, [(f"{name}_utt{turn}", cast[turn % CAST]) for turn in range(size)]


def _shares(total: int, parts: int) -> list[int]:
    return [total // parts + (index < total % parts) for index in range(parts)]


def _sizes(total: int) -> list[int]:
    """Divide into dialogues of at most TURNS, as equal as possible."""
    return _shares(total, -(-total // TURNS)) if total else []
