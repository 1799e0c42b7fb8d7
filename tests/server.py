"""A server of ours in a process of its own, and requests to it as any program makes them."""

import http.client
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

Part = str | bytes | Path | tuple[str, bytes]


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The one line that a refused request gets."""
        found = self.json
        assert set(found) == {"error"} and "\n" not in found["error"], found
        return str(found["error"])


def form(fields: Mapping[str, Part] | list[tuple[str, Part]]) -> tuple[bytes, dict[str, str]]:
    """A form and its headers; a path or a pair (name, content) is sent as a file."""
    boundary = secrets.token_hex(12)
    lines: list[bytes] = []
    for name, value in fields.items() if isinstance(fields, Mapping) else fields:
        content = (value.name, value.read_bytes()) if isinstance(value, Path) else value
        about = f'form-data; name="{name}"'
        if isinstance(content, tuple):
            about += f'; filename="{content[0]}"'
            content = content[1]
        raw = content.encode() if isinstance(content, str) else content
        lines += [f"--{boundary}\r\nContent-Disposition: {about}\r\n\r\n".encode(), raw, b"\r\n"]
    body = b"".join([*lines, f"--{boundary}--\r\n".encode()])
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


class Server:
    """`wavfusion serve` of a RUN, with a temporary folder of its own."""

    def __init__(self, trained: Path, folder: Path, *flags: str) -> None:
        self.folder = folder
        self.log = (folder.parent / f"{folder.name}.log").open("w+b")
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "wavfusion", "serve", "--model", str(trained), "--port", "0", *flags]
        self.process = subprocess.Popen(
            command, stdout=self.log, stderr=self.log, env={**os.environ, "TMPDIR": str(folder)}
        )
        ready = re.compile(rb"http://\S+:(\d+)")
        while not (found := ready.search(self.said())):
            assert self.process.poll() is None, self.said()
            time.sleep(0.05)
        self.port = int(found[1])

    def said(self) -> bytes:
        """What it has written so far."""
        return Path(self.log.name).read_bytes()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal and wait."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.log.close()
        return self.process.wait(60)

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def send(self, path: str, **fields: Part) -> Answer:
        """Post a form."""
        return self.ask("POST", path, *form(fields))

    def add(self, **fields: Part) -> str:
        """Line a recording up; returns its id."""
        answer = self.send("/jobs", **fields)
        assert answer.status == 202, answer
        return str(answer.json["id"])

    def wait(self, job: str) -> dict[str, Any]:
        """What became of a job."""
        while (found := dict(self.ask("GET", f"/jobs/{job}").json))["state"] in ("waiting", "running"):
            time.sleep(0.05)
        return found

    def uploads(self) -> list[str]:
        """What lies in its folder for uploads."""
        return sorted(path.name for path in self.folder.glob("wavfusion-serve-*/uploads/*"))
