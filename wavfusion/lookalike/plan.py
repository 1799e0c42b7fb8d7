"""Dialogues of the look-alike corpus in both layouts, drawn before anything is rendered."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np

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
    """One invented person; `offset` is added to the arousal of every utterance."""

    name: str
    timbre: Timbre
    identity: Identity
    offset: float


@dataclass(frozen=True)
class Turn:
    """One utterance before it is rendered; `seed` draws its audio and video."""

    id: str
    speaker: Speaker
    clip: PlantedClip
    text: str
    seed: tuple[int, ...]


@dataclass(frozen=True)
class Dialogue:
    """The turns of one dialogue; `cast` begins with the actor on the left."""

    name: str
    part: str
    cast: tuple[Speaker, ...]
    turns: tuple[Turn, ...]


def plan_dialogues(world: World, parts: dict[str, int], speakers: dict[str, int], seed: int) -> list[Dialogue]:
    """Draw every dialogue of a corpus.

    Args:
        world: the probabilities.
        parts: clips of each part of the split.
        speakers: people of each part; for IEMOCAP an even number, as two make a session.
        seed: of every draw.
    """
    numbers = count()
    layout = _iemocap_dialogues if world.corpus == "iemocap" else _meld_dialogues
    people = _people(world, speakers, seed)
    planned = (each for part, clips in parts.items() for each in layout(part, clips, people[part]))
    dialogues = []
    for name, part, cast, heads in planned:
        turns = [_turn(world, key, speaker, (seed, next(numbers))) for key, speaker in heads]
        dialogues.append(Dialogue(name, part, cast, tuple(turns)))
    return dialogues


# Name, part, cast, and the id and speaker of every turn.
Layout = Iterator[tuple[str, str, tuple[Speaker, ...], list[tuple[str, Speaker]]]]


def _people(world: World, speakers: dict[str, int], seed: int) -> dict[str, list[Speaker]]:
    numbers = count()
    return {part: [_speaker(world, next(numbers), seed) for _ in range(size)] for part, size in speakers.items()}


def _speaker(world: World, number: int, seed: int) -> Speaker:
    rng = np.random.default_rng((seed, 1, number))
    cycle = number // len(NAMES)
    names = {
        "iemocap": f"Ses{number // 2 + 1:02d}{'FM'[number % 2]}",
        "meld": NAMES[number % len(NAMES)] + (f" {cycle + 1}" if cycle else ""),
    }
    offset = float(rng.normal(0, world.offset_sd))
    return Speaker(names[world.corpus], draw_timbre(rng), draw_identity(rng), offset)


def _turn(world: World, key: str, speaker: Speaker, seed: tuple[int, int]) -> Turn:
    rng = np.random.default_rng((seed[0], 2, seed[1]))
    clip = draw(world, rng)
    return Turn(key, speaker, clip, sentence(rng, clip.group, clip.phone), (seed[0], 3, seed[1]))


def _iemocap_dialogues(part: str, clips: int, people: list[Speaker]) -> Layout:
    """Plan sessions of two, who take turns on the left."""
    pairs = list(zip(people[::2], people[1::2], strict=True))
    for pair, share in zip(pairs, _shares(clips, len(pairs)), strict=True):
        for number, size in enumerate(_sizes(share)):
            cast = pair if number % 2 == 0 else pair[::-1]
            name = f"{cast[0].name}_impro{number // 2 + 1:02d}"
            heads = [(f"{name}_{cast[turn % 2].name[-1]}{turn // 2:03d}", cast[turn % 2]) for turn in range(size)]
            yield name, part, cast, heads


def _meld_dialogues(part: str, clips: int, people: list[Speaker]) -> Layout:
    """Plan dialogues of three, in which all speakers take part equally often."""
    for number, size in enumerate(_sizes(clips)):
        cast = tuple(people[(CAST * number + seat) % len(people)] for seat in range(CAST))
        name = f"{part}_dia{number}"
        yield name, part, cast, [(f"{name}_utt{turn}", cast[turn % CAST]) for turn in range(size)]


def _shares(total: int, parts: int) -> list[int]:
    return [total // parts + (index < total % parts) for index in range(parts)]


def _sizes(total: int) -> list[int]:
    """Divide into dialogues of at most TURNS, as equal as possible."""
    return _shares(total, -(-total // TURNS)) if total else []
