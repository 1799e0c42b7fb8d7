"""What a server is sent: a form that is taken in as it comes, its files straight onto the disk, within limits."""

import asyncio
import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from wavfusion.errors import CorpusError, nearest
from wavfusion.transcripts.reading import is_timed, read_plain_text

FIELDS = ("file", "transcript", "speakers")  # what a form may hold, each once
TEXT = 4 << 20  # bytes of all that is no recording: the words of a day
HEADERS = 8 << 10  # bytes of the headers of a part
IDLE = 20.0  # seconds without a byte, after which nobody waits any more
SLOWEST = 16 << 10  # bytes a second that are expected of a sender, once he has had `IDLE` seconds
FREE = 256 << 20  # bytes that are left free on the disk
PREFIX = "wavfusion-serve-"


class RefusedError(Exception):
    """A request that gets one line instead of what it asked for, with its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Form:
    """What was sent.

    Attributes:
        name: of the recording, as its sender calls it; for showing only.
        words: what is said, without times.
        segments: a file of words with times.
        speakers: a number or `auto`, as it was written (its first 40 letters); None = nothing.
    """

    name: str = ""
    words: str | None = None
    segments: Path | None = None
    speakers: str | None = None


class Folder:
    """A folder for uploads that is gone with its server; what a killed one left is removed by the next."""

    def __init__(self) -> None:
        _sweep()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock = open(self.path / "lock", "w")  # held as long as the server lives
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _sweep() -> None:
    """Remove the folders of servers that live no more: nobody holds their locks."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/lock"):
        try:
            if path.parent.is_symlink() or path.parent.stat().st_uid != os.getuid():
                continue
            with open(path) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.parent, ignore_errors=True)
        except OSError:
            continue


async def paced(stream: AsyncIterator[bytes], most: int) -> AsyncIterator[bytes]:
    """Pass a stream on, unless it is too long, stands still or drips.

    Raises:
        RefusedError: it does.
    """
    began, total = time.monotonic(), 0
    while True:
        try:
            chunk = await asyncio.wait_for(anext(stream), IDLE)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise RefusedError(408, f"expected more of the upload within {IDLE:g} s, found nothing") from None
        total += len(chunk)
        if total > most:
            raise too_large(most)
        seconds = time.monotonic() - began
        if seconds > IDLE and total < SLOWEST * seconds:
            raise RefusedError(408, f"expected an upload of {SLOWEST} bytes/s at least, found {total / seconds:.0f}")
        yield chunk


def too_large(most: int) -> RefusedError:
    """The refusal of an upload above `most` bytes."""
    return RefusedError(413, f"expected an upload of at most {most / 1e6:g} MB, found more")


async def receive(stream: AsyncIterator[bytes], content_type: str, folder: Path) -> Form:
    """Read a form (multipart/form-data), whose recording is written to `recording` in the folder as it comes.

    Raises:
        RefusedError: no such form, another field than `FIELDS`, one that comes twice, no recording, or a full disk.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise RefusedError(415, f"expected a form (multipart/form-data), found {kind.decode('ascii', 'replace')!r}")
    parts = _Parts(folder)
    names = ("part_begin", "header_field", "header_value", "header_end", "headers_finished", "part_data", "part_end")
    calls: Any = {f"on_{name}": getattr(parts, name) for name in names}
    try:
        parser = MultipartParser(options[b"boundary"], calls)
        async for chunk in stream:
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise RefusedError(400, f"expected a whole form, found {' '.join(str(error).split())[:120]}") from None
    except OSError as error:
        raise RefusedError(507, f"expected room for the upload, found {error.strerror}") from None
    finally:
        parts.close()
    return parts.form()


@dataclass
class _Parts:
    """The parts of a form, as the parser meets them."""

    folder: Path
    _name: bytes = b""
    _value: bytes = b""
    _headers: dict[bytes, bytes] = field(default_factory=dict)
    _size: int = 0
    _target: IO[bytes] | None = None
    _field: str = ""
    _texts: dict[str, bytearray] = field(default_factory=dict)
    _files: dict[str, str] = field(default_factory=dict)
    _whole: bool = True

    def part_begin(self) -> None:
        self._headers, self._size, self._whole = {}, 0, False

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += self._counted(data[start:end], HEADERS)

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._counted(data[start:end], HEADERS)

    def header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name not in FIELDS:
            raise RefusedError(422, f"found the field {name[:40]!r}; {nearest(name[:40], FIELDS)}")
        if name in self._texts or name in self._files:
            raise RefusedError(422, f"expected the field {name!r} once, found it twice")
        self._field, self._size = name, 0
        if b"filename" in options:
            self._files[name] = shown(options[b"filename"].decode("utf-8", "replace"))
        if name == "file":
            self._files.setdefault(name, "recording")
            self._require_room()
            self._target = open(self.folder / "recording", "wb")  # closed with its part
        else:
            self._texts[name] = bytearray()

    def part_data(self, data: bytes, start: int, end: int) -> None:
        if self._target is not None:
            self._require_room()
            self._target.write(data[start:end])
        else:
            self._texts[self._field] += self._counted(data[start:end], TEXT)

    def part_end(self) -> None:
        self._whole = True
        self.close()

    def close(self) -> None:
        if self._target is not None:
            self._target.close()
            self._target = None

    def _require_room(self) -> None:
        if shutil.disk_usage(self.folder).free < FREE:
            raise RefusedError(507, "expected room for the upload, found the disk nearly full")

    def _counted(self, data: bytes, most: int) -> bytes:
        self._size += len(data)
        if self._size > most:
            raise RefusedError(413, f"expected at most {most} bytes of headers or text, found more")
        return data

    def form(self) -> Form:
        """What the parts say together."""
        if not self._whole:
            raise RefusedError(400, "expected a whole form, found one that is cut off")
        if "file" not in self._files:
            raise RefusedError(422, "expected a recording in the field 'file', found none")
        sent, segments = self._files.get("transcript", ""), None
        if is_timed(sent) and self._texts["transcript"]:
            segments = self.folder / f"transcript{Path(sent).suffix.lower()}"
            segments.write_bytes(self._texts["transcript"])
        words = "" if is_timed(sent) else self._text("transcript")
        return Form(self._files["file"], words or None, segments, self._text("speakers")[:40] or None)

    def _text(self, name: str) -> str:
        try:
            return read_plain_text(bytes(self._texts.get(name, b"")))
        except CorpusError as error:
            raise RefusedError(422, f"the field {name!r}: {error}") from None


def shown(name: str) -> str:
    """The last part of a file's name on one line, as its sender wrote it: for showing, never for the disk."""
    last = re.split(r"[/\\]", name)[-1]
    printable = "".join(letter if letter.isprintable() else " " for letter in last)
    return " ".join(printable.split())[:200] or "recording"
