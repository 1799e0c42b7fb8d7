"""Video of any media file as RGB frames, evenly spaced in time, cropped and resized."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from wavfusion.errors import MediaError, nearest
from wavfusion.media import joined
from wavfusion.media.container import FAILURES, PREROLL, PathLike, Real, boundary, named, open_container, reason
from wavfusion.media.decoder import Stretch, TrackReader, readers, stretches

Region: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom, as shares of a frame's sides
TimedFrame: TypeAlias = tuple[float, float, Any]  # seconds from and until which the decoded frame is shown
# From a decoded frame, and a region or None, to RGB.
Convert: TypeAlias = Callable[[Any, Region | None], UInt8[np.ndarray, "H W 3"]]
# Height and width of a result in pixels, or what makes it of the pixels that the file has.
Target: TypeAlias = Sequence[int] | Callable[[UInt8[np.ndarray, "H W 3"]], UInt8[np.ndarray, "_ _ 3"]]

_READ_ON = 10.0  # seconds up to which it is faster to decode on than to seek: key frames stand 2 to 12 s apart
# Flags of FFmpeg's swscale.h: full chroma in and out, accurate rounding, bit-exact arithmetic. The faster paths halve
# the colour resolution and differ between processors.
_EXACT = 0x2000 | 0x4000 | 0x40000 | 0x80000
_INTERPOLATION = {"nearest": 0x10, "bilinear": 0x2, "bicubic": 0x4, "lanczos": 0x200}


class Frames(NamedTuple):
    """Frames of one stretch, RGB, evenly spaced in time."""

    pixels: UInt8[np.ndarray, "T H W 3"]
    bad_packets: int  # of the stretch, that could not be decoded, or only in part


def decode_frames(
    path: PathLike,
    frame_rate: Real,
    target: Target,
    start: Real = 0.0,
    end: Real | None = None,
    crop: Sequence[int] | None = None,
    interpolation: str = "bicubic",
    regions: Sequence[Region] | None = None,
    thorough: bool = False,
) -> Frames:
    """Decode the frames that are shown at start + (k + 0.5) / frame_rate, k = 0, 1, ... before the end.

    Times are presentation times, so 29.97 frames/s and variable rates do not drift. A stretch shorter than that
    gives the frame nearest to the first of these times. Frames are turned upright where the file notes a rotation, as
    phones do. Frames between these times that no other depends on are not decoded, so damage to them goes unnoticed.

    Args:
        path: any container with a video track.
        frame_rate: frames per second of the result.
        target: height and width of the result in pixels, to which frames are stretched; or a function that resizes
            them, all of one stretch to the same height and width.
        start: seconds from the beginning of the file.
        end: seconds; None, or more than the file has, reads to the last frame.
        crop: left, top, right, bottom in pixels of the upright frame, cut out before the resize.
        interpolation: of the stretching: nearest, bilinear, bicubic or lanczos.
        regions: one for each frame, cut out after the crop; the last one holds for all later frames.
        thorough: decode every frame of the stretch.

    Raises:
        MediaError: no recording, no video track, nothing decodable, a stretch outside of the file or a crop outside
            of the frame.
    """
    if interpolation not in _INTERPOLATION:
        valid = nearest(interpolation, _INTERPOLATION)
        raise MediaError(f"expected an interpolation, found {interpolation!r}: {valid}")
    if not 0 < frame_rate < math.inf or not (callable(target) or (len(target) == 2 and min(target) >= 1)):
        expected = f"expected a positive frame rate, height and width for {named(path)}"
        raise MediaError(f"{expected}, found {frame_rate}, {target}")
    convert = _resizer(target, crop, interpolation, path)
    found = list[Frames]()
    for stretch in _evenly(stretches(path, "video", start, end), start, frame_rate):
        rest = regions and regions[min(sum(len(each.pixels) for each in found), len(regions) - 1) :]
        found.append(_decode_stretch(stretch, frame_rate, convert, rest, thorough))
    if len(found) == 1:
        return found[0]
    return Frames(np.concatenate([each.pixels for each in found]), sum(each.bad_packets for each in found))


def _evenly(found: Sequence[Stretch], start: Real, frame_rate: Real) -> list[Stretch]:
    """Move the starts of joined recordings so that frames stay evenly spaced; those without a frame are left out."""
    if len(found) == 1:
        return list(found)
    moved = []
    for stretch in found:
        due = max(0, math.ceil((stretch.begin + stretch.start - start) * frame_rate - 0.5))
        at = start + due / frame_rate - stretch.begin
        if stretch.end is None or at + 0.5 / frame_rate < stretch.end:
            moved.append(stretch._replace(start=max(0.0, at)))
    return moved or [found[0]]


def _decode_stretch(
    stretch: Stretch, frame_rate: Real, convert: Convert, regions: Sequence[Region] | None, thorough: bool
) -> Frames:
    with boundary(stretch.path):
        for reader in readers(stretch, "video"):
            reader.rate = None if thorough else frame_rate
            shown = _sample_frames(reader, frame_rate, _timed_frames(reader))
            if regions:
                pixels = [convert(frame, regions[min(number, len(regions) - 1)]) for number, frame in enumerate(shown)]
            else:
                pixels = [*_converted(shown, convert)]
            if reader.bad and not thorough:  # decoders conceal damage with frames that were skipped here
                return _decode_stretch(stretch, frame_rate, convert, regions, thorough=True)
            if pixels:
                return Frames(np.stack(pixels), reader.bad)
    raise reader.failure()


class VideoReader:
    """The frames of `decode_frames`, for one stretch after another: decodes on instead of seeking if faster."""

    def __init__(self, path: PathLike, frame_rate: Real, target: Target, interpolation: str = "bicubic") -> None:
        self._decode_alone = partial(decode_frames, path, frame_rate, target, interpolation=interpolation)
        self.path, self.frame_rate = path, frame_rate
        self._convert = _resizer(target, None, interpolation, path)
        self._joined = bool(joined.parts(path))
        self._opened = ExitStack()
        self._reader: TrackReader | None = None
        self._coming: Iterator[TimedFrame] = iter(())
        self._last: TimedFrame | None = None

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def frames(self, start: Real, end: Real) -> Frames:
        """Decode the frames between two times, in seconds; see `decode_frames`."""
        if self._joined:
            return self._decode_alone(start=start, end=end)
        if self._last is None or not 0 <= start - self._last[0] <= _READ_ON:
            self._seek(start, end)
        if self._reader is not None and self._last is not None and start < end:
            reader = self._reader
            reader.start, reader.end, reader.bad, reader.held = start, end, 0, 0.0
            with suppress(MediaError), boundary(self.path):
                pixels = [*_converted(_sample_frames(reader, self.frame_rate, self._following()), self._convert)]
                if pixels and not reader.bad:
                    return Frames(np.stack(pixels), reader.bad)
        self._last = None  # frames that this stretch skipped may be needed by the next
        return self._decode_alone(start=start, end=end)

    def _following(self) -> Iterator[TimedFrame]:
        """The frame that was shown last, and those after it."""
        if self._last is not None:
            yield self._last
        for each in self._coming:
            self._last = each
            yield each

    def _seek(self, start: Real, end: Real) -> None:
        """Open the file again shortly before a time; nothing is open where that fails."""
        self._opened.close()
        self._reader = self._last = None
        entry = start - PREROLL if start > 2 * PREROLL else None
        with suppress(MediaError), ExitStack() as opened:
            container = opened.enter_context(open_container(self.path))
            self._reader = TrackReader(container, "video", self.path, start, end, entry)
            self._reader.rate = self.frame_rate
            self._coming = _timed_frames(self._reader)
            self._last = next(self._coming, None)
            self._opened = opened.pop_all()


def stream_frames(
    path: PathLike,
    frame_rate: Real,
    longest: int,
    start: Real = 0.0,
    end: Real | None = None,
    crop: Sequence[int] | None = None,
) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Yield the frames of `decode_frames` one at a time, with the proportions that they have in the file.

    A frame with a side of more than `longest` pixels is made smaller. One that is shown at several of the times is the
    same object each time.

    Raises:
        MediaError: as in `decode_frames`.
    """

    def within(height: int, width: int) -> tuple[int, int]:
        scale = min(1.0, longest / max(height, width))
        return max(1, round(scale * height)), max(1, round(scale * width))

    convert = _converter(within, crop, "bilinear", path)
    for stretch in _evenly(stretches(path, "video", start, end), start, frame_rate):
        with boundary(path):
            for reader in readers(stretch, "video"):
                pixels = None
                for pixels in _converted(_sample_frames(reader, frame_rate, _timed_frames(reader)), convert):
                    yield pixels
                if pixels is not None:
                    break
            else:
                raise reader.failure()


def _resizer(target: Target, crop: Sequence[int] | None, interpolation: str, path: PathLike) -> Convert:
    """Make a function that crops a decoded frame to a region, gives RGB pixels and resizes them to a target."""
    if not callable(target):
        return _converter(lambda *_: target, crop, interpolation, path)
    convert = _converter(lambda *sides: sides, crop, interpolation, path)
    return lambda frame, region: target(convert(frame, region))


def _converter(
    size: Callable[[int, int], Sequence[int]], crop: Sequence[int] | None, interpolation: str, path: PathLike
) -> Convert:
    """Make a function that crops a decoded frame to a region, resizes it and gives RGB pixels."""
    flags = _EXACT | _INTERPOLATION[interpolation]
    # A reformatter keeps its tables as long as the sizes stay the same.
    whole, resize = VideoReformatter(), VideoReformatter()

    def convert(frame: Any, region: Region | None) -> UInt8[np.ndarray, "H W 3"]:
        turns = round(frame.rotation / 90) % 4
        width, height = (frame.height, frame.width) if turns % 2 else (frame.width, frame.height)
        left, top, right, bottom = crop if crop is not None else (0, 0, width, height)
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            found = f"found {[left, top, right, bottom]} for {named(path)}"
            raise MediaError(f"expected a crop inside of [0, 0, {width}, {height}], {found}")
        if region is not None:
            left, right = _part_of_side(left, right, region[0::2])
            top, bottom = _part_of_side(top, bottom, region[1::2])
        try:
            if turns or (left, top, right, bottom) != (0, 0, width, height):
                pixels = whole.reformat(frame, format="rgb24", interpolation=flags, threads=1).to_ndarray()
                pixels = np.rot90(pixels, turns)[top:bottom, left:right]
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
            tall, wide = size(frame.height, frame.width)
            return resize.reformat(frame, wide, tall, "rgb24", interpolation=flags, threads=1).to_ndarray()
        except FAILURES as error:
            found = f"found {frame.width} x {frame.height}: {reason(error)}"
            raise MediaError(f"expected frames that can be scaled in {named(path)}, {found}") from error

    return convert


def _part_of_side(low: int, high: int, share: Sequence[float]) -> tuple[int, int]:
    """First pixel, and the one after the last, of a share of a side; at least one pixel."""
    first = min(high - 1, max(low, round(low + share[0] * (high - low))))
    return first, max(first + 1, min(high, round(low + share[1] * (high - low))))


def _converted(frames: Iterator[Any], convert: Convert) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Convert frames; one that is shown several times only once."""
    last: Any = None
    pixels: Any = None
    for frame in frames:
        if frame is not last:
            last, pixels = frame, convert(frame, None)
        yield pixels


def _sample_frames(reader: TrackReader, frame_rate: Real, frames: Iterator[TimedFrame]) -> Iterator[Any]:
    """Yield the frames that are shown at the requested times; nothing where a seek landed too late."""
    start, end = reader.start, reader.end
    count = 0
    frame = None
    for time, until, next_frame in frames:
        if reader.entry is not None and frame is None and time > start:
            return
        frame = next_frame
        reader.hold(max(0.0, min(until, end) - max(time, start) - 1.0))
        while start + (count + 0.5) / frame_rate < min(until, end):
            yield frame
            count += 1
        if until >= end:
            break
    if frame is not None and not count and reader.until > start:
        yield frame


def _timed_frames(reader: TrackReader) -> Iterator[TimedFrame]:
    """Each decoded frame, with its presentation time and that of the next one."""
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
