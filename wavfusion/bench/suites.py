"""Speed and memory against the baseline, in one run on generated data (docs/measurements/performance.md)."""

import logging
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from wavfusion.bench.data import Measurement, prepared
from wavfusion.bench.hardware import describe_hardware, hardware_to_text
from wavfusion.bench.measure import measured_side, useful_work
from wavfusion.encoders.presets import PRESETS
from wavfusion.errors import ConfigError

log = logging.getLogger(__name__)

SUITES = {
    "train": ("train", "train_without_video"),
    "extract": ("extract",),
    "predict": ("predict", "predict_bf16", "predict_explained"),
}
UNITS = {
    name: {"train": "utterances/s", "extract": "files/s", "predict": "clips/s"}[suite]
    for suite, names in SUITES.items()
    for name in names
}


def run_suites(
    suite: str = "all", preset: str = "base", batch: int = 8, repeats: int = 5, device: str = "cpu", seed: int = 0
) -> dict[str, Any]:
    """Time ours and the baseline in turns, each in a process of its own, and compare.

    Args:
        suite: `train` (with and without video), `extract`, `predict` or `all`.
        preset: `tiny`, or `base` with random weights.
        batch: utterances in a training step; three times as many are generated.
        repeats: of every measurement; ratios are those of neighbours in time.
        device: where both compute.
        seed: of recordings and weights.

    Raises:
        ConfigError: no such suite or preset.
    """
    names, hardware = comparisons_of(suite, preset), describe_hardware(device)
    found: dict[str, Any] = dict.fromkeys(UNITS)
    with prepared(Measurement(preset, batch, device, seed)) as job:
        for name in names:
            log.info("bench: %s: %d repeats of ours and of the baseline", name, repeats)
            found[name] = _compare(name, job, repeats)
    for each in filter(None, found.values()):
        each["fraction_of_peak"] = each.pop("flops_per_s") / (1e9 * hardware["matmul_gflops"])
    return {"hardware": hardware, "preset": preset, "batch": batch, "repeats": repeats, **found}


def comparisons_of(suite: str, preset: str) -> list[str]:
    """Names of the comparisons in a suite.

    Raises:
        ConfigError: no such suite or preset.
    """
    if suite != "all" and suite not in SUITES:
        raise ConfigError(f"--suite: expected {', '.join(SUITES)} or all, found {suite!r}")
    if preset not in PRESETS:
        raise ConfigError(f"--preset: expected {' or '.join(PRESETS)}, found {preset!r}")
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


def measurements_to_text(found: Mapping[str, Any]) -> str:
    """Lay what `run_suites` or `growth.measure_growth` returned out for a terminal."""
    lines = hardware_to_text(found["hardware"])
    lines.append(f"preset {found['preset']}, batches of {found['batch']}, median of {found['repeats']} turns")
    for name, costs in found.get("growth", {}).items():
        lines += [f"{name:>20}  {_cost_to_text(name, each)}" for each in costs or ()]
    lines += _comparisons_to_text((name, found[name]) for name in UNITS if found.get(name))
    return "\n".join(lines)


def _comparisons_to_text(found: Iterable[tuple[str, Mapping[str, Any]]]) -> list[str]:
    return [
        f"{name:>20}  {each['ratio']['median']:5.2f} x the baseline "
        f"[{each['ratio']['low']:.2f}, {each['ratio']['high']:.2f}]  "
        f"{each['ours']:.2f} against {each['baseline']:.2f} {each['unit']}; "
        f"{each['useful_seconds_per_s']:.1f} s of audio a second; "
        f"{100 * each['fraction_of_peak']:.0f} % of the rate of matrix multiplications; "
        f"memory {each['peak_memory_mb']:.0f} against {each['baseline_peak_memory_mb']:.0f} MB"
        for name, each in found
    ]


def _cost_to_text(name: str, each: Mapping[str, Any]) -> str:
    """One size of `growth.measure_growth`."""
    unit, seconds = UNITS[name].partition("/")[0], each["seconds"]
    return (
        f"{each['times']} x: {each['units']} {unit}, {each['useful_seconds']:.0f} s of audio, in {seconds:.2f} s "
        f"({1000 * seconds / each['useful_seconds']:.1f} ms a second of audio), {each['peak_memory_mb']:.0f} MB"
    )
