"""Clusters: which utterances of a test set depend on each other, so that intervals and tests resample them whole."""

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

MIN_CLUSTERS = 5  # below, no verdict and no interval for new speakers
UNITS = ("dialogue", "recording", "speaker", "text")  # the smallest first
ALONE = "utterance"


class Clusters(NamedTuple):
    """The cluster of each utterance; one without a name (None) is alone in its own."""

    unit: str  # one of UNITS, or ALONE
    names: Sequence[Hashable | None]

    @property
    def n(self) -> int:
        """How many there are."""
        return len(set(self.names) - {None}) + sum(name is None for name in self.names)


def choose_clusters(columns: Mapping[str, Sequence[Hashable | None]]) -> Clusters:
    """Choose the smallest unit that is independent in a test set, from its columns by the names of `UNITS`.

    It is the first of dialogue, recording, speaker and text that holds two utterances or more on average: a "dialogue"
    of its own for every utterance is none. Where no column does, it is the largest of dialogue, recording and speaker
    (some texts are equal by chance), and where each utterance differs from all others in them, the utterance.

    Sources: Cameron and Miller, A practitioner's guide to cluster-robust inference, J. Human Resources 50, 2015,
    section IV (clusters are what is drawn independently); Clark, The language-as-fixed-effect fallacy, J. Verbal
    Learning and Verbal Behavior 12, 1973 (who says fixed sentences is a sample, the sentences are none).
    """
    known = [Clusters(unit, columns[unit]) for unit in UNITS if unit in columns]
    for each in known:
        if 2 * each.n <= len(each.names):
            return each
    some = [each for each in known if each.n < len(each.names) and each.unit != "text"]
    alone = Clusters(ALONE, [None] * len(next(iter(columns.values()), ())))
    return min(some, key=lambda each: each.n, default=alone)
