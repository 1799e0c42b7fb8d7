"""One side of a comparison, held ready in a process of its own and measured there."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from wavfusion.bench import sides
from wavfusion.bench.data import CLIP, Measurement
from wavfusion.processes.pool import Worker, require_result
from wavfusion.processes.timing import timed


@dataclass(frozen=True)
class Timing:
    """One measurement: seconds, peak of anonymous memory in MB, and floating-point operations (0: not counted)."""

    seconds: float
    peak_memory_mb: float
    flops: float


@contextmanager
def measured_side(side: str, name: str, job: Measurement) -> Iterator[Callable[[], Timing]]:
    """Hold one side of a comparison ready in a process of its own; gives what measures it once.

    Args:
        side: `ours` or `baseline`.
        name: of the comparison.
        job: what both sides get.

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
    seconds = seconds[: len(job.files)] if name == "extract" else seconds
    return len(seconds), sum(seconds)


def _measurer(side: str, name: str, job: Measurement) -> Callable[[bool], Timing]:
    """Make a side ready, warm it and count its operations; gives what measures it if wanted."""
    work = sides.SIDES[side][name](job)
    counter = FlopCounterMode(display=False)
    # The counter does not work with weight norm in inference mode; the baseline has the same operations there.
    with counter if side == "baseline" or name.startswith("train") else nullcontext():
        work()

    def measure(wanted: bool) -> Timing:
        with _peak_memory() as peak:
            seconds = timed(work, job.device) if wanted else 0.0
        return Timing(seconds, peak[0], float(counter.get_total_flops()))

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
