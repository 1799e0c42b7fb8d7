"""Time that a computation takes."""

import time
from collections.abc import Callable


def timed(work: Callable[[], object], device: str = "cpu") -> float:
    """Measure the seconds that work takes, from and to an idle device."""
    _wait_for(device)
    started = time.perf_counter()
    work()
    _wait_for(device)
    return time.perf_counter() - started


def _wait_for(device: str) -> None:
    """A GPU returns before it has computed."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)
