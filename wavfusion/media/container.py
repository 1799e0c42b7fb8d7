"""Media files opened through PyAV: their tracks, and the clock that both tracks share."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import av
from av.stream import Disposition

from wavfusion.errors import MediaError

PathLike: TypeAlias = str | os.PathLike[str]
# A run-time type check takes no int for a float.
Real: TypeAlias = float | int

# What FFmpeg opens but is no recording: still pictures, text to be drawn as on a terminal.
_NO_RECORDINGS = {"image2", "tty"}
# Lists of other files, which would be opened before the list could be refused.
_LISTS = {"concat", "dash", "hls", "imf", "rtsp", "sap", "sdp"}
_FORMATS = ",".join(sorted(av.formats_available - _LISTS))


@contextmanager
def open_container(path: PathLike) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Open a file; gives its container and its tracks by kind, at least one.

    Raises:
        MediaError: the file is missing, empty or no recording.
    """
    expected = f"expected an audio or video file at {named(path)}, found"
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise MediaError(f"{expected} none: {reason(error)}") from error
    if not stat.S_ISREG(status.st_mode):
        raise MediaError(f"{expected} {'a folder' if stat.S_ISDIR(status.st_mode) else 'no regular file'}")
    if not status.st_size:
        raise MediaError(f"{expected} 0 bytes")
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


def named(path: PathLike) -> str:
    """A path on one line, whatever its name holds."""
    return repr(os.fspath(path))


def reason(error: Exception) -> str:
    """An error's message on one line."""
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())
