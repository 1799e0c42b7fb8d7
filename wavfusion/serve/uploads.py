"""Uploads: a multipart form read by Starlette's parser within limits, its recording written to disk."""

import asyncio
import os
import re
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from wavfusion.errors import CorpusError, nearest
from wavfusion.transcripts.reading import read_plain_text, require_ending

FIELDS = ("file", "transcript", "speakers", "track", "channel")  # of a form, each once
TEXT = 4 << 20  # bytes of a field that is no recording: the transcript of a day
IDLE = 20.0  # seconds without a byte after which an upload is refused
SLOWEST = 16 << 10  # bytes a second that are expected of a sender after `IDLE` seconds
FREE = 256 << 20  # bytes that are left free on the disk
PREFIX = "wavfusion-serve-"


class RefusedError(Exception):
    """A request that is answered by one line and an HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Form:
    """The fields of an upload."""

    name: str  # of the recording, as its sender calls it; only for display
    text: str | None = None  # a transcript that is no file
    segments: str | None = None  # name of the file with the transcript, beside the recording
    speakers: str | None = None  # a number or `auto`, as written (the first 40 characters)
    track: str | None = None  # likewise a number, `mix` or `each`
    channel: str | None = None  # likewise `left`, `right`, `centre`, `mix` or `each`


class UploadFolder:
    """A temporary folder for uploads, removed when its server ends; a new server removes those of killed ones.

    `path` exists only while the lock is held, so that a folder whose lock is free belongs to no server.
    """

    def __init__(self) -> None:
        _remove_abandoned()
        self._folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock = FileLock(self._folder / "lock")
        self._lock.acquire()
        self.path = self._folder / "uploads"
        self.path.mkdir()

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.release()
        shutil.rmtree(self._folder, ignore_errors=True)


def _remove_abandoned() -> None:
    """Remove the upload folders of servers that were killed: nobody holds their locks."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/uploads"):
        folder = path.parent
        try:
            if folder.is_symlink() or folder.stat().st_uid != user:
                continue
            with FileLock(folder / "lock", timeout=0):
                shutil.rmtree(path, ignore_errors=True)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # in use (filelock's Timeout is one), or gone
            continue


async def guarded(stream: AsyncIterator[bytes], most: int, folder: Path) -> AsyncGenerator[bytes, None]:
    """Pass an upload on, or raise a RefusedError if it is too large, stalls, is too slow or would fill the disk."""
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
        if shutil.disk_usage(folder).free < FREE:
            raise RefusedError(507, "expected room for the upload, found the disk nearly full")
        yield chunk


def too_large(most: int) -> RefusedError:
    """The refusal of an upload above `most` bytes."""
    return RefusedError(413, f"expected an upload of at most {most / 1e6:g} MB, found more")


class _FormParser(MultiPartParser):
    """Starlette's parser, which notes whether the form's closing boundary has come."""

    complete = False

    def on_end(self) -> None:
        self.complete = True


async def receive(stream: AsyncGenerator[bytes, None], headers: Mapping[str, str], folder: Path) -> Form:
    """Read a form (multipart/form-data), and write its recording to `recording` in the folder.

    Raises:
        RefusedError: no such form, another field than `FIELDS`, one that comes twice, no recording, or a full disk.
    """
    content_type = headers.get("content-type", "")
    if not content_type.lower().startswith("multipart/form-data"):
        raise RefusedError(415, f"expected a form (multipart/form-data), found {content_type.partition(';')[0]!r}")

    async def whole() -> AsyncGenerator[bytes, None]:
        async for chunk in stream:
            yield chunk
        if not parser.complete:
            raise RefusedError(400, "expected a whole form, found one that is cut off")

    parser = _FormParser(Headers(headers), whole(), max_files=2, max_fields=len(FIELDS), max_part_size=TEXT)
    try:
        fields = await parser.parse()
        try:
            return await _read_fields(fields, folder)
        finally:
            await fields.close()
    except MultiPartException as error:
        status = 413 if "maximum size" in error.message else 400
        raise RefusedError(status, f"expected a form within limits, found: {error.message}") from None
    except OSError as error:
        raise RefusedError(507, f"expected room for the upload, found {error.strerror}") from None


async def _read_fields(fields: FormData, folder: Path) -> Form:
    for name in fields:
        if name not in FIELDS:
            raise RefusedError(422, f"found the field {name[:40]!r}; {nearest(name[:40], FIELDS)}")
        if len(fields.getlist(name)) > 1:
            raise RefusedError(422, f"expected the field {name!r} once, found it twice")
    recording, transcript, sent = fields.get("file"), fields.get("transcript", ""), None
    if not isinstance(recording, UploadFile):
        raise RefusedError(422, "expected a recording in the field 'file', found none")
    with open(folder / "recording", "wb") as file:  # the parser's has no name, by which other processes could open it
        await asyncio.to_thread(shutil.copyfileobj, recording.file, file, 1 << 20)
    if isinstance(transcript, UploadFile):
        sent = await _keep(transcript, folder)
        transcript = ""
    text = await _text(transcript, "transcript")
    short = {name: (await _text(fields.get(name, ""), name))[:40] or None for name in FIELDS[2:]}
    return Form(displayed(recording.filename or ""), text=text or None, segments=sent, **short)


async def _keep(transcript: UploadFile, folder: Path) -> str | None:
    """Write the file of a transcript beside the recording and return its name; None for an empty one."""
    if not (content := await _content(transcript, "transcript")):
        return None
    sent = displayed(transcript.filename or "")
    try:
        require_ending(sent, content)
    except CorpusError as error:
        raise RefusedError(422, f"the field 'transcript': {error}") from None
    name = f"transcript{Path(sent).suffix.lower()}"
    (folder / name).write_bytes(content)
    return name


async def _content(value: str | UploadFile, name: str) -> bytes:
    content = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else await value.read(TEXT + 1)
    if len(content) > TEXT:
        raise RefusedError(413, f"the field {name!r}: expected at most {TEXT} bytes, found more")
    return content


async def _text(value: str | UploadFile, name: str) -> str:
    try:
        return read_plain_text(await _content(value, name))
    except CorpusError as error:
        raise RefusedError(422, f"the field {name!r}: {error}") from None


def displayed(name: str) -> str:
    """The last part of a file's name on one line, as its sender wrote it: for display, never for the disk."""
    last = re.split(r"[/\\]", name)[-1]
    printable = "".join(letter if letter.isprintable() else " " for letter in last)
    return " ".join(printable.split())[:200] or "recording"
