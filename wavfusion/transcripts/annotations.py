"""Annotations: Praat's TextGrid, ELAN's EAF and CHAT, with their tiers of utterances, words and phones."""

import logging
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple
from xml.etree import ElementTree

from wavfusion.errors import CorpusError
from wavfusion.transcripts.markup import parse_xml
from wavfusion.transcripts.segment import Row, Segment, fault, join_words, make_row

log = logging.getLogger(__name__)

# Unclosed brackets end with their line, so that a text full of open ones is read in linear time.
_VALUE = re.compile(r'"((?:[^"]|"")*)"|\[[^\]\n]*\]?|(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)|<(exists|absent)>')
# How `predict` names its tiers; those of a speaker who overlaps with himself have numbers.
_OURS = re.compile(r"(emotion|words)((?: \d{1,4})?(?: of (.+))?)", re.DOTALL)
_SILENCE = {"", "sil", "sp", "spn", "<sil>", "<eps>", "<p:>"}
_WORDS = {"word", "words", "token", "tokens"}
_PARTS = {"phone", "phones", "phoneme", "phonemes", "phon", "phons", "syllable", "syllables", "mau", "ipa", "sampa"}
_OF_WORDS = re.compile(r"[\W_]*(?:words?|tokens?|ort-mau)$|^(?:words?|tokens?)[\W_]+", re.IGNORECASE)
_TEXTS = {"tx", "text", "transcription", "transcript", "utterance", "utterances", "ort", "orthography", "phrase"}
_CODE = re.compile(r"\S*\d\S*|[\W_]*")
_BULLET = re.compile("\x15(\\d{1,12})_(\\d{1,12})\x15")
_CHAT_CODES = re.compile(r"\[[^\[\]]*\]|\([.\d]*\)|(?<!\S)[&+]\S*|[()<>‹›„‡]|\b(?:xxx|yyy|www)\b|@\w\S*")


class Tier(NamedTuple):
    """A named row of intervals."""

    name: str
    speaker: str | None  # where the format names one apart from the tier
    rows: list[Row]


def utterances(tiers: Iterable[Tier]) -> Iterator[Row]:
    """Choose what is an utterance: no emotion that `predict` wrote, and no words or phones beside other tiers.

    Of several tiers each name is a speaker. Where words alone are annotated, they are joined up to their pauses.
    """
    tiers = [tier for tier in tiers if tier.rows]
    emotions, texts = _answers(tiers)
    rest = [tier._replace(rows=_spoken(tier.rows)) for tier in tiers if tier.name not in {*emotions, *texts}]
    rest = [tier for tier in rest if tier.rows]
    others, words = ([tier for tier in rest if _level(tier.name) == level] for level in (None, "words"))
    if texts or not others:
        for name, rows in emotions.items():
            ours = _OURS.fullmatch(name)
            assert ours
            yield from _labelled(rows, texts.get(f"words{ours[2]}", []), ours[3])
    for tier in others:
        speaker = tier.speaker or (tier.name if len(others) > 1 else None)
        yield from (_by(speaker, row) for row in tier.rows)
    if not others and not emotions:
        for tier in words:
            owner = _OF_WORDS.sub("", tier.name) if len(tier.name) < 200 else tier.name
            yield from _joined(tier.rows, tier.speaker or owner)
        if rest and not words:
            found = ", ".join(tier.name for tier in rest)[:80]
            raise CorpusError(f"expected a tier of utterances or words, found {found}")


def _answers(tiers: Sequence[Tier]) -> tuple[dict[str, list[Row]], dict[str, list[Row]]]:
    """Return the tiers of emotions, and those of words that belong to one of them, as `predict` writes them."""
    found: dict[str, dict[str, list[Row]]] = {"emotion": defaultdict(list), "words": defaultdict(list)}
    for tier in tiers:
        if ours := _OURS.fullmatch(tier.name):
            found[ours[1]][tier.name] += [row for row in tier.rows if isinstance(row.segment, str) or row.segment.text]
    emotions = found["emotion"]
    return emotions, {name: rows for name, rows in found["words"].items() if f"emotion{name[5:]}" in emotions}


def _spoken(rows: Iterable[Row]) -> list[Row]:
    """Leave out intervals of silence; an annotation of nothing at all is an utterance without words."""
    return [
        row
        for row in rows
        if isinstance(row.segment, str) or row.segment.text is None or row.segment.text.strip() not in _SILENCE
    ]


def _level(name: str) -> Literal["words", "parts"] | None:
    """Tell a tier of words or of their parts by its name: `words`, `anna - phones`, `ORT-MAU`."""
    tokens = [token for token in re.split(r"[\W_]+", name.casefold()) if token]
    if tokens[-2:] == ["ort", "mau"] or _WORDS.intersection(tokens[:1] + tokens[-1:]):
        return "words"
    return "parts" if _PARTS.intersection(tokens[:1] + tokens[-1:]) else None


def _by(speaker: str | None, row: Row, text: str | None = None) -> Row:
    """Give a row its speaker and, where a text is given, its words."""
    if isinstance(row.segment, str):
        return row
    words = row.segment.text if text is None else text or None
    return row._replace(segment=replace(row.segment, speaker=speaker, text=words))


def _sorted(rows: Iterable[Row]) -> tuple[list[Row], list[tuple[Segment, Row]]]:
    """Divide rows into those without usable times, and the segments of the others in order."""
    usable = [(row.segment, row) for row in rows if isinstance(row.segment, Segment) and not fault(row.segment)]
    bad = [row for row in rows if isinstance(row.segment, str) or fault(row.segment)]
    return bad, sorted(usable, key=lambda each: each[0].start)


def _labelled(emotions: Iterable[Row], words: Iterable[Row], speaker: str | None) -> Iterator[Row]:
    """Join the utterances of a tier of emotions with their words; words outside of them are utterances too."""
    bad, spans = _sorted(emotions)
    odd, spoken = _sorted(words)
    yield from (*bad, *odd)
    starts = [segment.start for segment, _ in spans]
    within: dict[int, list[str]] = defaultdict(list)
    outside = []
    for segment, row in spoken:
        middle = (segment.start + segment.end) / 2
        number = bisect_right(starts, middle) - 1
        if number >= 0 and middle <= spans[number][0].end:
            within[number].append(segment.text or "")
        else:
            outside.append(row)
    for number, (_, row) in enumerate(spans):
        yield _by(speaker, row, " ".join(within[number]))
    yield from _joined(outside, speaker)


def _joined(rows: Iterable[Row], speaker: str | None) -> Iterator[Row]:
    bad, words = _sorted(rows)
    yield from bad
    for segment in join_words(segment for segment, _ in words):
        yield Row(f"words at {segment.start:g} s", replace(segment, speaker=speaker))


def parse_textgrid(text: str) -> Iterator[Row]:
    """Parse the interval tiers of a TextGrid, long or short form."""
    try:
        tiers = _textgrid_tiers(text)
    except StopIteration:
        raise ValueError("its end too early") from None
    yield from utterances(tiers)


def _textgrid_tiers(text: str) -> list[Tier]:
    found = (m[1].replace('""', '"') if m[1] is not None else m[2] or m[3] for m in _VALUE.finditer(text))
    values = (value for value in found if value is not None)
    if next(values, None) != "ooTextFile" or next(values, None) != "TextGrid":
        raise CorpusError("expected a TextGrid of Praat, found another text")
    float(next(values)), float(next(values))
    tiers = []
    for _ in range(int(next(values)) if next(values) == "exists" else 0):
        kind, name, _, _ = [next(values) for _ in range(4)]
        is_tier, rows = kind == "IntervalTier", []
        for number in range(1, int(next(values)) + 1):
            start, end, content = next(values), next(values) if is_tier else "0", next(values)
            rows.append(make_row(f"tier {name!r:.60}, interval {number}", float(start), float(end), None, content))
        if is_tier:
            tiers.append(Tier(name, None, rows))
    return tiers


def parse_eaf(text: str) -> Iterator[Row]:
    """Parse ELAN's tiers without a parent; the speaker is a tier's participant, or else its name.

    Where their annotations are numbers or codes, the words are those of a tier below that refers to them.
    """
    root = parse_xml(text)
    if root.tag != "ANNOTATION_DOCUMENT":
        raise CorpusError(f"expected ELAN's ANNOTATION_DOCUMENT, found <{root.tag[:40]}>")
    origins = {each.get("TIME_ORIGIN", "0") for each in root.iter("MEDIA_DESCRIPTOR")} - {"0"}
    if origins:
        log.warning("ELAN shifts a recording by %s ms; times are those of its timeline", ", ".join(sorted(origins)[:3]))
    slots = {each.get("TIME_SLOT_ID"): each.get("TIME_VALUE") for each in root.iter("TIME_SLOT")}
    children: dict[str | None, list[ElementTree.Element]] = defaultdict(list)
    for element in root.iter("TIER"):
        children[element.get("PARENT_REF")].append(element)
    tiers = []
    for element in children[None]:
        name = element.get("TIER_ID", "")
        rows = _aligned(element, slots)
        values = [row.segment.text or "" for row in rows.values() if isinstance(row.segment, Segment)]
        if children.get(name) and all(map(_CODE.fullmatch, values)):
            rows = _from_below(rows, name, children, slots)
        tiers.append(Tier(name, element.get("PARTICIPANT"), list(rows.values())))
    yield from utterances(tiers)


def _aligned(tier: ElementTree.Element, slots: Mapping[str | None, str | None]) -> dict[str | None, Row]:
    """Return the annotations of a tier that have times of their own, by their names."""
    rows = {}
    for each in tier.iter("ALIGNABLE_ANNOTATION"):
        place = f"annotation {each.get('ANNOTATION_ID')}"
        times = [slots.get(each.get(f"TIME_SLOT_REF{number}")) for number in (1, 2)]
        if None in times:
            rows[each.get("ANNOTATION_ID")] = Row(place, "expected two times, found none")
        else:
            start, end = (int(value or 0) / 1000 for value in times)
            words = (each.findtext("ANNOTATION_VALUE") or "").strip() or None
            rows[each.get("ANNOTATION_ID")] = Row(place, Segment(start, end, None, words))
    return rows


def _from_below(
    rows: dict[str | None, Row],
    name: str,
    children: Mapping[str | None, list[ElementTree.Element]],
    slots: Mapping[str | None, str | None],
) -> dict[str | None, Row]:
    """Return the rows of a tier with the words of the first tier below it that has any."""
    below, parents = list(children[name]), dict[str | None, str | None]()
    candidates: list[tuple[bool, int, dict[str | None, Row], dict[str | None, list[str]]]] = []
    for tier in below:  # grows meanwhile; a tier is the child of one other, so that this ends
        below += children.get(tier.get("TIER_ID"), []) if tier.get("TIER_ID") != name else []
        referring = list(tier.iter("REF_ANNOTATION"))
        parents |= {each.get("ANNOTATION_ID"): each.get("ANNOTATION_REF") for each in referring}
        aligned = _aligned(tier, slots)
        texts: dict[str | None, list[str]] = defaultdict(list)
        for each in referring:
            texts[_root(each.get("ANNOTATION_ID"), parents)].append(each.findtext("ANNOTATION_VALUE") or "")
        words = [word for found in texts.values() for word in found]
        words += [row.segment.text or "" for row in aligned.values() if isinstance(row.segment, Segment)]
        if _level(tier.get("TIER_ID", "")) != "parts" and not all(map(_CODE.fullmatch, words)):
            tokens = re.split(r"[\W_]+", tier.get("TIER_ID", "").casefold())
            candidates.append((_TEXTS.isdisjoint(tokens[:1] + tokens[-1:]), len(candidates), aligned, texts))
    if not candidates:
        return rows
    *_, aligned, texts = min(candidates, key=lambda each: each[:2])
    return aligned or {key: _by(None, row, " ".join(texts[key])) for key, row in rows.items()}


def _root(key: str | None, parents: dict[str | None, str | None]) -> str | None:
    """Follow references upwards; each that was followed points to the end afterwards, so that all take linear time."""
    path = dict[str | None, None]()
    while key in parents and key not in path:
        path[key] = None
        key = parents[key]
    parents.update(dict.fromkeys(path, key))
    return key


def parse_chat(text: str) -> Iterator[Row]:
    """Parse the main tiers of CHAT, whose times stand in bullets; the speaker is its code, as in `*CHI:`."""
    lines: list[tuple[int, str]] = []
    is_main = False
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith("\t") and is_main:
            lines[-1] = lines[-1][0], f"{lines[-1][1]} {line.strip()}"
        elif is_main := line.startswith("*"):
            lines.append((number, line))
    for number, line in lines:
        code, _, content = line[1:].partition(":")
        times = _BULLET.findall(content)
        words = _CHAT_CODES.sub("", _BULLET.sub("", content))
        if times:
            yield make_row(f"line {number}", int(times[0][0]) / 1000, int(times[-1][1]) / 1000, code, words)
        else:
            yield Row(f"line {number}", f"expected times in a bullet, found {line[:60]!r}")
