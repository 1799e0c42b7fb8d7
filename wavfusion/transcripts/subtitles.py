"""Subtitles and lyrics: SubRip, WebVTT, SubViewer, MicroDVD, SubStation Alpha, TTML, LRC, and Whisper's own lines."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple
from xml.etree import ElementTree

from wavfusion.errors import CorpusError
from wavfusion.transcripts.markup import local, parse_xml, without_tags
from wavfusion.transcripts.segment import CLOCK, Row, Segment, clean, clock_seconds, close, make_row

_TIMES = re.compile(rf"\s*{CLOCK}\s*-{{1,3}}>\s*{CLOCK}")
_COMMA_TIMES = re.compile(rf"\s*{CLOCK.replace('[.,]', '[.]')},{CLOCK.replace('[.,]', '[.]')}\s*$")
_ODD_TIMES = re.compile(rf"\s*(?:{CLOCK}\s*-->|\S{{1,20}}\s*-->\s*{CLOCK})")
_RANGE = re.compile(rf"\s*[\[(]?{CLOCK}(?:,|\s*(?:-{{1,3}}>|[→–-])\s*){CLOCK}")
_PRINTED = re.compile(rf"\s*\[{CLOCK} --> {CLOCK}\](.*)")
_STAMP = re.compile(r"\s*\[(?:(\d{1,3}):)?(\d{1,3}):(\d{1,2}(?:[.:]\d{1,3})?)\]")
_STAMPED_WORD = re.compile(r"<\d{1,3}:\d{1,2}(?:[.:]\d{1,3})?>")
_OFFSET = re.compile(r"\[offset:\s*([-+]?\d{1,9})\s*\]")
_VOICE = re.compile(r"<v(?:\.[^\s<>]*)?[ \t]([^<>]*)>")
_NAME = re.compile(r"([^\W\d_][\w .'’-]{0,39}):(?:\s|$)")
# How `predict` and its page write answers into SubRip and WebVTT.
_OUR_SRT = re.compile(r"(?:(.*): )?<i>\[(?:.{1,80}(?: \d{1,3}%|, corrected)|\?)\]</i>\s*$")
_OUR_VTT = re.compile(r"<c\.emotion>[^<]*</c>")
_OVERRIDE = re.compile(r"\{[^{}]*\}")
_DRAWING = re.compile(r"\{[^{}]*\\p[1-9]")
_FRAMES = re.compile(r"\{(\d{1,9})\}\{(\d{1,9})\}(.*)")
_TTML_TIME = re.compile(
    r"\s*(?:(\d{1,5}):(\d{1,2}):(\d{1,2}(?:\.\d{1,9})?)(?::(\d{1,4}))?|(\d{1,15}(?:\.\d{1,9})?)(h|m|s|ms|f|t))\s*"
)
_ASS_FIELDS = ["layer", "start", "end", "style", "name", "marginl", "marginr", "marginv", "effect", "text"]


class Cue(NamedTuple):
    """Lines of text and their times."""

    place: str
    start: float
    end: float
    lines: list[str]
    fault: str | None = None  # why the times are none


def has_times(text: str) -> bool:
    """Tell whether a text holds lines that begin with two times, or with one in brackets, and so is no plain text."""
    return any(_RANGE.match(line) or _STAMP.match(line) for line in text.split("\n"))


def parse_subtitles(text: str) -> Iterator[Row]:
    """Parse SRT or WebVTT; a name before a colon is the speaker where the file uses such names."""
    yield from _rows(_cues(text, _TIMES))


def parse_subviewer(text: str) -> Iterator[Row]:
    """Parse cues of SubViewer and YouTube, whose times stand on one line with a comma between."""
    yield from _rows(_cues(text.replace("[br]", "\n"), _COMMA_TIMES))


def parse_sub(text: str) -> Iterator[Row]:
    """Parse MicroDVD, whose first line has to give the frame rate, or SubViewer."""
    lines = [_FRAMES.match(line) for line in text.split("\n")]
    numbered = [(number, found) for number, found in enumerate(lines, 1) if found]
    if not numbered:
        yield from parse_subviewer(text)
        return
    _, first = numbered.pop(0)
    try:
        rate = float(first[3])
    except ValueError:
        rate = 0.0
    if not 1 <= rate <= 1000:
        raise CorpusError(
            "expected a first line {1}{1}25 with the frame rate, as times are frames, found none: convert it to .srt"
        )
    for number, found in numbered:
        start, end, content = found.groups()
        words = clean(_OVERRIDE.sub("", content).replace("|", " "))
        yield Row(f"line {number}", Segment(int(start) / rate, int(end) / rate, None, words))


def _cues(text: str, times: re.Pattern[str]) -> list[Cue]:
    """Divide a text at its lines of times; the number or name of a cue stands before its line."""
    lines = text.split("\n")
    heads = [number for number, line in enumerate(lines) if times.match(line) or _ODD_TIMES.match(line)]
    before = [line for line in lines[: heads[0] if heads else 0] if line.strip()]
    is_numbered, has_notes = bool(before) and before[-1].strip().isdecimal(), text.startswith("WEBVTT")
    cues = []
    for head, following in pairwise([*heads, len(lines)]):
        found, content = times.match(lines[head]), lines[head + 1 : following]
        if has_notes:
            content = _without_notes(content)
        if following < len(lines):
            content = _without_title(content, is_numbered)
        kept = [line for line in content if line.strip()]
        if found:
            start, end = (clock_seconds(*found.groups()[i : i + 3]) for i in (0, 3))
            cues.append(Cue(f"line {head + 1}", start, end, kept))
        else:
            fault = f"expected times as 00:00:01,000 --> 00:00:02,000, found {lines[head].strip()[:60]!r}"
            cues.append(Cue(f"line {head + 1}", math.nan, math.nan, kept, fault))
    return cues


def _without_notes(lines: Sequence[str]) -> list[str]:
    """Leave out WebVTT's blocks that are no cues, up to an empty line each."""
    kept, above, inside = list[str](), "text", False
    for line in lines:
        inside = bool(line.strip()) and (
            inside or (not above.strip() and line.split(" ")[0].strip() in ("NOTE", "STYLE", "REGION"))
        )
        if not inside:
            kept.append(line)
        above = line
    return kept


def _without_title(lines: list[str], is_numbered: bool) -> list[str]:
    """Leave out the last line where it is the number or name of the next cue."""
    last = next((i for i in reversed(range(len(lines))) if lines[i].strip()), -1)
    if last < 0:
        return lines
    is_name = last == len(lines) - 1 and last > 0 and not lines[last - 1].strip()
    is_title = lines[last].strip().isdecimal() if is_numbered else is_name
    return lines[:last] if is_title else lines


def _rows(cues: Sequence[Cue]) -> Iterator[Row]:
    """Turn cues into segments: one a voice."""
    yield from (Row(cue.place, cue.fault) for cue in cues if cue.fault)
    parts = [(cue, *part) for cue in _once(cues) if cue.fault is None for part in _voices(cue)]
    names = [_leading_name(text) if speaker is None and not ours else None for _, _, speaker, text, ours in parts]
    counts = Counter(name for name in names if name)
    unnamed = sum(speaker is None for _, _, speaker, _, _ in parts)
    # A rare "Listen: ..." is no name.
    are_names = min(counts.values(), default=0) > 1 or 2 * counts.total() >= unnamed
    for (cue, (first, last), speaker, text, _), name in zip(parts, names, strict=True):
        length = cue.end - cue.start
        start = cue.start if first == 0 or length == math.inf else round(cue.start + first * length, 3)
        end = cue.end if last == 1 or length == math.inf else round(cue.start + last * length, 3)
        if name and are_names:
            speaker, text = name, _NAME.sub("", text, count=1)
        yield Row(cue.place, Segment(start, end, speaker, text))


def _voices(cue: Cue) -> Iterator[tuple[tuple[float, float], str | None, str, bool]]:
    """Yield each voice of a cue: its share of the time, by length of text, its name and text, and if we wrote it."""
    lines, ours = cue.lines, _OUR_SRT.match(cue.lines[0]) if cue.lines else None
    if ours:
        yield (0, 1), clean(without_tags(ours[1] or "")), clean(without_tags("\n".join(lines[1:]))) or "", True
        return
    content, num_ours = _OUR_VTT.subn("", "\n".join(lines))
    before, *voices = _VOICE.split(content)
    named = [(None, before), *zip(map(without_tags, voices[::2]), voices[1::2], strict=True)]
    parts = [(clean(name), clean(without_tags(words)) or "") for name, words in named]
    spoken = [part for part in parts if part[1]] or parts[-1:]
    total, at = sum(len(words) for _, words in spoken), 0
    for name, words in spoken:
        share = (at / total, (at + len(words)) / total) if total else (0.0, 1.0)
        yield share, name, words, num_ours > 0
        at += len(words)


def _leading_name(text: str) -> str | None:
    """Return the name that opens a cue: in capitals, or up to three capitalized words."""
    found = _NAME.match(text)
    words = found[1].split() if found else []
    titled = len(words) <= 3 and all(word[0].isupper() or word.isdecimal() for word in words)
    return " ".join(words) if titled or " ".join(words).isupper() else None


def _once(cues: Sequence[Cue]) -> Sequence[Cue]:
    """Take a line that rolls up through several cues, as in captions made while one speaks, only where it is new."""
    shown = [[words for line in cue.lines if (words := clean(without_tags(line)))] for cue in cues]
    repeated = [0] if cues else []
    for (before, cue), (above, lines) in zip(pairwise(cues), pairwise(shown), strict=True):
        counts = range(1, 5) if cue.start - before.end <= 0.1 else ()
        repeated.append(max((n for n in counts if len(lines) >= n and above[-n:] == lines[:n]), default=0))
    rolls = any(0 < count < len(lines) for count, lines in zip(repeated, shown, strict=True))
    ours = any(_OUR_SRT.match(cue.lines[0]) or _OUR_VTT.search(cue.lines[0]) for cue in cues if cue.lines)
    if not rolls or ours or 2 * sum(map(bool, repeated)) < len(cues) - 1:
        return cues
    return [
        cue._replace(lines=[line for line in cue.lines if clean(without_tags(line))][count:])
        for cue, count, lines in zip(cues, repeated, shown, strict=True)
        if len(lines) > count
    ]


def is_printed(text: str) -> bool:
    """Tell whether a text has lines of two times in brackets, as Whisper prints them."""
    return any(map(_PRINTED.match, text.split("\n")))


def parse_printed(text: str) -> Iterator[Row]:
    """Parse what Whisper prints: lines of [00:00.000 --> 00:02.000] and text."""
    cues: list[Cue] = []
    for number, line in enumerate(text.split("\n"), 1):
        found = _PRINTED.match(line)
        if found:
            start, end = (clock_seconds(*found.groups()[i : i + 3]) for i in (0, 3))
            cues.append(Cue(f"line {number}", start, end, [found[7]]))
        elif cues:
            cues[-1].lines.append(line)
    yield from _rows(cues)


def parse_lrc(text: str) -> Iterator[Row]:
    """Parse lines with the time of their start in brackets; each ends where the next starts, an empty one too."""
    shift = next((float(found[1]) / 1000 for found in _OFFSET.finditer(text)), 0.0)
    starts: list[Segment] = []
    for line in text.split("\n"):
        at, times = 0, []
        while stamp := _STAMP.match(line, at):
            rest = stamp[3].replace(":", ".")
            times.append(max(0.0, round(clock_seconds(stamp[1], stamp[2], rest) - shift, 3)))
            at = stamp.end()
        starts += [Segment(time, math.inf, None, clean(_STAMPED_WORD.sub("", line[at:]))) for time in times]
    cues = [each for each in close(starts) if each.text]
    yield from _rows([Cue(f"{each.start:g} s", each.start, each.end, [each.text or ""]) for each in cues])


def is_lrc(text: str) -> bool:
    """Tell whether every line begins with a time in brackets."""
    lines = [line for line in text.split("\n") if line.strip()]
    return bool(lines) and all(_STAMP.match(line) for line in lines)


def parse_ass(text: str) -> Iterator[Row]:
    """Parse the dialogue of SubStation Alpha; the field `Name` is the speaker."""
    section, columns = "", _ASS_FIELDS
    for number, line in enumerate(text.split("\n"), 1):
        kind, _, rest = line.partition(":")
        kind = kind.strip().lower()
        if line.startswith("["):
            section = line.strip().lower()
        elif section == "[events]" and kind == "format":
            columns = [name.strip().lower() for name in rest.split(",")]
        elif section == "[events]" and kind == "dialogue":
            values = dict(zip(columns, rest.split(",", len(columns) - 1), strict=False))
            words = values.get("text", "")
            if not _DRAWING.search(words):
                words = re.sub(r"\\[Nnh]", " ", _OVERRIDE.sub("", words))
                speaker = values.get("name") or values.get("actor")
                yield make_row(f"line {number}", values.get("start"), values.get("end", ""), speaker, words)


def parse_ttml(text: str) -> Iterator[Row]:
    """Parse the paragraphs of TTML; its agents are the speakers."""
    root = parse_xml(text)
    if local(root.tag) != "tt":
        raise CorpusError(f"expected TTML's <tt>, found <{local(root.tag)[:40]}>")
    about = _attributes(root)
    rate = float(about.get("frameRate", 30))
    over, under = [*map(float, about.get("frameRateMultiplier", "1 1").split()), 1.0, 1.0][:2]
    rates = {"h": 1 / 3600, "m": 1 / 60, "s": 1.0, "ms": 1000.0}
    rates |= {"f": rate * over / under, "t": float(about.get("tickRate", 1))}
    agents: dict[str | None, str] = {}
    for each in root.iter():
        if local(each.tag) == "br":
            each.text = " "
        elif local(each.tag) == "agent":
            agents[_attributes(each).get("id")] = " ".join(each.itertext())
    open_elements: list[tuple[ElementTree.Element, float, str | None]] = [(root, 0.0, None)]
    number = 0
    while open_elements:
        element, offset, agent = open_elements.pop()
        found = _attributes(element)
        start, end, dur = (_ttml_seconds(found.get(name), rates) for name in ("begin", "end", "dur"))
        agent = found.get("agent", agent)
        if local(element.tag) != "p":
            open_elements += [(child, offset + (start or 0.0), agent) for child in reversed(element)]
            continue
        number += 1
        if end is None and start is not None and dur is not None:
            end = start + dur
        agent = agent or next((_attributes(each)["agent"] for each in element if "agent" in _attributes(each)), None)
        speaker, place = agents.get(agent, agent or ""), f"<p> {number}"
        if start is None or end is None:
            yield Row(place, f"expected begin and end, found {found.get('begin')!r:.30} and {found.get('end')!r:.30}")
        else:
            times = round(offset + start, 3), round(offset + end, 3)
            yield Row(place, Segment(*times, speaker, "".join(element.itertext())))


def _attributes(element: ElementTree.Element) -> dict[str, str]:
    return {local(name): value for name, value in element.items()}


def _ttml_seconds(value: str | None, rates: dict[str, float]) -> float | None:
    found = _TTML_TIME.fullmatch(value or "")
    if not found:
        return None
    hours, minutes, rest, frames, count, unit = found.groups()
    if unit:
        return float(count) / rates[unit]
    return clock_seconds(hours, minutes, rest) + int(frames or 0) / rates["f"]
