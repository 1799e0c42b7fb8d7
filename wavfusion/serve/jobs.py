"""The recordings that a server has taken in: they wait, are labelled one after the other, and are forgotten."""

import asyncio
import json
import logging
import secrets
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wavfusion.errors import ConfigError
from wavfusion.prediction.recognizer import Prediction
from wavfusion.prediction.timeline import to_json
from wavfusion.serve.uploads import Form, RefusedError
from wavfusion.speech.segmentation import read_count

log = logging.getLogger(__name__)

WAITING, RUNNING, DONE, FAILED, CANCELLED = STATES = ("waiting", "running", "done", "failed", "cancelled")
KEPT, MOST_KEPT = 3600.0, 100  # seconds, and how many, that what is over can still be asked for
ANSWER = 1 << 28  # bytes of a line, which holds all utterances of a recording


@dataclass(frozen=True)
class Limits:
    """What a server takes on.

    Attributes:
        megabytes: of a recording.
        minutes: that a recording lasts.
        work: minutes that labelling it may take.
        queue: recordings that come in or wait at a time.
    """

    megabytes: int = 1000
    minutes: int = 120
    work: int = 60
    queue: int = 64


@dataclass
class Job:
    """A recording and what becomes of it.

    Attributes:
        id: cannot be guessed: who has it may see, cancel and forget the job.
        folder: of the upload, below the server's; gone when the job is over.
        progress: share that is done, None before it is known.
        rows: what the model says of each utterance.
        warnings: about the recording.
        error: why there are no rows.
        over: set when it is done, failed or cancelled.
        unwanted: set when it shall be stopped.
    """

    id: str
    folder: Path
    form: Form
    state: str = WAITING
    progress: float | None = None
    rows: list[Prediction] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: str | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)
    unwanted: asyncio.Event = field(default_factory=asyncio.Event)


class LabellingProcess:
    """The process of `worker.py`, started again whenever it had to be stopped."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings, self.told = settings, dict[str, Any]()
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it and wait until the model is loaded, unless it runs.

        Raises:
            ConfigError: the model cannot be loaded.
        """
        if self._process is not None and self._process.returncode is None:
            return
        await self.stop()
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "wavfusion.serve.worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # a terminal's Ctrl-C is for the server, which ends it
            limit=ANSWER,
        )
        self.told = await self.ask(self.settings) or {"error": "the process that labels could not be started"}
        if "error" in self.told:
            await self.stop()
            raise ConfigError(self.told["error"])

    async def ask(self, question: Mapping[str, Any], told: Callable[[float], None] = lambda _: None) -> Any:
        """Its answer to a question; `told` takes the progress meanwhile. None when it has died."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            return None
        with suppress(ConnectionError):
            process.stdin.write(json.dumps(question).encode("ascii") + b"\n")
            await process.stdin.drain()
            while line := await process.stdout.readline():
                answer = json.loads(line)
                if "progress" not in answer:
                    return answer
                told(answer["progress"])
        return None

    async def stop(self) -> None:
        """Kill it."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


class Jobs:
    """All recordings of a server.

    Args:
        settings: of the model, as `EmotionRecognizer.from_pretrained` takes them.
        folder: where uploads lie while they are needed.
        limits: what is taken on.
        keep: folder that takes finished recordings with their results; None = nothing is kept.
    """

    def __init__(self, settings: Mapping[str, Any], folder: Path, limits: Limits, keep: Path | None = None) -> None:
        self.folder, self.limits, self.keep = folder, limits, keep
        self.worker = LabellingProcess({**settings, "folder": str(folder)})
        self.ended: Counter[str] = Counter()  # by state
        self.seconds = 0.0  # of speech that was labelled
        self.classes: list[str] = []  # of the model, as its modalities, once it is loaded
        self.modalities: list[str] = []
        self._jobs: dict[str, Job] = {}
        self._coming = 0
        self._added = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Load the model and begin.

        Raises:
            ConfigError: the model cannot be loaded.
        """
        await self.worker.start()
        self.classes, self.modalities = self.worker.told["classes"], self.worker.told["modalities"]
        self._task = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Stop what is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.worker.stop()

    def count(self, state: str) -> int:
        """How many are in a state."""
        return sum(job.state == state for job in list(self._jobs.values()))

    @contextmanager
    def reserved(self) -> Iterator[Path]:
        """A place in the queue and a folder for an upload; `add` makes a job of it, else it is removed.

        Raises:
            RefusedError: the queue is full.
        """
        if self._coming + self.count(WAITING) >= self.limits.queue:
            raise RefusedError(503, f"expected a place in the queue, found all {self.limits.queue} taken; try later")
        folder = self.folder / secrets.token_urlsafe(18)
        self._coming += 1
        try:
            folder.mkdir(parents=True)
            yield folder
        finally:
            self._coming -= 1
            if folder.name not in self._jobs:
                shutil.rmtree(folder, ignore_errors=True)

    def add(self, folder: Path, form: Form) -> Job:
        """Line a recording up."""
        for old in [job for job in self._jobs.values() if job.over.is_set()][: 1 - MOST_KEPT or None]:
            del self._jobs[old.id]
        job = self._jobs[folder.name] = Job(folder.name, folder, form)
        self._added.set()
        return job

    def find(self, name: str) -> Job:
        """A job by its id.

        Raises:
            RefusedError: there is none.
        """
        if name not in self._jobs:
            raise RefusedError(404, "expected a recording's id, found one that is unknown, or forgotten by now")
        return self._jobs[name]

    def place(self, job: Job) -> int:
        """How many come before it."""
        waiting = [each.id for each in self._jobs.values() if each.state == WAITING]
        return waiting.index(job.id) + self.count(RUNNING) if job.id in waiting else 0

    def remove(self, job: Job) -> None:
        """Stop a job, if it is not over, and forget it."""
        job.unwanted.set()
        if job.state == WAITING:
            self._end(job, CANCELLED)
        self._jobs.pop(job.id, None)

    async def _work(self) -> None:
        while True:
            job = next((job for job in self._jobs.values() if job.state == WAITING), None)
            if job is None:
                self._added.clear()
                await self._added.wait()
                continue
            job.state = RUNNING
            try:
                state, error = await self._label(job)
                if state == DONE and self.keep is not None:
                    await asyncio.to_thread(_keep, job, self.keep / job.id)
                self._end(job, state, error)
            except asyncio.CancelledError:
                raise
            except Exception as error:  # whatever is wrong with one, the others wait for their turn
                log.error("%s: %s", type(error).__name__, error)
                await self.worker.stop()  # it may have more to say of this one
                self._end(job, FAILED, "the server failed on this recording; its log says how")

    async def _label(self, job: Job) -> tuple[str, str | None]:
        """Have the worker label a recording; returns the state in which it ends, and what was wrong."""
        await self.worker.start()
        if self.worker.told["classes"] != self.classes:
            raise ConfigError("the model is another one than when the server was started: start it again")
        asked = asyncio.create_task(self.worker.ask(self._question(job), lambda share: _progressed(job, share)))
        unwanted = asyncio.create_task(job.unwanted.wait())
        await asyncio.wait({asked, unwanted}, timeout=60 * self.limits.work, return_when=asyncio.FIRST_COMPLETED)
        unwanted.cancel()
        answer = asked.result() if asked.done() else None
        if answer is None:
            died = asked.done()
            asked.cancel()
            await self.worker.stop()
            if job.unwanted.is_set():
                return CANCELLED, None
            wish = "a recording that can be decoded, found one that broke" if died else "an answer, found none within"
            return FAILED, f"expected {wish} {'the decoder' if died else f'{self.limits.work:g} minutes of work'}"
        if "error" in answer:
            return FAILED, self._named(job, answer["error"])
        job.rows = [Prediction(**{**row, "file": job.form.name}) for row in answer["rows"]]
        job.warnings = [self._named(job, each) for each in answer["warnings"]]
        self.seconds += sum(row.end - row.start for row in job.rows)
        return DONE, None

    def _question(self, job: Job) -> dict[str, Any]:
        return {
            "file": f"{job.id}/recording",
            "words": job.form.words,
            "segments": job.form.segments and f"{job.id}/{job.form.segments.name}",
            "speakers": read_count(job.form.speakers),
            "longest": 60 * self.limits.minutes,
        }

    def _named(self, job: Job, message: str) -> str:
        """A message with the sender's name of the recording in the place of ours."""
        return message.replace(f"{job.id}/recording", job.form.name).replace(f"{job.id}/", "")

    def _end(self, job: Job, state: str, error: str | None = None) -> None:
        shutil.rmtree(job.folder, ignore_errors=True)
        job.state, job.error, job.form.words = state, error, None
        self.ended[state] += 1
        job.over.set()
        asyncio.get_running_loop().call_later(KEPT, self._jobs.pop, job.id, None)


def _keep(job: Job, place: Path) -> None:
    """Copy a recording, and write its result beside it; what fails is for the log."""
    try:
        shutil.copytree(job.folder, place)
        (place / "result.json").write_text(to_json(job.rows), encoding="utf-8")
    except OSError as problem:
        log.error("%s: not kept: %s", place, problem.strerror or problem)
        shutil.rmtree(place, ignore_errors=True)


def _progressed(job: Job, share: float) -> None:
    job.progress = share
