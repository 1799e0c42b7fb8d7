"""A segment of a recording."""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording, in seconds, in which one person speaks; what is not known is None."""

    start: float
    end: float
    speaker: str | None = None
    text: str | None = None


Located: TypeAlias = tuple[str, Segment]  # a segment, and its place in the file, for messages


def one_line(text: str) -> str | None:
    """Join the words of a text by single blanks; None where there are none."""
    return " ".join(text.split()) or None
