"""Voice activity detection by silero's network, and utterances cut from it.

The network ships in the wheel of silero-vad and runs in onnxruntime (extra `[vad]`). Its package is never imported, as
that would limit the whole process to one thread.
"""

import math
import os
from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from wavfusion import media
from wavfusion.errors import ConfigError, MediaError
from wavfusion.media.joined import tracks_of

STEP = 512  # samples of one decision of the network
CONTEXT = 64  # samples before them that it is given again
STEP_SECONDS = STEP / media.SAMPLE_RATE
ONSET, OFFSET = 0.5, 0.35  # probabilities at which speech begins and below which it ends: silero's own values
JOIN = 0.25  # seconds; a shorter pause does not end an utterance
LEAD, TAIL = 0.08, 0.01  # seconds added before and after: the network sees the start of speech late, its end in time
LONGEST = 12.0  # seconds of an utterance
STRETCH = 1875 * STEP_SECONDS  # seconds decoded at once: a minute
SMOOTHING = 5  # steps averaged to find a pause, 0.16 s: no single step decides


class Span(NamedTuple):
    """A stretch of a recording, in seconds."""

    start: float
    end: float


def has_activity_model() -> bool:
    """Tell whether the extra `[vad]` is installed."""
    return find_spec("silero_vad") is not None and find_spec("onnxruntime") is not None


class SpeechActivity(NamedTuple):
    """Spans of speech in a recording, and the probability of speech in every `STEP`."""

    spans: list[Span]
    probability: Float32[np.ndarray, " T"]


def detect_speech(path: media.PathLike, channel: str = "mix", track: media.Track = None) -> SpeechActivity:
    """Detect speech in a file of any length, decoded one minute at a time."""
    end = tracks_of(path, track).audio
    if end is None:
        raise MediaError(f"{str(path)!r}: expected audio, found no audio track")
    starts = [number * STRETCH for number in range(max(1, math.ceil(end / STRETCH)))]
    decoded = (media.decode_audio(path, start, min(end, start + STRETCH), channel, track=track) for start in starts)
    probability = speech_probability(each.samples for each in decoded)
    return SpeechActivity(speech_spans(probability, end), probability)


def detect_speech_in_samples(samples: Float32[np.ndarray, " N"]) -> SpeechActivity:
    """Detect speech in samples at 16 kHz."""
    probability = speech_probability([samples])
    return SpeechActivity(speech_spans(probability, len(samples) / media.SAMPLE_RATE), probability)


def speech_probability(stretches: Iterable[Float32[np.ndarray, " n"]]) -> Float32[np.ndarray, " T"]:
    """Compute the probability of speech in every `STEP` of audio; the stretches follow each other without a gap.

    Digital silence, as in holes between timestamps, has probability 0 and costs no time of the network.
    """
    session = _session()
    initial = np.zeros((2, 1, 128), np.float32), np.zeros(CONTEXT, np.float32)
    state, context = initial
    rate = np.array(media.SAMPLE_RATE, np.int64)
    probabilities = []
    for stretch in stretches:
        if not stretch.any():
            probabilities += [0.0] * math.ceil(len(stretch) / STEP)
            state, context = initial
            continue
        padded = np.pad(stretch, (0, -len(stretch) % STEP))
        for block in padded.reshape(-1, STEP):
            inputs = {"input": np.concatenate([context, block])[None], "state": state, "sr": rate}
            output, state = session.run(None, inputs)
            context = block[-CONTEXT:]
            probabilities.append(output[0, 0])
    return np.array(probabilities, np.float32)


def _session() -> Any:
    """Load the network; one thread, as it is too small for more."""
    if not has_activity_model():
        raise ConfigError("expected silero-vad and onnxruntime, found them not installed: pip install 'wavfusion[vad]'")
    spec, runtime = find_spec("silero_vad"), load_onnxruntime()
    assert spec is not None and spec.origin is not None
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    file = Path(spec.origin).parent / "data" / "silero_vad.onnx"
    return runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def load_onnxruntime() -> Any:
    """Import onnxruntime without its telemetry: since 1.32 it sends events to its maker once it is imported."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return import_module("onnxruntime")


def speech_spans(probability: Float32[np.ndarray, " T"], end: float) -> list[Span]:
    """Turn probabilities into spans up to the end (seconds), from ONSET to OFFSET, joined across short pauses."""
    joined: list[Span] = []
    onset: int | None = None
    for step, value in enumerate([*probability.tolist(), 0.0]):
        if onset is None and value >= ONSET:
            onset = step
        elif onset is not None and value < OFFSET:
            start = onset * STEP_SECONDS
            if joined and start - joined[-1].end < JOIN:
                start = joined.pop().start
            joined.append(Span(start, step * STEP_SECONDS))
            onset = None
    return [Span(max(0.0, span.start - LEAD), min(end, span.end + TAIL)) for span in joined]


def cut(span: Span, probability: Sequence[float] | Float32[np.ndarray, " T"], longest: float = LONGEST) -> list[Span]:
    """Cut a span in its pauses, where speech is least probable, into parts of at most `longest` seconds."""
    parts: list[Span] = []
    start = span.start
    while span.end - start > longest:
        first = round((start + longest / 2) / STEP_SECONDS)
        last = max(first + 1, int((start + longest) / STEP_SECONDS))
        begin = max(0, first - SMOOTHING // 2)
        searched = np.asarray(probability[begin : last + SMOOTHING // 2])
        smoothed = np.convolve(searched, np.full(SMOOTHING, 1 / SMOOTHING), mode="valid")
        at = (begin + int(smoothed.argmin()) + SMOOTHING / 2) * STEP_SECONDS
        parts.append(Span(start, at))
        start = at
    return [*parts, Span(start, span.end)]
