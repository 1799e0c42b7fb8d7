"""Speed and memory against the baseline in one run on generated data, or ours alone over more and more data.

See docs/measurements/performance.md. Each side is held ready in a process of its own and measured there.
"""

import json
import logging
import os
import platform
import statistics
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from wavfusion.bench import sides
from wavfusion.bench.data import CLIP, Measurement, prepared
from wavfusion.encoders.presets import read_preset
from wavfusion.errors import ConfigError
from wavfusion.processes.pool import Worker, require_result
from wavfusion.processes.timing import timed

log = logging.getLogger(__name__)

FIT_LOAD = 0.3  # processes that may be running beside this one
TIMES = (1, 2, 4, 8)  # sizes of the data, to see how time and memory grow
SUITES = {
    "train": ("train", "train_without_video"),
    "extract": ("extract", "extract_audio"),
    "predict": ("predict", "predict_bf16", "predict_explained"),
}
UNITS = {
    name: {"train": "utterances/s", "extract": "files/s", "predict": "clips/s"}[suite]
    for suite, names in SUITES.items()
    for name in names
}


def run_suites(
    suite: str = "all",
    preset: str = "base",
    batch: int = 8,
    repeats: int = 5,
    device: str = "cpu",
    seed: int = 0,
    times: Sequence[int] = (),
) -> dict[str, Any]:
    """Time ours and the baseline in turns, each in a process of its own, and compare.

    Args:
        suite: `train` (with and without video), `extract`, `predict` or `all`.
        preset: a shipped one, with random weights but for `tiny`, or a file.
        batch: utterances in a training step; three times as many are generated.
        repeats: of every measurement; ratios are those of neighbours in time.
        device: where both compute.
        seed: of recordings and weights.
        times: measure ours alone instead, over so many times the data; `predict` labels a recording so much longer.

    Raises:
        ConfigError: no such suite or preset.
    """
    names, hardware = _comparisons_of(suite, preset), describe_hardware(device)
    job = Measurement(preset, batch, device, seed)
    found: dict[str, Any] = dict.fromkeys(UNITS)
    about = {"hardware": hardware, "preset": preset, "batch": batch, "repeats": repeats}
    for size in times:
        with prepared(replace(job, times=size)) as larger:
            for name in names:
                log.info("bench: %s: %d times the data", name, size)
                found[name] = [*(found[name] or ()), _cost(name, larger, repeats)]
    if times:
        return {**about, "growth": found}
    with prepared(job) as ready:
        for name in names:
            log.info("bench: %s: %d repeats of ours and of the baseline", name, repeats)
            found[name] = _compare(name, ready, repeats)
    for each in filter(None, found.values()):
        each["fraction_of_peak"] = each.pop("flops_per_s") / (1e9 * hardware["matmul_gflops"])
    return about | found


def _comparisons_of(suite: str, preset: str) -> list[str]:
    if suite != "all" and suite not in SUITES:
        raise ConfigError(f"--suite: expected {', '.join(SUITES)} or all, found {suite!r}")
    read_preset(preset)
    return [name for key, names in SUITES.items() if suite in ("all", key) for name in names]


def _compare(name: str, job: Measurement, repeats: int) -> dict[str, Any]:
    """Run both sides in turns; only one computes at a time."""
    count, seconds = useful_work(name, job)
    with measured_side("ours", name, job) as ours, measured_side("baseline", name, job) as baseline:
        turns = [(ours(), baseline()) for _ in range(repeats)]
    ratios = sorted(slow.seconds / fast.seconds for fast, slow in turns)
    fast, slow = (statistics.median(turn[side].seconds for turn in turns) for side in (0, 1))
    return {
        "ours": count / fast,
        "baseline": count / slow,
        "ratio": {"median": statistics.median(ratios), "low": ratios[0], "high": ratios[-1]},
        "unit": UNITS[name],
        "peak_memory_mb": max(fast.peak_memory_mb for fast, _ in turns),
        "baseline_peak_memory_mb": max(slow.peak_memory_mb for _, slow in turns),
        "useful_seconds_per_s": seconds / fast,
        "flops_per_s": (turns[0][0].flops or turns[0][1].flops) / fast,
    }


def _cost(name: str, job: Measurement, repeats: int) -> dict[str, Any]:
    """Measure ours alone: the median of its seconds, and its memory."""
    count, useful = useful_work(name, job)
    with measured_side("ours", name, job) as ours:
        turns = [ours() for _ in range(repeats)]
    return {
        "times": job.times,
        "units": count,
        "seconds": statistics.median(turn.seconds for turn in turns),
        "useful_seconds": useful,
        "peak_memory_mb": max(turn.peak_memory_mb for turn in turns),
    }


@dataclass(frozen=True)
class Timing:
    """One measurement: seconds, peak of anonymous memory in MB, and floating-point operations (0: not counted)."""

    seconds: float
    peak_memory_mb: float
    flops: float


@contextmanager
def measured_side(side: str, name: str, job: Measurement) -> Iterator[Callable[[], Timing]]:
    """Hold a side (`ours` or `baseline`) of a comparison ready in a process of its own; gives what measures it once.

    Raises:
        ConfigError: the process died.
    """
    worker = Worker(partial(_measurer, side, name, job), torch.get_num_threads(), preload=sides.__name__)
    try:
        require_result(worker.do(False), name)
        yield lambda: require_result(worker.do(True), name)
    finally:
        worker.clear()


def useful_work(name: str, job: Measurement) -> tuple[int, float]:
    """Count the units of work in one measurement, and the seconds of audio in them."""
    if name.startswith("predict"):
        return 1, CLIP * job.times
    seconds = json.loads((job.folder / "seconds.json").read_text("utf-8"))
    seconds = seconds[: len(job.files)] if name.startswith("extract") else seconds
    return len(seconds), sum(seconds)


def _measurer(side: str, name: str, job: Measurement) -> Callable[[bool], Timing]:
    """Make a side ready, warm it and count its operations; gives what measures it if wanted."""
    work = sides.SIDES[name][side](job)
    counter = FlopCounterMode(display=False)
    # The counter does not work with weight norm in inference mode; the baseline has the same operations there.
    with counter if side == "baseline" or name.startswith("train") else nullcontext():
        work()
    counts = {module: sum(each.values()) for module, each in counter.get_flop_counts().items()}
    flops = counts.pop("Global", 0)
    if counts.pop("WhisperEncoder", 0):  # the hub's pads every clip to 30 s, spectrogram included: the others' count
        flops = sum(count for module, count in counts.items() if "." not in module)

    def measure(wanted: bool) -> Timing:
        with _peak_memory() as peak:
            seconds = timed(work, job.device) if wanted else 0.0
        return Timing(seconds, peak[0], float(flops))

    return measure


@contextmanager
def _peak_memory() -> Iterator[list[float]]:
    """Watch this process's anonymous memory (files that are mapped do not count), in MB."""
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while True:
            peak[0] = max(peak[0], _anonymous_mb())
            if done.wait(0.02):
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def _anonymous_mb() -> float:
    """Anonymous memory of this process; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text("utf-8").splitlines() if status.exists() else []
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def describe_hardware(device: str) -> dict[str, Any]:
    """The machine, its load before anything ran, and its measured rate of matrix multiplications."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0  # Windows has none
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


def matmul_rate(device: str) -> float:
    """Measure the rate of matrix multiplications in GFLOP/s: the best of ten."""
    dtype, size = (torch.bfloat16, 8192) if device.startswith("cuda") else (torch.float32, 2048)
    one, other = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    best = min(timed(lambda: torch.mm(one, other), device) for _ in range(10))
    return 2 * size**3 / best / 1e9


def measurements_to_text(found: Mapping[str, Any]) -> str:
    """Lay what `run_suites` returned out for a terminal; a load that spoils the measurement is said."""
    about = found["hardware"]
    lines = [
        f"{about['device']}, {about['cores']} cores, {about['threads']} threads, torch {about['torch']}, "
        f"matrix multiplications {about['matmul_gflops']:.0f} GFLOP/s in {about['precision']}, load {about['load']:.2f}"
    ]
    if not about["fit"]:
        lines.append(f"UNFIT: the load was above {FIT_LOAD} before anything ran; these figures are not to be quoted")
    lines.append(f"preset {found['preset']}, batches of {found['batch']}, median of {found['repeats']} turns")
    for name, costs in found.get("growth", {}).items():
        lines += [f"{name:>20}  {_cost_to_text(name, each)}" for each in costs or ()]
    lines += [f"{name:>20}  {_comparison_to_text(found[name])}" for name in UNITS if found.get(name)]
    return "\n".join(lines)


def _comparison_to_text(each: Mapping[str, Any]) -> str:
    share = each["fraction_of_peak"]
    counted = f"{100 * share:.0f} % of the rate of matrix multiplications; " if share else ""
    return (
        f"{each['ratio']['median']:5.2f} x the baseline [{each['ratio']['low']:.2f}, {each['ratio']['high']:.2f}]  "
        f"{each['ours']:.2f} against {each['baseline']:.2f} {each['unit']}; "
        f"{each['useful_seconds_per_s']:.1f} s of audio a second; "
        f"{counted}memory {each['peak_memory_mb']:.0f} against {each['baseline_peak_memory_mb']:.0f} MB"
    )


def _cost_to_text(name: str, each: Mapping[str, Any]) -> str:
    unit, seconds = UNITS[name].partition("/")[0], each["seconds"]
    return (
        f"{each['times']} x: {each['units']} {unit}, {each['useful_seconds']:.0f} s of audio, in {seconds:.2f} s "
        f"({1000 * seconds / each['useful_seconds']:.1f} ms a second of audio), {each['peak_memory_mb']:.0f} MB"
    )
