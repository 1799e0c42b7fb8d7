"""One track of a media file decoded packet by packet; damaged packets are counted, unneeded video frames skipped."""

import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from wavfusion.errors import MediaError
from wavfusion.media import joined
from wavfusion.media.container import (
    FAILURES,
    LONGEST_HOLE,
    PREROLL,
    OpenFile,
    PathLike,
    Real,
    Span,
    named,
    open_container,
    packets,
    probe_span,
)

Kind: TypeAlias = Literal["audio", "video"]

_REORDER = 32  # packets between two whose frames follow each other: H.264 and HEVC keep 16 frames back
_TIME_ROUNDING = 0.002  # seconds by which a packet's time may miss its frame's: containers round to a millisecond
# Decoders whose skip_frame can change from packet to packet; dav1d (AV1) reads it only once.
_SKIPPING_CODECS = {"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "vp9"}
_SPARSEST = 2.0  # frames per second; below it every frame is decoded, since a skipped one would look like a hole
_MAX_PIXELS = 1 << 26  # 8192 x 8192; a header that claims larger frames is refused before memory is allocated


class Stretch(NamedTuple):
    """A stretch of one recording in a file."""

    path: PathLike
    start: float  # seconds on its own clock
    end: float | None
    span: Span = None  # its bytes; None where the file holds no other
    begin: float = 0.0  # when it begins on the file's clock
    track: int | None = None  # of audio


def stretches(path: PathLike, kind: Kind, start: Real, end: Real | None, track: int | None = None) -> list[Stretch]:
    """Divide a stretch of a file among the recordings that were joined to it; mostly it holds a single one."""
    if not 0 <= start < math.inf or (end is not None and not start <= end < math.inf):
        raise MediaError(f"expected 0 <= start <= end in seconds for {named(path)}, found start {start}, end {end}")
    if not (parts := joined.parts(path)):
        return [Stretch(path, start, end, track=track)]
    duration = getattr(joined.tracks_of(path, track), kind)
    if duration is not None and start >= duration:
        raise _outside(path, kind, start, duration)
    found = []
    for part in parts:
        last = part is parts[-1]
        if (start < part.end or last) and (end is None or part.start < end or part.start <= start):
            until = end if last else part.end if end is None else min(end, part.end)
            local = None if until is None else max(until, start) - part.start
            found.append(Stretch(path, max(0.0, start - part.start), local, part.span, part.start, track))
    return found


def readers(stretch: Stretch, kind: Kind) -> "Iterator[TrackReader]":
    """Yield readers of a stretch to try in turn: seeking shortly before it, then from the recording's beginning."""
    path, start, end, span, _, track = stretch
    # Seeks in MPEG streams land anywhere: the second try gives them room to meet a key frame.
    entries = [start - PREROLL, max(0.0, start - 8 * PREROLL)] if start > 2 * PREROLL else []
    for entry in (*entries, None):
        if entries and entry is None:
            duration = getattr(probe_span(path, track, span), kind)
            if duration is not None and start > duration + PREROLL:
                raise _outside(path, kind, start, duration)
        with open_container(path, track, span) as opened:
            yield TrackReader(opened, kind, path, start, math.inf if end is None else end, entry)


def _outside(path: PathLike, kind: str, start: Real, duration: Real) -> MediaError:
    return MediaError(f"expected a start within the {duration:.3f} s of {kind} in {named(path)}, found {start:.3f} s")


class TrackReader:
    """Decodes one track of an open file and counts damaged packets.

    Attributes:
        start, end: of the requested stretch, in seconds.
        entry: where decoding begins, in seconds; None = at the beginning of the file.
        good: decoded frames with finite values.
        bad: packets from `start` on that could not be decoded, or only in part.
        until: when the last decoded frame ends, in seconds.
        rate: requested video frames per second; the others need not be decoded. None = all.
    """

    def __init__(
        self, opened: OpenFile, kind: Kind, path: PathLike, start: Real, end: Real, entry: Real | None
    ) -> None:
        self.container, tracks, self.origin = opened
        if kind not in tracks:
            raise MediaError(f"expected a track of {kind} in {named(path)}, found only {' and '.join(tracks)}")
        self.kind, self.path = kind, path
        self.start, self.end, self.entry = start, end, entry
        self.stream = tracks[kind]
        if self.stream.codec_context is None:
            raise MediaError(f"expected decodable {kind} in {named(path)}, found a codec that FFmpeg does not know")
        self.stream.thread_type = "AUTO" if kind == "video" else "NONE"
        # FFmpeg does not verify the checksums of FLAC frames by default.
        checks = {"err_detect": "crccheck+explode"} if self.stream.codec_context.name == "flac" else {}
        self.stream.codec_context.options = {"max_pixels": str(_MAX_PIXELS), **checks}
        self.packets = self.good = self.bad = 0
        self.until = self.held = 0.0
        self.rate: Real | None = None

    def time(self, stamped: Any) -> float | None:
        """A packet's or a frame's presentation time in seconds on the file's clock."""
        return None if stamped.pts is None else float(stamped.pts * stamped.time_base) - self.origin

    def counts(self, stamped: Any) -> bool:
        """Whether a packet or a frame belongs to the requested stretch."""
        time = self.time(stamped)
        return self.start == 0 or (self.until if time is None else time) >= self.start

    def frames(self) -> Iterator[Any]:
        """Decoded frames from `entry` on; packets that cannot be decoded are skipped."""
        try:
            if self.entry is not None:
                self.container.seek(math.floor((self.entry + self.origin) / self.stream.time_base), stream=self.stream)
            for packet, needed in self._mark_needed(packets(self.container, self.stream)):
                self.packets += packet.size > 0
                if self.kind == "video":
                    self.stream.codec_context.skip_frame = "DEFAULT" if needed else "NONREF"
                yield from self._decoded(packet)
        except FAILURES:
            # The container itself is broken here: nothing after this can be read.
            self.bad += self.entry is None

    def _mark_needed(self, packets: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
        """Pair each packet with whether its frame is needed; a frame is shown until a neighbour's is."""
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
                    yield ahead[0], self.rate is None or self._is_needed(ahead[0], around)
                    ahead.popleft()
        except FAILURES as error:
            broken = error
        for packet in ahead:
            yield packet, self.rate is None or self._is_needed(packet, around)
        if broken is not None:
            raise broken

    def _is_needed(self, packet: Any, around: Sequence[float]) -> bool:
        """Whether a packet's frame is shown at a requested time or an end of the stretch, as far as can be known."""
        on, rate = self.time(packet), self.rate or 0.0
        codec = self.stream.codec_context
        if on is None or rate < _SPARSEST or codec.name not in _SKIPPING_CODECS or any(map(math.isnan, around)):
            return True
        if codec.has_b_frames and all(one <= other for one, other in itertools.pairwise(around)):
            return True  # decoding order: such files do not store when frames are shown
        if self.entry is None and on == min(around):
            return True  # the first frame also covers the time before it
        off = min((time for time in around if time > on), default=math.inf)
        if off - on < 0.7 / (self.stream.average_rate or rate):
            return True  # a field, which is half a frame
        on, off = on - _TIME_ROUNDING, off + _TIME_ROUNDING
        if on <= self.start <= off or off >= self.end:
            return True
        shown = self.start + (max(0.0, math.ceil((on - self.start) * rate - 0.5)) + 0.5) / rate
        return off > self.start and shown <= off

    def _decoded(self, packet: Any) -> list[Any]:
        try:
            frames: list[Any] = packet.decode()
        except FAILURES:
            self.bad += packet.size > 0 and self.counts(packet)
            return []
        self.bad += sum(frame.is_corrupt and self.counts(frame) for frame in frames)
        return frames

    def hold(self, seconds: Real) -> None:
        """Add up holes between timestamps; raises MediaError where the timestamps cannot be true."""
        self.held += seconds
        if self.held > LONGEST_HOLE:
            raise MediaError(
                f"expected true timestamps in {named(self.path)}, found a hole of {self.held:.0f} s or more"
            )

    def failure(self) -> MediaError:
        """Why decoding from the beginning of the file gave nothing."""
        if self.good:
            return _outside(self.path, self.kind, self.start, self.until)
        sane = " or holds sane samples" if self.kind == "audio" else ""
        bad = f"that none of its {self.packets} packets can be{sane}"
        found = bad if self.packets else "a track without packets"
        return MediaError(f"expected decodable {self.kind} in {named(self.path)}, found {found}")
