"""Read a file of segments in any known format, and text in any known encoding."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from wavfusion.errors import CorpusError, nearest
from wavfusion.files import read_bytes, require_file
from wavfusion.transcripts import formats
from wavfusion.transcripts.segment import Located, Segment

# The ending of a file's name -> what turns its text into segments.
READERS: dict[str, Callable[[str], Iterator[Located]]] = {
    ".srt": formats.parse_subtitles,
    ".vtt": formats.parse_subtitles,
    ".textgrid": formats.parse_textgrid,
    ".eaf": formats.parse_eaf,
    ".rttm": formats.parse_rttm,
    ".json": formats.parse_recognizer_json,
}
DOCUMENTS = (b"PK\3\4", b"\xd0\xcf\x11\xe0", b"{\\rtf", b"%PDF")  # first bytes of docx and odt, doc, rtf and pdf


def is_timed(name: str | Path) -> bool:
    """Tell whether a file's name has the ending of a format with times."""
    return Path(name).suffix.lower() in READERS


def read(path: str | Path) -> list[Segment]:
    """Read the segments of a file, in order of time; the ending of its name tells the format.

    Raises:
        CorpusError: not a format of READERS, an invalid time, an end before its start, or no segments.
    """
    path = Path(path)
    if not is_timed(path):
        choices = nearest(path.suffix, READERS)
        raise CorpusError(f"{path}: expected a file with times, found the ending {path.suffix!r}: {choices}")
    require_file(path)
    try:
        located = list(READERS[path.suffix.lower()](decode_text(read_bytes(path))))
    except CorpusError as error:
        raise CorpusError(f"{path}: {error}") from None
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, SyntaxError) as error:
        reason = " ".join(str(error).split())[:120]
        raise CorpusError(f"{path}: expected {path.suffix[1:].lower()}, found {reason}") from None
    except OSError as error:
        raise CorpusError(f"{path}: expected a file that can be read, found {error.strerror}") from None
    if not located:
        raise CorpusError(f"{path}: expected {path.suffix[1:].lower()} with times, found none")
    for place, segment in located:
        if not 0 <= segment.start < segment.end < math.inf:
            times = f"{segment.start:g} to {segment.end:g} s"
            raise CorpusError(f"{path}: {place}: expected a start before its end, found {times}")
    segments = [replace(each, speaker=_encodable(each.speaker), text=_encodable(each.text)) for _, each in located]
    return sorted(segments, key=lambda each: (each.start, each.end))


def read_plain_text(content: bytes) -> str:
    """Decode a transcript without times; a CorpusError for a document of an office program, subtitles, or no text."""
    if content.startswith(DOCUMENTS):
        raise CorpusError("expected plain text, found a document of an office program or a PDF: save it as .txt")
    text = decode_text(content).strip()
    if formats.has_cues(text):
        raise CorpusError("expected plain text, found subtitles with times: give their file the ending .srt or .vtt")
    return text


def decode_text(content: bytes) -> str:
    """Decode UTF-16 with a byte order mark, as Praat and some editors write it, or else UTF-8."""
    is_utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        raise CorpusError("expected UTF-8 or UTF-16, found other bytes") from None


def _encodable(text: str | None) -> str | None:
    """Replace lone surrogates: JSON can hold them, a file of UTF-8 cannot."""
    return text and text.encode("utf-8", "replace").decode()
