"""Anonymous memory of this process, and the allocator under it."""

import os
import sys
from contextlib import suppress
from pathlib import Path

CACHE = "glibc.malloc.tcache_count"
BEGUN = "WAVFUSION_BEGUN"  # number of the process that has begun anew: a privileged one loses glibc's settings


def anonymous_mb() -> float:
    """Anonymous memory in MB (files that are mapped are not it); 0 where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text("utf-8").splitlines() if status.exists() else []
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def restart_without_cache() -> None:
    """Begin this program anew, once, without glibc's cache of small pieces of memory; nothing with another C library.

    Tensors are aligned, which cuts a piece off beside each. In the cache that piece does not grow together with what is
    freed around it, so no equal tensor fits there again: the heap of a training grew to twice what it needs. Only
    the environment of a new program turns the cache off.
    """
    try:
        glibc = os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, ValueError, OSError):
        return
    given = os.environ.get("GLIBC_TUNABLES", "")
    again = os.environ.get(BEGUN) == str(os.getpid())
    if glibc and sys.executable and CACHE not in given and not again:
        os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (given, f"{CACHE}=0")))
        os.environ[BEGUN] = str(os.getpid())
        with suppress(OSError):
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
