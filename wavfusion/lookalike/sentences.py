"""Sentences of the look-alike corpus: a cue word of one of four groups, and a phrase that may mention a phone call."""

from collections.abc import Mapping, Sequence

import numpy as np

CUES: Mapping[str, Sequence[str]] = {
    "pos": ("wonderful", "lovely", "delightful", "brilliant", "splendid", "marvellous"),
    "blame": ("unfair", "disgraceful", "outrageous", "shameful", "ridiculous", "insulting"),
    "loss": ("heartbreaking", "hopeless", "lonely", "tragic", "sorrowful", "painful"),
    "plain": ("ordinary", "usual", "standard", "regular", "average", "typical"),
}
PHONE = ("on the phone", "over the phone", "by telephone", "down the line", "in a phone call", "on the other line")
HERE = ("in the kitchen", "at the table", "by the window", "near the door", "in this room", "at the office")
OPENERS = ("Well,", "You know,", "So,", "Look,", "I mean,", "Okay,", "Right,", "Listen,")
CLAUSES = ("it was", "that is", "this was", "he was", "she is", "they were", "it all was", "we were")


def sentence(rng: np.random.Generator, group: str, phone: bool) -> str:
    """Draw a sentence of about seven words with a cue word of `group` and, if `phone`, a mention of a phone call."""
    words = rng.choice(CLAUSES), rng.choice(CUES[group]), rng.choice(PHONE if phone else HERE)
    return f"{rng.choice(OPENERS)} {' '.join(words)}."
