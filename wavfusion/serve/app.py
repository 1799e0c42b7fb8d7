"""A web page and an HTTP API that label recordings; by default reachable from this machine only."""

import asyncio
import ipaddress
import logging
import re
import secrets
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import uvicorn
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from h11 import LocalProtocolError
from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, generate_latest
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from wavfusion.errors import ConfigError, nearest
from wavfusion.manifest import CHANNELS
from wavfusion.pages.fill import fill_page, script
from wavfusion.prediction import timeline
from wavfusion.serve.jobs import DONE, RUNNING, STATES, WAITING, Job, Jobs, Limits
from wavfusion.serve.uploads import TEXT, RefusedError, UploadFolder, guarded, receive, too_large
from wavfusion.speech.segmentation import read_count, read_track, require_choice
from wavfusion.version import __version__

log = logging.getLogger(__name__)

LINGER = 30.0  # seconds in which the rest of a request that is refused is received, and dropped
MANY = 512  # requests at a time; more are refused with 503
STOPPING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # no SIGHUP on Windows
HERE = ("127.0.0.1", "::1", "localhost")
OPEN = ("/", "/health", "/openapi.json")  # answered without the token
TYPES = {
    "json": "application/json",
    "eaf": "application/xml",
    **{kind: f"text/{kind}" for kind in ("csv", "html", "vtt")},
}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# OpenAPI's description of the form, which FastAPI does not read itself.
FORM_SCHEMA = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "audio or video"},
        "transcript": {"type": "string", "description": "text, or a file with times"},
        "speakers": {"type": "string", "description": "auto or a number; empty = speakers are not told apart"},
        "track": {
            "type": "string",
            "description": "of several audio tracks: a number, mix, or each = one speaker each",
        },
        "channel": {"type": "string", "description": "left, right, centre, mix, or each = one speaker each"},
    },
}
FORM = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": FORM_SCHEMA}}}}

Least = Annotated[float, Query(ge=0, le=1, description="emotions below this probability are withheld")]


@dataclass(frozen=True)
class Guard:
    """Answer only the server's own pages and programs that name it, and only requests with the token, if there is one.

    A foreign page whose name resolves to this address (DNS rebinding) is refused, since its name is none of `names`.
    """

    app: ASGIApp
    names: frozenset[str]
    token: str | None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on to the application."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started, status, more = False, 0, "expect" not in Headers(scope=scope)  # who expects a 100 sends nothing before

        async def receive_noted() -> Message:
            nonlocal more
            message = await receive()
            more = message["type"] == "http.request" and message.get("more_body", False)
            return message

        async def send_guarded(message: Message) -> None:
            nonlocal started, status
            if message["type"] == "http.response.start":
                started, status = True, message["status"]
                message["headers"] += [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
            try:
                if more and status >= 400 and status != 408 and message["type"] == "http.response.body":
                    # Who sends before reading would lose the answer, were the connection closed behind it.
                    await send({**message, "more_body": True})
                    await drain()
                    message = {"type": "http.response.body"}
                await send(message)
            except LocalProtocolError:  # uvicorn itself has refused what came after the headers, and hangs up
                await asyncio.sleep(0)

        async def drain() -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGER):
                    while more:
                        await receive_noted()

        answer = self._refusal(Headers(scope=scope), scope["path"]) or self.app
        try:
            await answer(scope, receive_noted, send_guarded)
        except asyncio.CancelledError:  # the server is being stopped, which would log a trace of each request
            if not started:
                more = False
                stopped = _refused(503, "expected a server that goes on, found it being stopped")
                await stopped(scope, receive, send_guarded)

    def _refusal(self, headers: Headers, path: str) -> Response | None:
        host = headers.get("host", "")
        if not self._is_known(host):
            known = ", ".join(sorted(self.names))
            return _refused(421, f"expected a Host of this server ({known}, or an address), found {host[:80]!r}")
        origin = headers.get("origin")
        foreign = origin is not None and origin.lower().partition("://")[2] != host.lower()
        if foreign or headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return _refused(403, "expected a request of this server's own page, found one of another site")
        given = headers.get("authorization", "").encode()
        if self.token and path not in OPEN and not secrets.compare_digest(given, f"Bearer {self.token}".encode()):
            expected = "expected the token of this server (Authorization: Bearer TOKEN)"
            return _refused(401, f"{expected}, found none or another")
        return None

    def _is_known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            ipaddress.ip_address(name)
        except ValueError:
            return re.sub(r":\d{1,5}$", "", host.lower()) in self.names
        return True


def _refused(status: int, message: str) -> Response:
    """Answer one line and close the connection, as the rest of the request is of no use."""
    challenge = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    headers = {"Connection": "close", **challenge} if status != 404 else {}
    return JSONResponse({"error": message}, status, headers)


def _answer_error(_: Request, error: Exception) -> Response:
    """Answer an error by one line."""
    if isinstance(error, RefusedError):
        return _refused(error.status, str(error))
    if isinstance(error, HTTPException):
        return _refused(error.status_code, f"expected a request that /openapi.json names, found: {error.detail}")
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        found = str(first.get("input"))[:40]
        if first["type"] == "literal_error":
            choices = re.findall(r"'(.*?)'", first["ctx"]["expected"])
            return _refused(422, f"{first['loc'][-1]}: found {found!r}; {nearest(found, choices)}")
        return _refused(422, f"{first['loc'][-1]}: {first['msg']}, found {found!r}")
    if isinstance(error, ConfigError):
        return _refused(422, str(error))
    if isinstance(error, ClientDisconnect):
        return _refused(400, "expected a whole form, found one that is cut off")
    return _refused(500, "the server failed on this request; its log says how")


ERRORS = (RefusedError, HTTPException, RequestValidationError, ConfigError, ClientDisconnect, Exception)


def make_app(jobs: Jobs, names: frozenset[str], token: str | None) -> FastAPI:
    """Return the application that serves the page and the API."""
    handlers: dict[Any, Any] = dict.fromkeys(ERRORS, _answer_error)
    app = FastAPI(title="WavFusion", version=__version__, docs_url=None, redoc_url=None, exception_handlers=handlers)
    app.add_middleware(Guard, names=names, token=token)
    registry, page = _registry(jobs), _page(jobs, locked=token is not None)

    @app.get("/", response_class=HTMLResponse, summary="The page")
    def index() -> str:
        return page

    @app.get("/health", summary="The state of the server")
    async def health() -> dict[str, Any]:
        counts = {state: jobs.count(state) for state in (WAITING, RUNNING)}
        return {"status": "ok", "version": __version__, "model": jobs.card and asdict(jobs.card), **counts}

    @app.get("/metrics", summary="Figures for Prometheus")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")

    _answer_jobs(app, jobs)
    return app


def _answer_jobs(app: FastAPI, jobs: Jobs) -> None:
    """Add the endpoints of jobs."""

    @app.post("/jobs", status_code=202, summary="Queue a recording", openapi_extra=FORM)
    async def add(request: Request) -> dict[str, Any]:
        return _described(jobs, await _take(jobs, request))

    @app.get("/jobs/{job_id}", summary="The state of a job")
    async def look(job_id: str) -> dict[str, Any]:
        return _described(jobs, jobs.find(job_id))

    @app.delete("/jobs/{job_id}", summary="Cancel a job, unless it is over, and forget it")
    async def remove(job_id: str) -> dict[str, Any]:
        job = jobs.find(job_id)
        jobs.remove(job)
        await job.over.wait()
        return _described(jobs, job)

    @app.get("/jobs/{job_id}/result", summary="Its utterances, in any format")
    async def result(job_id: str, format: timeline.Format = "json", min_probability: Least = 0.0) -> Response:
        return await asyncio.to_thread(_result, jobs, jobs.find(job_id), format, min_probability)

    @app.get("/jobs/{job_id}/timeline", response_class=HTMLResponse, summary="Its timeline, a part of the page")
    async def shown(job_id: str) -> str:
        job = _done(jobs.find(job_id))
        return await asyncio.to_thread(timeline.to_html, job.rows, jobs.classes, "", job.warnings, "timeline_body.html")

    @app.post("/predict", summary="Label a recording and wait for the result", openapi_extra=FORM)
    async def predict(request: Request, format: timeline.Format = "json", min_probability: Least = 0.0) -> Response:
        job = await _take(jobs, request)
        try:
            over, gone = asyncio.create_task(job.over.wait()), asyncio.create_task(_gone(request))
            await asyncio.wait({over, gone}, return_when=asyncio.FIRST_COMPLETED)
            over.cancel()
            gone.cancel()
            return await asyncio.to_thread(_result, jobs, job, format, min_probability)
        finally:
            jobs.remove(job)


def _described(jobs: Jobs, job: Job) -> dict[str, Any]:
    """Describe a job, as `GET /jobs/ID` answers."""
    return {
        "id": job.id,
        "name": job.form.name,
        "state": job.state,
        "before": jobs.place(job),
        "progress": {RUNNING: jobs.labeller.progress, DONE: 1.0}.get(job.state),
        "model": jobs.card and asdict(jobs.card),
        "warnings": [*(jobs.card.warnings if jobs.card else []), *job.warnings],
        "error": job.error,
    }


async def _take(jobs: Jobs, request: Request) -> Job:
    """Receive a recording and queue it."""
    most = round(1e6 * jobs.limits.megabytes) + TEXT
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > most:
        raise too_large(most)
    with jobs.reserved() as folder:
        form = await receive(guarded(request.stream(), most, folder), request.headers, folder)
        read_count(form.speakers)  # raises a ConfigError for a wrong one
        require_choice(read_track(form.track), form.channel)
        return jobs.add(folder, form)


async def _gone(request: Request) -> None:
    """Return when the client has disconnected."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _done(job: Job) -> Job:
    """Return a job that has a result, or raise a RefusedError that says why it has none."""
    if job.error:
        raise RefusedError(422, job.error)
    if job.state != DONE:
        raise RefusedError(409, f"expected a recording that is done, found it {job.state}")
    return job


def _result(jobs: Jobs, job: Job, kind: str, least: float) -> Response:
    """Write a job's utterances in a format, as a file to save."""
    rows = timeline.abstained(_done(job).rows, least)
    content = timeline.write_predictions(kind, rows, jobs.classes, None, job.warnings)
    name = f"{job.form.name}.{timeline.ending(kind)}"
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}"}
    return Response(content, 200, headers, f"{TYPES.get(kind, 'text/plain')}; charset=utf-8")


def _registry(jobs: Jobs) -> CollectorRegistry:
    """Return the figures for Prometheus."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    for state in (WAITING, RUNNING):
        gauge = Gauge(f"wavfusion_{state}", f"Recordings that are {state}", registry=registry)
        gauge.set_function(partial(jobs.count, state))
    ended = Gauge("wavfusion_ended", "Recordings since the start, by how they ended", ["state"], registry=registry)
    for state in STATES:
        if state not in (WAITING, RUNNING):
            ended.labels(state).set_function(partial(jobs.ended.__getitem__, state))
    seconds = Gauge("wavfusion_labelled_seconds", "Seconds of speech labelled since the start", registry=registry)
    seconds.set_function(lambda: jobs.seconds)
    return registry


def _page(jobs: Jobs, locked: bool) -> str:
    return fill_page(
        "serve.html",
        model=jobs.card,
        modalities=jobs.modalities,
        classes=jobs.classes,
        limits=jobs.limits,
        sides=[name for name in CHANNELS if name != "mix"],
        kept=jobs.keep is not None,
        transcribes=jobs.settings.get("asr") is not None,
        locked=locked,
        **script(*timeline.SCRIPTS, "serve.js"),
    )


def listen(host: str, port: int) -> socket.socket:
    """Open the port, or raise a ConfigError where it is taken or the machine has no such address."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with ExitStack() as failed:
            opened = failed.enter_context(socket.socket(family, socket.SOCK_STREAM))
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(address)
            failed.pop_all()
    except (OSError, UnicodeError) as error:
        found = getattr(error, "strerror", None) or "no name of a host"
        raise ConfigError(f"--host {host} --port {port}: expected a free port, found: {found}") from None
    return opened


def serve(
    settings: Mapping[str, Any],
    host: str,
    port: int,
    limits: Limits,
    names: frozenset[str],
    token: str | None,
    keep: Path | None,
) -> None:
    """Serve until a signal ends it; `settings` are those of `EmotionRecognizer.from_pretrained`.

    Raises:
        ConfigError: the port is taken or the model cannot be loaded.
    """
    for number in STOPPING:
        signal.signal(number, lambda *_: sys.exit(0))  # so that the folder is removed
    with listen(host, port) as opened, closing(UploadFolder()) as folder:
        asyncio.run(_serve(opened, Jobs(settings, folder.path, limits, keep), names | {*HERE, host}, token))


class _Protocol(H11Protocol):
    """uvicorn's protocol, whose answer of its own to a broken HEAD request has a body, which h11 refuses to send."""

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, and hang up."""
        with suppress(LocalProtocolError):
            super().send_400_response(msg)
        self.transport.close()


async def _serve(opened: socket.socket, jobs: Jobs, names: frozenset[str], token: str | None) -> None:
    host, port = opened.getsockname()[:2]
    try:
        await jobs.open()
        if jobs.card:
            jobs.card.warn()
            log.info("%s", jobs.card)
        opened.listen()
        if host not in HERE:
            safe = "with" if token else "without"
            log.warning("serve: everybody who reaches %s can send recordings, %s a token and unencrypted", host, safe)
        log.info("serve: http://%s:%d", f"[{host}]" if ":" in host else host, port)
        app = make_app(jobs, names, token)
        quiet: dict[str, Any] = {"log_level": "warning", "access_log": False, "log_config": None}
        bounds: dict[str, Any] = {"limit_concurrency": MANY, "timeout_graceful_shutdown": 3}
        config = uvicorn.Config(app, http=_Protocol, server_header=False, **bounds, **quiet)
        server = uvicorn.Server(config)
        for number in STOPPING[1:]:  # uvicorn handles the first itself
            signal.signal(number, server.handle_exit)
        await server.serve([opened])
    finally:
        await jobs.close()
