"""Audio and video files written, the same bytes for the same input."""

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import av
import numpy as np
from jaxtyping import Float32, UInt8

from wavfusion.errors import MediaError, nearest
from wavfusion.media import SAMPLE_RATE
from wavfusion.media.container import PathLike, Real, named, reason

Samples: TypeAlias = Float32[np.ndarray, " N"] | Float32[np.ndarray, "channels N"]

_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
_AUDIO_CODECS = {
    ".wav": "pcm_s16le",
    ".mp3": "libmp3lame",
    ".m4a": "aac",
    ".flac": "flac",
    ".ogg": "libopus",
    ".amr": "libopencore_amrnb",
    ".avi": "pcm_s16le",
    ".mp4": "aac",
    ".mkv": "flac",
}
_H264 = "libx264" if "libx264" in av.codecs_available else "mpeg4"
_VIDEO_CODECS = {".mp4": _H264, ".mkv": _H264, ".avi": "mpeg4"}


def write_audio(path: PathLike, samples: Samples, sample_rate: int, bit_rate: int | None = None) -> None:
    """Write audio in the format that the suffix names: wav (16 bit), mp3, m4a, flac, ogg, amr (narrow band).

    Args:
        path: overwritten where it exists.
        samples: in [-1, 1]; channels in FFmpeg's order (5.1: FL FR FC LFE, then two at the back).
        sample_rate: in Hz; mp3, AAC and Opus know only some, AMR 8000 alone.
        bit_rate: bits a second of a lossy format; None = the codec's own choice.

    Raises:
        MediaError: the suffix names no format, FFmpeg lacks its codec, or the codec refuses a rate or the channels.
    """
    with _create(path, _AUDIO_CODECS) as container:
        _AudioTrack(container, path, samples, sample_rate, bit_rate).encode_until(math.inf)


def write_video(
    path: PathLike,
    frames: Iterable[UInt8[np.ndarray, "H W 3"]],
    frame_rate: Real | Fraction,
    samples: Samples | None = None,
    sample_rate: int = SAMPLE_RATE,
) -> None:
    """Write video, with audio where given: h264 and AAC in mp4, MPEG-4 (DX50) and 16-bit PCM in avi.

    Equal input gives equal bytes on every machine with the same FFmpeg. An mkv holds h264 and FLAC.
    Where FFmpeg lacks x264, MPEG-4 takes its place.

    Args:
        path: overwritten where it exists.
        frames: RGB, all of one even height and width; taken one at a time.
        frame_rate: per second.
        samples: as in `write_audio`.
        sample_rate: of the samples, in Hz.

    Raises:
        MediaError: no frames, an odd size, or a suffix that names no video format.
    """
    rate, count = Fraction(frame_rate).limit_denominator(1001), 0
    with _create(path, _VIDEO_CODECS) as container:
        stream = _add_video(container, _suffix(path), rate)
        audio = None if samples is None else _AudioTrack(container, path, samples, sample_rate)
        for pixels in frames:
            height, width = pixels.shape[:2]
            if not count:
                stream.height, stream.width = height, width
            if height % 2 or width % 2 or (height, width) != (stream.height, stream.width):
                expected = f"expected frames of one even size for {named(path)}"
                raise MediaError(f"{expected}, found {width} x {height} as number {count}")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
            frame.pts, frame.time_base = count, 1 / rate
            container.mux(stream.encode(frame))
            count += 1
            if audio is not None:
                audio.encode_until(float(count / rate))
        if audio is not None:
            audio.encode_until(math.inf)
        if not count:
            raise MediaError(f"expected at least one frame for {named(path)}, found none")
        container.mux(stream.encode(None))


def _suffix(path: PathLike) -> str:
    return Path(path).suffix.lower()


@contextmanager
def _create(path: PathLike, formats: dict[str, str]) -> Iterator[Any]:
    """Open a container to write; the file is removed where writing fails."""
    if (suffix := _suffix(path)) not in formats:
        raise MediaError(
            f"expected a known suffix to write {named(path)}, found {suffix!r}: {nearest(suffix, formats)}"
        )
    try:
        with av.open(f"file:{os.fspath(path)}", "w", options={"fflags": "+bitexact"}) as container:
            yield container
    except BaseException as error:
        with suppress(OSError):
            os.unlink(path)
        if isinstance(error, av.codec.codec.UnknownCodecError):
            raise MediaError(f"expected FFmpeg with {error} to write {named(path)}, found it without") from error
        if isinstance(error, av.error.FFmpegError):
            raise MediaError(f"expected to write {named(path)}, found: {reason(error)}") from error
        raise


def _add_video(container: Any, suffix: str, rate: Fraction) -> Any:
    codec = _VIDEO_CODECS[suffix]
    # x264's macroblock tree gives different bytes for the same frames from run to run.
    x264 = {"crf": "18", "preset": "veryfast", "mbtree": "0"}
    options = x264 if codec == "libx264" else {"qscale": "3", "flags": "+bitexact"}
    stream = container.add_stream(codec, rate=rate, options=options)
    if codec == "mpeg4":
        stream.codec_context.qscale = True
    stream.pix_fmt = "yuv420p"
    # With more threads the bytes would depend on the number of cores.
    stream.codec_context.thread_count = 1
    if suffix == ".avi":
        stream.codec_context.codec_tag = "DX50"
    return stream


class _AudioTrack:
    """The audio track of a file that is being written."""

    def __init__(
        self, container: Any, path: PathLike, samples: Samples, sample_rate: int, bit_rate: int | None = None
    ) -> None:
        self.container, self.rate, self.done, self.samples = container, sample_rate, 0, np.atleast_2d(samples)
        if (channels := len(self.samples)) not in _LAYOUTS:
            raise MediaError(f"expected 1 to 8 channels for {named(path)}, found {channels}")
        self.layout = _LAYOUTS[channels]
        self.stream = container.add_stream(_AUDIO_CODECS[_suffix(path)], rate=sample_rate, layout=self.layout)
        if bit_rate is not None:
            self.stream.codec_context.bit_rate = bit_rate

    def encode_until(self, time: Real) -> None:
        """Encode the samples before `time` in seconds; infinity ends the track."""
        stop = int(min(self.samples.shape[1], time * self.rate))
        for begin in range(self.done, stop, self.rate):
            chunk = self.samples[:, begin : min(stop, begin + self.rate)]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(chunk, np.float32), "fltp", self.layout)
            frame.sample_rate, frame.pts, frame.time_base = self.rate, begin, Fraction(1, self.rate)
            self.container.mux(self.stream.encode(frame))
        self.done = max(self.done, stop)
        if time == math.inf:
            self.container.mux(self.stream.encode(None))
