"""What of a recording was labelled and what was left out: together they are the whole, which is asserted here."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

Times = tuple[float, float]  # start and end, in seconds of the recording

PAUSE, UNTRANSCRIBED = "no speech", "not in the transcript"
ROUNDING = 0.002  # seconds: times are rounded to 0.1 ms, those of transcripts to 1 ms


class LeftOut(NamedTuple):
    """A stretch of a recording that has no label, and why."""

    start: float
    end: float
    reason: str


def gaps(spans: Iterable[Times], length: float, reason: str) -> list[LeftOut]:
    """What spans do not cover of a recording of some length."""
    found, at = list[LeftOut](), 0.0
    for start, end in sorted([*spans, (length, length)]):
        if start > at:
            found.append(LeftOut(at, start, reason))
        at = max(at, end)
    return found


def account(length: float, labelled: Iterable[Times], left_out: Iterable[LeftOut]) -> list[LeftOut]:
    """Return what was left out and not labelled otherwise, in order and without overlap.

    Asserts that both together are the whole recording.
    """
    changes: list[tuple[float, int, str | None]]
    changes = [(min(at, length), sign, None) for span in labelled for at, sign in zip(span, (1, -1), strict=True)]
    changes += [
        (min(at, length), sign, each.reason) for each in left_out for at, sign in ((each.start, 1), (each.end, -1))
    ]
    changes.sort(key=lambda change: change[0])
    active: Counter[str | None] = Counter()
    found = list[LeftOut]()
    for (at, sign, reason), following in pairwise([(0.0, 0, None), *changes, (length, 0, None)]):
        active[reason] += sign
        why = None if active[None] else next((each for each, count in active.items() if each and count), "")
        if why is None or following[0] <= at:
            continue
        assert why or following[0] - at < ROUNDING, (
            f"{at:.3f} to {following[0]:.3f} s were neither labelled nor left out"
        )
        if found and why and found[-1].end == at and found[-1].reason == why:
            found[-1] = found[-1]._replace(end=following[0])
        elif why:
            found.append(LeftOut(at, following[0], why))
    return found


def seconds_by_reason(left_out: Iterable[LeftOut]) -> dict[str, float]:
    """Add up how much was left out for each reason."""
    seconds: dict[str, float] = {}
    for each in left_out:
        seconds[each.reason] = seconds.get(each.reason, 0.0) + each.end - each.start
    return seconds


def summary(length: float, left_out: Sequence[LeftOut]) -> str | None:
    """Say in one line how much was left out and why; None where there were only pauses, of less than half of it."""
    seconds = seconds_by_reason(left_out)
    total = sum(seconds.values())
    if total - seconds.get(PAUSE, 0.0) < 0.05 and total <= length / 2:
        return None
    parts = ", ".join(f"{each:.1f} s {reason}" for reason, each in seconds.items())
    return f"{total:.1f} of {length:.1f} s are left out: {parts}"
