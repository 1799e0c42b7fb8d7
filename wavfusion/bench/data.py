"""Generated recordings, their features, and the encoders of both sides of a comparison."""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import UInt8
from torch import nn

from wavfusion import manifest
from wavfusion.encoders import tiny
from wavfusion.encoders.bundle import Encoders, load_encoder
from wavfusion.encoders.presets import read_preset
from wavfusion.encoders.text import TextEncoder
from wavfusion.encoders.video import EfficientNetEncoder
from wavfusion.encoders.wav2vec2 import Wav2Vec2Encoder
from wavfusion.encoders.whisper import WhisperEncoder
from wavfusion.features.extract import extract
from wavfusion.features.store import Store
from wavfusion.manifest import MODALITIES, AudioSpan, Corpus, Utterance, VideoSpan
from wavfusion.media import SAMPLE_RATE, write_video
from wavfusion.processes.pool import require_result, spread

log = logging.getLogger(__name__)

POOL, FILES = 3, 2  # times the batch: utterances of an epoch, among which batches of like lengths are found, and files
CLIP = 10.0  # seconds of the clip that is labelled
SENTENCE = "I told you that I would be there in time, and now look at the clock."
FRAME_SIZE = (360, 640)
FRAME_RATE = 25
CLASSES = ["calm", "loud"]


@dataclass(frozen=True)
class Measurement:
    """What both sides of a comparison are given."""

    preset: str
    batch: int  # utterances in a training step
    device: str
    seed: int = 0
    times: int = 1  # how much more data than for a comparison
    folder: Path = Path()  # the generated corpus, with its features in `store`

    @property
    def manifest(self) -> Path:
        """Of the recordings: the part `train`, and the clip."""
        return self.folder / "manifest.jsonl"

    @property
    def rows(self) -> list[Utterance]:
        """The recordings that are trained on."""
        return [row for row in manifest.read(self.manifest) if row.split == "train"]

    @property
    def files(self) -> list[Utterance]:
        """The recordings that are extracted."""
        return self.rows[: FILES * self.batch * self.times]

    @property
    def clip(self) -> Utterance:
        """The recording that is labelled."""
        return next(row for row in manifest.read(self.manifest) if row.split == "test")


@contextmanager
def prepared(job: Measurement) -> Iterator[Measurement]:
    """Generate a job's recordings and their features in a folder that is removed afterwards."""
    folder = Path(mkdtemp(prefix="wavfusion-bench-"))
    job = replace(job, folder=folder)
    try:
        log.info("bench: generating recordings and their features")
        for _, outcome in spread(_generator, [job], 1, preload=__name__):  # in a process, whose memory does not stay
            require_result(outcome, "bench: generating recordings and their features")
        yield job
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _generator() -> Callable[[Measurement], None]:
    return _generate


def _generate(job: Measurement) -> None:
    """Generate recordings with a manifest, and fill the store that training reads."""
    rng = np.random.default_rng(job.seed)
    lengths = np.clip(rng.lognormal(np.log(2.5), 0.5, POOL * job.batch * job.times), 1.0, 8.0).round(2).tolist()
    rows = [_record(job.folder, f"u{number}", length, rng) for number, length in enumerate(lengths)]
    clip = replace(_record(job.folder, "clip", CLIP * job.times, rng), split="test")
    manifest.write(job.manifest, [*rows, clip])
    manifest.write_corpus(job.manifest, Corpus("table", str(job.folder), None, CLASSES, "0"))
    (job.folder / "seconds.json").write_text(json.dumps(lengths), encoding="utf-8")
    extract_rows(job.rows, job, encoders_of(job.preset, job.seed).to(job.device), job.folder / "store")


def extract_rows(rows: Sequence[Utterance], job: Measurement, encoders: Encoders, folder: Path) -> None:
    """Extract features of recordings into a new store."""
    corpus, store = manifest.read_corpus(job.manifest), Store(folder, create=True)
    extract(rows, corpus, store, encoders, workers=os.cpu_count() or 1)


def _record(folder: Path, name: str, seconds: float, rng: np.random.Generator) -> Utterance:
    """A hum with noise and a drifting pattern in an mp4."""
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    samples = 0.3 * np.sin(2 * np.pi * rng.uniform(90, 240) * times) + rng.normal(0, 0.05, len(times))
    frames = _frames(round(seconds * FRAME_RATE), rng)
    write_video(folder / f"{name}.mp4", frames, FRAME_RATE, samples.clip(-1, 1).astype(np.float32), SAMPLE_RATE)
    text = " ".join(SENTENCE.split()[: max(2, round(2.5 * seconds))])
    spans: dict[str, Any] = {"audio": AudioSpan(f"{name}.mp4"), "video": VideoSpan(f"{name}.mp4")}
    return Utterance(name, "table", "train", text=text, emotion=CLASSES[int(rng.integers(2))], **spans)


def _frames(count: int, rng: np.random.Generator) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    height, width = FRAME_SIZE
    ground = np.add.outer(np.arange(height), np.arange(2 * width))[..., None] * rng.uniform(0.2, 0.6, 3)
    pattern = ((ground + rng.normal(0, 6, ground.shape)) % 256).astype(np.uint8)
    for number in range(count):
        yield pattern[:, (3 * number) % width :][:, :width]


def encoders_of(preset: str, seed: int = 0) -> Encoders:
    """The encoders of a preset; those of `RANDOM` with random weights, which are as fast as trained ones."""
    about = read_preset(preset)
    torch.manual_seed(seed)
    loaded: dict[str, Any] = {}
    for modality in MODALITIES:
        name = getattr(about, modality)
        loaded[modality] = RANDOM[name]() if name in RANDOM else load_encoder(modality, name, about.precision)
    return Encoders(Path(preset).stem, about, **loaded)


def _wav2vec2_base() -> Wav2Vec2Encoder:
    model = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(layerdrop=0.0))
    return Wav2Vec2Encoder(model.eval(), {}, "random base")


def _whisper_base() -> WhisperEncoder:
    heads = {"encoder_attention_heads": 8, "encoder_ffn_dim": 2048, "decoder_attention_heads": 8}
    config = transformers.WhisperConfig(d_model=512, encoder_layers=6, decoder_layers=1, **heads)
    return WhisperEncoder(transformers.WhisperModel(config).eval(), {}, "random base")


def _roberta_base() -> TextEncoder:
    roberta = transformers.RobertaConfig(
        vocab_size=50_265, max_position_embeddings=514, type_vocab_size=1, pad_token_id=1
    )
    return TextEncoder(transformers.RobertaModel(roberta).eval(), tiny.tokenizer(), "random base")


def _minilm() -> TextEncoder:
    config = transformers.BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)
    return TextEncoder(transformers.BertModel(config).eval(), tiny.tokenizer(), "random MiniLM")


def _efficientnet_b0() -> EfficientNetEncoder:
    b0 = transformers.EfficientNetConfig(width_coefficient=1.0, depth_coefficient=1.0, image_size=224, hidden_dim=1280)
    return EfficientNetEncoder(_initialised(transformers.EfficientNetModel(b0)), {}, "random base")


# Encoders of the shipped presets, of the true sizes.
RANDOM: dict[str, Callable[[], Any]] = {
    "facebook/wav2vec2-base": _wav2vec2_base,
    "openai/whisper-base": _whisper_base,
    "FacebookAI/roberta-base": _roberta_base,
    "sentence-transformers/all-MiniLM-L6-v2": _minilm,
    "google/efficientnet-b0": _efficientnet_b0,
}


def _initialised(model: nn.Module) -> nn.Module:
    """Give a random network weights and moments that keep the variance; its own turn any input into exact zeros."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(pixel_values=torch.randn(8, 3, 224, 224))
    return model.eval()
