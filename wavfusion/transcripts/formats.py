"""The formats that hold segments: each parser turns a file's text into located segments.

Subtitles (SubRip, WebVTT), annotations (Praat's TextGrid, ELAN's EAF, RTTM of speaker diarisation), and the JSON of
speech recognisers (Whisper and its relatives, whisper.cpp, pipelines of transformers) and of `predict`.
"""

import html
import json
import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import takewhile
from typing import Any
from xml.etree import ElementTree

from wavfusion.errors import CorpusError
from wavfusion.transcripts.segment import Located, Segment, one_line

_CLOCK = r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)"
_TIMES = re.compile(rf"\s*{_CLOCK}\s*-->\s*{_CLOCK}")
_VOICE = re.compile(r"<v(?:\.[^ \t>]*)?[ \t]+([^>]*)>")
_NAME = re.compile(r"([^\W\d_][\w .'’-]{0,39}):(?:\s|$)")
_MARKUP = re.compile(r"<[^>]*>|\{\\[^}]*\}")
_VALUE = re.compile(r'"((?:[^"]|"")*)"|\[[^\]]*\]|(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)|<(exists|absent)>')
_NO_UTTERANCES = re.compile(r"(?:words|phones|phonemes|syllables)$", re.IGNORECASE)


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
            found = line.strip()[:60]
            raise CorpusError(f"line {number}: expected times as 00:00:01,000 --> 00:00:02,000, found {found!r}")
        start, end = (_seconds(*cue.groups()[i : i + 3]) for i in (0, 3))
        content = "\n".join(line for _, line in takewhile(lambda numbered: numbered[1].strip(), lines))
        voice = _VOICE.search(content)
        speaker = one_line(html.unescape(voice[1])) if voice else None
        yield f"line {number}", Segment(start, end, speaker, one_line(html.unescape(_MARKUP.sub("", content))))


def _seconds(hours: str | None, minutes: str, seconds: str) -> float:
    return round(3600 * int(hours or 0) + 60 * int(minutes) + float(seconds.replace(",", ".")), 3)


def parse_textgrid(text: str) -> Iterator[Located]:
    """Parse the interval tiers of a TextGrid, long or short form; of several tiers each name is a speaker."""
    values = [m[1].replace('""', '"') if m[1] is not None else m[2] or m[3] for m in _VALUE.finditer(text)]
    ahead = deque(value for value in values if value is not None)
    take = ahead.popleft
    if len(ahead) < 2 or take() != "ooTextFile" or take() != "TextGrid":
        raise CorpusError("expected a TextGrid of Praat, found another text")
    float(take()), float(take())
    tiers: dict[str, list[tuple[float, float, str]]] = {}
    for number in range(int(take()) if take() == "exists" else 0):
        kind, name, _, _ = (take() for _ in range(4))
        rows = [(float(take()), float(take()) if kind == "IntervalTier" else 0.0, take()) for _ in range(int(take()))]
        if kind == "IntervalTier":
            tiers[name if name not in tiers else f"{name} {number + 1}"] = rows
    kept = {name: rows for name, rows in tiers.items() if not _NO_UTTERANCES.search(name)} or tiers
    for name, rows in kept.items():
        for number, (start, end, content) in enumerate(rows, 1):
            if content.strip():
                place, speaker = f"tier {name!r}, interval {number}", name if len(kept) > 1 else None
                yield place, Segment(start, end, speaker, one_line(content))


class _TreeWithoutDoctype(ElementTree.TreeBuilder):
    """Refuses a DOCTYPE: nested entities could fill the memory."""

    def doctype(self, name: str, *_: object) -> None:
        raise CorpusError(f"expected no DOCTYPE, as ELAN writes none, found one of {name[:40]!r}")


def parse_eaf(text: str) -> Iterator[Located]:
    """Parse the independent tiers of ELAN; the speaker is a tier's participant, or else its name."""
    parser = ElementTree.XMLParser(target=_TreeWithoutDoctype())
    root = ElementTree.fromstring(text.encode(), parser)  # bytes, as the text may name its encoding
    if root.tag != "ANNOTATION_DOCUMENT":
        raise CorpusError(f"expected ELAN's ANNOTATION_DOCUMENT, found <{root.tag}>")
    slots = {each.get("TIME_SLOT_ID"): each.get("TIME_VALUE") for each in root.iter("TIME_SLOT")}
    tiers = [tier for tier in root.iter("TIER") if tier.get("PARENT_REF") is None and len(tier)]
    for tier in tiers:
        speaker = tier.get("PARTICIPANT") or (tier.get("TIER_ID") if len(tiers) > 1 else None)
        for each in tier.iter("ALIGNABLE_ANNOTATION"):
            place = f"annotation {each.get('ANNOTATION_ID')}"
            times = [slots.get(each.get(name)) for name in ("TIME_SLOT_REF1", "TIME_SLOT_REF2")]
            if None in times:
                raise CorpusError(f"{place}: expected two times, found none")
            start, end = (int(value or 0) / 1000 for value in times)
            yield place, Segment(start, end, speaker, one_line(each.findtext("ANNOTATION_VALUE") or ""))


def parse_rttm(text: str) -> Iterator[Located]:
    """Parse the speaker turns of a diarization, which have no text."""
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if not fields or fields[0] != "SPEAKER":
            continue
        try:
            start, length, speaker = float(fields[3]), float(fields[4]), fields[7]
        except (ValueError, IndexError):
            found = f"found {line[:60]!r}"
            raise CorpusError(f"line {number}: expected SPEAKER file 1 start length ... name, {found}") from None
        yield f"line {number}", Segment(start, round(start + length, 6), None if speaker == "<NA>" else speaker)


def parse_recognizer_json(text: str) -> Iterator[Located]:
    """Parse a list of segments, alone or under the name that one of these programs gives it."""
    content = json.loads(text)
    rows = content
    if isinstance(content, dict):
        named = [name for name in ("segments", "chunks", "transcription", "utterances") if name in content]
        if not named:
            found = ", ".join(content)[:80]
            raise CorpusError(f"expected `segments`, `chunks`, `transcription` or a list, found {found!r}")
        rows = content[named[0]]
    if not isinstance(rows, list):
        raise CorpusError(f"expected a list of segments, found {str(rows)[:80]!r}")
    for number, row in enumerate(rows, 1):
        try:
            start, end = _times(row)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
            found = f"found {str(row)[:80]!r}"
            raise CorpusError(f"segment {number}: expected `start` and `end` in seconds, {found}") from None
        speaker = row.get("speaker")
        segment = Segment(start, end, None if speaker is None else str(speaker), one_line(str(row.get("text") or "")))
        yield f"segment {number}", segment


def _times(row: dict[str, Any]) -> tuple[float, float]:
    if "offsets" in row:  # whisper.cpp, in milliseconds
        return row["offsets"]["from"] / 1000, row["offsets"]["to"] / 1000
    start, end = row.get("timestamp") or (row["start"], row["end"])
    return float(start), float(end)
