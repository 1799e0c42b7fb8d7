"""The planted conversation of the look-alike corpora: its draws, and what context is worth in it."""

from itertools import product

import numpy as np
import pytest

from wavfusion.lookalike.conversation import Conversation
from wavfusion.lookalike.plan import plan_dialogues
from wavfusion.lookalike.world import World, clip_likelihoods, draw

WORLD = World("iemocap")
PARTS, PEOPLE = {"train": 600, "valid": 60, "test": 60}, {"train": 8, "valid": 2, "test": 2}


def emotions_of(conversation: Conversation, count: int = 4000) -> list[list[str]]:
    draws = np.random.default_rng(0)
    return [conversation.draw_emotions(WORLD, "abab", draws) for _ in range(count)]


def test_every_turn_alone_has_the_prior_of_the_world() -> None:
    drawn = emotions_of(Conversation())
    for turn in range(4):
        shares = [np.mean([each[turn] == name for each in drawn]) for name in WORLD.cues]
        assert shares == pytest.approx(WORLD.prior, abs=0.03)


def test_an_emotion_stays_with_its_speaker_and_jumps_to_the_next_as_planted() -> None:
    drawn = emotions_of(Conversation(own=0.5, other=0.3))
    by_chance = float((WORLD.prior**2).sum())
    # The own last turn, or the turn before where it happens to be the same, or a fresh draw.
    same = np.mean([each[2] == each[0] for each in drawn])
    before = 0.3 + 0.7 * by_chance  # the second speaker has no last turn: 0.5 + 0.2 are fresh
    assert same == pytest.approx(0.5 + 0.3 * before + 0.2 * by_chance, abs=0.03)
    assert np.mean([each[1] == each[0] for each in drawn]) == pytest.approx(before, abs=0.03)


def test_posteriors_are_those_of_a_sum_over_all_sequences() -> None:
    conversation, speakers = Conversation(own=0.5, other=0.3), ["a", "b", "a", "a"]
    draws = np.random.default_rng(1)
    clips = [(draw(WORLD, draws), 0.2) for _ in speakers]
    likelihoods = clip_likelihoods(WORLD, clips)
    past, whole = conversation._posteriors(WORLD, speakers, likelihoods)
    size = len(WORLD.prior)

    def chance(sequence: tuple[int, ...]) -> float:
        total, last = 1.0, dict[str, int]()
        for turn, (speaker, emotion) in enumerate(zip(speakers, sequence, strict=False)):
            fresh = WORLD.prior[emotion]
            own = float(last[speaker] == emotion) if speaker in last else fresh
            other = float(sequence[turn - 1] == emotion) if turn else fresh
            total *= 0.5 * own + 0.3 * other + 0.2 * fresh
            last[speaker] = emotion
        return total

    for turn in range(4):
        for table, seen in ((past, turn + 1), (whole, 4)):
            sums = np.zeros(size)
            for sequence in product(range(size), repeat=seen):
                heard = np.prod([likelihoods[i, emotion] for i, emotion in enumerate(sequence)])
                sums[sequence[turn]] += chance(sequence) * heard
            assert table[turn] / table[turn].sum() == pytest.approx(sums / sums.sum(), abs=1e-9)


def test_context_is_worth_something_in_a_conversation_and_nothing_in_its_null() -> None:
    planned = plan_dialogues(WORLD, PARTS, PEOPLE, 0, Conversation())
    turns = [[(turn.speaker.name, turn.clip, turn.speaker.offset) for turn in each.turns] for each in planned]
    found = Conversation().bayes_accuracy(WORLD, turns)
    assert found["alone"] + 0.03 < found["past"] < found["whole"]
    null = Conversation(own=0.0, other=0.0).bayes_accuracy(WORLD, turns)
    assert null["past"] == null["whole"] == null["alone"] == found["alone"]


def test_without_a_conversation_a_corpus_is_drawn_as_before() -> None:
    plain, again = (plan_dialogues(WORLD, PARTS, PEOPLE, 0, *more) for more in ((), (None,)))
    assert plain == again
    planted = plan_dialogues(WORLD, PARTS, PEOPLE, 0, Conversation())
    assert [turn.id for each in planted for turn in each.turns] == [turn.id for each in plain for turn in each.turns]
    assert [turn.clip.irony for each in planted for turn in each.turns] == [
        turn.clip.irony for each in plain for turn in each.turns
    ]
