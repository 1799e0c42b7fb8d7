"""Items worked on in several processes, of this machine or of a Ray cluster; one that dies costs its item only."""

import atexit
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from wavfusion.errors import ConfigError
from wavfusion.processes.ray import map_actors

Item = TypeVar("Item")
Result = TypeVar("Result")
Build = Callable[[], Callable[[Item], Result]]  # called once in every process; gives what works on one item

log = logging.getLogger(__name__)

GRACE = 5.0  # seconds in which an idle process ends by itself, which also frees its semaphores
TRIES = 3  # times that an item is started: one that always kills its process would be started without end


@dataclass(frozen=True)
class Lost:
    """Stands for the result of an item of which every process died."""

    reason: str


Outcomes = Generator[tuple[int, Result | Lost], None, None]  # each item's number and result


def spread(
    build: Build[Item, Result],
    items: Sequence[Item],
    workers: int,
    engine: str = "processes",
    device: str = "cpu",
    preload: str | None = None,
    fresh: bool = False,
) -> Outcomes[Result]:
    """Work on items in several processes; gives each one's number and result as they come.

    The processes end with the iterator, on Ctrl-C, and when this process is killed.

    Args:
        build: called once in every process; it and the items must be picklable.
        items: each is worked on once, and again only if its process died.
        workers: processes; they share the cores of this machine, or take one core each of a cluster.
        engine: `processes` of this machine, or `ray`: see `processes.ray`.
        device: where they compute; on `cuda` every worker of a cluster takes a GPU.
        preload: as in `Worker`.
        fresh: a new process for every item.

    Raises:
        ConfigError: no extra `[ray]`, or more workers than its cluster has free cores.
        Exception: what `build` or the work itself raised.
    """
    workers = max(1, min(workers, len(items)))
    if engine == "ray":
        return _on_ray(build, items, workers, device)
    return _on_processes(build, items, workers, preload, fresh)


def require_result(outcome: Result | Lost, what: str) -> Result:
    """Return an item's result; raises ConfigError where every process that worked on it died."""
    if isinstance(outcome, Lost):
        raise ConfigError(f"{what}: {outcome.reason}")
    return outcome


@dataclass(frozen=True)
class _Answer:
    """What came of an item in another process: a result, or what was raised."""

    result: Any = None
    error: Exception | None = None

    def opened(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.result


class _Later:
    """A value that is unpickled when it is asked for: the process that gets it watches its parent before it imports."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __getstate__(self) -> bytes:
        return bytes(ForkingPickler.dumps(self.value))

    def __setstate__(self, content: bytes) -> None:
        self.content = content

    def opened(self) -> Any:
        return pickle.loads(self.content)


class Worker(Generic[Item, Result]):
    """A process that works on one item after the other, started when it is needed and again when it has died.

    On Linux, `preload` names a module that a server process loads and forks this one from, which saves the seconds of
    its imports; with None, and elsewhere, it starts from nothing. `threads` are torch's.
    """

    def __init__(self, build: Build[Item, Result], threads: int, preload: str | None = None) -> None:
        self.build, self.threads, self.preload, self.ended = build, threads, preload, False
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def do(self, item: Item) -> Result | Lost:
        """Work on one item; raises what the work raised."""
        for left in reversed(range(TRIES)):
            try:
                answer = self._send(item)
            except (EOFError, OSError) as error:
                if not isinstance(error, EOFError | ConnectionError) and error.errno is not None:
                    raise  # no process could be started
                self.clear()  # it died, perhaps within its answer
            else:
                return answer.opened()
            if self.ended:
                break
            if left:
                log.warning("a process died (killed, or out of memory): its item is started again")
        return Lost(f"the process that worked on it died {TRIES} times (killed, or out of memory)")

    def _send(self, item: Item) -> _Answer:
        if self._pipe is None:
            # Never a fork of this process: torch's threads do not survive one.
            forked = self.preload is not None and sys.platform == "linux"
            context: Any = multiprocessing.get_context("forkserver" if forked else "spawn")
            if forked:
                context.set_forkserver_preload([self.preload])
            self._pipe, childs = context.Pipe()
            arguments = (childs, _Later(self.build), self.threads, logging.getLogger("wavfusion").level)
            process = context.Process(target=_work, args=arguments)  # a daemon could have no processes itself
            with _interrupts_blocked():
                process.start()
            atexit.register(process.kill)  # else the end of this program would wait for it
            childs.close()
            self._process = process
            if self.ended:  # meanwhile
                process.kill()
        self._pipe.send(item)
        answer: _Answer = self._pipe.recv()
        return answer

    def end(self) -> None:
        """Kill the process, for good; from any thread."""
        self.ended = True
        if self._process is not None:
            self._process.kill()

    def clear(self) -> None:
        """Remove a process that has died or is not needed any more."""
        process, pipe, self._process, self._pipe = self._process, self._pipe, None, None
        if pipe is not None:
            pipe.close()
        if process is not None:
            if not self.ended:
                process.join(GRACE)
            process.kill()
            process.join()
            atexit.unregister(process.kill)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Start a process with Ctrl-C blocked: while it imports, it would print a traceback. Windows has no such mask."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # when it starts, it unblocks Ctrl-C
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe: Connection, build: _Later, threads: int, level: int) -> None:
    """Work on each item that is sent, until the other end of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted and ends this
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("wavfusion").setLevel(level)
    work: Callable[[Any], Any] | None = None
    while True:
        try:
            item = pipe.recv()
        except (EOFError, ConnectionError):
            return
        try:
            work = work or _built(build.opened(), threads)
            answer = _Answer(work(item))
        except Exception as error:
            answer = _Answer(error=error)
        try:
            pipe.send(answer)
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            pipe.send(_Answer(error=RuntimeError(f"{type(error).__name__}: {error}")))


def _built(build: Build[Any, Any], threads: int) -> Callable[[Any], Any]:
    """Build with torch's number of threads set, wherever torch is used at all."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    work = build()
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    return work


def _end_with_parent() -> None:
    """End when the parent was killed: a process must not go on writing without it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _on_processes(
    build: Build[Item, Result], items: Sequence[Item], workers: int, preload: str | None, fresh: bool
) -> Outcomes[Result]:
    threads = max(1, (os.cpu_count() or 1) // workers)
    crew = [Worker(build, threads, preload) for _ in range(workers)]
    free: SimpleQueue[Worker[Item, Result]] = SimpleQueue()
    for each in crew:
        free.put(each)

    def do(item: Item) -> Result | Lost:
        worker = free.get()
        try:
            return worker.do(item)
        finally:
            if fresh:
                worker.clear()
            free.put(worker)

    pool = ThreadPoolExecutor(workers)
    try:
        waiting = {pool.submit(do, item): number for number, item in enumerate(items)}
        for future in as_completed(waiting):
            yield waiting.pop(future), future.result()
    except BaseException:  # the iterator's end before its time among them
        pool.shutdown(wait=False, cancel_futures=True)
        for each in crew:
            each.end()
        raise
    finally:
        pool.shutdown()
        for each in crew:
            each.clear()


class _Actor(Generic[Item, Result]):
    """Holds a `Worker` on a machine of a cluster, so that there too a process that dies costs its item only."""

    def __init__(self, build: Build[Item, Result]) -> None:
        self.worker = Worker(build, threads=1)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = _Answer(self.worker.do(row["item"]))
        except Exception as error:
            answer = _Answer(error=error)
        return {"number": row["number"], "answer": answer}


def _on_ray(build: Build[Item, Result], items: Sequence[Item], workers: int, device: str) -> Outcomes[Result]:
    rows = [{"number": number, "item": item} for number, item in enumerate(items)]
    for row in map_actors(_Actor, (build,), rows, workers, device):
        yield int(row["number"]), row["answer"].opened()
