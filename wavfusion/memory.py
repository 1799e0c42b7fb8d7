"""Anonymous memory of this process: how much it has, and what it no longer needs given back."""

import ctypes
from pathlib import Path


def anonymous_mb() -> float:
    """Anonymous memory in MB (files that are mapped are not it); 0 where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text("utf-8").splitlines() if status.exists() else []
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def give_back() -> None:
    """Return freed memory to the system: glibc keeps it in pieces, more of them with every shard that is made."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
    if trim is not None:
        trim(0)
