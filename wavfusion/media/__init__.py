"""Sound and pictures in and out of files: the only module that knows FFmpeg (through PyAV) and soxr.

A file has one clock for both of its tracks; it is 0 where the first of them starts. Times are seconds on it.
"""

import hashlib
import itertools
import math
import mmap
import os
import re
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import av
import numpy as np
import soxr
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from jaxtyping import Float32, UInt8

from wavfusion.errors import MediaError, nearest

SAMPLE_RATE = 16_000

Channel: TypeAlias = Literal["mix", "left", "right", "centre"]
PathLike: TypeAlias = str | os.PathLike[str]
# A run-time type check takes no int for a float.
Real: TypeAlias = float | int
# Left, top, right and bottom of a part of a picture, as shares of its width and height.
Part: TypeAlias = tuple[float, float, float, float]
Samples: TypeAlias = Float32[np.ndarray, " N"] | Float32[np.ndarray, "channels N"]

# A seek aims this many seconds early: mp3's bit reservoir, AAC's and Opus's overlaps have settled by then.
_PREROLL = 1.0
# Seconds that are sooner decoded onward than searched: encoders put a key frame every two to twelve seconds.
_AHEAD = 10.0
# Packets that may stand between two whose pictures follow each other: H.264 and HEVC keep 16 pictures back.
_REORDER = 32
# Seconds by which a packet's time may miss its picture's: containers round to a millisecond.
_ROUNDED = 0.002
# Decoders that leave a picture out when they are told to, packet by packet; dav1d (AV1) asks but once.
_SPARING = {"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "vp9"}
# Pictures a second from which on those between may be left undecoded; fewer, and a gap would look like a hole.
_DENSE = 2.0
# soxr's longest filter (192 to 16 kHz) reaches less than this many seconds to either side of a sample.
_FILTER_REACH = 0.1
# Matroska and Flash round times to 1 ms; a lost packet of AAC, mp3 or Opus leaves a hole of 20 ms or more.
_JITTER = 0.015
# Holes of more than this many seconds in one call: the timestamps are a lie that would cost memory.
_LONGEST_HOLE = 3600.0
# 8192 x 8192: a header that claims a larger picture is not given the memory.
_MAX_PIXELS = 1 << 26
# What FFmpeg opens but is no recording: pictures, text to be drawn as on a terminal.
_NO_RECORDINGS = {"image2", "tty"}
# Lists of other files, which would be opened before the list could be refused.
_LISTS = {"concat", "dash", "hls", "imf", "rtsp", "sap", "sdp"}
_FORMATS = ",".join(sorted(av.formats_available - _LISTS))
# Float samples may be written on the scale of 32-bit integers; what is beyond it is damage, not loudness.
LOUDEST = 2.0**31
# In Hz; a header outside of these would make seconds of sound out of a few bytes, or nothing out of many.
_LOWEST_RATE, _HIGHEST_RATE = 1_000, 768_000

# Flags of FFmpeg's swscale.h, which PyAV names only of late. Its fast paths differ between processors and halve the
# colour resolution: full chroma in and out, accurate rounding and bit-exact arithmetic are asked for.
_EXACT = 0x2000 | 0x4000 | 0x40000 | 0x80000
_INTERPOLATION = {"nearest": 0x10, "bilinear": 0x2, "bicubic": 0x4, "lanczos": 0x200}
_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
_AUDIO_CODECS = {
    ".wav": "pcm_s16le",
    ".mp3": "libmp3lame",
    ".m4a": "aac",
    ".flac": "flac",
    ".ogg": "libopus",
    ".avi": "pcm_s16le",
    ".mp4": "aac",
    ".mkv": "flac",
}
_H264 = "libx264" if "libx264" in av.codecs_available else "mpeg4"
_VIDEO_CODECS = {".mp4": _H264, ".mkv": _H264, ".avi": "mpeg4"}


class DecodedAudio(NamedTuple):
    """One stretch of sound in mono.

    Attributes:
        samples: about [-1, 1]; where a packet was lost or held what is no number or beyond `LOUDEST`, they are 0.
        bad_packets: how many such packets the stretch has.
    """

    samples: Float32[np.ndarray, " N"]
    bad_packets: int


class Frames(NamedTuple):
    """Pictures of one stretch, evenly spaced in time.

    Attributes:
        pixels: RGB.
        bad_packets: packets of the stretch that could not be decoded, or only with damage.
    """

    pixels: UInt8[np.ndarray, "T H W 3"]
    bad_packets: int


class Tracks(NamedTuple):
    """When each track ends, in seconds on the file's clock; None = there is no such track."""

    audio: float | None
    video: float | None


def probe(path: PathLike) -> Tracks:
    """Say which tracks a file has and when they end, without decoding, but for chained ogg.

    Cover art is no video. A track that is listed here can still prove undecodable.

    Raises:
        MediaError: the file is missing, empty or no recording.
    """
    with _open(path) as (container, tracks):
        ends = {kind: _confirmed_end(container, stream, _origin(tracks)) for kind, stream in tracks.items()}
    if None in ends.values():
        with _open(path) as (container, tracks):
            counted = _packet_ends(container, list(tracks.values()), _origin(tracks))
            ends = {
                kind: counted[stream.index] if ends[kind] is None else ends[kind] for kind, stream in tracks.items()
            }
    if (end := ends.get("audio")) is not None and _is_chained(path):
        ends["audio"] = max(end, _heard_end(path))
    return Tracks(ends.get("audio"), ends.get("video"))


def decode_audio(
    path: PathLike,
    start: Real = 0.0,
    end: Real | None = None,
    channel: str = "mix",
    sample_rate: int = SAMPLE_RATE,
) -> DecodedAudio:
    """Decode one stretch of any media file to mono at one rate.

    Sound that starts later than the pictures is led in by silence. A stretch too short for one sample gets the one at
    its start. In Matroska and Flash, whose times are whole
    milliseconds, a stretch from the middle of the file is exact to one; elsewhere to the sample.

    Args:
        path: any container with an audio track.
        start: seconds from the beginning of the file.
        end: seconds; None, or more than the file has, reads to the last sample.
        channel: `mix` = mean of all channels but the low-frequency one; `centre` = the front centre, else `mix`;
            `left`, `right` = the front ones. Of a mono file each is its only channel.
        sample_rate: of the result, in Hz.

    Raises:
        MediaError: no recording, no audio track, nothing decodable, or a stretch outside of the file.
    """
    if channel not in get_args(Channel):
        raise MediaError(f"expected a down-mix policy, found {channel!r}: {nearest(channel, get_args(Channel))}")
    for reader in _readers(path, "audio", start, end):
        samples = _read_sound(reader, channel, sample_rate)
        if samples is not None and len(samples) and (reader.good or not reader.bad):
            return DecodedAudio(samples, reader.bad)
    raise reader.failure()


def decode_frames(
    path: PathLike,
    frame_rate: Real,
    size: Sequence[int],
    start: Real = 0.0,
    end: Real | None = None,
    crop: Sequence[int] | None = None,
    interpolation: str = "bicubic",
    parts: Sequence[Part] | None = None,
    thorough: bool = False,
) -> Frames:
    """Decode the pictures that are on at start + (k + 0.5) / frame_rate, k = 0, 1, ... before the end.

    Times are presentation times, so 29.97 frames/s and variable rates do not drift. A stretch too short for one gets
    the picture nearest to the first of these times. Where the file notes a rotation, as phones do that film sideways,
    pictures are turned upright. What damage there is in pictures between, on which no other rests, is not seen.

    Args:
        path: any container with a video track.
        frame_rate: pictures per second of the result.
        size: height and width of the result in pixels; the picture is stretched to it.
        start: seconds from the beginning of the file.
        end: seconds; None, or more than the file has, reads to the last picture.
        crop: left, top, right, bottom in pixels of the upright picture, cut out before the resize.
        interpolation: of the resize: nearest, bilinear, bicubic or lanczos.
        parts: of each picture, the part that is cut out after the crop; the last one holds for what comes after.
        thorough: decode every picture, those too that nobody asks for and on which no other rests.

    Raises:
        MediaError: no recording, no video track, nothing decodable, a stretch outside of the file or a crop outside
            of the picture.
    """
    if interpolation not in _INTERPOLATION:
        raise MediaError(
            f"expected an interpolation, found {interpolation!r}: {nearest(interpolation, _INTERPOLATION)}"
        )
    if not 0 < frame_rate < math.inf or len(size) != 2 or min(size) < 1:
        raise MediaError(
            f"expected a positive frame rate, height and width for {_named(path)}, found {frame_rate}, {size}"
        )
    convert = _converter(lambda *_: size, crop, interpolation, path)

    def cut(frame: Any, number: int) -> UInt8[np.ndarray, "H W 3"]:
        return convert(frame, parts[min(number, len(parts) - 1)] if parts else None)

    for reader in _readers(path, "video", start, end):
        reader.rate = None if thorough else frame_rate
        # Without parts a picture that is on at several times is converted once.
        pixels = [*_pick(reader, frame_rate, cut if parts else _once(cut), _shown(reader))]
        if reader.bad and not thorough:  # a decoder makes up for what is damaged from what was shown before
            return decode_frames(path, frame_rate, size, start, end, crop, interpolation, parts, thorough=True)
        if pixels:
            return Frames(np.stack(pixels), reader.bad)
    raise reader.failure()


class Film:
    """The pictures of a file for one stretch after the other: what follows is decoded onward, without a new search.

    Gives the pictures that `decode_frames` gives; the arguments are its.
    """

    def __init__(
        self,
        path: PathLike,
        frame_rate: Real,
        size: Sequence[int],
        crop: Sequence[int] | None = None,
        interpolation: str = "bicubic",
    ) -> None:
        self._settings: Any = {"frame_rate": frame_rate, "size": size, "crop": crop, "interpolation": interpolation}
        self.path, self.frame_rate = path, frame_rate
        self._convert = _converter(lambda *_: size, crop, interpolation, path)
        self._open = ExitStack()
        self._reader: _Reader | None = None
        self._shown: Iterator[_Shown] = iter(())
        self._last: _Shown | None = None

    def __enter__(self) -> "Film":
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def frames(self, start: Real, end: Real) -> Frames:
        """The pictures between two times, in seconds; see `decode_frames`."""
        if self._last is None or not 0 <= start - self._last[0] <= _AHEAD:
            self._search(start, end)
        if self._reader is not None and self._last is not None and start < end:
            reader = self._reader
            reader.start, reader.end, reader.bad, reader.held = start, end, 0, 0.0
            convert = _once(lambda frame, _: self._convert(frame, None))
            pixels = [*_pick(reader, self.frame_rate, convert, self._onward())]
            if pixels and not reader.bad:
                return Frames(np.stack(pixels), reader.bad)
        self._last = None  # what was left out was left out for this stretch
        return decode_frames(self.path, start=start, end=end, **self._settings)

    def _onward(self) -> "Iterator[_Shown]":
        """The picture that was shown last, and those after it."""
        if self._last is not None:
            yield self._last
        for each in self._shown:
            self._last = each
            yield each

    def _search(self, start: Real, end: Real) -> None:
        """Open the file anew, shortly before a time; nothing is open where that fails."""
        self._open.close()
        self._reader = self._last = None
        entry = start - _PREROLL if start > 2 * _PREROLL else None
        with suppress(MediaError), ExitStack() as opened:
            container, tracks = opened.enter_context(_open(self.path))
            self._reader = _Reader(container, tracks, "video", self.path, start, end, entry)
            self._reader.rate = self.frame_rate
            self._shown = _shown(self._reader)
            self._last = next(self._shown, None)
            self._open = opened.pop_all()


def stream_frames(
    path: PathLike,
    frame_rate: Real,
    longest: int,
    start: Real = 0.0,
    end: Real | None = None,
    crop: Sequence[int] | None = None,
) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Give the pictures of `decode_frames` one after the other, with the proportions that they have in the file.

    A picture that is on at several of the times is the same object each time.

    Args:
        path: any container with a video track.
        frame_rate: pictures per second of the result.
        longest: pixels; a picture with a longer side is made smaller.
        start: seconds from the beginning of the file.
        end: seconds; None, or more than the file has, reads to the last picture.
        crop: left, top, right, bottom in pixels of the upright picture, cut out before the resize.

    Raises:
        MediaError: as in `decode_frames`.
    """

    def within(height: int, width: int) -> tuple[int, int]:
        scale = min(1.0, longest / max(height, width))
        return max(1, round(scale * height)), max(1, round(scale * width))

    convert = _converter(within, crop, "bilinear", path)
    for reader in _readers(path, "video", start, end):
        given = 0
        for pixels in _pick(reader, frame_rate, _once(lambda frame, _: convert(frame, None)), _shown(reader)):
            given += 1
            yield pixels
        if given:
            return
    raise reader.failure()


def content_hash(path: PathLike) -> str:
    """Hash a file's bytes (SHA-256, hexadecimal), whatever its name.

    Raises:
        MediaError: the file is missing or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        raise MediaError(f"expected a file to read at {_named(path)}, found none: {_reason(error)}") from error


def write_audio(path: PathLike, samples: Samples, sample_rate: int) -> None:
    """Write sound in the format that the suffix names: wav (16 bit), mp3, m4a, flac, ogg.

    Args:
        path: overwritten where it exists.
        samples: in [-1, 1]; channels in FFmpeg's order (5.1: FL FR FC LFE, then two at the back).
        sample_rate: in Hz; mp3, AAC and Opus know only some.

    Raises:
        MediaError: the suffix names no format, or the codec refuses the rate or the channels.
    """
    with _create(path, _AUDIO_CODECS) as container:
        sound = _SoundTrack(container, path, samples, sample_rate)
        sound.encode_until(math.inf)


def write_video(
    path: PathLike,
    frames: Iterable[UInt8[np.ndarray, "H W 3"]],
    frame_rate: Real | Fraction,
    samples: Samples | None = None,
    sample_rate: int | None = None,
) -> None:
    """Write pictures, with sound where given: h264 and AAC in mp4, MPEG-4 (DX50) and 16-bit PCM in avi.

    Equal input gives equal bytes on every machine with the same FFmpeg. An mkv holds h264 and FLAC.
    Where FFmpeg lacks x264, its place is taken by MPEG-4.

    Args:
        path: overwritten where it exists.
        frames: RGB, all of one even height and width; taken one at a time.
        frame_rate: per second.
        samples: as in `write_audio`.
        sample_rate: of the samples, in Hz; None = 16,000.

    Raises:
        MediaError: no pictures, an odd size, or a suffix that names no video format.
    """
    with _create(path, _VIDEO_CODECS) as container:
        pictures = _PictureTrack(container, path, frame_rate)
        sound = None if samples is None else _SoundTrack(container, path, samples, sample_rate or SAMPLE_RATE)
        for pixels in frames:
            pictures.encode(pixels)
            if sound is not None:
                sound.encode_until(float(pictures.count / pictures.rate))
        if sound is not None:
            sound.encode_until(math.inf)
        pictures.finish()


def _named(path: PathLike) -> str:
    """A path on one line, whatever its name holds."""
    return repr(os.fspath(path))


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())


@contextmanager
def _open(path: PathLike) -> Iterator[tuple[Any, dict[str, Any]]]:
    """An open container and its tracks, at least one; what has none is told apart by its MediaError."""
    expected = f"expected an audio or video file at {_named(path)}, found"
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise MediaError(f"{expected} none: {_reason(error)}") from error
    if not stat.S_ISREG(status.st_mode):
        raise MediaError(f"{expected} {'a folder' if stat.S_ISDIR(status.st_mode) else 'no regular file'}")
    if not status.st_size:
        raise MediaError(f"{expected} 0 bytes")
    try:
        # "file:" keeps a colon in a name from being read as a protocol; no list of files must reach others.
        options = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
        container = av.open(f"file:{os.fspath(path)}", container_options=options, metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError, RuntimeError) as error:
        raise MediaError(f"{expected} nothing that can be opened as one: {_reason(error)}") from error
    with container:
        if (name := container.format.name) in _NO_RECORDINGS or name.endswith("_pipe"):
            raise MediaError(f"{expected} a still picture, a text or a playlist ({name})")
        if not (tracks := _tracks(container)):
            raise MediaError(f"{expected} a file of the kind {name!r} with neither")
        yield container, tracks


def _tracks(container: Any) -> dict[str, Any]:
    """The stream of each kind that FFmpeg thinks best; cover art is no video."""
    tracks = {}
    for kind in ("audio", "video"):
        best = container.streams.best(kind)
        streams = [s for s in getattr(container.streams, kind) if not s.disposition & Disposition.attached_pic]
        if streams:
            tracks[kind] = min(streams, key=lambda stream: best is None or stream.index != best.index)
    return tracks


def _origin(tracks: dict[str, Any]) -> float:
    """The file's own time of our clock's zero: where its first track starts."""
    return min((float(s.start_time * s.time_base) for s in tracks.values() if s.start_time is not None), default=0.0)


def _confirmed_end(container: Any, stream: Any, origin: float) -> float | None:
    """When a track ends by its header's word; None where there is none or the file's tail does not bear it out."""
    if stream.duration:
        claim = float(((stream.start_time or 0) + stream.duration) * stream.time_base) - origin
    else:
        claim = (container.duration or 0) / av.time_base
    try:
        container.seek(math.floor((max(0.0, claim - _PREROLL) + origin) / stream.time_base), stream=stream)
    except av.error.FFmpegError:
        return None
    seen = _packet_ends(container, [stream], origin)[stream.index]
    return min(seen, claim) if abs(seen - claim) < 0.25 and claim > 0 else None


def _packet_ends(container: Any, streams: list[Any], origin: float) -> dict[int, float]:
    """When the last of the packets that are still to come ends, by stream index."""
    ends = {stream.index: 0.0 for stream in streams}
    with suppress(av.error.FFmpegError):
        for packet in container.demux(streams):
            if packet.pts is not None:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base) - origin
                ends[packet.stream_index] = max(ends[packet.stream_index], end)
    return ends


def _is_chained(path: PathLike) -> bool:
    """Whether an ogg file is several, one after the other: each begins its times anew, so that none can be sought."""
    if not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        if file.read(4) != b"OggS":
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            # The first pages of all streams come before any other page; what is a first page after that is a chain.
            other = re.search(rb"OggS\0[\0\1\4\5]", content)
            return other is not None and any(content.find(b"OggS\0" + kind, other.end()) > 0 for kind in (b"\2", b"\6"))


def _heard_end(path: PathLike) -> float:
    """When the sound of a file ends that is decoded from its beginning on; 0 where nothing can be."""
    with _open(path) as (container, tracks):
        reader = _Reader(container, tracks, "audio", path, 0.0, math.inf, None)
        frames = reader.frames()
        if (first := next(frames, None)) is not None:
            for _ in _placed(reader, itertools.chain([first], frames), first.sample_rate, "mix"):
                pass
        return float(reader.until)


def _readers(path: PathLike, kind: Literal["audio", "video"], start: Real, end: Real | None) -> "Iterator[_Reader]":
    """Readers of a stretch to be tried in turn: from a place shortly before it, then from the beginning of the file."""
    if not 0 <= start < math.inf or (end is not None and not start <= end < math.inf):
        raise MediaError(f"expected 0 <= start <= end in seconds for {_named(path)}, found start {start}, end {end}")
    # Seeks in MPEG streams land anywhere: the second try gives them room to meet a key frame.
    sought = start > 2 * _PREROLL and not _is_chained(path)
    places = [start - _PREROLL, max(0.0, start - 8 * _PREROLL)] if sought else []
    for entry in (*places, None):
        if places and entry is None:
            duration = getattr(probe(path), kind)
            if duration is not None and start > duration + _PREROLL:
                raise _outside(path, kind, start, duration)
        with _open(path) as (container, tracks):
            yield _Reader(container, tracks, kind, path, start, math.inf if end is None else end, entry)


def _outside(path: PathLike, kind: str, start: Real, duration: Real) -> MediaError:
    return MediaError(f"expected a start within the {duration:.3f} s of {kind} in {_named(path)}, found {start:.3f} s")


class _Reader:
    """Decodes one track of an open file and counts what is good and what is bad.

    Attributes:
        start, end: of the stretch that is asked for, in seconds.
        entry: where decoding begins, in seconds; None = at the beginning of the file.
        good: decoded frames that hold numbers.
        bad: packets from `start` on that could not be decoded or not whole.
        until: when the last decoded frame ends, in seconds.
        rate: pictures a second that are asked for; the others need not be decoded. None = all.
    """

    def __init__(
        self,
        container: Any,
        tracks: dict[str, Any],
        kind: Literal["audio", "video"],
        path: PathLike,
        start: Real,
        end: Real,
        entry: Real | None,
    ) -> None:
        if kind not in tracks:
            raise MediaError(f"expected a track of {kind} in {_named(path)}, found only {' and '.join(tracks)}")
        self.container, self.kind, self.path = container, kind, path
        self.start, self.end, self.entry = start, end, entry
        self.stream, self.origin = tracks[kind], _origin(tracks)
        if self.stream.codec_context is None:
            raise MediaError(f"expected decodable {kind} in {_named(path)}, found a codec that FFmpeg does not know")
        self.stream.thread_type = "AUTO" if kind == "video" else "NONE"
        # flac has checksums in its frames, which are not looked at unless asked for.
        checks = {"err_detect": "crccheck+explode"} if self.stream.codec_context.name == "flac" else {}
        self.stream.codec_context.options = {"max_pixels": str(_MAX_PIXELS), **checks}
        self.packets = self.good = self.bad = 0
        self.until = self.held = 0.0
        self.rate: Real | None = None

    def time(self, stamped: Any) -> float | None:
        """A packet's or a frame's presentation time in seconds on the file's clock."""
        return None if stamped.pts is None else float(stamped.pts * stamped.time_base) - self.origin

    def counts(self, stamped: Any) -> bool:
        """Whether a packet or a frame belongs to the stretch that is asked for."""
        time = self.time(stamped)
        return self.start == 0 or (self.until if time is None else time) >= self.start

    def frames(self) -> Iterator[Any]:
        """Decoded frames from `entry` on; packets that cannot be decoded are passed over."""
        try:
            if self.entry is not None:
                self.container.seek(math.floor((self.entry + self.origin) / self.stream.time_base), stream=self.stream)
            for packet, asked in self._told_apart(self.container.demux(self.stream)):
                self.packets += packet.size > 0
                if self.kind == "video":
                    self.stream.codec_context.skip_frame = "DEFAULT" if asked else "NONREF"
                yield from self._decoded(packet)
        except av.error.FFmpegError:
            # The container itself is broken here: what came before is what there is.
            self.bad += self.entry is None

    def _told_apart(self, packets: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
        """Packets, and whether the picture of each is asked for: it is on until the next one of those around is."""
        if self.kind == "audio":
            yield from ((packet, True) for packet in packets)
            return
        ahead, around = deque[Any](), deque[float](maxlen=2 * _REORDER)
        broken: Exception | None = None
        try:
            for packet in packets:
                ahead.append(packet)
                time = self.time(packet)
                around.append(math.nan if time is None else time)
                if len(ahead) > _REORDER:
                    yield ahead[0], self.rate is None or self._is_asked(ahead[0], around)
                    ahead.popleft()
        except av.error.FFmpegError as error:
            broken = error
        for packet in ahead:
            yield packet, self.rate is None or self._is_asked(packet, around)
        if broken is not None:
            raise broken

    def _is_asked(self, packet: Any, around: Sequence[float]) -> bool:
        """Whether a packet's picture is on at an asked time, or at an end of the stretch, or nobody knows."""
        on, rate = self.time(packet), self.rate or 0.0
        codec = self.stream.codec_context
        if on is None or rate < _DENSE or codec.name not in _SPARING or any(map(math.isnan, around)):
            return True
        if codec.has_b_frames and all(one <= other for one, other in itertools.pairwise(around)):
            return True  # the order of decoding: such files do not tell when pictures are shown
        if self.entry is None and on == min(around):
            return True  # stands in for what was before it
        off = min((time for time in around if time > on), default=math.inf)
        if off - on < 0.7 / (self.stream.average_rate or rate):
            return True  # a field, which is half a picture
        on, off = on - _ROUNDED, off + _ROUNDED
        if on <= self.start <= off or off >= self.end:
            return True
        asked = self.start + (max(0.0, math.ceil((on - self.start) * rate - 0.5)) + 0.5) / rate
        return off > self.start and asked <= off

    def _decoded(self, packet: Any) -> list[Any]:
        try:
            frames: list[Any] = packet.decode()
        except (av.error.FFmpegError, ValueError):
            self.bad += packet.size > 0 and self.counts(packet)
            return []
        self.bad += sum(frame.is_corrupt and self.counts(frame) for frame in frames)
        return frames

    def hold(self, seconds: Real) -> None:
        """Account for a hole between timestamps; raises where they cannot be true."""
        self.held += seconds
        if self.held > _LONGEST_HOLE:
            raise MediaError(
                f"expected true timestamps in {_named(self.path)}, found a hole of {self.held:.0f} s or more"
            )

    def failure(self) -> MediaError:
        """Why decoding from the beginning of the file gave nothing."""
        if self.good:
            return _outside(self.path, self.kind, self.start, self.until)
        sane = " or holds sane samples" if self.kind == "audio" else ""
        bad = f"that none of its {self.packets} packets can be{sane}"
        found = bad if self.packets else "a track without packets"
        return MediaError(f"expected decodable {self.kind} in {_named(self.path)}, found {found}")


class _Grid(NamedTuple):
    """Which input samples a stretch needs, and which output samples of these it is."""

    begin: int
    stop: Real
    low: int
    high: Real


def _grid(rate: int, sample_rate: int, start: Real, end: Real) -> _Grid:
    """Begin where an input and an output sample fall together: a stretch has the samples that the whole has there."""
    low = round(start * sample_rate)
    high = end if end == math.inf else max(low + 1, round(end * sample_rate))
    common = math.gcd(rate, sample_rate)
    block = max(0, math.floor((low / sample_rate - _FILTER_REACH) * common))
    offset = block * sample_rate // common
    stop = end if end == math.inf else math.ceil((high / sample_rate + _FILTER_REACH) * rate)
    return _Grid(block * rate // common, stop, low - offset, high - offset)


def _read_sound(reader: _Reader, channel: str, sample_rate: int) -> Float32[np.ndarray, " N"] | None:
    """The stretch, resampled; None where a seek came too late or nothing was decoded."""
    frames = reader.frames()
    if (first := next(frames, None)) is None:
        return None
    rate = first.sample_rate
    if not _LOWEST_RATE <= rate <= _HIGHEST_RATE:
        found = f"found {rate} Hz in {_named(reader.path)}"
        raise MediaError(f"expected a sample rate from {_LOWEST_RATE} to {_HIGHEST_RATE} Hz, {found}")
    grid = _grid(rate, sample_rate, reader.start, reader.end)
    time = reader.time(first)
    if reader.entry is not None and (time is None or round(time * rate) > grid.begin):
        return None
    resampler = soxr.ResampleStream(rate, sample_rate, 1, "float32", "VHQ")
    pieces = []
    for position, block in _placed(reader, itertools.chain([first], frames), rate, channel):
        inside = block[max(0, grid.begin - position) : max(0, int(min(grid.stop - position, len(block))))]
        if len(inside):
            pieces.append(resampler.resample_chunk(inside) if rate != sample_rate else inside)
        if position + len(block) >= grid.stop:
            break
    if not pieces:
        return None
    if rate != sample_rate:
        pieces.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    known = max(1, round(reader.until * sample_rate)) - round(reader.start * sample_rate) + grid.low
    samples = np.concatenate(pieces)[grid.low : int(max(0, min(grid.high, known)))]
    # Of less than half an output sample soxr makes nothing, but a file of one sample is a sound.
    return np.zeros(1, np.float32) if not len(samples) and known == 1 else samples


def _placed(
    reader: _Reader, frames: Iterator[Any], rate: int, channel: str
) -> Iterator[tuple[int, Float32[np.ndarray, " n"]]]:
    """Blocks of mono sound without a hole between them, each with its first sample's index in the file."""
    expected = 0
    jitter = 0 if reader.entry is None else math.inf
    for frame in frames:
        mono = _clean(reader, frame, channel)
        if frame.sample_rate != rate:
            mono = soxr.resample(mono, frame.sample_rate, rate, "VHQ")
        time = reader.time(frame)
        position = expected if time is None else round(time * rate)
        if jitter == math.inf or position < 0 == expected:
            expected = position
        if position - expected > jitter:
            # Of a hole only what the stretch needs: the grid begins less than two seconds before it.
            needed = max(expected, min(position, int((reader.start - 2.0) * rate)))
            for index in range(needed, position, rate):
                hole = min(rate, position - index)
                reader.hold(hole / rate)
                reader.until = (index + hole) / rate
                yield index, np.zeros(hole, np.float32)
            expected = position
        jitter = int(_JITTER * rate)
        reader.until = (expected + len(mono)) / rate
        yield expected, mono
        expected += len(mono)


def _clean(reader: _Reader, frame: Any, channel: str) -> Float32[np.ndarray, " n"]:
    """A frame's mono sound with 0 for what is no number, or too large for one."""
    mono = _mono(frame, channel)
    sane = np.abs(mono) <= LOUDEST
    if sane.all():
        reader.good += 1
        return mono
    reader.bad += reader.counts(frame)
    return np.where(sane, mono, np.float32(0))


def _mono(frame: Any, channel: str) -> Float32[np.ndarray, " n"]:
    """One frame's channels down-mixed by a named policy; FFmpeg's own mix would change the gain."""
    planes = _planes(frame)
    names = [one.name for one in frame.layout.channels]
    if len(planes) == 1:
        return planes[0]
    if channel == "centre" and "FC" in names:
        return planes[names.index("FC")]
    if channel in {"left", "right"}:
        name, index = ("FL", 0) if channel == "left" else ("FR", 1)
        return planes[names.index(name) if name in names else index]
    heard = [index for index, name in enumerate(names) if name not in {"LFE", "LFE2"}]
    return planes[heard].mean(axis=0, dtype=np.float32)


def _planes(frame: Any) -> Float32[np.ndarray, "channels n"]:
    """A frame's samples, full scale = 1."""
    array = frame.to_ndarray()
    if not frame.format.is_planar:
        array = array.reshape(-1, len(frame.layout.channels)).T
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, which counts as bad
            return np.ascontiguousarray(array, np.float32)
    scale = 2.0 ** (8 * array.dtype.itemsize - 1)
    centred = array.astype(np.float64) - (scale if array.dtype.kind == "u" else 0)
    return np.ascontiguousarray(centred / scale, np.float32)


def _converter(
    size: Callable[[int, int], Sequence[int]], crop: Sequence[int] | None, interpolation: str, path: PathLike
) -> Callable[[Any, Part | None], UInt8[np.ndarray, "H W 3"]]:
    """A function from a decoded frame, and the part of it that is wanted, to RGB pixels of the size that suits them."""
    flags = _EXACT | _INTERPOLATION[interpolation]
    # A reformatter keeps its tables from frame to frame as long as the sizes stay.
    whole, resize = VideoReformatter(), VideoReformatter()

    def convert(frame: Any, part: Part | None) -> UInt8[np.ndarray, "H W 3"]:
        try:
            return scaled(frame, part)
        except av.error.FFmpegError as error:
            found = f"found {frame.width} x {frame.height}: {_reason(error)}"
            raise MediaError(f"expected pictures that can be scaled in {_named(path)}, {found}") from error

    def scaled(frame: Any, part: Part | None) -> UInt8[np.ndarray, "H W 3"]:
        if turns := round(frame.rotation / 90) % 4:
            pixels = whole.reformat(frame, format="rgb24", interpolation=flags, threads=1).to_ndarray()
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.rot90(pixels, turns)), "rgb24")
        left, top, right, bottom = crop if crop is not None else (0, 0, frame.width, frame.height)
        if not (0 <= left < right <= frame.width and 0 <= top < bottom <= frame.height):
            found = f"found {[left, top, right, bottom]} for {_named(path)}"
            raise MediaError(f"expected a crop inside of [0, 0, {frame.width}, {frame.height}], {found}")
        if part is not None:
            (left, right), (top, bottom) = _inner(left, right, part[0::2]), _inner(top, bottom, part[1::2])
        if (left, top, right, bottom) != (0, 0, frame.width, frame.height):
            pixels = whole.reformat(frame, format="rgb24", interpolation=flags, threads=1).to_ndarray()
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[top:bottom, left:right]), "rgb24")
        height, width = size(frame.height, frame.width)
        resized: np.ndarray = resize.reformat(
            frame, width, height, "rgb24", interpolation=flags, threads=1
        ).to_ndarray()
        return resized

    return convert


def _inner(low: int, high: int, share: Sequence[float]) -> tuple[int, int]:
    """The pixels of a side that a part of it takes, at least one."""
    first = min(high - 1, max(low, round(low + share[0] * (high - low))))
    return first, max(first + 1, min(high, round(low + share[1] * (high - low))))


def _once(
    convert: Callable[[Any, int], UInt8[np.ndarray, "H W 3"]],
) -> Callable[[Any, int], UInt8[np.ndarray, "H W 3"]]:
    """Convert a frame that follows itself no second time."""
    last: list[Any] = [None, None]

    def convert_new(frame: Any, number: int) -> UInt8[np.ndarray, "H W 3"]:
        if frame is not last[0]:
            last[:] = frame, convert(frame, number)
        pixels: np.ndarray = last[1]
        return pixels

    return convert_new


def _pick(
    reader: _Reader,
    frame_rate: Real,
    convert: Callable[[Any, int], UInt8[np.ndarray, "H W 3"]],
    shown: "Iterator[_Shown]",
) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """The pictures that are on at the asked times, converted with their number; nothing where a seek came too late."""
    start, end = reader.start, reader.end
    count = 0
    frame = None
    for time, until, next_frame in shown:
        if reader.entry is not None and frame is None and time > start:
            return
        frame = next_frame
        reader.hold(max(0.0, min(until, end) - max(time, start) - 1.0))
        while start + (count + 0.5) / frame_rate < min(until, end):
            yield convert(frame, count)
            count += 1
        if until >= end:
            break
    if frame is not None and not count and reader.until > start:
        yield convert(frame, 0)


_Shown: TypeAlias = tuple[float, float, Any]  # comes on, goes off, the picture


def _shown(reader: _Reader) -> Iterator[_Shown]:
    """Each decoded frame with the time when it comes on and the time when the next one does."""
    rate = reader.stream.average_rate or reader.stream.guessed_rate or 25
    shown, since = None, 0.0
    for frame in reader.frames():
        time = reader.time(frame)
        time = reader.until if time is None else time
        reader.good += 1
        reader.until = time + (float(frame.duration * frame.time_base) or float(1 / rate))
        if shown is not None:
            yield since, time, shown
        shown, since = frame, time
    if shown is not None:
        yield since, reader.until, shown


@contextmanager
def _create(path: PathLike, formats: dict[str, str]) -> Iterator[Any]:
    """A container to write, gone again where writing fails."""
    if (suffix := Path(path).suffix.lower()) not in formats:
        raise MediaError(
            f"expected a known suffix to write {_named(path)}, found {suffix!r}: {nearest(suffix, formats)}"
        )
    try:
        with av.open(f"file:{os.fspath(path)}", "w", options={"fflags": "+bitexact"}) as container:
            yield container
    except BaseException as error:
        with suppress(OSError):
            os.unlink(path)
        if isinstance(error, av.error.FFmpegError):
            raise MediaError(f"expected to write {_named(path)}, found: {_reason(error)}") from error
        raise


class _SoundTrack:
    """The audio track of a file that is being written."""

    def __init__(self, container: Any, path: PathLike, samples: Samples, sample_rate: int) -> None:
        self.container, self.rate, self.done = container, sample_rate, 0
        self.samples = np.atleast_2d(samples)
        if (channels := len(self.samples)) not in _LAYOUTS:
            raise MediaError(f"expected 1 to 8 channels for {_named(path)}, found {channels}")
        self.layout = _LAYOUTS[channels]
        codec = _AUDIO_CODECS[Path(path).suffix.lower()]
        self.stream = container.add_stream(codec, rate=sample_rate, layout=self.layout)

    def encode_until(self, time: Real) -> None:
        """Encode what is heard before `time` in seconds; infinity ends the track."""
        total = self.samples.shape[1]
        stop = int(min(total, time * self.rate))
        for begin in range(self.done, stop, self.rate):
            chunk = self.samples[:, begin : min(stop, begin + self.rate)]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(chunk, np.float32), "fltp", self.layout)
            frame.sample_rate, frame.pts, frame.time_base = self.rate, begin, Fraction(1, self.rate)
            self.container.mux(self.stream.encode(frame))
        self.done = max(self.done, stop)
        if time == math.inf:
            self.container.mux(self.stream.encode(None))


class _PictureTrack:
    """The video track of a file that is being written."""

    def __init__(self, container: Any, path: PathLike, frame_rate: Real | Fraction) -> None:
        self.container, self.path, self.count = container, path, 0
        self.rate = Fraction(frame_rate).limit_denominator(1001)
        codec = _VIDEO_CODECS[Path(path).suffix.lower()]
        # x264's macroblock tree gives other bytes for the same pictures from run to run.
        x264 = {"crf": "18", "preset": "veryfast", "mbtree": "0"}
        options = x264 if codec == "libx264" else {"qscale": "3", "flags": "+bitexact"}
        self.stream = container.add_stream(codec, rate=self.rate, options=options)
        if codec == "mpeg4":
            self.stream.codec_context.qscale = True
        self.stream.pix_fmt = "yuv420p"
        # With more threads an encoder gives other bytes on a machine with more cores.
        self.stream.codec_context.thread_count = 1
        if Path(path).suffix.lower() == ".avi":
            self.stream.codec_context.codec_tag = "DX50"

    def encode(self, pixels: UInt8[np.ndarray, "H W 3"]) -> None:
        height, width = pixels.shape[:2]
        if not self.count:
            self.stream.height, self.stream.width = height, width
        if height % 2 or width % 2 or (height, width) != (self.stream.height, self.stream.width):
            expected = f"expected pictures of one even size for {_named(self.path)}"
            raise MediaError(f"{expected}, found {width} x {height} as number {self.count}")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
        frame.pts, frame.time_base = self.count, 1 / self.rate
        self.container.mux(self.stream.encode(frame))
        self.count += 1

    def finish(self) -> None:
        """End the track."""
        if not self.count:
            raise MediaError(f"expected at least one picture for {_named(self.path)}, found none")
        self.container.mux(self.stream.encode(None))
