"""Read a transcript in any known format and encoding: what the ending of a file's name means is decided here alone."""

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from wavfusion.errors import CorpusError, nearest
from wavfusion.files import read_bytes
from wavfusion.transcripts import annotations, subtitles, tables
from wavfusion.transcripts.segment import MOST, Row, Segment, clean, close, fault

log = logging.getLogger(__name__)

Parser = Callable[[str], Iterable[Row]]
# The ending of a file's name -> what turns its text into rows.
READERS: dict[str, Parser] = {
    ".srt": subtitles.parse_subtitles,
    ".vtt": subtitles.parse_subtitles,
    ".textgrid": annotations.parse_textgrid,
    ".eaf": annotations.parse_eaf,
    ".rttm": tables.parse_rttm,
    ".json": tables.parse_recognizer_json,
    ".csv": tables.parse_table,
    ".tsv": tables.parse_table,
    ".ass": subtitles.parse_ass,
    ".ssa": subtitles.parse_ass,
    ".ttml": subtitles.parse_ttml,
    ".dfxp": subtitles.parse_ttml,
    ".sbv": subtitles.parse_subviewer,
    ".sub": subtitles.parse_sub,
    ".lrc": subtitles.parse_lrc,
    ".ctm": tables.parse_ctm,
    ".stm": tables.parse_stm,
    ".cha": annotations.parse_chat,
}
PLAIN = ".txt"
STRUCTURED = (".textgrid", ".eaf", ".json", ".ttml", ".dfxp")  # a row has several lines
ENDINGS = (*READERS, PLAIN)  # in order of preference
LARGEST = 16 << 20  # bytes of a file: about fifty hours of words with times
DOCUMENTS = (b"PK\3\4", b"\xd0\xcf\x11\xe0", b"{\\rtf", b"%PDF")  # first bytes of docx and odt, doc, rtf and pdf
_MARKED = re.compile(
    r'<\?xml|<tt\b|<!doctype|WEBVTT|\[Script Info\]|@UTF8|@Begin|File type = "ooText|\[?\{"', re.IGNORECASE
)


def read(path: str | Path, recording: str | Path | None = None) -> list[Segment]:
    """Read the segments of a file, in order of time; the ending of its name tells the format.

    Rows that are no segments are left out with a warning. An infinite end is the recording's.

    Args:
        path: the file.
        recording: the name of the recording, where the file has segments of several.

    Raises:
        CorpusError: not a format of READERS, of several other recordings, or without a single segment.
    """
    found = read_transcript(path, recording)
    if isinstance(found, str):
        raise CorpusError(f"{path}: expected a file with times, found plain text")
    return found


def read_transcript(path: str | Path, recording: str | Path | None = None) -> str | list[Segment]:
    """Read a file as segments, or a `.txt` without times as text; arguments and errors are those of `read`."""
    path = Path(path)
    try:
        content = read_bytes(path, most=LARGEST)
    except OSError as error:
        raise CorpusError(f"{path}: expected a file that can be read, found {error.strerror}") from None
    try:
        require_ending(path.name, content)
        text = decode_text(content, 1 if path.suffix.lower() not in STRUCTURED else 4)
        parse = READERS.get(path.suffix.lower()) or _parser_of_lines(text)
        if parse is None:
            require_plain(text.strip())
            return text.strip()
        return _segments(_of_recording(list(parse(text)), str(recording or path)), path)
    except CorpusError as error:
        raise CorpusError(f"{path}: {error}") from None
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, SyntaxError) as error:
        reason = " ".join(str(error).split())[:120]
        raise CorpusError(f"{path}: expected {path.suffix[1:].lower()}, found {reason}") from None


def require_ending(name: str, content: bytes = b"") -> None:
    """Raise a CorpusError for a file whose name has no ending of a transcript."""
    ending = Path(name).suffix.lower()
    if content.startswith(DOCUMENTS) and ending not in READERS:
        raise CorpusError("expected plain text, found a document of an office program or a PDF: save it as .txt")
    if ending not in ENDINGS:
        choices = nearest(ending, ENDINGS)
        raise CorpusError(f"expected a file with times, found the ending {ending[:40]!r}: {choices}")


def read_plain_text(content: bytes) -> str:
    """Decode a transcript without times; a CorpusError for a document of an office program, subtitles, or no text."""
    if content.startswith(DOCUMENTS):
        raise CorpusError("expected plain text, found a document of an office program or a PDF: save it as .txt")
    text = decode_text(content).strip()
    require_plain(text)
    return text


def require_plain(text: str) -> None:
    """Raise a CorpusError for a text that holds times or markup: they are no words."""
    if subtitles.has_times(text):
        raise CorpusError("expected plain text, found subtitles with times: give their file the ending .srt or .vtt")
    if found := _MARKED.match(text):
        raise CorpusError(f"expected plain text, found what begins with {found[0]!r}: name its file by its format")


def decode_text(content: bytes, lines: int = 1) -> str:
    """Decode UTF-8 or UTF-16, with a byte order mark or without; every line end becomes a newline.

    `lines` are those of a row at least; a CorpusError for too many rows, or what is no text.
    """
    try:
        text = content.decode(_encoding(content))
    except UnicodeDecodeError:
        raise CorpusError("expected UTF-8 or UTF-16, found other bytes") from None
    if "\0" in text:
        raise CorpusError("expected UTF-8 or UTF-16, found NUL characters, which no text has")
    text = text.replace("\r\r\n", "\n").replace("\r\n", "\n").replace("\r", "\n")
    if max(text.count("\n") // lines, text.count("[") // lines, text.count("<") // 2, text.count('"') // 4) > MOST:
        raise CorpusError(f"expected at most {MOST} rows, found more")
    return text


def _encoding(content: bytes) -> str:
    """Name the encoding; every second byte of most characters in UTF-16 is NUL, none is in UTF-8."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    even, odd = (content[start:4096:2].count(0) for start in (0, 1))
    if 20 * max(even, odd) > min(len(content), 4096) and min(even, odd) * 10 <= max(even, odd):
        return "utf-16-le" if odd > even else "utf-16-be"
    return "utf-8-sig"


def _parser_of_lines(text: str) -> Parser | None:
    """Choose the parser of a `.txt` that holds times as programs print them: Whisper, Audacity, or a time a line."""
    if subtitles.is_printed(text):
        return subtitles.parse_printed
    if tables.is_label_track(text):
        return tables.parse_table
    return subtitles.parse_lrc if subtitles.is_lrc(text) else None


def _of_recording(rows: list[Row], recording: str) -> list[Row]:
    """Choose the rows of a recording by its name: with its folder, without, without its ending, or to the first dot."""
    names = {row.recording for row in rows} - {None}
    if len(names) < 2:
        return rows
    for shorten in (str, _last, lambda name: Path(_last(name)).stem, lambda name: _last(name).split(".")[0]):
        found = {name for name in names if name is not None and shorten(name).lower() == shorten(recording).lower()}
        if len(found) == 1:
            return [row for row in rows if row.recording in (None, *found)]
    few = ", ".join(sorted(filter(None, names))[:3])[:80]
    expected = f"expected segments of a recording with the name of {_last(recording)!r:.80}"
    raise CorpusError(f"{expected}, found those of {len(names)} recordings: {few}")


def _last(name: str) -> str:
    return re.split(r"[/\\]", name)[-1]


def _segments(rows: Sequence[Row], path: Path) -> list[Segment]:
    """Return the segments of rows, with their ends and cleaned text; warn of those that are none."""
    if not rows:
        raise CorpusError(f"expected {path.suffix[1:].lower()} with times, found none")
    usable: list[Segment] = []
    odd = []
    for row in rows:
        reason = row.segment if isinstance(row.segment, str) else fault(row.segment)
        if reason:
            odd.append(f"{row.place}: {reason}")
        elif isinstance(row.segment, Segment):
            usable.append(row.segment)
    if not usable:
        raise CorpusError(odd[0] + (f" ({len(odd)} such rows)" if odd[1:] else ""))
    if odd:
        log.warning("%s: %d of %d rows left out, the first: %s", path, len(odd), len(rows), odd[0])
    return [replace(each, speaker=clean(each.speaker), text=clean(each.text)) for each in close(usable)]
