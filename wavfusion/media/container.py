"""Media files opened through PyAV: their tracks, when these end on the clock that they share, and a file's hash."""

import hashlib
import math
import mmap
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import av
from av.stream import Disposition

from wavfusion.errors import MediaError

PathLike: TypeAlias = str | os.PathLike[str]
Real: TypeAlias = float | int  # a run-time type check takes no int for a float

PREROLL = 1.0  # seconds that a seek aims early: mp3's bit reservoir, AAC's and Opus's overlaps have settled by then
# Seconds: Matroska and Flash round times to 1 ms; a lost packet of AAC, mp3 or Opus leaves a hole of 20 ms or more.
JITTER = 0.015
_NO_RECORDINGS = {"image2", "tty"}  # what FFmpeg opens, too: still pictures, text to be drawn as on a terminal
# Lists of other files, which would be opened before the list could be refused.
_LISTS = {"concat", "dash", "hls", "imf", "rtsp", "sap", "sdp"}
_FORMATS = ",".join(sorted(av.formats_available - _LISTS))


# What stands in a checkout for a file that was not fetched: its first bytes, and whose it is.
POINTERS = {b"version https://git-lfs.github.com/spec/": "git-LFS", b"/annex/objects/": "git-annex"}
POINTER_BYTES = 4096


class Tracks(NamedTuple):
    """When each track ends, in seconds on the file's clock; None = there is no such track."""

    audio: float | None
    video: float | None


@contextmanager
def open_container(path: PathLike) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Open a file; gives its container and its tracks by kind, at least one, else raises MediaError."""
    expected = f"expected an audio or video file at {named(path)}, found"
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise MediaError(f"{expected} none: {reason(error)}") from error
    if not stat.S_ISREG(status.st_mode):
        raise MediaError(f"{expected} {'a folder' if stat.S_ISDIR(status.st_mode) else 'no regular file'}")
    if not status.st_size:
        raise MediaError(f"{expected} 0 bytes")
    if status.st_size < POINTER_BYTES and (kind := _pointer(path)):
        raise MediaError(f"{expected} a {kind} pointer, whose content was not fetched")
    try:
        # "file:" keeps a colon in a name from being read as a protocol; no list of files must reach others.
        options = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
        container = av.open(f"file:{os.fspath(path)}", container_options=options, metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError, RuntimeError) as error:
        raise MediaError(f"{expected} nothing that can be opened as one: {reason(error)}") from error
    with container:
        if (name := container.format.name) in _NO_RECORDINGS or name.endswith("_pipe"):
            raise MediaError(f"{expected} a still picture, a text or a playlist ({name})")
        if not (tracks := _choose_tracks(container)):
            raise MediaError(f"{expected} a file of the kind {name!r} with neither")
        yield container, tracks


def _pointer(path: PathLike) -> str | None:
    with suppress(OSError), open(path, "rb") as file:
        head = file.read(64)
        return next((kind for start, kind in POINTERS.items() if head.startswith(start)), None)
    return None


def _choose_tracks(container: Any) -> dict[str, Any]:
    """The stream of each kind that FFmpeg thinks best; cover art is no video."""
    tracks = {}
    for kind in ("audio", "video"):
        best = container.streams.best(kind)
        streams = [s for s in getattr(container.streams, kind) if not s.disposition & Disposition.attached_pic]
        if streams:
            tracks[kind] = min(streams, key=lambda stream: best is None or stream.index != best.index)
    return tracks


def origin(tracks: dict[str, Any]) -> float:
    """The zero of the file's clock: the time stamp, in seconds, at which its first track starts."""
    return min((float(s.start_time * s.time_base) for s in tracks.values() if s.start_time is not None), default=0.0)


def probe(path: PathLike) -> Tracks:
    """Find which tracks a file has and when they end, without decoding (chained ogg excepted).

    Cover art is no video. A track that is listed here can still prove undecodable.

    Raises:
        MediaError: the file is missing, empty or no recording.
    """
    with open_container(path) as (container, tracks):
        ends = {kind: _confirmed_end(container, stream, origin(tracks)) for kind, stream in tracks.items()}
    if None in ends.values():
        with open_container(path) as (container, tracks):
            last = _packet_ends(container, list(tracks.values()), origin(tracks))
            ends = {kind: last[stream.index] if ends[kind] is None else ends[kind] for kind, stream in tracks.items()}
    if (end := ends.get("audio")) is not None and is_chained(path):
        ends["audio"] = max(end, _decoded_end(path))
    return Tracks(ends.get("audio"), ends.get("video"))


def _confirmed_end(container: Any, stream: Any, zero: float) -> float | None:
    """When a track ends by its header; None where the header is silent or the file's tail contradicts it."""
    if stream.duration:
        claim = float(((stream.start_time or 0) + stream.duration) * stream.time_base) - zero
    else:
        claim = (container.duration or 0) / av.time_base
    try:
        container.seek(math.floor((max(0.0, claim - PREROLL) + zero) / stream.time_base), stream=stream)
    except av.error.FFmpegError:
        return None
    last = _packet_ends(container, [stream], zero)[stream.index]
    return min(last, claim) if abs(last - claim) < 0.25 and claim > 0 else None


def _packet_ends(container: Any, streams: list[Any], zero: float) -> dict[int, float]:
    """When the last of the packets that are still to come ends, by stream index."""
    ends = {stream.index: 0.0 for stream in streams}
    with suppress(av.error.FFmpegError):
        for packet in container.demux(streams):
            if packet.pts is not None:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base) - zero
                ends[packet.stream_index] = max(ends[packet.stream_index], end)
    return ends


def is_chained(path: PathLike) -> bool:
    """Whether a file is several ogg files one after the other: the times of each start again, so seeking fails."""
    if not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        if file.read(4) != b"OggS":
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            # The first pages of all streams come before any other page; what is a first page after that is a chain.
            other = re.search(rb"OggS\0[\0\1\4\5]", content)
            return other is not None and any(content.find(b"OggS\0" + kind, other.end()) > 0 for kind in (b"\2", b"\6"))


def _decoded_end(path: PathLike) -> float:
    """When the audio that is decoded from a file's beginning on ends; 0 where nothing can be decoded."""
    end = 0.0
    with open_container(path) as (container, tracks), suppress(av.error.FFmpegError):
        for packet in container.demux(tracks["audio"]):
            with suppress(av.error.FFmpegError, ValueError):
                for frame in packet.decode():
                    time = None if frame.pts is None else float(frame.pts * frame.time_base) - origin(tracks)
                    if time is not None and (time > end + JITTER or time < 0 == end):
                        end = time
                    end += frame.samples / frame.sample_rate
    return round(end, 6)


def content_hash(path: PathLike) -> str:
    """Hash a file's bytes (SHA-256, hexadecimal); raises MediaError where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        raise MediaError(f"expected a file to read at {named(path)}, found none: {reason(error)}") from error


def named(path: PathLike) -> str:
    """A path on one line, whatever its name holds."""
    return repr(os.fspath(path))


def reason(error: Exception) -> str:
    """An error's message on one line."""
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())
