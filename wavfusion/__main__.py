"""Run the command line, as `wavfusion` or `python -m wavfusion`."""

import sys
from pathlib import Path

from wavfusion.processes.memory import restart_without_cache


def run() -> int:
    """Begin as memory wants it, and run what the command line says; returns the exit status."""
    if any(Path(word).stem == "wavfusion" for word in sys.orig_argv[1:]):  # a program of its own is not begun anew
        restart_without_cache()
    from wavfusion.cli.commands import main

    return main()


if __name__ == "__main__":
    sys.exit(run())
