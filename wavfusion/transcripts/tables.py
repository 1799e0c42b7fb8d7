"""Tables of segments: of speech recognisers (JSON, TSV), evaluations (RTTM, CTM, STM), `predict`, and anybody."""

import csv
import io
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from statistics import median
from typing import Any, NamedTuple

from wavfusion.errors import CorpusError
from wavfusion.files import parse_json
from wavfusion.transcripts.segment import MOST, Row, Segment, fault, join_words, make_row, seconds

# What a column may be called, in small letters.
_COLUMNS = {
    "start": ("start", "start_time", "starttime", "begin", "begin_time", "onset", "tmin", "from"),
    "end": ("end", "end_time", "endtime", "stop", "offset", "tmax", "to"),
    "duration": ("duration", "dur", "length"),
    "speaker": ("speaker", "speaker_label", "speaker_id", "participant", "name", "tier"),
    "text": ("text", "transcript", "transcription", "utterance", "sentence", "words", "content"),
    "file": ("file", "filename", "file_name", "recording", "audio"),
}
_CALLED = {name: (column, rank) for column, names in _COLUMNS.items() for rank, name in enumerate(names)}
_UNIT = re.compile(r"(.{1,40}?)(?:[ _]|\s?[(\[])(ms|msec|milliseconds?|s|secs?|seconds?)[)\]]?")
_NAMES = ("text", "speaker", "file")
_LISTS = ("segments", "chunks", "transcription", "utterances", "audio_segments")
_LABEL = re.compile(r"\s*\d+(?:[.,]\d+)?\t\d+(?:[.,]\d+)?(?:\t|$)")
_NO_WORDS = {"<eps>", "<sil>", "sil", "sp", "<s>", "</s>"}
_UNSCORED = {"inter_segment_gap", "excluded_region", "IGNORE_TIME_SEGMENT_IN_SCORING"}
LONG, RATE = 100, 0.05  # times are milliseconds where they are whole, last this long, and have so few letters each


class _Column(NamedTuple):
    name: str  # one of _COLUMNS
    rank: int  # among those that hold the same, the lowest is taken
    scale: float | None  # seconds of its unit, where it names one


def is_label_track(text: str) -> bool:
    """Tell whether each line begins with two numbers and tabs, as Audacity writes its labels."""
    lines = [line for line in text.split("\n") if line.strip() and not line.startswith("\\")]
    return bool(lines) and all(map(_LABEL.match, lines))


def parse_table(text: str) -> Iterator[Row]:
    """Parse a table with a line of names, or Audacity's labels, divided by tabs, commas, semicolons or bars.

    Times are seconds, or hours and minutes with colons; or milliseconds where the column says so, or where all are
    whole numbers that would last too long for their text as seconds.
    """
    if is_label_track(text):
        text = "start\tend\ttext\n" + "\n".join(line for line in text.split("\n") if not line.startswith("\\"))
    first = next((line for line in text.split("\n") if line.strip()), "")
    delimiter = max("\t,;|", key=lambda each: len(_held(first.split(each))))
    if delimiter == "\t":  # Whisper writes no quotes around a text, Excel does
        records = [[_unquoted(field) for field in line.split("\t")] for line in text.split("\n")]
    else:
        try:
            records = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
        except csv.Error as error:
            raise CorpusError(f"expected a table, found {error}") from None
    numbered = [(number, record) for number, record in enumerate(records, 1) if any(map(str.strip, record))]
    _, names = numbered.pop(0) if numbered else (0, [])
    held = _held(names)
    if "start" not in held or not held & {"end", "duration"}:
        raise CorpusError(f"expected columns start, end and text, found {', '.join(names)[:80]!r}")
    yield from _rows((f"row {number}", dict(zip(names, values, strict=False))) for number, values in numbered)


def _unquoted(field: str) -> str:
    is_quoted = len(field) > 1 and field[0] == field[-1] == '"'
    return field[1:-1].replace('""', '"') if is_quoted else field


def _held(names: Iterable[str]) -> set[str]:
    return {column.name for name in names if (column := _column(name.strip('" ')))}


@lru_cache(1000)
def _column(name: str) -> _Column | None:
    """Return what a column or key holds; None for what no segment needs."""
    name = name.strip().lower()[:60]
    unit = None if name in _CALLED else _UNIT.fullmatch(name)
    called = _CALLED.get(unit[1] if unit else name)
    return called and _Column(*called, (0.001 if unit[2].startswith("m") else 1.0) if unit else None)


def _rows(records: Iterable[tuple[str, Any]]) -> Iterator[Row]:
    """Turn rows with named values into segments."""
    rows, are_whole = list[Row](), True
    for place, record in records:
        try:
            found, is_whole = _values(record)
            start, end, duration = found["start"], found.get("end"), found.get("duration")
            if end is None and duration is not None:
                end = round(start + duration, 6)
            elif end is None:
                end = found["end"] or math.inf
            text, speaker, file = (None if (x := found.get(name)) is None else str(x) for name in _NAMES)
            rows.append(Row(place, Segment(float(start), end, speaker, text), file))
            are_whole = are_whole and is_whole
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
            rows.append(Row(place, f"expected `start` and `end` in seconds, found {str(record)[:80]!r}"))
    segments = [row.segment for row in rows if isinstance(row.segment, Segment)]
    thousands = 1000 if are_whole and _are_milliseconds(segments) else 1
    for row in rows:
        segment = row.segment
        if isinstance(segment, Segment) and thousands > 1:
            segment = replace(segment, start=segment.start / thousands, end=segment.end / thousands)
        yield row._replace(segment=segment)


def _values(record: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return what a row holds, times in seconds, and whether these could be milliseconds instead."""
    best: dict[str, tuple[_Column, Any]] = {}
    for name, value in record.items():
        column = _column(str(name))
        if column and (column.name not in best or column.rank < best[column.name][0].rank):
            best[column.name] = column, value
    found, could_be = {name: None if value == "" else value for name, (_, value) in best.items()}, True
    for name in ("start", "end", "duration"):
        value = found.get(name)
        if value is not None:
            scale = best[name][0].scale
            could_be = could_be and scale is None and (isinstance(value, int) or str(value).strip().isdecimal())
            found[name] = round(seconds(value) * (scale or 1.0), 6)
    return found, could_be


def _are_milliseconds(segments: Sequence[Segment]) -> bool:
    spans = [each.end - each.start for each in segments if each.start < each.end < math.inf]
    letters = sum(len(each.text or "") for each in segments)
    return bool(spans) and median(spans) >= LONG and letters <= RATE * sum(spans)


def parse_recognizer_json(text: str) -> Iterator[Row]:
    """Parse a list of segments, alone or under the name that a recogniser's program gives it."""
    content = parse_json(text, "content", CorpusError, numbers=False)  # log-probabilities may be NaN
    if isinstance(content, dict) and isinstance(content.get("results"), dict):
        content = content["results"]
    rows = content
    if isinstance(content, dict):
        named = [name for name in _LISTS if name in content]
        if not named:
            found = ", ".join(content)[:80]
            raise CorpusError(f"expected `segments`, `chunks`, `transcription` or a list, found {found!r}")
        rows = content[named[0]]
    if not isinstance(rows, list):
        raise CorpusError(f"expected a list of segments, found {str(rows)[:80]!r}")
    if len(rows) > MOST:
        raise CorpusError(f"expected at most {MOST} segments, found {len(rows)}")
    yield from _rows((f"segment {number}", _flat(row)) for number, row in enumerate(rows, 1))


def _flat(row: Any) -> Any:
    """Take times out of the pairs in which whisper.cpp (milliseconds) and transformers (seconds) have them."""
    if not isinstance(row, dict):
        return row
    if isinstance(offsets := row.get("offsets"), dict):
        return {**row, "start_ms": offsets.get("from"), "end_ms": offsets.get("to")}
    if isinstance(times := row.get("timestamp"), list) and len(times) == 2:
        return {**row, "start": times[0], "end": times[1]}
    return row


def parse_rttm(text: str) -> Iterator[Row]:
    """Parse the speaker turns of a diarization, which have no text."""
    for number, line in enumerate(text.split("\n"), 1):
        fields = line.split()
        if not fields or fields[0] != "SPEAKER":
            continue
        try:
            start, length, speaker = float(fields[3]), float(fields[4]), fields[7]
            segment: Segment | str = Segment(start, round(start + length, 6), None if speaker == "<NA>" else speaker)
        except (ValueError, IndexError):
            segment = f"expected SPEAKER file 1 start length ... name, found {line[:60]!r}"
        yield Row(f"line {number}", segment, fields[1] if len(fields) > 1 else None)


def parse_ctm(text: str) -> Iterator[Row]:
    """Parse words with times, joined up to their pauses; a second channel of a recording is another speaker."""
    words: dict[str, dict[str, list[Segment]]] = defaultdict(lambda: defaultdict(list))
    for number, line in enumerate(text.split("\n"), 1):
        fields = line.split()
        if not fields or fields[0].startswith(";;"):
            continue
        try:
            file, channel, start, length, word = fields[0], fields[1], float(fields[2]), float(fields[3]), fields[4]
        except (ValueError, IndexError):
            yield Row(f"line {number}", f"expected file channel start length word, found {line[:60]!r}")
            continue
        segment = Segment(start, round(start + length, 6), None, word)
        if word.lower() in _NO_WORDS:
            continue
        if reason := fault(segment):
            yield Row(f"line {number}", reason, file)
        else:
            words[file][channel].append(segment)
    for file, channels in words.items():
        for channel, spoken in channels.items():
            speaker = f"channel {channel}" if len(channels) > 1 else None
            for each in join_words(spoken):
                yield Row(f"words at {each.start:g} s", replace(each, speaker=speaker), file)


def parse_stm(text: str) -> Iterator[Row]:
    """Parse reference transcripts of an evaluation: file, channel, speaker, start, end, <labels>, words."""
    for number, line in enumerate(text.split("\n"), 1):
        fields = line.split(None, 5)
        if not fields or fields[0].startswith(";;") or not _UNSCORED.isdisjoint(fields[2:3] + fields[5:]):
            continue
        place = f"line {number}"
        if len(fields) < 5:
            yield Row(place, f"expected file channel speaker start end words, found {line[:60]!r}")
            continue
        words = fields[5] if len(fields) > 5 else ""
        if words.startswith("<"):
            words = words.partition(">")[2]
        yield make_row(place, fields[3], fields[4], fields[2], words, fields[0])
