"""Who said what and when, as others wrote it: SRT, WebVTT, Praat's TextGrid, ELAN's EAF, RTTM, recognisers' JSON."""

import html
import json
import math
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from wavfusion.errors import CorpusError

DOCUMENTS = (b"PK\3\4", b"\xd0\xcf\x11\xe0", b"{\\rtf", b"%PDF")  # first bytes of docx and odt, doc, rtf and pdf


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording that somebody speaks.

    Attributes:
        start, end: seconds in the file.
        speaker, text: None where nobody told.
    """

    start: float
    end: float
    speaker: str | None = None
    text: str | None = None


Placed = tuple[str, Segment]  # a segment, and where in its file it stands


def is_timed(name: str | Path) -> bool:
    """Whether a file's name says that it holds times."""
    return Path(name).suffix.lower() in READERS


def read(path: str | Path) -> list[Segment]:
    """Read the segments of a file, in order of time; its name's ending says which format it is.

    Raises:
        CorpusError: not that format, a time that is none, an end before its start, or nothing in it.
    """
    path = Path(path)
    reader = READERS[path.suffix.lower()]
    try:
        found = list(reader(decoded(path.read_bytes())))
    except CorpusError as error:
        raise CorpusError(f"{path}: {error}") from None
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, SyntaxError) as error:
        reason = " ".join(str(error).split())[:120]
        raise CorpusError(f"{path}: expected {path.suffix[1:].lower()}, found {reason}") from None
    except OSError as error:
        raise CorpusError(f"{path}: expected a file that can be read, found {error.strerror}") from None
    if not found:
        raise CorpusError(f"{path}: expected {path.suffix[1:].lower()} with times, found none")
    for place, segment in found:
        if not 0 <= segment.start < segment.end < math.inf:
            times = f"{segment.start:g} to {segment.end:g} s"
            raise CorpusError(f"{path}: {place}: expected a start before its end, found {times}")
    whole = [replace(each, speaker=_whole(each.speaker), text=_whole(each.text)) for _, each in found]
    return sorted(whole, key=lambda each: (each.start, each.end))


def read_words(content: bytes) -> str:
    """Read plain text, without times.

    Raises:
        CorpusError: it is none.
    """
    if content.startswith(DOCUMENTS):
        raise CorpusError("expected plain text, found a document of an office program or a PDF: save it as .txt")
    text = decoded(content).strip()
    if any(_CUE.match(line) for line in text.splitlines()):
        raise CorpusError("expected plain text, found subtitles with times: give their file the ending .srt or .vtt")
    return text


def _whole(text: str | None) -> str | None:
    """Replace halves of surrogate pairs, which JSON may hold and no file."""
    return text and text.encode("utf-8", "replace").decode()


def decoded(content: bytes) -> str:
    """Decode text: Praat writes UTF-16 where a character asks for it, as some editors do; everybody else UTF-8.

    Raises:
        CorpusError: it is neither.
    """
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        raise CorpusError("expected UTF-8 or UTF-16, found other bytes") from None


def _words(text: str) -> str | None:
    return " ".join(text.split()) or None


# ---------------------------------------------------------------------- subtitles

_CLOCK = r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)"
_CUE = re.compile(rf"\s*{_CLOCK}\s*-->\s*{_CLOCK}")
_VOICE = re.compile(r"<v(?:\.[^ \t>]*)?[ \t]+([^>]*)>")
_NAME = re.compile(r"([^\W\d_][\w .'’-]{0,39}):(?:\s|$)")
_TAG = re.compile(r"<[^>]*>|\{\\[^}]*\}")


def _subtitles(text: str) -> Iterator[Placed]:
    """Read cues, of SRT and of WebVTT, and who speaks in them."""
    cues = list(_cues(text))
    names = [_name(each) for _, each in cues]
    counts = Counter(name for name in names if name)
    # "Listen: ..." once in a while is no name.
    taken = min(counts.values(), default=0) > 1 or 2 * counts.total() >= sum(each.speaker is None for _, each in cues)
    for (place, each), name in zip(cues, names, strict=True):
        if name and taken:
            yield place, replace(each, speaker=name, text=_words(_NAME.sub("", each.text or "", count=1)))
        else:
            yield place, each


def _name(cue: Segment) -> str | None:
    """The name at a cue's beginning, in capitals or of at most three words each of which begins with one."""
    found = _NAME.match(cue.text or "") if cue.speaker is None else None
    words = found[1].split() if found else []
    titled = len(words) <= 3 and all(word[0].isupper() or word.isdecimal() for word in words)
    return " ".join(words) if titled or " ".join(words).isupper() else None


def _cues(text: str) -> Iterator[Placed]:
    """A line of times, then words up to an empty line."""
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        if "-->" not in line:
            continue
        cue = _CUE.match(line)
        if cue is None:
            raise CorpusError(
                f"line {number}: expected times as 00:00:01,000 --> 00:00:02,000, found {line.strip()[:60]!r}"
            )
        start, end = (_seconds(*cue.groups()[i : i + 3]) for i in (0, 3))
        said = _until_empty(lines)
        voice = _VOICE.search(said)
        speaker = _words(html.unescape(voice[1])) if voice else None
        yield f"line {number}", Segment(start, end, speaker, _words(html.unescape(_TAG.sub("", said))))


def _until_empty(lines: Iterator[tuple[int, str]]) -> str:
    said = []
    for _, line in lines:
        if not line.strip():
            break
        said.append(line)
    return "\n".join(said)


def _seconds(hours: str | None, minutes: str, seconds: str) -> float:
    return round(3600 * int(hours or 0) + 60 * int(minutes) + float(seconds.replace(",", ".")), 3)


# ---------------------------------------------------------------------- Praat and ELAN

_VALUE = re.compile(r'"((?:[^"]|"")*)"|\[[^\]]*\]|(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)|<(exists|absent)>')
_NO_WORDS = re.compile(r"(?:words|phones|phonemes|syllables)$", re.IGNORECASE)


def _textgrid(text: str) -> Iterator[Placed]:
    """Read interval tiers, of the long and of the short form; with several, a tier's name is its speaker."""
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
    kept = {name: rows for name, rows in tiers.items() if not _NO_WORDS.search(name)} or tiers
    for name, rows in kept.items():
        for number, (start, end, said) in enumerate(rows, 1):
            if said.strip():
                place, speaker = f"tier {name!r}, interval {number}", name if len(kept) > 1 else None
                yield place, Segment(start, end, speaker, _words(said))


class _Undeclared(ElementTree.TreeBuilder):
    """A tree of XML that declares nothing of its own: entities made of entities fill the memory."""

    def doctype(self, name: str, *_: object) -> None:
        raise CorpusError(f"expected no DOCTYPE, as ELAN writes none, found one of {name[:40]!r}")


def _eaf(text: str) -> Iterator[Placed]:
    """Read the tiers of ELAN that stand on their own; a tier's participant is its speaker, or else its name."""
    parser = ElementTree.XMLParser(target=_Undeclared())
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
            yield place, Segment(start, end, speaker, _words(each.findtext("ANNOTATION_VALUE") or ""))


# ---------------------------------------------------------------------- who spoke when, and recognisers


def _rttm(text: str) -> Iterator[Placed]:
    """Read speaker turns of a diarisation; they have no words."""
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if not fields or fields[0] != "SPEAKER":
            continue
        try:
            start, length, speaker = float(fields[3]), float(fields[4]), fields[7]
        except (ValueError, IndexError):
            raise CorpusError(
                f"line {number}: expected SPEAKER file 1 start length ... name, found {line[:60]!r}"
            ) from None
        yield f"line {number}", Segment(start, round(start + length, 6), None if speaker == "<NA>" else speaker)


def _recognised(text: str) -> Iterator[Placed]:
    """Read JSON of Whisper and its kin, of whisper.cpp, of transformers' pipelines, and of `predict`."""
    content = json.loads(text)
    rows = content
    if isinstance(content, dict):
        named = [name for name in ("segments", "chunks", "transcription", "utterances") if name in content]
        if not named:
            raise CorpusError(
                f"expected `segments`, `chunks`, `transcription` or a list, found {', '.join(content)[:80]!r}"
            )
        rows = content[named[0]]
    if not isinstance(rows, list):
        raise CorpusError(f"expected a list of segments, found {str(rows)[:80]!r}")
    for number, row in enumerate(rows, 1):
        try:
            times = _times_of(row)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
            found = f"found {str(row)[:80]!r}"
            raise CorpusError(f"segment {number}: expected `start` and `end` in seconds, {found}") from None
        speaker = row.get("speaker")
        segment = Segment(*times, None if speaker is None else str(speaker), _words(str(row.get("text") or "")))
        yield f"segment {number}", segment


def _times_of(row: dict[str, Any]) -> tuple[float, float]:
    if "offsets" in row:  # whisper.cpp, in milliseconds
        return row["offsets"]["from"] / 1000, row["offsets"]["to"] / 1000
    start, end = row.get("timestamp") or (row["start"], row["end"])
    return float(start), float(end)


READERS: dict[str, Callable[[str], Iterator[Placed]]] = {
    ".srt": _subtitles,
    ".vtt": _subtitles,
    ".textgrid": _textgrid,
    ".eaf": _eaf,
    ".rttm": _rttm,
    ".json": _recognised,
}
