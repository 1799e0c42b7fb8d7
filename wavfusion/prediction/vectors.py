"""Recordings as vectors of a trained model: one for each utterance, and one for each step of its audio."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
import torch
from jaxtyping import Float32
from safetensors.numpy import save

from wavfusion.errors import ConfigError
from wavfusion.evaluation.inference import BATCH, forward, has
from wavfusion.features.batches import batched
from wavfusion.model.config import MODALITIES
from wavfusion.model.wavfusion import WavFusion
from wavfusion.prediction.recognizer import EmotionRecognizer, UtteranceGroup
from wavfusion.prediction.windows import open_source
from wavfusion.speech.segmentation import Speakers
from wavfusion.transcripts import Segment

ENDINGS = (".safetensors", ".npz")


@dataclass(frozen=True)
class Embedding:
    """An utterance as vectors.

    Attributes:
        vector: (D,), the input of the model's classification head; of several windows the mean, weighted by seconds.
        frames: (T, H), the audio steps after the last layer, fused with the other modalities; none without audio.
        times: the middle of each step, in seconds of the file.
    """

    file: str
    segment: Segment
    modalities: list[str]
    vector: Float32[np.ndarray, " D"]
    frames: Float32[np.ndarray, "T H"]
    times: Float32[np.ndarray, " T"]


def embed(
    recognizer: EmotionRecognizer,
    file: str,
    transcript: str | None = None,
    segments: Sequence[Segment] | None = None,
    speakers: Speakers = None,
    track: int | str | None = None,
    channel: str | None = None,
) -> list[Embedding]:
    """Embed the utterances of a recording; the arguments, and the warnings, are those of `EmotionRecognizer.predict`.

    Raises:
        MediaError: the file cannot be used, or has nothing that the model can use.
        ConfigError: a recognizer that runs an exported file, which returns no vectors.
    """
    if not isinstance(recognizer.model, WavFusion):
        raise ConfigError("embed: expected a model in torch, found an exported one, which returns no vectors")
    source = open_source(file, None, track, channel)
    groups = recognizer.encode(source, transcript, segments, speakers)
    found = [each for group in groups for each in _embed(recognizer, group, file)]
    if found:
        recognizer.measure_distances(source, np.stack([each.vector for each in found]))
    recognizer.report(source, [each.segment.text for each in found])
    return found


@torch.inference_mode()
def _embed(recognizer: EmotionRecognizer, group: UtteranceGroup, file: str) -> list[Embedding]:
    pieces: dict[int, list[tuple[float, Embedding]]] = {}  # of each utterance: seconds and vectors of its windows
    config = recognizer.trained.model.config
    no_frames, centre = np.zeros((0, config.hidden_size), np.float32), config.audio_centre
    for windows, batch in zip(batched(group.windows, BATCH), group.samples, strict=True):
        present = [[name for name in recognizer.modalities if has(sample, name)] for sample in batch]
        names = [name for name in recognizer.modalities if any(name in each for each in present)]
        output = forward(recognizer.trained.model, batch, names, recognizer.device) if names else None
        for i, (window, sample) in enumerate(zip(windows, batch, strict=True)):
            if output is None or output.pooled is None or not present[i]:
                continue
            stored = sample.audio.shape[-2] if sample.audio is not None and output.hidden else 0
            steps = ceil(stored / config.audio_stride)
            start = 0.0 if window.audio is None else window.audio[0]
            embedding = Embedding(
                file=file,
                segment=group.segments[window.utterance],
                modalities=present[i],
                vector=output.pooled[i].float().cpu().numpy(),
                frames=output.hidden[-1][i, :steps].float().cpu().numpy() if steps else no_frames,
                times=(start + centre + config.audio_step * np.arange(steps)).astype(np.float32),
            )
            pieces.setdefault(window.utterance, []).append((max(window.seconds, 1e-6), embedding))
    return [_joined(parts) for parts in pieces.values()]


def _joined(pieces: Sequence[tuple[float, Embedding]]) -> Embedding:
    """Join the windows of an utterance, whose vectors are averaged by their seconds."""
    weights, parts = [seconds for seconds, _ in pieces], [part for _, part in pieces]
    vector = np.average(np.stack([each.vector for each in parts]), axis=0, weights=weights).astype(np.float32)
    names = [name for name in MODALITIES if any(name in each.modalities for each in parts)]
    frames, times = np.concatenate([each.frames for each in parts]), np.concatenate([each.times for each in parts])
    return replace(parts[0], modalities=names, vector=vector, frames=frames, times=times)


def write_vectors(embeddings: Sequence[Embedding], ending: str) -> bytes:
    """Write embeddings as `.safetensors` or `.npz`, with the same names in both (docs/howto/embed.md).

    `utterances` (N, D), `start` and `end` (N), `frames` (T, D), `frame_time` (T) and `frame_utterance` (T), the row of
    `utterances` that a frame belongs to; `about`: for each utterance its file, speaker, text and modalities, as JSON.
    """
    sizes = [len(each.frames) for each in embeddings]
    tensors = {
        "utterances": np.stack([each.vector for each in embeddings]),
        "start": np.array([each.segment.start for each in embeddings], np.float64),
        "end": np.array([each.segment.end for each in embeddings], np.float64),
        "frames": np.concatenate([each.frames for each in embeddings]),
        "frame_time": np.concatenate([each.times for each in embeddings]),
        "frame_utterance": np.repeat(np.arange(len(embeddings)), sizes),
    }
    about = json.dumps(
        [
            {"file": e.file, "speaker": e.segment.speaker, "text": e.segment.text, "modalities": e.modalities}
            for e in embeddings
        ]
    )
    if ending == ".safetensors":
        return save(tensors, {"about": about})
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, about=np.array(about), **tensors)
    return content.getvalue()
