"""Subtitles: SubRip (SRT) and WebVTT."""

import html
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import takewhile

from wavfusion.errors import CorpusError
from wavfusion.transcripts.segment import Located, Segment, one_line

_CLOCK = r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)"
_TIMES = re.compile(rf"\s*{_CLOCK}\s*-->\s*{_CLOCK}")
_VOICE = re.compile(r"<v(?:\.[^ \t>]*)?[ \t]+([^>]*)>")
_NAME = re.compile(r"([^\W\d_][\w .'’-]{0,39}):(?:\s|$)")
_MARKUP = re.compile(r"<[^>]*>|\{\\[^}]*\}")


def has_cues(text: str) -> bool:
    """Tell whether a text holds lines of times, as SRT and WebVTT do."""
    return any(_TIMES.match(line) for line in text.splitlines())


def parse_subtitles(text: str) -> Iterator[Located]:
    """Parse the cues of SRT or WebVTT; a name before a colon is the speaker where the file uses such names."""
    cues = list(_cues(text))
    names = [_leading_name(each) for _, each in cues]
    counts = Counter(name for name in names if name)
    unnamed = sum(each.speaker is None for _, each in cues)
    # A rare "Listen: ..." is no name.
    are_names = min(counts.values(), default=0) > 1 or 2 * counts.total() >= unnamed
    for (place, each), name in zip(cues, names, strict=True):
        if name and are_names:
            yield place, replace(each, speaker=name, text=one_line(_NAME.sub("", each.text or "", count=1)))
        else:
            yield place, each


def _leading_name(cue: Segment) -> str | None:
    """Return the name that opens a cue: in capitals, or up to three capitalized words."""
    found = _NAME.match(cue.text or "") if cue.speaker is None else None
    words = found[1].split() if found else []
    titled = len(words) <= 3 and all(word[0].isupper() or word.isdecimal() for word in words)
    return " ".join(words) if titled or " ".join(words).isupper() else None


def _cues(text: str) -> Iterator[Located]:
    """Yield each cue: a line of times, then text up to an empty line."""
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        if "-->" not in line:
            continue
        cue = _TIMES.match(line)
        if cue is None:
            raise CorpusError(
                f"line {number}: expected times as 00:00:01,000 --> 00:00:02,000, found {line.strip()[:60]!r}"
            )
        start, end = (_seconds(*cue.groups()[i : i + 3]) for i in (0, 3))
        content = _until_empty(lines)
        voice = _VOICE.search(content)
        speaker = one_line(html.unescape(voice[1])) if voice else None
        yield f"line {number}", Segment(start, end, speaker, one_line(html.unescape(_MARKUP.sub("", content))))


def _until_empty(lines: Iterator[tuple[int, str]]) -> str:
    return "\n".join(line for _, line in takewhile(lambda numbered: numbered[1].strip(), lines))


def _seconds(hours: str | None, minutes: str, seconds: str) -> float:
    return round(3600 * int(hours or 0) + 60 * int(minutes) + float(seconds.replace(",", ".")), 3)
