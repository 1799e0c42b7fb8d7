"""Run the command line, as `wavfusion` or `python -m wavfusion`."""

import sys

from wavfusion.memory import restart_without_cache


def run() -> int:
    """Begin as memory wants it, and run what the command line says; returns the exit status."""
    restart_without_cache()
    from wavfusion.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(run())
