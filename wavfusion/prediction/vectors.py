"""What a trained model makes of recordings, as vectors: one for each utterance, and one for each step of its sound."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from safetensors.numpy import save

from wavfusion.errors import ConfigError
from wavfusion.evaluation.inference import batches, forward, has
from wavfusion.model.config import MODALITIES
from wavfusion.model.wavfusion import AUDIO_CENTRE, AUDIO_STEP, WavFusion
from wavfusion.prediction.recognizer import EmotionRecognizer, Notes, Windows
from wavfusion.speech.segmentation import Speakers
from wavfusion.transcripts import Segment

ENDINGS = (".safetensors", ".npz")


@dataclass(frozen=True)
class Embedding:
    """An utterance as vectors.

    Attributes:
        file: as it was given.
        segment: its times, speaker and words.
        modalities: what was there and was used.
        vector: what the model's head classifies, (D,); of windows above 15 s the mean, weighted by seconds.
        frames: the sound's steps after the last layer, fused with the other modalities, (T, D); none without sound.
        times: the middle of each step, in seconds in the file.
    """

    file: str
    segment: Segment
    modalities: list[str]
    vector: Float32[np.ndarray, " D"]
    frames: Float32[np.ndarray, "T D"]
    times: Float32[np.ndarray, " T"]


def embed(
    recognizer: EmotionRecognizer,
    file: str,
    transcript: str | None = None,
    segments: Sequence[Segment] | None = None,
    speakers: Speakers = None,
) -> list[Embedding]:
    """Embed the utterances of a recording; the arguments, and the warnings, are those of `EmotionRecognizer.predict`.

    Raises:
        MediaError: the file cannot be used, or has nothing that the model can use.
        ConfigError: a recognizer of an exported file, which gives no vectors.
    """
    if not isinstance(recognizer.model, WavFusion):
        raise ConfigError("embed: expected a model in torch, found an exported one, which gives no vectors")
    notes = Notes()
    groups = recognizer.utterances(file, transcript, None, segments, speakers, notes)
    found = [each for windows, group in groups for each in _embed(recognizer, windows, group, file)]
    if found:
        recognizer.compare(np.stack([each.vector for each in found]), notes)
    recognizer.conclude(file, [each.segment.text for each in found], notes)
    return found


@torch.inference_mode()
def _embed(recognizer: EmotionRecognizer, windows: Windows, group: Sequence[Segment], file: str) -> list[Embedding]:
    pieces: dict[str, list[tuple[float, set[str], np.ndarray, np.ndarray, np.ndarray]]] = {}
    model, number = recognizer.trained.model, 0
    for batch in batches(windows):
        names = [name for name in recognizer.modalities if any(has(sample, name) for sample in batch)]
        output = forward(model, batch, names, recognizer.device) if names else None
        for i, sample in enumerate(batch):
            clip, _ = windows.parts[number]
            number += 1
            own = {name for name in recognizer.modalities if has(sample, name)}
            if output is None or output.pooled is None or not own:
                continue
            steps = len(sample.audio) if sample.audio is not None and output.hidden else 0
            frames = output.hidden[-1][i, :steps] if steps else torch.zeros(0, model.config.hidden_size)
            start = clip.window.start if clip.audio is None else clip.audio.start
            times = start + AUDIO_CENTRE + AUDIO_STEP * np.arange(steps)
            piece = (output.pooled[i].float().cpu().numpy(), frames.float().cpu().numpy(), times.astype(np.float32))
            pieces.setdefault(sample.row.id, []).append((max(sample.row.duration, 1e-6), own, *piece))
    ids = list(dict.fromkeys(clip.utterance for clip, _ in windows.parts))
    said = dict(zip(ids, group, strict=True))
    return [_joined(file, said[key], parts) for key, parts in pieces.items()]


def _joined(
    file: str, segment: Segment, parts: Sequence[tuple[float, set[str], np.ndarray, np.ndarray, np.ndarray]]
) -> Embedding:
    seconds, owns, vectors, frames, times = zip(*parts, strict=True)
    vector = np.average(np.stack(vectors), axis=0, weights=seconds).astype(np.float32)
    names = [name for name in MODALITIES if any(name in own for own in owns)]
    return Embedding(file, segment, names, vector, np.concatenate(frames), np.concatenate(times))


def write_vectors(found: Sequence[Embedding], ending: str) -> bytes:
    """Write embeddings as `.safetensors` or `.npz`, with equal names in both (docs/predict.md).

    `utterances` (N, D), `start` and `end` (N), `frames` (T, D), `frame_time` (T) and `frame_utterance` (T), the row of
    `utterances` that a frame is of; `about`: for each utterance its file, speaker, text and modalities, as JSON.
    """
    sizes = [len(each.frames) for each in found]
    tensors = {
        "utterances": np.stack([each.vector for each in found]),
        "start": np.array([each.segment.start for each in found], np.float64),
        "end": np.array([each.segment.end for each in found], np.float64),
        "frames": np.concatenate([each.frames for each in found]),
        "frame_time": np.concatenate([each.times for each in found]),
        "frame_utterance": np.repeat(np.arange(len(found)), sizes),
    }
    rows = [
        {"file": e.file, "speaker": e.segment.speaker, "text": e.segment.text, "modalities": e.modalities}
        for e in found
    ]
    about = json.dumps(rows)
    if ending == ".safetensors":
        return save(tensors, {"about": about})
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, about=np.array(about), **tensors)
    return content.getvalue()


def require_ending(path: Path) -> None:
    """Refuse a name that says neither of the formats.

    Raises:
        ConfigError: another ending.
    """
    if path.suffix not in ENDINGS:
        raise ConfigError(f"--out {path}: expected a name that ends in {' or '.join(ENDINGS)}, found {path.suffix!r}")
