"""Work for the processes of `test_cluster.py`; light to import."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from wavfusion.errors import ConfigError, MediaError


def squarer(folder: Path) -> Callable[[int], tuple[int, int]]:
    """What squares numbers and says in which process; writes down what it begins.

    Of the tens, 20 kills its process the first time, 30 always; 40 raises; 50 kills who sent it, the first time.
    """

    def work(number: int) -> tuple[int, int]:
        begun = folder / f"{number}-{os.getpid()}-{time.monotonic_ns()}"
        again = any(folder.glob(f"{number}-*"))
        begun.touch()
        if number == 30 or (number == 20 and not again):
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 50 and not again:
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        if number == 40:
            raise MediaError("no square")
        return number**2, os.getpid()

    return work


def locker() -> Callable[[int], int]:
    """What holds a semaphore, as a progress bar does."""
    lock = multiprocessing.RLock()

    def work(number: int) -> int:
        with lock:
            return number

    return work


def never() -> Callable[[int], int]:
    raise ConfigError("expected a model, found none")


class Importing:
    """What takes a minute to unpickle, as torch would if it took that long to import, and says in which process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[Path], Callable[[int], int]], tuple[Path]]:
        return _import, (self.folder,)


def _import(folder: Path) -> Callable[[int], int]:
    work = sleeper(folder)
    work(0)
    return work


def sleeper(folder: Path) -> Callable[[int], int]:
    """What says in which process it is and sleeps."""

    def work(number: int) -> int:
        (folder / f"{os.getpid()}.pid").touch()
        time.sleep(120)
        return number

    return work
