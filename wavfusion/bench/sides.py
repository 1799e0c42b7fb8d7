"""What ours and the baseline do in each comparison: training steps, extraction, the labelling of a clip."""

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch

from wavfusion import manifest
from wavfusion.bench.baseline import BaselineEncoders, decode_video_frames, decode_waveform
from wavfusion.bench.data import CLASSES, Measurement, encoders_of, extract_rows
from wavfusion.encoders.bundle import Encoders
from wavfusion.experiments import experiment
from wavfusion.fast.network import accelerate
from wavfusion.features.batches import LengthBatches, batched, collate, model_inputs
from wavfusion.features.clips import Media
from wavfusion.features.dataset import Features, choose_features, model_config
from wavfusion.features.encode import BATCH_SECONDS, audio_batches, describe_features
from wavfusion.features.extract import shipped_layers
from wavfusion.features.store import FeatureSet, Store
from wavfusion.manifest import Utterance
from wavfusion.model.config import WavFusionConfig
from wavfusion.model.wavfusion import WavFusion
from wavfusion.prediction.recognizer import EmotionRecognizer
from wavfusion.processes.timing import timed
from wavfusion.runs.folder import Run
from wavfusion.training.resident import Resident
from wavfusion.training.trainer import stepper

Work = Callable[[], None]


def _samples(job: Measurement, with_video: bool) -> tuple[Features, WavFusionConfig]:
    """The training part from the store, and the model's configuration."""
    store, corpus = Store(job.folder / "store"), manifest.read_corpus(job.manifest)
    settings = {"model.modalities": "audio,text,video" if with_video else "audio,text"}
    features = choose_features(store, None)
    config = model_config(experiment.read_experiment("paper", settings).model, features, CLASSES)
    media = Media(store, corpus.root, corpus.root)
    return Features(job.rows, store, media, features, config, first_window=True), config


def _step(job: Measurement, config: WavFusionConfig, fast: bool) -> Callable[[Mapping[str, Any]], None]:
    """Make the model, with equal weights for both sides; returns a step of its training."""
    torch.manual_seed(job.seed)
    model = WavFusion(config).to(job.device)
    return stepper(accelerate(model) if fast else model, model, (1e-5, 1e-4), clip=1.0, fused=fast or None)


def _train_ours(job: Measurement, with_video: bool = True) -> Work:
    samples, config = _samples(job, with_video)
    step = _step(job, config, fast=True)
    order = list(LengthBatches(samples.lengths(), job.batch, job.seed))
    held = Resident(samples, job.device) if job.device.startswith("cuda") else None

    def work() -> None:
        for batch in batched(order, job.batch):
            ready = collate([samples[i] for i in batch]) if held is None else held.collate(batch)
            step(model_inputs(ready, config.modalities, job.device))

    return work


def _train_baseline(job: Measurement, with_video: bool = True) -> Work:
    samples, config = _samples(job, with_video)
    step = _step(job, config, fast=False)
    encoders = BaselineEncoders(encoders_of(job.preset, job.seed), config.input_layer, job.device)
    rows = job.rows
    decoded = [_decoded(job, row, encoders) for row in rows]
    labels = [samples[i].label for i in range(len(samples))]
    encoders.tune(decoded[0][1], partial(timed, device=job.device))

    def work() -> None:
        for batch in batched(range(len(decoded)), job.batch):
            waveforms, frames = zip(*(decoded[i] for i in batch), strict=True)
            texts = [str(rows[i].text) for i in batch]
            inputs = encoders.features(waveforms, texts, frames if with_video else ())
            step({**inputs, "labels": torch.tensor([labels[i] for i in batch], device=job.device)})

    return work


def _extract_ours(job: Measurement) -> Work:
    encoders = encoders_of(job.preset, job.seed).to(job.device)
    if job.device.startswith("cuda") and encoders.audio is not None and encoders.text is not None:
        encoders.audio.precision = encoders.text.precision = "bf16"

    def work() -> None:
        folder = Path(mkdtemp(dir=job.folder))
        extract_rows(job.files, job, encoders, folder)
        shutil.rmtree(folder)

    return work


def _extract_baseline(job: Measurement) -> Work:
    loaded, rows = encoders_of(job.preset, job.seed), job.files
    encoders = BaselineEncoders(loaded, shipped_layers(loaded)[0], job.device)
    encoders.tune(_decoded(job, rows[0], encoders)[1], partial(timed, device=job.device))

    def work() -> None:
        folder = Path(mkdtemp(dir=job.folder))
        for row in rows:
            samples, frames = _decoded(job, row, encoders)
            audio, text = encoders.encode_audio([samples]), encoders.encode_text([str(row.text)])
            np.savez(folder / row.id, *(x.half().cpu().numpy() for x in (*audio, *text, encoders.encode_video(frames))))
        shutil.rmtree(folder)

    return work


def _audio_ours(job: Measurement) -> Work:
    loaded = encoders_of(job.preset, job.seed).to(job.device)
    audio, layers, waveforms = loaded.quick().audio, shipped_layers(loaded), _waveforms(job)
    assert audio is not None
    audio.precision = "bf16" if job.device.startswith("cuda") else audio.precision

    def work() -> None:
        for batch in audio_batches(waveforms, BATCH_SECONDS[loaded.kind]):
            audio.encode([waveforms[i] for i in batch], layers)

    return work


def _audio_baseline(job: Measurement) -> Work:
    loaded, waveforms = encoders_of(job.preset, job.seed), _waveforms(job)
    encoders = BaselineEncoders(loaded, shipped_layers(loaded)[0], job.device)

    def work() -> None:
        for samples in waveforms:
            encoders.encode_audio([samples])

    return work


def _waveforms(job: Measurement) -> list[np.ndarray]:
    return [decode_waveform(job.folder / f"{row.id}.mp4") for row in job.files]


def _decoded(job: Measurement, row: Utterance, encoders: BaselineEncoders) -> tuple[np.ndarray, np.ndarray]:
    path = job.folder / f"{row.id}.mp4"
    return decode_waveform(path), decode_video_frames(path, encoders.frame_rate, encoders.video.size)


def _config(encoders: Encoders) -> tuple[WavFusionConfig, FeatureSet]:
    features = describe_features(encoders, shipped_layers(encoders), ["last"])
    return model_config(experiment.read_experiment("paper").model, features, CLASSES), features


def _predict_ours(job: Measurement, precision: str = "fp32", contributions: bool = False) -> Work:
    encoders, row = encoders_of(job.preset, job.seed), job.clip
    config, features = _config(encoders)
    torch.manual_seed(job.seed)
    trained = Run(job.folder, WavFusion(config).eval(), features, "cached", [0.5, 0.5], {}, 1.0)
    recognizer = EmotionRecognizer(trained, encoders, job.device, precision=precision)

    def work() -> None:
        recognizer.predict(job.folder / f"{row.id}.mp4", row.text, contributions=contributions)

    return work


def _predict_baseline(job: Measurement) -> Work:
    loaded, row = encoders_of(job.preset, job.seed), job.clip
    config, _ = _config(loaded)
    torch.manual_seed(job.seed)
    model = WavFusion(config).eval().to(job.device)
    encoders = BaselineEncoders(loaded, config.input_layer, job.device)
    encoders.tune(_decoded(job, row, encoders)[1], partial(timed, device=job.device))

    @torch.no_grad()
    def work() -> None:
        samples, frames = _decoded(job, row, encoders)
        model(**encoders.features([samples], [str(row.text)], [frames])).logits.softmax(-1)

    return work


# What ours and the baseline do in each comparison.
SIDES: dict[str, dict[str, Callable[[Measurement], Work]]] = {
    "train": {"ours": _train_ours, "baseline": _train_baseline},
    "train_without_video": {
        "ours": partial(_train_ours, with_video=False),
        "baseline": partial(_train_baseline, with_video=False),
    },
    "extract": {"ours": _extract_ours, "baseline": _extract_baseline},
    "extract_audio": {"ours": _audio_ours, "baseline": _audio_baseline},
    "predict": {"ours": _predict_ours, "baseline": _predict_baseline},
    "predict_bf16": {"ours": partial(_predict_ours, precision="bf16"), "baseline": _predict_baseline},
    "predict_explained": {"ours": partial(_predict_ours, contributions=True), "baseline": _predict_baseline},
}
