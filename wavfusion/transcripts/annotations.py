"""Annotations: Praat's TextGrid, ELAN's EAF, and RTTM of speaker diarisation."""

import re
from collections import deque
from collections.abc import Iterator
from xml.etree import ElementTree

from wavfusion.errors import CorpusError
from wavfusion.transcripts.segment import Located, Segment, one_line

_VALUE = re.compile(r'"((?:[^"]|"")*)"|\[[^\]]*\]|(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)|<(exists|absent)>')
_NO_UTTERANCES = re.compile(r"(?:words|phones|phonemes|syllables)$", re.IGNORECASE)


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
            raise CorpusError(
                f"line {number}: expected SPEAKER file 1 start length ... name, found {line[:60]!r}"
            ) from None
        yield f"line {number}", Segment(start, round(start + length, 6), None if speaker == "<NA>" else speaker)
