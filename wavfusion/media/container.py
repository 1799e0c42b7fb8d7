"""Media files opened through PyAV: their tracks, when these end on the clock that they share, and a file's hash."""

import hashlib
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, Literal, NamedTuple, TypeAlias

import av
from av.stream import Disposition

from wavfusion.errors import MediaError

PathLike: TypeAlias = str | os.PathLike[str]
Real: TypeAlias = float | int  # a run-time type check takes no int for a float
Track: TypeAlias = int | Literal["mix"] | None  # number of an audio track, from 1; their mean; None = the default one
Span: TypeAlias = tuple[int, int] | None  # first byte of a recording within a file, and the one after the last

PREROLL = 1.0  # seconds that a seek aims early: mp3's bit reservoir, AAC's and Opus's overlaps have settled by then
# Seconds: Matroska and Flash round times to 1 ms; a lost packet of AAC, mp3 or Opus leaves a hole of 20 ms or more.
JITTER = 0.015
# Seconds within one track beyond which its timestamps cannot be true.
LONGEST_HOLE = 3600.0
# What PyAV raises for damaged or unusual files, its own slips on streams that it does not know among them.
FAILURES = (
    *(av.error.FFmpegError, ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError),
    *(TypeError, ValueError),
)
_WITHOUT_HEADER = {"mpeg", "mpegts"}  # their length is estimated, from the last packet that has a timestamp
_NO_RECORDINGS = {"image2", "tty"}  # what FFmpeg opens, too: still pictures, text to be drawn as on a terminal
# Lists of other files, which would be opened before the list could be refused.
_LISTS = {"concat", "dash", "hls", "imf", "rtsp", "sap", "sdp"}
_FORMATS = ",".join(sorted(av.formats_available - _LISTS))
# Formats of pictures, of text and of samples without a header, and endings that others than recordings have, too.
_OTHERS = {
    *("alaw", "apng", "aqtitle", "ass", "avif", "bit", "codec2", "dash", "ffmetadata", "fits", "gif", "hls", "ico"),
    *("image2", "jacosub", "jpegxl_anim", "lrc", "mcc", "microdvd", "mjpeg_2000", "mpl2", "mpsub", "mulaw", "pjs"),
    *("rawvideo", "realtext", "s16le", "s8", "sami", "sbg", "scc", "sdx", "srt", "stl", "subviewer", "subviewer1"),
    *("sup", "swf", "ttml", "tty", "u16le", "u8", "v210", "v210x", "vobsub", "vplayer", "webm_chunk"),
    *("webm_dash_manifest", "webp", "webvtt"),
}
_AMBIGUOUS = {"", "cgi", "dat", "dif", "heic", "heif", "idf", "mks", "mpo", "paf", "pcm", "str", "v", "vb"}
_UNLISTED = {"awb", "divx", "m2p", "qt", "rmvb", "snd", "wave"}


@cache
def endings() -> frozenset[str]:
    """The endings of files that FFmpeg reads as recordings, in lower case, with their dot."""
    known, other = set[str](), set[str]()
    for name in av.formats_available:
        for mode in ("r", "w"):
            with suppress(ValueError):
                (other if name in _OTHERS else known).update(av.ContainerFormat(name, mode).extensions)
    return frozenset(f".{each.strip().lower()}" for each in (known - other - _AMBIGUOUS) | _UNLISTED)


# What stands in a checkout for a file that was not fetched: its first bytes, and whose it is.
POINTERS = {b"version https://git-lfs.github.com/spec/": "git-LFS", b"/annex/objects/": "git-annex"}
POINTER_BYTES = 4096


class Tracks(NamedTuple):
    """When each track ends, in seconds on the file's clock; None = there is no such track."""

    audio: float | None
    video: float | None


class AudioTrack(NamedTuple):
    """One of a file's audio tracks."""

    number: int  # from 1
    name: str  # its title or language, else `track N`; no two are equal
    channels: int
    decodable: bool
    default: bool  # the one that is decoded where none is chosen


class OpenFile(NamedTuple):
    """An open container, its tracks by kind, and the timestamp in seconds at which its clock is 0."""

    container: Any
    tracks: dict[str, Any]
    origin: float


@contextmanager
def boundary(path: PathLike) -> Iterator[None]:
    """Turn whatever FFmpeg and PyAV raise into a MediaError that names the file."""
    try:
        yield
    except MediaError:
        raise
    except FAILURES as error:
        found = f"found one on which it fails ({type(error).__name__}: {reason(error)[:200]})"
        raise MediaError(f"expected a recording that FFmpeg can read at {named(path)}, {found}") from error


@contextmanager
def open_container(path: PathLike, track: int | None = None, span: Span = None) -> Iterator[OpenFile]:
    """Open a file, or the bytes of a span of it; raises MediaError where it has no track, or not that audio track."""
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
    # "file:" keeps a colon in a name from being read as a protocol; no list of files must reach others.
    url = f"file:{os.fspath(path)}" if span is None else f"subfile,,start,{span[0]},end,{span[1]},,:{os.fspath(path)}"
    options = {"protocol_whitelist": "file,subfile", "format_whitelist": _FORMATS}
    try:
        container = av.open(url, container_options=options, metadata_errors="replace")
    except FAILURES as error:
        raise MediaError(f"{expected} nothing that can be opened as one: {reason(error)}") from error
    with boundary(path), container:
        if (name := container.format.name) in _NO_RECORDINGS or name.endswith("_pipe"):
            raise MediaError(f"{expected} a still picture, a text or a playlist ({name})")
        audio = container.streams.audio
        if track is not None and not 1 <= track <= len(audio):
            raise MediaError(f"expected an audio track from 1 to {len(audio)} in {named(path)}, found {track}")
        if not (tracks := _choose_tracks(container, track)):
            raise MediaError(f"{expected} a file of the kind {name!r} with neither")
        timed = [*(stream for stream in audio if stream.codec_context is not None), *tracks.values()]
        zero = min((float(s.start_time * s.time_base) for s in timed if s.start_time is not None), default=0.0)
        yield OpenFile(container, tracks, zero)


def _pointer(path: PathLike) -> str | None:
    with suppress(OSError), open(path, "rb") as file:
        head = file.read(64)
        return next((kind for start, kind in POINTERS.items() if head.startswith(start)), None)
    return None


def _choose_tracks(container: Any, track: int | None) -> dict[str, Any]:
    """The stream of each kind that FFmpeg thinks best among those that it can decode; cover art is no video."""
    tracks = dict[str, Any]()
    for kind in ("audio", "video"):
        best = container.streams.best(kind)
        streams = [s for s in getattr(container.streams, kind) if not s.disposition & Disposition.attached_pic]
        if kind == "audio" and track is not None:
            tracks[kind] = streams[track - 1]
        elif streams:
            tracks[kind] = min(streams, key=lambda s: (s.codec_context is None, best is None or s.index != best.index))
    return tracks


def audio_tracks(path: PathLike) -> list[AudioTrack]:
    """List a file's audio tracks."""
    with open_container(path) as opened:
        chosen, streams = opened.tracks.get("audio"), opened.container.streams.audio
        titles = [" ".join((s.metadata.get("title") or s.metadata.get("language") or "").split()) for s in streams]
        found = []
        for number, (stream, title) in enumerate(zip(streams, titles, strict=True), start=1):
            name = title if title not in {"", "und"} and titles.count(title) == 1 else f"track {number}"
            codec = stream.codec_context
            channels = 0 if codec is None else codec.layout.nb_channels
            found.append(AudioTrack(number, name, channels, codec is not None, stream is chosen))
        return found


def packets(container: Any, streams: Any) -> Iterator[Any]:
    """The packets of streams that are still to come; those of streams that begin after the header are passed over."""
    while True:
        try:
            yield from container.demux(streams)
            return
        except IndexError:  # PyAV does not know a stream that FFmpeg found meanwhile; its packet is consumed
            continue


def probe_span(path: PathLike, track: int | None = None, span: Span = None) -> Tracks:
    """Find when the tracks of one recording end, without decoding.

    Raises:
        MediaError: the file is missing, empty or no recording.
    """
    with open_container(path, track, span) as opened:
        ends = {kind: _confirmed_end(opened, stream) for kind, stream in opened.tracks.items()}
    if None in ends.values():
        with open_container(path, track, span) as opened:
            last = _packet_ends(opened, list(opened.tracks.values()))
            ends = {kind: last[s.index] if ends[kind] is None else ends[kind] for kind, s in opened.tracks.items()}
    return Tracks(ends.get("audio"), ends.get("video"))


def _confirmed_end(opened: OpenFile, stream: Any) -> float | None:
    """When a track ends by its header; None where the header is silent or the file's tail contradicts it."""
    container, _, zero = opened
    if stream.duration:
        claim = float(((stream.start_time or 0) + stream.duration) * stream.time_base) - zero
    else:
        claim = (container.duration or 0) / av.time_base
    try:
        container.seek(math.floor((max(0.0, claim - PREROLL) + zero) / stream.time_base), stream=stream)
    except FAILURES:
        return None
    last = _packet_ends(opened, [stream])[stream.index]
    if abs(last - claim) >= 0.25 or claim <= 0:
        return None
    return last if container.format.name in _WITHOUT_HEADER else min(last, claim)


def _packet_ends(opened: OpenFile, streams: list[Any]) -> dict[int, float]:
    """When the last of the packets that are still to come ends, by stream index.

    A timestamp, or a duration, of hours beyond the packets that follow it cannot be true and does not count.
    """
    ends = {stream.index: 0.0 for stream in streams}
    with suppress(*FAILURES):
        for packet in packets(opened.container, streams):
            if packet.pts is not None:
                start = float(packet.pts * packet.time_base) - opened.origin
                length = float((packet.duration or 0) * packet.time_base)
                end, before = start + (length if length <= LONGEST_HOLE else 0.0), ends[packet.stream_index]
                ends[packet.stream_index] = end if before - start > LONGEST_HOLE else max(before, end)
    return ends


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
