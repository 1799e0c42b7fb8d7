"""The queue of a server: recordings wait, are labelled one after the other, and are forgotten."""

import asyncio
import logging
import multiprocessing
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from wavfusion.errors import ConfigError
from wavfusion.prediction.recognizer import RecordingPredictions
from wavfusion.prediction.timeline import to_json
from wavfusion.processes.pool import Lost, Worker
from wavfusion.runs.card import Card
from wavfusion.serve.uploads import Form, RefusedError
from wavfusion.serve.worker import Answer, Task, build_labeller

log = logging.getLogger(__name__)

WAITING, RUNNING, DONE, FAILED, CANCELLED = STATES = ("waiting", "running", "done", "failed", "cancelled")
KEPT, MOST_KEPT = 3600.0, 100  # seconds, and how many, that finished jobs can still be queried
UNKNOWN = -1.0  # progress before a recording is segmented


@dataclass(frozen=True)
class Limits:
    """The limits of a server."""

    megabytes: int = 1000  # of a recording
    minutes: int = 120  # of a recording
    work: int = 60  # minutes of computing for a recording
    queue: int = 64  # recordings that are uploaded or wait at a time


@dataclass
class Job:
    """A recording to label: its upload, and what became of it."""

    id: str  # cannot be guessed: anyone with the id may query, cancel and forget the job
    folder: Path  # of the upload, below the server's; removed when the job is over
    form: Form
    state: str = WAITING
    rows: RecordingPredictions = field(default_factory=RecordingPredictions)
    warnings: list[str] = field(default_factory=list)
    error: str | None = None  # why there are no rows
    over: asyncio.Event = field(default_factory=asyncio.Event)  # set when it is done, failed or cancelled
    unwanted: asyncio.Event = field(default_factory=asyncio.Event)  # set to stop it


class Labeller:
    """The process of `worker.py`, started again after it had to be stopped."""

    def __init__(self, settings: Mapping[str, Any], folder: Path) -> None:
        self._progress = multiprocessing.get_context("spawn").RawValue("d", UNKNOWN)
        self._build = partial(build_labeller, settings, folder, self._progress)
        self._worker: Worker[Task | None, Answer] | None = None
        self._work: asyncio.Task[Any] | None = None

    @property
    def progress(self) -> float | None:
        """The share of the recording that is labelled; None before it is known."""
        return None if self._progress.value == UNKNOWN else self._progress.value

    async def label(
        self, task: Task | None, unwanted: asyncio.Event | None = None, seconds: float | None = None
    ) -> Answer | None:
        """Label a recording, or describe the model; None where the process died or was stopped.

        It is stopped when `unwanted` is set, and after some seconds.
        """
        self._progress.value = UNKNOWN
        if self._worker is None:
            self._worker = Worker(self._build, torch.get_num_threads())
        self._work = asyncio.create_task(asyncio.to_thread(self._worker.do, task))
        stop = asyncio.create_task((unwanted or asyncio.Event()).wait())
        await asyncio.wait({self._work, stop}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not self._work.done():
            await self.stop()
            return None
        answer = self._work.result()
        return None if isinstance(answer, Lost) else answer

    async def stop(self) -> None:
        """Kill the process, and wait until the thread that waits for its answer has noticed."""
        if self._worker is None:
            return
        worker, self._worker = self._worker, None
        worker.end()
        while self._work is not None and not self._work.done():  # the process may have been about to start
            await asyncio.wait({self._work}, timeout=0.2)
            worker.end()
        worker.clear()


class Jobs:
    """The jobs of a server; only its event loop changes them.

    `settings` are those of `EmotionRecognizer.from_pretrained`; uploads lie in `folder`, and are copied to `keep` with
    their results where that is given.
    """

    def __init__(self, settings: Mapping[str, Any], folder: Path, limits: Limits, keep: Path | None = None) -> None:
        self.settings, self.folder, self.limits, self.keep = settings, folder, limits, keep
        self.labeller = Labeller(settings, folder)
        self.ended: Counter[str] = Counter()  # by state
        self.seconds = 0.0  # of speech that was labelled
        self.classes: list[str] = []  # of the model, as its modalities, once it is loaded
        self.modalities: list[str] = []
        self.card: Card | None = None
        self._jobs: dict[str, Job] = {}
        self._uploading = 0
        self._queue: asyncio.Queue[Job] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Load the model and start labelling, or raise a ConfigError where it cannot be loaded."""
        model = await self.labeller.label(None)
        if model is None or model.error:
            reason = model and model.error
            raise ConfigError(reason or "expected a process that labels, found it killed while it loaded the model")
        self.classes, self.modalities, self.card = list(model.classes), list(model.modalities), model.card
        self._task = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Stop the running job."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.labeller.stop()

    def count(self, state: str) -> int:
        """Count the jobs in a state."""
        return sum(job.state == state for job in list(self._jobs.values()))

    @contextmanager
    def reserved(self) -> Iterator[Path]:
        """Reserve a place in the queue and a folder for an upload, which is removed unless `add` makes a job of it."""
        if self._uploading + self.count(WAITING) >= self.limits.queue:
            raise RefusedError(503, f"expected a place in the queue, found all {self.limits.queue} taken; try later")
        folder = self.folder / secrets.token_urlsafe(18)
        self._uploading += 1
        try:
            folder.mkdir(parents=True)
            yield folder
        finally:
            self._uploading -= 1
            if folder.name not in self._jobs:
                shutil.rmtree(folder, ignore_errors=True)

    def add(self, folder: Path, form: Form) -> Job:
        """Queue a recording."""
        for old in [job for job in self._jobs.values() if job.over.is_set()][: 1 - MOST_KEPT or None]:
            del self._jobs[old.id]
        job = self._jobs[folder.name] = Job(folder.name, folder, form)
        self._queue.put_nowait(job)
        return job

    def find(self, name: str) -> Job:
        """Return a job by its id, or raise a RefusedError."""
        if name not in self._jobs:
            raise RefusedError(404, "expected a recording's id, found one that is unknown, or forgotten by now")
        return self._jobs[name]

    def place(self, job: Job) -> int:
        """Count the jobs before one."""
        waiting = [each.id for each in list(self._jobs.values()) if each.state == WAITING]
        return waiting.index(job.id) + self.count(RUNNING) if job.id in waiting else 0

    def remove(self, job: Job) -> None:
        """Cancel a job, unless it is over, and forget it."""
        job.unwanted.set()
        if job.state == WAITING:
            self._end(job, CANCELLED)
        self._jobs.pop(job.id, None)

    async def _work(self) -> None:
        while True:
            job = await self._queue.get()
            if job.state != WAITING:  # it was cancelled
                continue
            job.state = RUNNING
            try:
                state, error = await self._label(job)
                if state == DONE and self.keep is not None:
                    await asyncio.to_thread(_keep, job, self.keep / job.id)
                self._end(job, state, error)
            except Exception as error:  # the other jobs go on
                log.error("%s: %s", type(error).__name__, error)
                await self.labeller.stop()
                self._end(job, FAILED, "the server failed on this recording; its log says how")

    async def _label(self, job: Job) -> tuple[str, str | None]:
        """Label a recording; returns the state in which the job ends, and an error."""
        task, seconds = Task(job.id, job.form, 60.0 * self.limits.minutes), 60.0 * self.limits.work
        started = time.monotonic()
        answer = await self.labeller.label(task, job.unwanted, seconds)
        if answer is None and job.unwanted.is_set():
            return CANCELLED, None
        if answer is None and time.monotonic() - started >= seconds:
            return FAILED, f"expected an answer, found none within {self.limits.work:g} minutes of work"
        if answer is None:
            return FAILED, "expected a recording that can be decoded, found one that broke the decoder"
        if answer.error:
            return FAILED, self._named(job, answer.error)
        if list(answer.classes) != self.classes:
            raise ConfigError("the model is another one than when the server was started: start it again")
        rows = (replace(row, file=job.form.name) for row in answer.rows)
        job.rows = RecordingPredictions(rows, answer.rows.left_out, answer.rows.peaks)
        job.warnings = [self._named(job, each) for each in answer.warnings]
        self.seconds += sum(row.end - row.start for row in job.rows)
        return DONE, None

    def _named(self, job: Job, message: str) -> str:
        """Replace the path of an upload in a message by the sender's name of it."""
        return message.replace(f"{job.id}/recording", job.form.name).replace(f"{job.id}/", "")

    def _end(self, job: Job, state: str, error: str | None = None) -> None:
        shutil.rmtree(job.folder, ignore_errors=True)
        job.state, job.error, job.form.text = state, error, None
        self.ended[state] += 1
        job.over.set()
        asyncio.get_running_loop().call_later(KEPT, self._jobs.pop, job.id, None)


def _keep(job: Job, place: Path) -> None:
    """Copy a recording, and write its result beside it; errors are logged."""
    try:
        shutil.copytree(job.folder, place)
        (place / "result.json").write_text(to_json(job.rows), encoding="utf-8")
    except OSError as problem:
        log.error("%s: not kept: %s", place, problem.strerror or problem)
        shutil.rmtree(place, ignore_errors=True)
