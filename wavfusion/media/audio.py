"""Audio of any media file as mono samples at one rate."""

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple, get_args

import numpy as np
import soxr
from jaxtyping import Float32

from wavfusion.errors import MediaError, nearest
from wavfusion.manifest import Channel
from wavfusion.media import SAMPLE_RATE
from wavfusion.media.container import JITTER, PathLike, Real, Track, audio_tracks, boundary, named
from wavfusion.media.decoder import Stretch, TrackReader, readers, stretches

_FILTER_REACH = 0.1  # seconds; soxr's longest filter (192 to 16 kHz) reaches less far to either side of a sample
LOUDEST = 2.0**31  # float samples may be on the scale of 32-bit integers; larger values are damage, not loudness
# In Hz; a header outside of these would turn a few bytes into seconds of audio, or many bytes into none.
_LOWEST_RATE, _HIGHEST_RATE = 1_000, 768_000


class DecodedAudio(NamedTuple):
    """Mono audio of one stretch of a file.

    Attributes:
        samples: about [-1, 1]; 0 where a packet was lost, or held NaN or a value beyond `LOUDEST`.
        bad_packets: how many such packets the stretch has.
    """

    samples: Float32[np.ndarray, " N"]
    bad_packets: int


def decode_audio(
    path: PathLike,
    start: Real = 0.0,
    end: Real | None = None,
    channel: str = "mix",
    sample_rate: int = SAMPLE_RATE,
    track: Track = None,
) -> DecodedAudio:
    """Decode one stretch of any media file to mono at one rate.

    Audio that starts later than the video is preceded by silence. A stretch shorter than one sample gives the sample
    at its start. A stretch is exact to the sample; in Matroska and Flash, whose times are whole milliseconds, to one
    millisecond unless it starts with the file.

    Args:
        path: any container with an audio track.
        start: seconds from the beginning of the file.
        end: seconds; None, or more than the file has, reads to the last sample.
        channel: `mix` = mean of all channels but the low-frequency one; `centre` = the front centre, else `mix`;
            `left`, `right` = the front ones. Of a mono file each is its only channel.
        sample_rate: of the result, in Hz.
        track: number of an audio track, from 1; `mix` = the mean of all that can be decoded, each taken as silent
            after its end; None = the file's default one, or another where that cannot be decoded.

    Raises:
        MediaError: no recording, no audio track, nothing decodable, or a stretch outside of the file.
    """
    if channel not in get_args(Channel):
        raise MediaError(f"expected a down-mix policy, found {channel!r}: {nearest(channel, get_args(Channel))}")
    if track == "mix":
        return _mean_of_tracks(path, start, end, channel, sample_rate)
    found = stretches(path, "audio", start, end, track)
    if len(found) == 1:
        return _decode_stretch(found[0], channel, sample_rate)
    joined, bad, failure = np.zeros(0, np.float32), 0, None
    for stretch in found:
        try:
            samples, lost = _decode_stretch(stretch, channel, sample_rate)
        except MediaError as error:
            failure, bad = error, bad + 1
            continue
        at = round((stretch.begin + stretch.start) * sample_rate) - round(start * sample_rate)
        most = None if stretch.end is None else round(stretch.end * sample_rate) - round(stretch.start * sample_rate)
        joined = np.concatenate([joined[:at], np.zeros(max(0, at - len(joined)), np.float32), samples[:most]])
        bad += lost
    if failure is not None and not len(joined):
        raise failure
    return DecodedAudio(joined, bad)


def _mean_of_tracks(path: PathLike, start: Real, end: Real | None, channel: str, sample_rate: int) -> DecodedAudio:
    numbers: list[int | None] = [each.number for each in audio_tracks(path) if each.decodable]
    decoded, failure = list[DecodedAudio](), None
    for number in numbers or [None]:
        try:
            decoded.append(decode_audio(path, start, end, channel, sample_rate, number))
        except MediaError as error:  # such as a track that is over by then
            failure = error
    if failure is not None and not decoded:
        raise failure
    total = np.zeros(max(len(each.samples) for each in decoded), np.float32)
    for each in decoded:
        total[: len(each.samples)] += each.samples
    return DecodedAudio(total / max(1, len(numbers)), sum(each.bad_packets for each in decoded))


def _decode_stretch(stretch: Stretch, channel: str, sample_rate: int) -> DecodedAudio:
    with boundary(stretch.path):
        for reader in readers(stretch, "audio"):
            samples = _read_samples(reader, channel, sample_rate)
            if samples is not None and len(samples) and (reader.good or not reader.bad):
                return DecodedAudio(samples, reader.bad)
    raise reader.failure()


class _Grid(NamedTuple):
    """Range of input samples that a stretch needs (begin, stop), and of output samples that it is (low, high)."""

    begin: int
    stop: Real
    low: int
    high: Real


def _plan_grid(rate: int, sample_rate: int, start: Real, end: Real) -> _Grid:
    """Begin where an input and an output sample coincide, so that a stretch equals that part of the whole file."""
    low = round(start * sample_rate)
    high = end if end == math.inf else max(low + 1, round(end * sample_rate))
    common = math.gcd(rate, sample_rate)
    block = max(0, math.floor((low / sample_rate - _FILTER_REACH) * common))
    offset = block * sample_rate // common
    stop = end if end == math.inf else math.ceil((high / sample_rate + _FILTER_REACH) * rate)
    return _Grid(begin=block * rate // common, stop=stop, low=low - offset, high=high - offset)


def _read_samples(reader: TrackReader, channel: str, sample_rate: int) -> Float32[np.ndarray, " N"] | None:
    """Resample the stretch; None where a seek landed too late or nothing was decoded."""
    frames = reader.frames()
    if (first := next(frames, None)) is None:
        return None
    rate = first.sample_rate
    if not _LOWEST_RATE <= rate <= _HIGHEST_RATE:
        found = f"found {rate} Hz in {named(reader.path)}"
        raise MediaError(f"expected a sample rate from {_LOWEST_RATE} to {_HIGHEST_RATE} Hz, {found}")
    grid = _plan_grid(rate, sample_rate, reader.start, reader.end)
    time = reader.time(first)
    if reader.entry is not None and (time is None or round(time * rate) > grid.begin):
        return None
    resampler = soxr.ResampleStream(rate, sample_rate, 1, "float32", "VHQ")
    pieces = []
    for position, block in _gapless(reader, itertools.chain([first], frames), rate, channel):
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
    # soxr gives nothing for less than half an output sample, but a file of one sample is audio.
    return np.zeros(1, np.float32) if not len(samples) and known == 1 else samples


def _gapless(
    reader: TrackReader, frames: Iterator[Any], rate: int, channel: str
) -> Iterator[tuple[int, Float32[np.ndarray, " n"]]]:
    """Mono blocks with holes filled by silence, each with its first sample's index in the file."""
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
            # Only the part of a hole that the stretch needs: the grid begins less than two seconds before it.
            needed = max(expected, min(position, int((reader.start - 2.0) * rate)))
            for index in range(needed, position, rate):
                hole = min(rate, position - index)
                reader.hold(hole / rate)
                reader.until = (index + hole) / rate
                yield index, np.zeros(hole, np.float32)
            expected = position
        jitter = int(JITTER * rate)
        reader.until = (expected + len(mono)) / rate
        yield expected, mono
        expected += len(mono)


def _clean(reader: TrackReader, frame: Any, channel: str) -> Float32[np.ndarray, " n"]:
    """A frame's mono samples, with 0 for NaN, infinity and what is beyond `LOUDEST`."""
    mono = _mono(frame, channel)
    sane = np.abs(mono) <= LOUDEST
    if sane.all():
        reader.good += 1
        return mono
    reader.bad += reader.counts(frame)
    return np.where(sane, mono, np.float32(0))


def _mono(frame: Any, channel: str) -> Float32[np.ndarray, " n"]:
    """Down-mix one frame by a named policy; FFmpeg's own mix would change the gain."""
    planes = _planes(frame)
    names = [one.name for one in frame.layout.channels]
    if len(planes) == 1:
        return planes[0]
    if channel == "centre" and "FC" in names:
        return planes[names.index("FC")]
    if channel in {"left", "right"}:
        name, index = ("FL", 0) if channel == "left" else ("FR", 1)
        return planes[names.index(name) if name in names else index]
    mixed = [index for index, name in enumerate(names) if name not in {"LFE", "LFE2"}]
    return planes[mixed].mean(axis=0, dtype=np.float32)


def _planes(frame: Any) -> Float32[np.ndarray, "channels n"]:
    """A frame's samples, full scale = 1."""
    array = frame.to_ndarray()
    if not frame.format.is_planar:
        array = array.reshape(-1, len(frame.layout.channels)).T
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which counts as bad
            return np.ascontiguousarray(array, np.float32)
    scale = 2.0 ** (8 * array.dtype.itemsize - 1)
    centred = array.astype(np.float64) - (scale if array.dtype.kind == "u" else 0)
    return np.ascontiguousarray(centred / scale, np.float32)
