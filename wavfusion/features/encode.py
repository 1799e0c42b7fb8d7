"""Chunks of windows decoded and encoded in threads, a few ahead of what is written."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from wavfusion import media
from wavfusion.encoders.bundle import Encoders
from wavfusion.features.clips import WINDOW, Clip, Media
from wavfusion.features.decode import Decoded, decode
from wavfusion.features.store import Store

BATCH_SECONDS = {"cpu": WINDOW, "cuda": 8 * WINDOW}  # padded audio in one forward pass; on a CPU more is no faster
BATCHES_AT_ONCE = 2  # of audio, formed together from similar lengths


@dataclass
class Chunk:
    """Windows that are decoded, encoded and written together.

    Attributes:
        clips: the windows; none where everything is stored.
        utterances: how many utterances are done once the chunk is written.
        features: by key, once encoded.
        decoded: what the features were made from.
    """

    clips: list[Clip]
    utterances: int = 0
    features: dict[str, Tensor] = field(default_factory=dict)
    decoded: list[Decoded] = field(default_factory=list)


class EncoderPool:
    """Encoders for several threads, each used by one thread at a time."""

    def __init__(self, encoders: Iterable[Encoders]) -> None:
        self._free: SimpleQueue[Encoders] = SimpleQueue()
        for each in encoders:
            self._free.put(each)

    @contextmanager
    def acquire(self) -> Iterator[Encoders]:
        """Wait for encoders that are free, and give them back after use."""
        encoders = self._free.get()
        try:
            yield encoders
        finally:
            self._free.put(encoders)


def encode_chunk(chunk: Chunk, store: Store, known: Media, encoders: Encoders, pool: EncoderPool, fast: bool) -> Chunk:
    """Decode and encode a chunk; holds the frames of one clip at a time, and some batches of audio.

    Args:
        chunk: its features and what they were made from are filled in.
        store: what it holds is not encoded again.
        known: the corpus's files.
        encoders: those of `pool`, for their sizes.
        pool: encodes.
        fast: skip frames that are not needed.
    """
    waiting: list[Decoded] = []
    longest = BATCHES_AT_ONCE * BATCH_SECONDS[encoders.kind]
    for number, clip in enumerate(chunk.clips, start=1):
        decoded = decode(clip, store, known, encoders, thorough=not fast)
        if decoded.frames is not None and clip.video is not None:
            with pool.acquire() as own:
                assert own.video is not None
                chunk.features[clip.video.keys["frames"]] = own.video.encode(decoded.frames).half()
            decoded.frames = None
        chunk.decoded.append(decoded)
        waiting.append(decoded)
        if number == len(chunk.clips) or sum(each.seconds for each in waiting) >= longest:
            with pool.acquire() as own:
                chunk.features |= _audio_features(waiting, own)
            for each in waiting:
                each.samples = None
            waiting = []
    return chunk


def _audio_features(chunk: Sequence[Decoded], encoders: Encoders) -> dict[str, Tensor]:
    clips = [(x.clip.audio.keys, x.samples) for x in chunk if x.clip.audio is not None and x.samples is not None]
    features: dict[str, Tensor] = {}
    for batch in audio_batches([samples for _, samples in clips], BATCH_SECONDS[encoders.kind]):
        assert encoders.audio is not None
        encoded = encoders.audio.encode([clips[i][1] for i in batch], sorted(clips[batch[0]][0]))
        for i, layers in zip(batch, encoded, strict=True):
            features.update({clips[i][0][layer]: x.half() for layer, x in layers.items()})
    return features


def audio_batches(waveforms: Sequence[Float32[np.ndarray, " _"]], seconds: float) -> Iterator[list[int]]:
    """Group waveforms of similar length, at most some padded seconds together; yields their numbers."""
    batch: list[int] = []
    for i in sorted(range(len(waveforms)), key=lambda i: len(waveforms[i])):
        if batch and len(waveforms[i]) * (len(batch) + 1) > seconds * media.SAMPLE_RATE:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def encode_ahead(
    chunks: Iterable[Chunk], store: Store, known: Media, encoders: Encoders, pool: EncoderPool, workers: int
) -> Iterator[Chunk]:
    """Decode and encode chunks in threads, a few ahead of what is taken.

    On a CPU every thread encodes with its share of the cores, which is faster than all cores on one clip. A GPU takes
    the batches of one thread at a time, while others decode.
    """
    with threads(workers) as executor:
        waiting: deque[Future[Chunk]] = deque()
        for chunk in chunks:
            store.refresh()
            waiting.append(executor.submit(encode_chunk, chunk, store, known, encoders, pool, True))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Make an executor whose threads share the cores; queued work is dropped when its user fails."""
    before = torch.get_num_threads()
    each = max(1, before // workers)
    torch.set_num_threads(each)
    executor = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(each,))
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
