"""Recordings that were joined end to end to one file, whose timestamps restart with each: found, and probed."""

import logging
import mmap
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from wavfusion.errors import MediaError
from wavfusion.media.container import (
    FAILURES,
    LONGEST_HOLE,
    PathLike,
    Track,
    Tracks,
    audio_tracks,
    open_container,
    packets,
    probe_span,
)

log = logging.getLogger(__name__)

_GRID = 16_000  # parts begin at whole samples of this rate, so that a stretch equals that part of the whole
# How a file begins, by its first four bytes, which are searched for; every page of ogg begins so.
_BEGINNINGS = {
    b"OggS": re.compile(rb"OggS\x00[\x02\x06]"),
    b"fLaC": re.compile(rb"fLaC[\x00\x80]\x00\x00\x22"),
    b"\x1aE\xdf\xa3": re.compile(rb"\x1aE\xdf\xa3.{1,40}?(?:matroska|webm)", re.DOTALL),
    b"FLV\1": re.compile(rb"FLV\x01[\x01\x04\x05]\x00\x00\x00\x09\x00{4}"),
}
# MPEG's streams have no such beginning: what stands before the first packet of a programme, searched backwards.
_TABLE, _PACK = b"\x47\x40\0", b"\0\0\1\xba"
_BACK = 0.5  # seconds by which a track's decoding times fall back only where the clock restarts
_REMEMBERED = 512  # files


class JoinedPart(NamedTuple):
    """One of several recordings in a file."""

    span: tuple[int, int]  # its bytes
    start: float  # seconds on the file's clock
    end: float
    tracks: Tracks  # on its own clock


class _Joined(NamedTuple):
    parts: list[JoinedPart]
    unusable: list[str]  # why others are left out


def probe(path: PathLike, track: Track = None) -> Tracks:
    """Find which tracks a file has and when they end, without decoding.

    Cover art is no video. A track that is listed here can still prove undecodable. Of several audio tracks `track`
    chooses one; `mix` ends with the last. Recordings joined end to end are one recording; a warning names each of them
    that cannot be used.

    Raises:
        MediaError: the file is missing, empty or no recording, or has no such track.
    """
    for line in _joined(path, None if track == "mix" else track).unusable:
        log.warning("%s", line)
    return tracks_of(path, track)


def tracks_of(path: PathLike, track: Track = None) -> Tracks:
    """Do what `probe` does, without a warning: for a file that was probed before."""
    if track == "mix":
        ends = [tracks_of(path, each.number) for each in audio_tracks(path) if each.decodable] or [tracks_of(path)]
        return ends[0]._replace(audio=max((each.audio for each in ends if each.audio is not None), default=None))
    joined = parts(path, track)
    if not joined:
        return probe_span(path, track)
    return Tracks(*(max(_ends(joined, kind), default=None) for kind in Tracks._fields))


def _ends(joined: Sequence[JoinedPart], kind: str) -> Iterator[float]:
    yield from (each.start + end for each in joined if (end := getattr(each.tracks, kind)) is not None)


def parts(path: PathLike, track: int | None = None) -> list[JoinedPart]:
    """The recordings that a file consists of; none where it is a single one, or no file. `track` is one of audio."""
    return _joined(path, track).parts


def _joined(path: PathLike, track: int | None) -> _Joined:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return _Joined([], [])
    regular = stat.S_ISREG(status.st_mode)  # a pipe would never end
    signature = status.st_size, status.st_mtime_ns, status.st_ino
    return _divided(os.fspath(path), signature, track) if regular else _Joined([], [])


@lru_cache(_REMEMBERED)
def _divided(path: str, signature: tuple[int, ...], track: int | None) -> _Joined:
    """`signature`: of the file's content, its size first."""
    if track is not None:
        whole = _divided(path, signature, None)
        return _placed(path, [part.span for part in whole.parts], track, whole.unusable)
    starts = sorted(_beginnings(path))
    return _placed(path, list(pairwise([0, *starts, signature[0]])) if starts else [], None, [])


def _placed(path: str, spans: Sequence[tuple[int, int]], track: int | None, known: Sequence[str]) -> _Joined:
    """Place parts one after the other, each as long as its longest track; unusable ones are left out."""
    found, unusable, at = list[JoinedPart](), [*known], 0.0
    for span in spans:
        try:
            tracks = probe_span(path, None, span)
            until = round((at + max(end for end in tracks if end is not None)) * _GRID) / _GRID
            found.append(JoinedPart(span, at, until, tracks if track is None else probe_span(path, track, span)))
            at = until
        except MediaError as error:
            unusable.append(f"{error}; its bytes from {span[0]} to {span[1]} are left out")
    return _Joined(found, unusable)


def _beginnings(path: str) -> Iterator[int]:
    """The bytes, after the first, at which another recording begins."""
    with suppress(OSError, ValueError), open(path, "rb") as file:  # an empty file cannot be mapped
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            head = content[:197]
            if (beginning := _BEGINNINGS.get(head[:4])) is not None:
                yield from _repeated(content, head[:4], beginning)
            elif head.startswith(_PACK) or (stride := _stride(head)):
                yield from _restarts(path, content, 0 if head.startswith(_PACK) else stride)


def _stride(head: bytes) -> int:
    """Bytes from one packet of a transport stream to the next; 0 for another file."""
    firsts = [
        (at, stride) for at, stride in ((0, 188), (4, 192)) if head[at : at + 1] == head[at + stride :][:1] == b"G"
    ]
    return firsts[0][1] if firsts else 0


def _repeated(content: mmap.mmap, magic: bytes, beginning: re.Pattern[bytes]) -> Iterator[int]:
    """Where a file of the same kind begins; of ogg, whose streams have first pages of their own, the first of these."""
    at = content.find(magic, 1)
    while at > 0:
        if beginning.match(content, at):
            if magic != b"OggS" or not beginning.match(content, content.rfind(magic, 0, at)):
                yield at
        at = content.find(magic, at + 1)


def _restarts(path: str, content: mmap.mmap, stride: int) -> Iterator[int]:
    """Where the decoding times of an MPEG stream fall back, or jump by hours."""
    last: dict[int, float] = {}  # time of each stream's last packet
    place: dict[int, int] = {}  # and its byte
    begun = newest = 0
    with suppress(*FAILURES), open_container(path) as (container, _, _):
        for packet in packets(container, [*container.streams.audio, *container.streams.video]):
            index = packet.stream_index
            place[index] = at = place.get(index, 0) if packet.pos is None else packet.pos
            if packet.dts is None or at < begun:  # FFmpeg gives some packets of the earlier recording late
                continue
            time = float(packet.dts * packet.time_base)
            if not -_BACK <= time - last.get(index, time) <= LONGEST_HOLE:
                begun = _programme(content, stride, newest, at)
                last.clear()
                yield begun
            last[index], newest = time, max(newest, at)


def _programme(content: mmap.mmap, stride: int, low: int, packet: int) -> int:
    """Where the table or the pack before a packet begins; the packet's own byte where there is none after `low`."""
    mark = _TABLE if stride else _PACK
    at = content.rfind(mark, low, packet)
    while at > 0 and stride and (packet - at) % stride:
        at = content.rfind(mark, low, at)
    return at if at > 0 else packet
