"""Utterances planned as chunks of windows, in one pass, while their files are hashed and probed ahead in threads."""

import json
import random
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from wavfusion.features.batches import batched
from wavfusion.features.clips import Clip, Media, Window, plan_windows
from wavfusion.features.encode import Chunk
from wavfusion.features.store import FeatureSet, Store
from wavfusion.manifest import Utterance

CLIPS_AT_ONCE = 24  # windows to a shard: what a kill can lose, and what a thread has in hand
SECONDS_AT_ONCE = 300.0  # of a shard's windows: at base's sizes 30 MB of features
BLOCKS_AHEAD = 2  # of utterances whose files are hashed and probed ahead


class PlannedWindow(NamedTuple):
    """A window in little memory, until the end shows which of its features were stored.

    Attributes:
        keys: JSON of {modality: {layer: key}}.
        video_seconds: length of its video.
    """

    utterance: str
    window: Window
    keys: str
    video_seconds: float


Plan = list[list[PlannedWindow]]  # the windows of each utterance


def plan_chunks(
    utterances: Sequence[Utterance], plan: Plan, store: Store, known: Media, wanted: FeatureSet, workers: int
) -> Iterator[Chunk]:
    """Plan the windows of utterances, and cut those that the store lacks into chunks, a few for every worker.

    Args:
        utterances: each is planned once; their files are hashed and probed a little ahead, in threads.
        plan: an empty list for each utterance, to which its windows are added.
        store: what it holds is not in a chunk.
        known: the corpus's files.
        wanted: the features.
        workers: threads.
    """
    most = min(CLIPS_AT_ONCE, 1 + len(utterances) // (4 * workers))
    blocks = list(batched(range(len(utterances)), most))
    # Two extractions that start together take the blocks in different orders, and seldom do the same work twice.
    random.Random().shuffle(blocks)
    for block in _examined(blocks, utterances, known, workers):
        chunk, seconds = Chunk([]), 0.0
        for number in block:
            for clip in plan_windows(utterances[number], known, wanted):
                plan[number].append(_shortened(clip))
                if not any(part and store.missing(part.keys.values()) for part in (clip.audio, clip.video)):
                    continue
                length = clip.window.end - clip.window.start
                if chunk.clips and (len(chunk.clips) == most or seconds + length > SECONDS_AT_ONCE):
                    yield chunk
                    chunk, seconds = Chunk([]), 0.0
                chunk.clips.append(clip)
                seconds += length
            chunk.utterances += 1
        yield chunk


def _examined(
    blocks: Iterable[list[int]], utterances: Sequence[Utterance], known: Media, workers: int
) -> Iterator[list[int]]:
    """Hash and probe the files of some blocks ahead, in threads; yields each block once its files are known."""
    begun: set[str] = set()
    waiting: deque[tuple[list[int], list[Future[Any]]]] = deque()
    executor = ThreadPoolExecutor(workers)
    try:
        for block in blocks:
            rows = [utterances[number] for number in block]
            spans = [(name, getattr(row, name), row) for row in rows for name in ("audio", "video")]
            paths = {span.path for name, span, row in spans if span and name not in row.missing} - begun
            begun |= paths
            waiting.append((block, [executor.submit(known.__getitem__, path) for path in sorted(paths)]))
            if len(waiting) > BLOCKS_AHEAD:
                yield _awaited(*waiting.popleft())
        while waiting:
            yield _awaited(*waiting.popleft())
    finally:
        executor.shutdown(cancel_futures=True)


def _awaited(block: list[int], futures: Iterable[Future[Any]]) -> list[int]:
    for future in futures:
        future.result()
    return block


def _shortened(clip: Clip) -> PlannedWindow:
    """Keep of a planned clip what the index and the summary need."""
    parts = {"audio": clip.audio, "text": clip.text, "video": clip.video}
    keys = {name: part.keys for name, part in parts.items() if part is not None}
    seconds = clip.video.end - clip.video.start if clip.video is not None else 0.0
    return PlannedWindow(clip.utterance, clip.window, json.dumps(keys), seconds)
