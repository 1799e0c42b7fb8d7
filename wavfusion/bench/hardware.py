"""The machine that a measurement was made on, and whether it was idle."""

import os
import platform
from pathlib import Path
from typing import Any

import torch

from wavfusion.processes.timing import timed

FIT_LOAD = 0.3  # processes that may be running beside this one


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


def matmul_rate(device: str, size: int = 2048) -> float:
    """Measure the rate of matrix multiplications in GFLOP/s: the best of ten."""
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    size = 4 * size if device.startswith("cuda") else size
    one, other = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    best = min(timed(lambda: torch.mm(one, other), device) for _ in range(10))
    return 2 * size**3 / best / 1e9


def hardware_to_text(hardware: dict[str, Any]) -> list[str]:
    """Describe the machine in a line, and in another that its load spoils the measurement, where it does."""
    lines = [
        f"{hardware['device']}, {hardware['cores']} cores, {hardware['threads']} threads, torch {hardware['torch']}, "
        f"matrix multiplications {hardware['matmul_gflops']:.0f} GFLOP/s in {hardware['precision']}, "
        f"load {hardware['load']:.2f}"
    ]
    if not hardware["fit"]:
        lines.append(f"UNFIT: the load was above {FIT_LOAD} before anything ran; these figures are not to be quoted")
    return lines
