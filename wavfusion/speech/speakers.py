"""Speaker diarization: embeddings of short windows, clustered (extra `[speakers]`)."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64

from wavfusion.media import SAMPLE_RATE
from wavfusion.speech.activity import Span
from wavfusion.speech.voices import STEP, load_voice_encoder, log_mels
from wavfusion.transcripts import Segment

WINDOW, WINDOW_HOP = 1.6, 0.4  # seconds of a window that is clustered, and between two
LOCAL, HOP = 1.0, 0.1  # seconds of a window within it that locates the changes, and between two
FRAMES = round(WINDOW * SAMPLE_RATE / STEP)  # of a window; every second one is a step of the encoder
LOCAL_STEPS = round(LOCAL * SAMPLE_RATE / STEP / 2)
BATCH = 16  # windows embedded at once: more leave the cache of a core
CLEAR = 0.75  # share of the windows that are clustered: those whose halves are most alike hold one voice
# Clusters are two voices where the mean cosine of their windows lies this far below that of the halves of a window (the
# recording's median), or below ALIKE. Chosen on RAVDESS, actors 01-10: less splits acted emotions, more joins voices.
MARGIN, ALIKE = 0.28, 0.25
LEAST, LEAST_SHARE = 4.0, 0.01  # seconds of a voice, and share of all: who speaks less is no voice of its own
SWITCH = 0.2  # cosine by which another voice must be nearer, over a turn, to count as a change of speaker
MAX_VOICES = 8  # where the number is not given
MAX_WINDOWS = 6000  # that are clustered, evenly spread: more than an hour's take gigabytes
STRETCH = 60.0  # seconds decoded at once

Decode = Callable[[float, float], Float32[np.ndarray, " n"]]  # the samples between two times


class Voices(NamedTuple):
    """Embeddings of windows that are clustered, and of local ones that are compared with the clusters."""

    seconds: Float[np.ndarray, " W"]  # of speech that each window stands for
    windows: Float32[np.ndarray, "W 192"]
    agreement: Float32[np.ndarray, " W"]  # cosine of the two halves of a window
    local: Float32[np.ndarray, "T 192"]


def turns(decode: Decode, spans: Sequence[Span], count: int | None = None) -> list[Segment]:
    """Divide spans of speech, in order, where the speaker changes; `decode` returns the samples between two times.

    Clusters of windows of 1.6 s are the voices; the cheapest path through windows of 1 s, at a price for every change
    (Viterbi), gives the turns of `speaker 1`, `speaker 2`, ... in order of appearance. Where the number of speakers is
    not given, there are as many as differ clearly, up to MAX_VOICES.
    """
    if not spans:
        return []
    times = [_evenly(span, HOP, HOP) for span in spans]
    windows = [_evenly(span, WINDOW, WINDOW_HOP) for span in spans]
    seconds = [np.full(len(own), (span.end - span.start) / len(own)) for span, own in zip(spans, windows, strict=True)]
    voices = Voices(np.concatenate(seconds), *_embed(decode, windows, times))
    centres = _cluster(voices, count)
    path = cheapest_path(1 - voices.local @ centres.T, SWITCH)
    names = {voice: f"speaker {number}" for number, voice in enumerate(dict.fromkeys(path.tolist()), start=1)}
    found, first = list[Segment](), 0
    for span, at in zip(spans, times, strict=True):
        speaker = [names[voice] for voice in path[first : first + len(at)].tolist()]
        changes = [i for i in range(1, len(at)) if speaker[i] != speaker[i - 1]]
        bounds = [float(span.start), *(float(at[i] + at[i - 1]) / 2 for i in changes), float(span.end)]
        found += [
            Segment(start, end, speaker[i]) for (start, end), i in zip(pairwise(bounds), (0, *changes), strict=True)
        ]
        first += len(at)
    return found


def speaker_of(span: Span, turns: Sequence[Segment]) -> str | None:
    """Return who speaks most of a span; None where nobody does."""
    seconds: dict[str | None, float] = defaultdict(float)
    for turn in turns:
        shared = min(span.end, turn.end) - max(span.start, turn.start)
        if shared > 0:
            seconds[turn.speaker] += shared
    return max(seconds, key=lambda speaker: seconds[speaker]) if seconds else None


def cheapest_path(costs: Float[np.ndarray, "T K"], price: float) -> Int64[np.ndarray, " T"]:
    """Choose one of K at every step so that the costs plus a price for every change are least (Viterbi)."""
    total, previous = costs[0].copy(), np.zeros(costs.shape, np.int64)
    for step in range(1, len(costs)):
        best = int(total.argmin())
        stays = total <= total[best] + price
        previous[step] = np.where(stays, np.arange(len(total)), best)
        total = costs[step] + np.where(stays, total, total[best] + price)
    path = [int(total.argmin())]
    for step in range(len(costs) - 1, 0, -1):
        path.append(int(previous[step, path[-1]]))
    return np.array(path[::-1])


def _evenly(span: Span, width: float, hop: float) -> Float[np.ndarray, " T"]:
    """Spread the centres of windows over a span, at most a hop apart; one in the middle of a span that is shorter."""
    room = max(0.0, span.end - span.start - width)
    middle = (span.start + span.end) / 2
    return np.linspace(middle - room / 2, middle + room / 2, 1 + math.ceil(room / hop))


def _embed(decode: Decode, windows: Sequence[np.ndarray], times: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Embed windows of spans around their centres, and around each time a part of the window nearest to it."""
    centres = np.concatenate(windows)
    nearest = [np.abs(at[:, None] - own).argmin(1) for at, own in zip(times, windows, strict=True)]
    firsts = np.cumsum([0, *map(len, windows)])
    owner = np.concatenate([own + first for own, first in zip(nearest, firsts, strict=False)])
    found: list[tuple[np.ndarray, ...]] = []
    for batch, mels in _batches(decode, centres):
        here = (owner >= batch.start) & (owner < batch.stop)
        offsets = np.concatenate(times)[here] - centres[owner[here]]
        found.append(_embed_batch(mels, owner[here] - batch.start, offsets))
    return [np.concatenate(each) for each in zip(*found, strict=True)]


def _batches(
    decode: Decode, centres: Float[np.ndarray, " W"]
) -> Iterator[tuple[slice, Float32[torch.Tensor, "B F 80"]]]:
    """Compute the spectra of windows, one minute of audio after the other."""
    number = centres // STRETCH
    edges = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(centres)]
    for first, last in pairwise(edges):
        here = centres[first:last]
        start = max(0.0, float(here.min()) - WINDOW)
        samples = decode(start, float(here.max()) + WINDOW)
        mels = log_mels(np.resize(samples, max(len(samples), FRAMES * STEP)))  # too few samples are repeated
        begins = np.round((here - WINDOW / 2 - start) * SAMPLE_RATE / STEP).astype(int).clip(0, len(mels) - FRAMES)
        for i in range(0, len(here), BATCH):
            spectra = torch.stack([mels[begin : begin + FRAMES] for begin in begins[i : i + BATCH]])
            yield slice(first + i, first + i + len(spectra)), spectra


@torch.inference_mode()
def _embed_batch(
    mels: Float32[torch.Tensor, "B F 80"], owner: Int64[np.ndarray, " T"], offsets: Float[np.ndarray, " T"]
) -> tuple[np.ndarray, ...]:
    """Embed whole windows, compare their halves, and embed parts at offsets in seconds from the middle of a window."""
    encoder = load_voice_encoder()
    steps = encoder.steps(mels)
    halves = [encoder.pool(half) for half in steps.chunk(2, dim=2)]
    parts = steps.unfold(2, LOCAL_STEPS, 1)
    middle = (parts.shape[2] - 1) / 2
    begins = np.round(middle + offsets * FRAMES / 2 / WINDOW).astype(int).clip(0, parts.shape[2] - 1)
    local = encoder.pool(parts[owner, :, begins])
    return encoder.pool(steps).numpy(), (halves[0] * halves[1]).sum(1).numpy(), local.numpy()


def _cluster(voices: Voices, count: int | None) -> Float[np.ndarray, "K 192"]:
    """Return the centre of every voice, of length 1: of as many as are given, or as differ clearly."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from sklearn.cluster import KMeans

    number = max(math.ceil(CLEAR * len(voices.windows)), min(count or 2, len(voices.windows)))
    kept = np.sort(np.argsort(-voices.agreement, kind="stable")[:number])
    every = math.ceil(len(kept) / MAX_WINDOWS)
    kept = kept[::every]
    clear, seconds = voices.windows[kept], voices.seconds[kept] * every
    if count is not None:
        labels = KMeans(min(count, len(clear)), n_init=10, random_state=0).fit(clear).labels_
        return _centres(clear, labels, np.unique(labels))
    if len(clear) == 1:
        return clear
    alike = max(ALIKE, float(np.median(voices.agreement)) - MARGIN)
    labels = fcluster(linkage(clear, "average", "cosine"), 1 - alike, "distance") - 1
    spoken = np.bincount(labels, seconds)
    large = np.argsort(-spoken, kind="stable")[:MAX_VOICES]
    enough = spoken[large] >= min(spoken.max(), max(LEAST, LEAST_SHARE * seconds.sum()))
    return _centres(clear, labels, large[enough])


def _centres(vectors: Float32[np.ndarray, "W D"], labels: np.ndarray, chosen: np.ndarray) -> Float32[np.ndarray, "K D"]:
    sums = np.stack([vectors[labels == each].sum(0) for each in chosen])
    return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
