"""A segment of a recording, and the row of a file that gives one or says why it does not."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from wavfusion.errors import ConfigError

CLOCK = r"(?:(\d{1,5}):)?(\d{1,3}):(\d{1,2}(?:[.,]\d{1,9})?)"  # hours, minutes and seconds
MOST = 500_000  # rows of a file, so that any is read in seconds
PAUSE = 0.5  # seconds without a word that end an utterance, where a file has the times of words alone
LONGEST = 15.0  # seconds of an utterance of words: what the model takes at once
_CLOCK = re.compile(rf"\s*{CLOCK}\s*")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_FIELDS = ("start", "end", "speaker", "text")


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording in which one person speaks.

    Attributes:
        start, end: seconds in the recording; an infinite end is the recording's.
        speaker, text: None where unknown.
    """

    start: float
    end: float
    speaker: str | None = None
    text: str | None = None


class Row(NamedTuple):
    """A row of a file."""

    place: str  # in the file, for messages
    segment: Segment | str  # or why it is none
    recording: str | None = None  # the name of the recording that it belongs to, where the file names one


def clean(text: str | None) -> str | None:
    """Join the words of a text by single blanks; None where there are none.

    Control characters are left out, and lone surrogates replaced: JSON can hold both, other formats cannot.
    """
    words = " ".join((text or "").encode("utf-8", "replace").decode().split())
    return _CONTROL.sub("", words) or None


def seconds(value: object) -> float:
    """Convert a number of seconds, or a time as 0:00:01.5, or raise a ValueError, TypeError or OverflowError."""
    if isinstance(value, str):
        clock = _CLOCK.fullmatch(value)
        return clock_seconds(*clock.groups()) if clock else float(value.replace(",", "."))
    return float(value)  # type: ignore[arg-type]  # what is no number is the caller's error


def clock_seconds(hours: str | None, minutes: str, rest: str) -> float:
    """Add up what `CLOCK` matches."""
    return round(3600 * int(hours or 0) + 60 * int(minutes) + float(rest.replace(",", ".")), 3)


def make_row(
    place: str, start: Any, end: Any, speaker: str | None, text: str | None, recording: str | None = None
) -> Row:
    """Make a row of two times as a file has them; no end is an open one."""
    try:
        times = seconds(start), math.inf if end is None else seconds(end)
        return Row(place, Segment(*times, speaker, text), recording)
    except (ValueError, TypeError, OverflowError):
        return Row(place, f"expected two times, found {start!r:.30} and {end!r:.30}", recording)


def fault(segment: Segment) -> str | None:
    """Say why a segment is none: its times."""
    if 0 <= segment.start < segment.end and segment.start < math.inf:
        return None
    return f"expected a start before its end, found {segment.start:g} to {segment.end:g} s"


def close(segments: Iterable[Segment]) -> list[Segment]:
    """Sort segments; an open end is where the next segment starts, or at last the recording's end."""
    ordered = sorted(segments, key=lambda each: (each.start, each.end))
    following, after = math.inf, []
    for each, later in zip(reversed(ordered), [None, *reversed(ordered)], strict=False):
        if later is not None and later.start > each.start:
            following = later.start
        after.append(replace(each, end=following) if each.end == math.inf else each)
    return after[::-1]


def join_words(words: Iterable[Segment]) -> Iterator[Segment]:
    """Join the words of one speaker to utterances, divided at pauses and where one would last too long."""
    spoken: list[Segment] = []
    for word in sorted(words, key=lambda each: (each.start, each.end)):
        if spoken and (word.start - spoken[-1].end > PAUSE or word.end - spoken[0].start > LONGEST):
            yield _utterance(spoken)
            spoken = []
        spoken.append(word)
    if spoken:
        yield _utterance(spoken)


def _utterance(words: Sequence[Segment]) -> Segment:
    text = " ".join(each.text or "" for each in words)
    return Segment(words[0].start, max(each.end for each in words), words[0].speaker, text)


def as_segments(values: Any) -> list[Segment]:
    """Check segments that a program hands over: `Segment`s, mappings or objects with these names, or tuples.

    Raises:
        ConfigError: something else, or an end that does not lie after its start; names the first.
    """
    expected = "expected segments= as a sequence of (start, end), (start, end, speaker, text) or Segment"
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise ConfigError(f"{expected}, found {type(values).__name__}")
    segments = []
    for number, value in enumerate(values):
        try:
            segment = _as_segment(value)
            reason = fault(segment)
        except (ValueError, TypeError, LookupError, OverflowError):
            reason = f"{expected}, found {value!r:.80}"
        if reason:
            raise ConfigError(f"segments[{number}]: {' '.join(reason.split())}")
        segments.append(segment)
    return segments


def _as_segment(value: Any) -> Segment:
    if isinstance(value, Mapping):
        fields = [value["start"], value["end"], value.get("speaker"), value.get("text")]
    elif hasattr(value, "start") and hasattr(value, "end"):
        fields = [getattr(value, name, None) for name in _FIELDS]
    else:
        fields = list(value)
        if isinstance(value, (str, bytes)) or len(fields) not in (2, 4):
            raise ValueError("neither two fields nor four")
    start, end, speaker, text = (*fields, None, None)[:4]
    if not (text is None or isinstance(text, str)) or not (speaker is None or isinstance(speaker, (str, int))):
        raise TypeError("expected text")
    words = text and text.encode("utf-8", "replace").decode()
    end = math.inf if end is None else round(float(end), 6)
    return Segment(round(float(start), 6), end, None if speaker is None else clean(str(speaker)), words or None)
