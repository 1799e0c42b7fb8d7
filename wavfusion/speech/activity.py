"""Where somebody speaks in a recording: silero's voice activity, and utterances cut from it.

The network ships in the wheel of silero-vad and runs in onnxruntime (extra `[vad]`); its package is never imported,
since that would leave the whole process with one thread.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from wavfusion import media
from wavfusion.errors import ConfigError, MediaError

STEP = 512  # samples that the network judges at once
CONTEXT = 64  # samples before them that it sees again
STEP_SECONDS = STEP / media.SAMPLE_RATE
ONSET, OFFSET = 0.5, 0.35  # activity from which speech has begun, and below which it is over: silero's own values
JOIN = 0.3  # seconds; a shorter pause is a breath within an utterance
PAD = 0.06  # seconds at both ends: the network is late by about that much
LONGEST = 12.0  # seconds of an utterance
STRETCH = 1875 * STEP_SECONDS  # seconds that are decoded at once: a minute


class Span(NamedTuple):
    """A stretch of a recording, in seconds."""

    start: float
    end: float


def has_activity_model() -> bool:
    """Whether the extra `[vad]` is there."""
    return find_spec("silero_vad") is not None and find_spec("onnxruntime") is not None


class SpeechActivity(NamedTuple):
    """What was heard of a recording: where somebody speaks, and how likely at every `STEP`."""

    spans: list[Span]
    active: Float32[np.ndarray, " T"]


def detect_speech(path: media.PathLike) -> SpeechActivity:
    """Find where somebody speaks in a recording of any length.

    Raises:
        MediaError: no recording, or no sound that can be decoded.
        ConfigError: the extra `[vad]` is missing.
    """
    end = media.probe(path).audio
    if end is None:
        raise MediaError(f"{str(path)!r}: expected sound, found no audio track")
    active = activity(_stretches(path, end))
    return SpeechActivity(speech_spans(active, end), active)


def detect_speech_in_samples(samples: Float32[np.ndarray, " N"]) -> SpeechActivity:
    """Find where somebody speaks in samples of 16 kHz; see `hear`."""
    active = activity([samples])
    return SpeechActivity(speech_spans(active, len(samples) / media.SAMPLE_RATE), active)


def utterances(heard: SpeechActivity, longest: float = LONGEST) -> list[Span]:
    """The utterances of a recording, in order, none longer than `longest` seconds; none where nobody speaks."""
    return [part for span in heard.spans for part in cut(span, heard.active, longest)]


def _stretches(path: media.PathLike, end: float) -> Iterator[Float32[np.ndarray, " n"]]:
    """Decode a recording, a minute at a time."""
    for number in range(max(1, int(np.ceil(end / STRETCH)))):
        start = number * STRETCH
        yield media.decode_audio(path, start, min(end, start + STRETCH)).samples


def activity(stretches: Iterable[Float32[np.ndarray, " n"]]) -> Float32[np.ndarray, " T"]:
    """Say for every `STEP` of sound how likely somebody speaks in it; stretches follow each other without a gap.

    In one without any sound nobody does: holes between timestamps cost no time of the network.
    """
    session = _session()
    state, before = _beginning()
    rate = np.array(media.SAMPLE_RATE, np.int64)
    found = []
    for stretch in stretches:
        if not stretch.any():
            found += [0.0] * math.ceil(len(stretch) / STEP)
            state, before = _beginning()
            continue
        padded = np.pad(stretch, (0, -len(stretch) % STEP))
        for block in padded.reshape(-1, STEP):
            fed = {"input": np.concatenate([before, block])[None], "state": state, "sr": rate}
            said, state = session.run(None, fed)
            before = block[-CONTEXT:]
            found.append(said[0, 0])
    return np.array(found, np.float32)


def _beginning() -> tuple[Float32[np.ndarray, "2 1 128"], Float32[np.ndarray, " C"]]:
    """What the network knows before it has heard anything."""
    return np.zeros((2, 1, 128), np.float32), np.zeros(CONTEXT, np.float32)


def _session() -> Any:
    """Open the network on one thread: it is too small for more."""
    if not has_activity_model():
        raise ConfigError("expected silero-vad and onnxruntime, found them not installed: pip install 'wavfusion[vad]'")
    spec, runtime = find_spec("silero_vad"), import_module("onnxruntime")
    assert spec is not None and spec.origin is not None
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    file = Path(spec.origin).parent / "data" / "silero_vad.onnx"
    return runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def speech_spans(active: Float32[np.ndarray, " T"], end: float) -> list[Span]:
    """Where somebody speaks: from an onset until the activity has gone, with short pauses closed.

    Args:
        active: of every step.
        end: of the recording, in seconds.
    """
    found: list[Span] = []
    began: int | None = None
    for step, value in enumerate([*active.tolist(), 0.0]):
        if began is None and value >= ONSET:
            began = step
        elif began is not None and value < OFFSET:
            found.append(Span(began * STEP_SECONDS - PAD, step * STEP_SECONDS + PAD))
            began = None
    joined: list[Span] = []
    for span in found:
        if joined and span.start - joined[-1].end < JOIN:
            joined[-1] = Span(joined[-1].start, span.end)
        else:
            joined.append(span)
    return [Span(max(0.0, span.start), min(end, span.end)) for span in joined]


def cut(span: Span, active: Sequence[float] | Float32[np.ndarray, " T"], longest: float = LONGEST) -> list[Span]:
    """Cut a span where the least is said, into parts of `longest` seconds at most."""
    parts: list[Span] = []
    start = span.start
    while span.end - start > longest:
        first = round((start + longest / 2) / STEP_SECONDS)
        last = max(first + 1, int((start + longest) / STEP_SECONDS))
        # The quietest fifth of a second, so that no single step decides.
        quiet = np.convolve(np.asarray(active[first:last]), np.ones(5) / 5, mode="same")
        at = (first + int(quiet.argmin()) + 0.5) * STEP_SECONDS
        parts.append(Span(start, at))
        start = at
    return [*parts, Span(start, span.end)]
