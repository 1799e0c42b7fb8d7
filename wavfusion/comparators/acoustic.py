"""Acoustic features of whole utterances: eGeMAPS functionals (extra `[egemaps]`), and statistics of MFCC."""

import hashlib
import importlib.util
import json
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64
from safetensors.numpy import load_file, save
from scipy.fft import dct
from tqdm import tqdm

from wavfusion.errors import ConfigError, MediaError
from wavfusion.features.clips import Media
from wavfusion.files import write_atomic
from wavfusion.manifest import Utterance
from wavfusion.media import SAMPLE_RATE, decode_audio

log = logging.getLogger(__name__)

# As is usual for 16 kHz: windows of 25 ms every 10 ms, the spectrum of 512 points, 40 filters up to 8 kHz.
FRAME, STEP, POINTS, FILTERS, COEFFICIENTS = 400, 160, 512, 40, 13
REACH = 2  # frames to either side of the one that a delta is of
QUIETEST = 1e-10  # energy under the logarithm

Samples = Float32[np.ndarray, " N"]
Describe = Callable[[Samples], Float64[np.ndarray, " D"]]


def mfcc(samples: Samples) -> Float64[np.ndarray, "T 13"]:
    """Mel-frequency cepstral coefficients 0 to 12 of every frame.

    Hann window, power spectrum, triangular filters on the mel scale 2595 log10(1 + f / 700), natural logarithm,
    orthonormal DCT-II. A signal shorter than a window is filled up with zeros.

    Source: Davis and Mermelstein, IEEE Trans. ASSP 28, 1980.
    """
    padded = np.pad(samples.astype(np.float64), (0, max(0, FRAME - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::STEP]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)
    power = np.abs(np.fft.rfft(frames * window, POINTS)) ** 2
    logarithms = np.log(np.maximum(power @ _filters(), QUIETEST))
    return np.asarray(dct(logarithms, type=2, norm="ortho")[:, :COEFFICIENTS])


@cache
def _filters() -> Float64[np.ndarray, "257 40"]:
    highest = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, highest, FILTERS + 2) / 2595) - 1)
    bins = np.linspace(0, SAMPLE_RATE / 2, POINTS // 2 + 1)[:, None]
    rising, falling = (bins - edges[:-2]) / np.diff(edges)[:-1], (edges[2:] - bins) / np.diff(edges)[1:]
    return np.maximum(0, np.minimum(rising, falling))


def deltas(values: Float64[np.ndarray, "T D"]) -> Float64[np.ndarray, "T D"]:
    """Slope of a least-squares line through each frame and `REACH` to either side; the ends are repeated."""
    padded, count = np.pad(values, ((REACH, REACH), (0, 0)), mode="edge"), len(values)
    steps = range(1, REACH + 1)
    slopes = sum(n * (padded[REACH + n :][:count] - padded[REACH - n :][:count]) for n in steps)
    return np.asarray(slopes / (2 * sum(n * n for n in steps)))


def mfcc_statistics(samples: Samples) -> Float64[np.ndarray, " 52"]:
    """Mean of 13 MFCC and of their deltas over the frames, then the standard deviation of each."""
    coefficients = mfcc(samples)
    every = np.hstack([coefficients, deltas(coefficients)])
    return np.concatenate([every.mean(0), every.std(0)])


def _egemaps() -> Describe:
    import opensmile  # its licence forbids commercial use: never imported unless a table asks for it

    smile = opensmile.Smile(
        feature_set=opensmile.FeatureSet.eGeMAPSv02, feature_level=opensmile.FeatureLevel.Functionals
    )
    return lambda samples: np.asarray(smile(samples, SAMPLE_RATE), np.float64).reshape(-1)


FEATURES: dict[str, Callable[[], Describe]] = {"egemaps": _egemaps, "mfcc": lambda: mfcc_statistics}


def require_extractor(features: str) -> None:
    """Refuse features whose extra is not installed by a ConfigError."""
    if features == "egemaps" and importlib.util.find_spec("opensmile") is None:
        raise ConfigError("eGeMAPS: expected the extra [egemaps]: pip install 'wavfusion[egemaps]'; found none")


def describe_audio(
    rows: Sequence[Utterance], media: Media, features: str, folder: Path, progress: bool = False
) -> dict[str, Float64[np.ndarray, " D"]]:
    """Compute the features of every utterance that has usable audio, by its id; several at once, each once.

    They are decoded straight from the media, whole and unscaled. What was computed is kept in `folder` for the next
    call, by the content of its file.
    """
    require_extractor(features)
    path = folder / f"{features}.safetensors"
    known = load_file(path) if path.exists() else {}
    keys = {row.id: _key(row, media) for row in rows if row.audio and "audio" not in row.missing}
    todo = {keys[row.id]: row for row in rows if row.id in keys and keys[row.id] not in known}
    describe = FEATURES[features]() if todo else mfcc_statistics

    def vector_of(row: Utterance) -> Float64[np.ndarray, " D"] | None:
        span = row.audio
        try:
            if span is None:
                return None
            samples = decode_audio(media.locate(span.path), span.start or 0.0, span.end, span.channel).samples
        except MediaError as error:
            log.warning("%s: no %s features: %s", row.id, features, error)
            return None
        found = describe(samples)
        return found if np.isfinite(found).all() else None  # of audio that is too short for them

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        vectors = tqdm(pool.map(vector_of, todo.values()), features, len(todo), disable=not progress)
        new = {key: vector for key, vector in zip(todo, vectors, strict=True) if vector is not None}
    if new:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, save(known | new))
    known |= new
    return {name: known[key] for name, key in keys.items() if key in known}


def _key(row: Utterance, media: Media) -> str:
    span = row.audio
    about = span and [media[span.path].content, span.start, span.end, span.channel]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:40]
