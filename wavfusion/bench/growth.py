"""Time and memory of this package over more and more data: the measurement behind its claim of flat memory."""

import logging
import statistics
from collections.abc import Sequence
from typing import Any

from wavfusion.bench.data import Measurement, prepared
from wavfusion.bench.hardware import describe_hardware
from wavfusion.bench.measure import measured_side, useful_work
from wavfusion.bench.suites import UNITS, comparisons_of

log = logging.getLogger(__name__)

TIMES = (1, 2, 4, 8)  # sizes of the data


def measure_growth(
    suite: str = "all",
    preset: str = "base",
    batch: int = 8,
    repeats: int = 5,
    device: str = "cpu",
    seed: int = 0,
    times: Sequence[int] = TIMES,
) -> dict[str, Any]:
    """Measure ours alone over more and more data, each size in a process of its own.

    The arguments are those of `suites.run_suites`, and `times`: sizes, as multiples of what that compares; `predict`
    labels one recording that is so much longer. Returns under `growth`, by name, of each size `times`, `units`,
    `seconds` (the median), `useful_seconds` and `peak_memory_mb`.
    """
    names, hardware = comparisons_of(suite, preset), describe_hardware(device)
    found: dict[str, Any] = dict.fromkeys(UNITS) | {name: [] for name in names}
    for size in times:
        with prepared(Measurement(preset, batch, device, seed, size)) as job:
            for name in names:
                log.info("bench: %s: %d times the data", name, size)
                count, useful = useful_work(name, job)
                with measured_side("ours", name, job) as ours:
                    turns = [ours() for _ in range(repeats)]
                cost = {
                    "times": size,
                    "units": count,
                    "seconds": statistics.median(turn.seconds for turn in turns),
                    "useful_seconds": useful,
                    "peak_memory_mb": max(turn.peak_memory_mb for turn in turns),
                }
                found[name].append(cost)
    return {"hardware": hardware, "preset": preset, "batch": batch, "repeats": repeats, "growth": found}
