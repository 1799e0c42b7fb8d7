"""Speed and memory of this package against the plain way, in one run on generated data (docs/performance.md)."""

import json
import multiprocessing
import os
import platform
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    EfficientNetConfig,
    EfficientNetModel,
    RobertaConfig,
    RobertaModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
)

from wavfusion import manifest
from wavfusion.bench.baseline import PlainEncoders, decode_pictures, decode_sound
from wavfusion.encoders import tiny
from wavfusion.encoders.audio import AudioEncoder
from wavfusion.encoders.bundle import Encoders, load_encoders
from wavfusion.encoders.presets import PRESETS
from wavfusion.encoders.text import TextEncoder
from wavfusion.encoders.video import VideoEncoder
from wavfusion.errors import ConfigError
from wavfusion.experiments import experiment
from wavfusion.features.clips import FeatureSet, Media
from wavfusion.features.dataset import Features, LengthBatches, choose_features, collate, model_config, model_inputs
from wavfusion.features.extract import batched, describe_features, extract
from wavfusion.features.store import Store
from wavfusion.manifest import AudioSpan, Corpus, Utterance, VideoSpan
from wavfusion.media import SAMPLE_RATE, write_video
from wavfusion.model.config import WavFusionConfig
from wavfusion.model.wavfusion import WavFusion
from wavfusion.prediction.recognizer import EmotionRecognizer
from wavfusion.processes.memory import anonymous_mb
from wavfusion.runs.folder import Run
from wavfusion.training.resident import Resident
from wavfusion.training.train import stepper

SUITES = {
    "train": ("train", "train_without_video"),
    "extract": ("extract",),
    "predict": ("predict", "predict_bf16", "predict_explained"),
}
UNITS = {
    "train": "utterances/s",
    "train_without_video": "utterances/s",
    "extract": "files/s",
    "predict": "clips/s",
    "predict_bf16": "clips/s",
    "predict_explained": "clips/s",
}
POOL, FILES = 3, 2  # times the batch: utterances of an epoch, among which batches of like lengths are found, and files
LAYER = 9  # shallow layers of the sound encoder
FIT_LOAD = 0.3  # processes that may be running beside this one
CLIP = 10.0  # seconds of the clip that is labelled
TIMES = (1, 2, 4, 8)  # sizes of the data, in a look at how costs grow
SENTENCE = "I told you that I would be there in time, and now look at the clock."
PICTURE = (360, 640)
FRAME_RATE = 25
CLASSES = ["calm", "loud"]

Work = Callable[[], None]


@dataclass(frozen=True)
class Measurement:
    """What both sides of a comparison are given.

    Attributes:
        folder: the generated corpus, with its features in `store`.
        batch: utterances in a training step.
        times: how much more data than for a comparison.
    """

    folder: Path
    preset: str
    batch: int
    with_video: bool
    device: str
    seed: int = 0
    times: int = 1

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


def run_suites(
    suite: str = "all",
    preset: str = "base",
    batch: int = 8,
    repeats: int = 5,
    device: str = "cpu",
    seed: int = 0,
    told: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Time ours and the plain way in turns, each in a process of its own, and compare.

    Args:
        suite: `train` (with and without video), `extract`, `predict` or `all`.
        preset: `tiny`, or `base` with random weights.
        batch: utterances in a training step; three times as many are generated.
        repeats: of every measurement; ratios are those of neighbours in time.
        device: where both compute.
        seed: of recordings and weights.
        told: is given a line when something begins.

    Raises:
        ConfigError: no such suite or preset.
    """
    names, hardware = _chosen(suite, preset), describe_hardware(device)
    found: dict[str, Any] = dict.fromkeys(UNITS)
    with _prepared(Measurement(Path(), preset, batch, True, device, seed), told) as job:
        for name in names:
            told(f"{name}: {repeats} repeats of ours and of the plain way")
            found[name] = _compare(name, _for(name, job), repeats)
    for each in filter(None, found.values()):
        each["fraction_of_peak"] = each.pop("flops_per_s") / (1e9 * hardware["matmul_gflops"])
    return {"hardware": hardware, "preset": preset, "batch": batch, "repeats": repeats, **found}


def measure_growth(
    suite: str = "all",
    preset: str = "base",
    batch: int = 8,
    repeats: int = 5,
    device: str = "cpu",
    seed: int = 0,
    told: Callable[[str], None] = lambda line: None,
    times: Sequence[int] = TIMES,
) -> dict[str, Any]:
    """Measure ours alone over more and more data, each size in a process of its own.

    The arguments are those of `run`, and `times`: sizes, as multiples of what `run` compares; `predict` labels one
    recording that is so much longer. Returns under `growth`, by name, of each size `times`, `units`, `seconds` (the
    median), `useful_seconds` and `peak_memory_mb`.
    """
    names, hardware = _chosen(suite, preset), describe_hardware(device)
    found: dict[str, Any] = dict.fromkeys(UNITS) | {name: [] for name in names}
    for size in times:
        with _prepared(Measurement(Path(), preset, batch, True, device, seed, size), told) as job:
            for name in names:
                told(f"{name}: {size} times the data")
                count, useful = _useful(name, job)
                with _side(OURS[name], _for(name, job)) as ours:
                    turns = [ours() for _ in range(repeats)]
                seconds, peak = statistics.median(turn[0] for turn in turns), max(turn[1] for turn in turns)
                cost = {"times": size, "units": count, "seconds": seconds}
                found[name].append({**cost, "useful_seconds": useful, "peak_memory_mb": peak})
    return {"hardware": hardware, "preset": preset, "batch": batch, "repeats": repeats, "growth": found}


def _chosen(suite: str, preset: str) -> list[str]:
    """The names of what a suite measures."""
    if suite != "all" and suite not in SUITES:
        raise ConfigError(f"--suite: expected {', '.join(SUITES)} or all, found {suite!r}")
    if preset not in PRESETS:
        raise ConfigError(f"--preset: expected {' or '.join(PRESETS)}, found {preset!r}")
    return [name for key, names in SUITES.items() if suite in ("all", key) for name in names]


@contextmanager
def _prepared(job: Measurement, told: Callable[[str], None]) -> Iterator[Measurement]:
    """Generate a job's recordings and their features in a folder that is removed again."""
    folder = Path(mkdtemp(prefix="wavfusion-bench-"))
    job = replace(job, folder=folder)
    try:
        told("generating recordings and their features")
        _in_process(_prepare, job)
        yield job
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _for(name: str, job: Measurement) -> Measurement:
    return replace(job, with_video=name != "train_without_video")


def measurements_to_text(found: Mapping[str, Any]) -> str:
    """Lay what `run` or `grow` returned out for a terminal."""
    about = found["hardware"]
    lines = [
        f"{about['device']}, {about['cores']} cores, {about['threads']} threads, torch {about['torch']}, "
        f"matrix products {about['matmul_gflops']:.0f} GFLOP/s in {about['precision']}, load {about['load']:.2f}"
    ]
    if not about["fit"]:
        lines.append(f"UNFIT: the load was above {FIT_LOAD} before anything ran; these figures are not to be quoted")
    lines.append(f"preset {found['preset']}, batches of {found['batch']}, median of {found['repeats']} turns")
    for name, costs in found.get("growth", {}).items():
        lines += [f"{name:>20}  {_cost(name, each)}" for each in costs or ()]
    for name, each in ((name, found[name]) for name in UNITS if found.get(name)):
        ratio = each["ratio"]
        lines.append(
            f"{name:>20}  {ratio['median']:5.2f} x the plain way [{ratio['low']:.2f}, {ratio['high']:.2f}]  "
            f"{each['ours']:.2f} against {each['plain']:.2f} {each['unit']}; "
            f"{each['useful_seconds_per_s']:.1f} s of sound a second; "
            f"{100 * each['fraction_of_peak']:.0f} % of the rate of matrix products; "
            f"memory {each['peak_memory_mb']:.0f} against {each['plain_peak_memory_mb']:.0f} MB"
        )
    return "\n".join(lines)


def _cost(name: str, each: Mapping[str, Any]) -> str:
    """One size of `grow` in words."""
    unit, seconds = UNITS[name].partition("/")[0], each["seconds"]
    return (
        f"{each['times']} x: {each['units']} {unit}, {each['useful_seconds']:.0f} s of sound, in {seconds:.2f} s "
        f"({1000 * seconds / each['useful_seconds']:.1f} ms a second of sound), {each['peak_memory_mb']:.0f} MB"
    )


def describe_hardware(device: str) -> dict[str, Any]:
    """The machine, its load before anything ran, and its measured rate of matrix products."""
    load = os.getloadavg()[0]
    cuda = device.startswith("cuda")
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "device": torch.cuda.get_device_name(device) if cuda else (models or [platform.processor()])[0],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "precision": "bf16" if cuda else "fp32",
        "matmul_gflops": matmul_rate(device),
        "load": load,
        "fit": load <= FIT_LOAD,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def matmul_rate(device: str, size: int = 2048) -> float:
    """Measure the rate of matrix products in GFLOP/s: the best of ten."""
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    size = 4 * size if device.startswith("cuda") else size
    one, other = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    best = min(_seconds(lambda: torch.mm(one, other), device) for _ in range(10))
    return 2 * size**3 / best / 1e9


def _seconds(work: Callable[[], object], device: str = "cpu") -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


# ---------------------------------------------------------------------- two processes in turns


def _compare(name: str, job: Measurement, repeats: int) -> dict[str, Any]:
    """Run both sides in turns; only one computes at a time."""
    count, seconds = _useful(name, job)
    with _side(OURS[name], job) as ours, _side(PLAIN[name], job) as plain:
        turns = [(ours(), plain()) for _ in range(repeats)]
    ratios = sorted(slow[0] / fast[0] for fast, slow in turns)
    fast, slow = (statistics.median(turn[side][0] for turn in turns) for side in (0, 1))
    return {
        "ours": count / fast,
        "plain": count / slow,
        "ratio": {"median": statistics.median(ratios), "low": ratios[0], "high": ratios[-1]},
        "unit": UNITS[name],
        "peak_memory_mb": max(fast[1] for fast, _ in turns),
        "plain_peak_memory_mb": max(slow[1] for _, slow in turns),
        "useful_seconds_per_s": seconds / fast,
        "flops_per_s": (turns[0][0][2] or turns[0][1][2]) / fast,
    }


def _useful(name: str, job: Measurement) -> tuple[int, float]:
    """Utterances of one measurement, and the seconds of sound in them."""
    told = json.loads((job.folder / "seconds.json").read_text("utf-8"))
    told = told[: len(job.files)] if name == "extract" else told
    return (1, CLIP * job.times) if name in SUITES["predict"] else (len(told), sum(told))


Measured = tuple[float, float, float]  # seconds, peak of anonymous memory in MB, floating-point operations


@contextmanager
def _side(build: Callable[[Measurement], Work], job: Measurement) -> Iterator[Callable[[], Measured]]:
    """Hold one side ready in a process of its own."""
    context = _context()
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, build, job), daemon=True)
    process.start()
    there.close()

    def measure() -> Measured:
        here.send(True)
        found: Measured = here.recv()
        return found

    try:
        here.recv()
        yield measure
    except EOFError:
        raise ConfigError("bench: one side of the comparison died; its message stands above") from None
    finally:
        here.close()
        process.join(10)
        process.kill()


def _serve(pipe: Connection, build: Callable[[Measurement], Work], job: Measurement) -> None:
    """Make a side ready, warm it and count what it does, and measure whenever asked to."""
    work = build(job)
    counter = FlopCounterMode(display=False)
    # The counter does not get along with weight norm in inference mode; the plain way has the same operations there.
    with counter if build in PLAIN.values() or build is _train_ours else nullcontext():
        work()
    if job.device.startswith("cuda"):
        work()  # shapes that come again are recorded
    pipe.send(True)
    try:
        while pipe.recv():
            with _peak_memory() as peak:
                seconds = _seconds(work, job.device)
            pipe.send((seconds, peak[0], float(counter.get_total_flops())))
    except EOFError:
        return


@contextmanager
def _peak_memory() -> Iterator[list[float]]:
    """Watch this process's anonymous memory (files that are mapped are not it), in MB."""
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while True:
            peak[0] = max(peak[0], anonymous_mb())
            if done.wait(0.02):
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def _context() -> multiprocessing.context.ForkServerContext:
    """Begin processes as copies of one that has loaded the modules and computed nothing: a second each, not five."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _in_process(work: Callable[[Measurement], None], job: Measurement) -> None:
    """Do something whose memory shall not stay."""
    process = _context().Process(target=work, args=(job,))
    process.start()
    process.join()
    if process.exitcode:
        raise ConfigError(f"bench: expected recordings and features, its process ended with {process.exitcode}")


# ---------------------------------------------------------------------- data and encoders


def _prepare(job: Measurement) -> None:
    """Generate recordings with a manifest, and fill the store that training reads."""
    rng = np.random.default_rng(job.seed)
    lengths = np.clip(rng.lognormal(np.log(2.5), 0.5, POOL * job.batch * job.times), 1.0, 8.0).round(2).tolist()
    rows = [_record(job.folder, f"u{number}", length, rng) for number, length in enumerate(lengths)]
    clip = replace(_record(job.folder, "clip", CLIP * job.times, rng), split="test")
    manifest.write(job.manifest, [*rows, clip])
    manifest.write_corpus(job.manifest, Corpus("table", str(job.folder), None, CLASSES, "0"))
    (job.folder / "seconds.json").write_text(json.dumps(lengths), encoding="utf-8")
    _extract(job.rows, job, encoders_of(job.preset, job.seed).to(job.device), job.folder / "store")


def _record(folder: Path, name: str, seconds: float, rng: np.random.Generator) -> Utterance:
    """A hum with noise and a drifting pattern in an mp4."""
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    sound = 0.3 * np.sin(2 * np.pi * rng.uniform(90, 240) * times) + rng.normal(0, 0.05, len(times))
    pictures = _pictures(round(seconds * FRAME_RATE), rng)
    write_video(folder / f"{name}.mp4", pictures, FRAME_RATE, sound.clip(-1, 1).astype(np.float32), SAMPLE_RATE)
    words = " ".join(SENTENCE.split()[: max(2, round(2.5 * seconds))])
    spans: dict[str, Any] = {"audio": AudioSpan(f"{name}.mp4"), "video": VideoSpan(f"{name}.mp4")}
    return Utterance(name, "table", "train", text=words, emotion=CLASSES[int(rng.integers(2))], **spans)


def _pictures(count: int, rng: np.random.Generator) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    height, width = PICTURE
    ground = np.add.outer(np.arange(height), np.arange(2 * width))[..., None] * rng.uniform(0.2, 0.6, 3)
    pattern = ((ground + rng.normal(0, 6, ground.shape)) % 256).astype(np.uint8)
    for number in range(count):
        yield pattern[:, (3 * number) % width :][:, :width]


def encoders_of(preset: str, seed: int = 0) -> Encoders:
    """The encoders of a preset; those of `base` with random weights, which are as fast as trained ones."""
    if preset == "tiny":
        return load_encoders("tiny", PRESETS["tiny"])
    torch.manual_seed(seed)
    audio = AudioEncoder(Wav2Vec2Model(Wav2Vec2Config(layerdrop=0.0)).eval(), {}, "random base")
    words = RobertaConfig(vocab_size=50_265, max_position_embeddings=514, type_vocab_size=1, pad_token_id=1)
    text = TextEncoder(RobertaModel(words).eval(), tiny.tokenizer(), "random base")
    b0 = EfficientNetConfig(width_coefficient=1.0, depth_coefficient=1.0, image_size=224, hidden_dim=1280)
    video = VideoEncoder(_spread(EfficientNetModel(b0)), {}, "random base")
    return Encoders("base", PRESETS["base"], audio, text, video)


def _spread(model: nn.Module) -> nn.Module:
    """Give a random network weights and moments through which noise passes; its own make exact zeros of everything."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(pixel_values=torch.randn(8, 3, 224, 224))
    return model.eval()


# ---------------------------------------------------------------------- training


def _samples(job: Measurement) -> tuple[Features, WavFusionConfig]:
    """The training part from the store, and the model's configuration."""
    store, corpus = Store(job.folder / "store"), manifest.read_corpus(job.manifest)
    modalities = "audio,text,video" if job.with_video else "audio,text"
    features = choose_features(store, None)
    config = model_config(
        experiment.read_experiment("paper", {"model.modalities": modalities}).model, features, CLASSES
    )
    known = Media(store, corpus.root, corpus.root)
    return Features(job.rows, store, known, features, config, first_window=True), config


def _step(job: Measurement, config: WavFusionConfig, fast: bool) -> Callable[[Mapping[str, Any]], None]:
    """Make the model, with equal weights for both sides; returns a step of its training."""
    torch.manual_seed(job.seed)
    model = WavFusion(config).to(job.device)
    model.set_fast(fast)
    recorded = fast and job.device.startswith("cuda")
    return stepper(model, model, (1e-5, 1e-4), clip=1.0, fused=fast or None, recorded=recorded)


def _train_ours(job: Measurement) -> Work:
    samples, config = _samples(job)
    step = _step(job, config, fast=True)
    order = list(LengthBatches(samples.lengths(), job.batch, job.seed))
    held = Resident(samples, job.device, few_shapes=True) if job.device.startswith("cuda") else None

    def work() -> None:
        for batch in batched(order, job.batch):
            ready = collate([samples[i] for i in batch]) if held is None else held.collate(batch)
            step(model_inputs(ready, config.modalities, job.device))

    return work


def _train_plain(job: Measurement) -> Work:
    samples, config = _samples(job)
    step = _step(job, config, fast=False)
    encoders = PlainEncoders(encoders_of(job.preset, job.seed), config.input_layer, job.device)
    rows = job.rows
    decoded = [_decoded(job, row, encoders) for row in rows]
    labels = [samples[i].label for i in range(len(samples))]
    encoders.tune(decoded[0][1], lambda work: _seconds(work, job.device))

    def work() -> None:
        for batch in batched(range(len(decoded)), job.batch):
            sound, pictures = zip(*(decoded[i] for i in batch), strict=True)
            texts = [str(rows[i].text) for i in batch]
            inputs = encoders.features(sound, texts, pictures if job.with_video else ())
            step({**inputs, "labels": torch.tensor([labels[i] for i in batch], device=job.device)})

    return work


# ---------------------------------------------------------------------- extraction and prediction


def _extract(rows: Sequence[Utterance], job: Measurement, encoders: Encoders, folder: Path) -> None:
    corpus, store = manifest.read_corpus(job.manifest), Store(folder, create=True)
    extract(rows, corpus, store, encoders, audio_layers=[LAYER], workers=os.cpu_count() or 1)


def _extract_ours(job: Measurement) -> Work:
    encoders = encoders_of(job.preset, job.seed).to(job.device)
    if job.device.startswith("cuda") and encoders.audio is not None and encoders.text is not None:
        encoders.audio.precision = encoders.text.precision = "bf16"

    def work() -> None:
        folder = Path(mkdtemp(dir=job.folder))
        _extract(job.files, job, encoders, folder)
        shutil.rmtree(folder)

    return work


def _extract_plain(job: Measurement) -> Work:
    encoders = PlainEncoders(encoders_of(job.preset, job.seed), LAYER, job.device)
    rows = job.files
    encoders.tune(_decoded(job, rows[0], encoders)[1], lambda work: _seconds(work, job.device))

    def work() -> None:
        folder = Path(mkdtemp(dir=job.folder))
        for row in rows:
            sound, pictures = _decoded(job, row, encoders)
            found = [*encoders.hear([sound]), *encoders.read([str(row.text)]), encoders.see(pictures)]
            np.savez(folder / row.id, *(x.half().cpu().numpy() for x in found))
        shutil.rmtree(folder)

    return work


def _decoded(job: Measurement, row: Utterance, encoders: PlainEncoders) -> tuple[np.ndarray, np.ndarray]:
    path = job.folder / f"{row.id}.mp4"
    return decode_sound(path), decode_pictures(path, PRESETS[job.preset].frame_rate, encoders.video.size)


def _clip(job: Measurement) -> Utterance:
    return next(row for row in manifest.read(job.manifest) if row.split == "test")


def _config(job: Measurement, encoders: Encoders) -> tuple[WavFusionConfig, FeatureSet]:
    features = describe_features(encoders, [LAYER], ["last"])
    return model_config(experiment.read_experiment("paper").model, features, CLASSES), features


def _predict_ours(job: Measurement, precision: str = "fp32", contributions: bool = False) -> Work:
    encoders, row = encoders_of(job.preset, job.seed), _clip(job)
    config, features = _config(job, encoders)
    torch.manual_seed(job.seed)
    trained = Run(job.folder, WavFusion(config).eval(), features, "cached", [0.5, 0.5], {}, 1.0)
    recognizer = EmotionRecognizer(trained, encoders, job.device, precision=precision)

    def work() -> None:
        recognizer.predict(job.folder / f"{row.id}.mp4", row.text, contributions=contributions)

    return work


def _predict_plain(job: Measurement) -> Work:
    plain, row = encoders_of(job.preset, job.seed), _clip(job)
    config, _ = _config(job, plain)
    torch.manual_seed(job.seed)
    model = WavFusion(config).eval().to(job.device)
    encoders = PlainEncoders(plain, LAYER, job.device)
    encoders.tune(_decoded(job, row, encoders)[1], lambda work: _seconds(work, job.device))

    @torch.no_grad()
    def work() -> None:
        sound, pictures = _decoded(job, row, encoders)
        model(**encoders.features([sound], [str(row.text)], [pictures])).logits.softmax(-1)

    return work


OURS: dict[str, Callable[[Measurement], Work]] = {
    "train": _train_ours,
    "train_without_video": _train_ours,
    "extract": _extract_ours,
    "predict": _predict_ours,
    "predict_bf16": partial(_predict_ours, precision="bf16"),
    "predict_explained": partial(_predict_ours, contributions=True),
}
PLAIN: dict[str, Callable[[Measurement], Work]] = {
    "train": _train_plain,
    "train_without_video": _train_plain,
    "extract": _extract_plain,
    "predict": _predict_plain,
    "predict_bf16": _predict_plain,
    "predict_explained": _predict_plain,
}
