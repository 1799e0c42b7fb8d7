"""Work spread over processes, of this machine or of a Ray cluster: every result once; one that dies costs its item."""

import logging
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from wavfusion.errors import ConfigError

Item = TypeVar("Item")
Result = TypeVar("Result")
Build = Callable[[], Callable[[Item], Result]]  # makes, once in every process, what works on one item

log = logging.getLogger(__name__)

ENGINES = ("processes", "ray")
TRIES = 3  # times that an item is begun: one that always kills its process would be begun without end
BLOCKS = 4096  # into which Ray divides the items; each is work that a lost machine costs


@dataclass(frozen=True)
class Lost:
    """Stands for the result of an item that killed every process which began it."""

    reason: str


def spread(
    build: Build[Item, Result], items: Sequence[Item], workers: int, engine: str = "processes", device: str = "cpu"
) -> Iterator[tuple[int, Result | Lost]]:
    """Work on items in several processes; gives each one's number and result as they come.

    Args:
        build: called once in every process; it and the items must be picklable.
        items: each is worked on once, and again only if its process died.
        workers: processes; they share the cores of this machine, or take one core each of a cluster.
        engine: `processes` of this machine, or `ray`: actors of the cluster that RAY_ADDRESS names or that runs here,
            else of one that is started on this machine.
        device: where they compute; on `cuda` every worker of a cluster takes a GPU.

    Raises:
        ConfigError: no extra `[ray]`, or more workers than its cluster has cores to spare.
        Exception: what `build` or the work itself raised.
    """
    workers = max(1, min(workers, len(items)))
    outcomes = _on_ray(build, items, workers, device) if engine == "ray" else _on_processes(build, items, workers)
    with closing(outcomes):
        for number, outcome in outcomes:
            if isinstance(outcome, _Raised):
                raise outcome.error
            yield number, outcome.result if isinstance(outcome, _Done) else outcome


@dataclass(frozen=True)
class _Done(Generic[Result]):
    result: Result


@dataclass(frozen=True)
class _Raised:
    error: Exception


class Worker(Generic[Item, Result]):
    """A process that works on one item after the other, begun when it is needed and again when it has died."""

    def __init__(self, build: Build[Item, Result], threads: int) -> None:
        self.build, self.threads, self.ended = build, threads, False
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None

    def do(self, item: Item) -> _Done[Result] | _Raised | Lost:
        """Work on one item."""
        for left in reversed(range(TRIES)):
            try:
                outcome: _Done[Result] | _Raised = self._ask(item)
                return outcome
            except (EOFError, ConnectionError):
                self.clear()
            if self.ended:
                break
            if left:
                log.warning("a process died (killed, or out of memory): what it was doing is done again")
        return Lost(f"the process that worked on it died {TRIES} times (killed, or out of memory)")

    def _ask(self, item: Item) -> Any:
        if self._pipe is None:
            context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
            self._pipe, there = context.Pipe()
            arguments = (there, self.build, self.threads, os.getpid(), logging.getLogger("wavfusion").level)
            self._process = context.Process(target=_work, args=arguments, daemon=True)
            self._process.start()
            there.close()
        self._pipe.send(item)
        return self._pipe.recv()

    def end(self) -> None:
        """Kill the process, for good; from any thread."""
        self.ended = True
        if self._process is not None:
            self._process.kill()

    def clear(self) -> None:
        """Let go of a process that has died or is not needed any more."""
        process, pipe, self._process, self._pipe = self._process, self._pipe, None, None
        if process is not None:
            process.kill()
            process.join()
        if pipe is not None:
            pipe.close()


def _work(pipe: Connection, build: Build[Any, Any], threads: int, parent: int, level: int) -> None:
    """What a process does: each item that is sent, until nobody sends any more."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted and ends this
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("wavfusion").setLevel(level)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(threads)
    work: Callable[[Any], Any] | None = None
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        try:
            work = work or build()
            outcome: _Done[Any] | _Raised = _Done(work(item))
        except Exception as error:
            outcome = _Raised(error)
        try:
            pipe.send(outcome)
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            pipe.send(_Raised(RuntimeError(f"{type(error).__name__}: {error}")))


def _end_with(parent: int) -> None:
    """End when the parent was killed: what works on must not go on writing."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


Outcomes = Generator[tuple[int, _Done[Result] | _Raised | Lost], None, None]


def _on_processes(build: Build[Item, Result], items: Sequence[Item], workers: int) -> Outcomes[Result]:
    threads = max(1, (os.cpu_count() or 1) // workers)
    crew = [Worker(build, threads) for _ in range(workers)]
    free: SimpleQueue[Worker[Item, Result]] = SimpleQueue()
    for each in crew:
        free.put(each)

    def do(item: Item) -> _Done[Result] | _Raised | Lost:
        worker = free.get()
        try:
            return worker.do(item)
        finally:
            free.put(worker)

    pool = ThreadPoolExecutor(workers)
    try:
        waiting = {pool.submit(do, item): number for number, item in enumerate(items)}
        for future in as_completed(waiting):
            yield waiting.pop(future), future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for each in crew:
            each.end()
        pool.shutdown()
        for each in crew:
            each.clear()


class _Actor(Generic[Item, Result]):
    """Holds a `Worker` on a machine of a cluster, so that there too a process that dies costs its item only."""

    def __init__(self, build: Build[Item, Result]) -> None:
        self.worker = Worker(build, threads=1)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"number": row["number"], "outcome": self.worker.do(row["item"])}


def _on_ray(build: Build[Item, Result], items: Sequence[Item], workers: int, device: str) -> Outcomes[Result]:
    rows = [{"number": number, "item": item} for number, item in enumerate(items)]
    with _cluster(workers) as ray:
        found = ray.data.from_items(rows, override_num_blocks=min(len(rows), BLOCKS)).map(
            _Actor,
            fn_constructor_args=(build,),
            concurrency=workers,
            num_cpus=1,
            num_gpus=1 if device.startswith("cuda") else None,
        )
        for row in found.iter_rows():
            yield int(row["number"]), row["outcome"]


@contextmanager
def _cluster(workers: int) -> Iterator[Any]:
    """Join a Ray cluster, or start one on this machine; leaves what was joined or started here.

    Raises:
        ConfigError: no extra `[ray]`, no cluster at RAY_ADDRESS, or one with no core left beside the workers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        wish = "expected the extra [ray]: pip install 'wavfusion[ray]'"
        raise ConfigError(f"--engine ray: {wish}; found no {error.name}") from None
    joined = ray.is_initialized()
    if not joined:
        settings: dict[str, Any] = {"log_to_driver": True, "logging_level": logging.WARNING}
        try:
            ray.init(address="auto", **settings)
        except ConnectionError as error:
            if os.environ.get("RAY_ADDRESS"):
                reason = " ".join(str(error).split())[:200]
                raise ConfigError(f"--engine ray: expected a cluster at RAY_ADDRESS, found {reason}") from None
            # Ray Data waits without end where actors take every core (ray-project/ray#44687).
            ray.init(address="local", num_cpus=workers + 1, include_dashboard=False, **settings)
    try:
        cores = int(ray.cluster_resources().get("CPU", 0))
        if cores <= workers:
            wish = f"a core more than --workers {workers} in the cluster"
            raise ConfigError(f"--engine ray: expected {wish}, found {cores}")
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield ray
    finally:
        if not joined:
            ray.shutdown()
