"""A planted conversation: an emotion that stays with its speaker or jumps to the next, and what context is worth."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float64

from wavfusion.lookalike.world import PlantedClip, World, clip_likelihoods


@dataclass(frozen=True)
class Conversation:
    """Chances of a turn's emotion: that of the speaker's own last turn, of the turn before, else drawn anew."""

    own: float = 0.6
    other: float = 0.2

    def draw_emotions(self, world: World, speakers: Sequence[str], rng: np.random.Generator) -> list[str]:
        """Draw the emotion of every turn of a dialogue, given who speaks; each alone has the world's prior."""
        last: dict[str, str] = {}
        found: list[str] = []
        for speaker in speakers:
            fresh = str(rng.choice(list(world.cues), p=world.prior))
            chance = rng.random()
            if chance < self.own:
                emotion = last.get(speaker, fresh)
            elif chance < self.own + self.other:
                emotion = found[-1] if found else fresh
            else:
                emotion = fresh
            last[speaker] = emotion
            found.append(emotion)
        return found

    def bayes_accuracy(
        self, world: World, dialogues: Sequence[Sequence[tuple[str, PlantedClip, float]]]
    ) -> dict[str, float]:
        """Accuracy of the Bayes-optimal rule on dialogues of speaker, clip and the speaker's arousal offset.

        `alone` sees the turn, `past` earlier turns, too, `whole` all of them; offsets are unknown to all three.
        """
        right, count = np.zeros(3), 0
        numbers = {name: number for number, name in enumerate(world.cues)}
        for turns in dialogues:
            likelihoods = clip_likelihoods(world, [(clip, offset) for _, clip, offset in turns])
            truth = np.array([numbers[clip.emotion] for _, clip, _ in turns])
            past, whole = self._posteriors(world, [speaker for speaker, _, _ in turns], likelihoods)
            every = (likelihoods * world.prior, past, whole)
            right += [(table.argmax(1) == truth).sum() for table in every]
            count += len(turns)
        return dict(zip(("alone", "past", "whole"), (right / count).tolist(), strict=True))

    def _posteriors(
        self, world: World, speakers: Sequence[str], likelihoods: Float64[np.ndarray, "N C"]
    ) -> tuple[Float64[np.ndarray, "N C"], Float64[np.ndarray, "N C"]]:
        """Filter and smooth over the last emotions of all speakers (forward and backward recursion)."""
        names = list(dict.fromkeys(speakers))
        size = len(world.prior)
        states = np.array(list(product(range(size), repeat=len(names))))
        seats = [names.index(speaker) for speaker in speakers]
        steps = [self._transition(world, states, seats, turn) for turn in range(len(seats))]
        forward = [np.prod(world.prior[states], axis=1)]
        for turn, seat in enumerate(seats):
            belief = (forward[-1] @ steps[turn]) * likelihoods[turn][states[:, seat]]
            forward.append(belief / belief.sum())
        backward = [np.ones(len(states))]
        for turn in range(len(seats) - 1, 0, -1):
            message = steps[turn] @ (likelihoods[turn][states[:, seats[turn]]] * backward[-1])
            backward.append(message / message.max())
        backward.reverse()

        def of_turn(belief: Float64[np.ndarray, " S"], seat: int) -> Float64[np.ndarray, " C"]:
            return np.bincount(states[:, seat], belief, minlength=size)

        past = np.stack([of_turn(forward[turn + 1], seat) for turn, seat in enumerate(seats)])
        whole = np.stack([of_turn(forward[turn + 1] * backward[turn], seat) for turn, seat in enumerate(seats)])
        return past, whole

    def _transition(
        self, world: World, states: np.ndarray, seats: Sequence[int], turn: int
    ) -> Float64[np.ndarray, "S S"]:
        """P(last emotions after a turn | before it): those of everybody but the speaker stay."""
        seat = seats[turn]
        others = [number for number in range(states.shape[1]) if number != seat]
        same = (states[:, None, others] == states[None, :, others]).all(-1)
        new, fresh = states[None, :, seat], world.prior[states[:, seat]][None]
        own = states[:, None, seat] == new if seat in seats[:turn] else fresh
        other = states[:, None, seats[turn - 1]] == new if turn else fresh
        rest = 1 - self.own - self.other
        return np.asarray(same * (self.own * own + self.other * other + rest * fresh))
