"""JSON of speech recognisers: Whisper and its relatives, whisper.cpp, pipelines of transformers; and of `predict`."""

import json
from collections.abc import Iterator
from typing import Any

from wavfusion.errors import CorpusError
from wavfusion.transcripts.segment import Located, Segment, one_line


def parse_recognizer_json(text: str) -> Iterator[Located]:
    """Parse a list of segments, alone or under the name that one of these programs gives it."""
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
