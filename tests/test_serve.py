"""The server: the same numbers as everywhere, one line for what is wrong, nothing left behind."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
import threading
import time
import tracemalloc
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from h11 import LocalProtocolError
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from server import Server, form
from starlette.datastructures import Headers
from starlette.responses import Response

from wavfusion import media, transcripts
from wavfusion.cli.app import main
from wavfusion.prediction import timeline
from wavfusion.prediction.recognizer import EmotionRecognizer, Prediction
from wavfusion.runs.card import Card
from wavfusion.serve import app, uploads
from wavfusion.serve import jobs as jobs_module
from wavfusion.serve.app import Guard
from wavfusion.serve.jobs import Jobs, Limits
from wavfusion.serve.uploads import FIELDS, Form, RefusedError, UploadFolder

pytest_plugins = ("corpus_fixture",)

SRT = "1\n00:00:00,050 --> 00:00:00,200\nwell <b>now</b>\n\n2\n00:00:00,250 --> 00:00:00,400\nיופי\n"


@pytest.fixture(scope="module")
def server(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serve") / "tmp"
    with Server(trained, folder, "--max-megabytes", "2", "--max-minutes", "1", "--queue", "8") as running:
        yield running


@pytest.fixture(scope="module")
def clip(made: Any) -> Path:
    return Path(made.root / "clips/test00.mp4")


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a minute of sound, which takes a while."""
    path = tmp_path_factory.mktemp("sound") / "long.wav"
    noise = np.random.default_rng(0).normal(size=30 * 16_000).astype(np.float32)
    media.write_audio(path, (0.1 * noise).clip(-1, 1), 16_000)
    return path


def refused(server: Server, status: int, words: str, *fields: tuple[str, Any]) -> None:
    """A form gets a status and one line with no inside of ours, and the server takes the next one."""
    body, headers = form(list(fields))
    answer = server.ask("POST", "/predict", body, headers)
    assert (answer.status, words in answer.error) == (status, True), answer
    assert "Traceback" not in answer.error and str(server.folder) not in answer.error and "/tmp" not in answer.error
    assert server.ask("GET", "/health").json["status"] == "ok"


# ------------------------------------------------------------------ the same numbers


def test_the_shell_python_and_http_give_the_same_numbers(
    server: Server, trained: Path, clip: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = "I can't believe it"
    main(["predict", "--model", str(trained), str(clip), "--transcript", words, "--format", "json"])
    shell = json.loads(capfd.readouterr().out)
    called = EmotionRecognizer.from_pretrained(trained).predict(clip, words)
    http = server.send("/predict", file=clip, transcript=words).json
    assert http == [{**row, "file": clip.name} for row in shell]
    assert http == json.loads(timeline.to_json([Prediction(**{**vars(called[0]), "file": clip.name})]))


def test_a_transcript_with_times_is_a_file_of_the_form(server: Server, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "said.srt").write_text(SRT, encoding="utf-8")
    found = server.send("/predict", file=clip, transcript=tmp_path / "said.srt").json
    times = [(row["start"], row["end"], row["text"]) for row in found]
    assert times == [(each.start, each.end, each.text) for each in transcripts.read(tmp_path / "said.srt")]


def test_many_words_before_the_recording_are_no_large_header(server: Server, clip: Path) -> None:
    """The size of one part was counted against the headers of the next."""
    found = server.send("/predict", transcript=2000 * "word ", file=clip)
    assert found.status == 200 and found.json[0]["text"] == (2000 * "word ").strip()


def test_each_channel_of_an_upload_is_a_speaker(server: Server, tmp_path: Path) -> None:
    sides = 0.3 * np.sin(np.outer([0.07, 0.12], np.arange(32_000)))
    media.write_audio(tmp_path / "call.wav", sides.astype(np.float32), 16_000)
    found = server.send("/predict", file=tmp_path / "call.wav", channel="each").json
    assert [row["speaker"] for row in found] == ["left", "right"]
    refused(server, 422, "did you mean 'left'", ("file", tmp_path / "call.wav"), ("channel", "lef"))


def test_the_page_has_all_fields_of_the_form(server: Server) -> None:
    """Only programs could choose a track or a channel."""
    page = server.ask("GET", "/").body.decode()
    assert [name for name in FIELDS if f' id="{name}"' not in page] == []
    sides = re.search('<select id="channel">(.*?)</select>', page)
    assert sides and re.findall("<option[^>]*>(.*?)</option>", sides[1]) == [
        *("all, mixed", "left", "right", "centre", "one speaker each")
    ]


def test_the_timeline_shows_what_was_left_out(server: Server, tmp_path: Path) -> None:
    media.write_audio(tmp_path / "long.wav", np.zeros(320_000, np.float32), 16_000)
    job = server.add(file=tmp_path / "long.wav", transcript=("a.srt", b"1\n00:00:02,000 --> 00:00:19,000\nwell\n"))
    assert server.wait(job)["state"] == "done"
    page = server.ask("GET", f"/jobs/{job}/timeline").body.decode()
    found = re.search(r'id="recording">(.*?)</script>', page)
    assert found and [[each["start"], each["end"], each["reason"]] for each in json.loads(found[1])["leftOut"]] == [
        [0.0, 2.0, "not in the transcript"],
        [19.0, 20.0, "not in the transcript"],
    ]


def test_speakers_are_told_apart(server: Server, endless: Path) -> None:
    job = server.add(file=endless, speakers="2")
    found = server.wait(job)
    # The progress of a job that is done was null, as if nothing had been labelled yet.
    assert (found["state"], found["progress"]) == ("done", 1.0)


@pytest.mark.parametrize("kind", timeline.FORMATS)
def test_every_format_is_what_the_shell_writes(server: Server, clip: Path, kind: str) -> None:
    job = server.add(file=clip, transcript="well")
    assert server.wait(job)["state"] == "done"
    rows = [
        Prediction(**{**row, "model": Card(**row["model"])}) for row in server.ask("GET", f"/jobs/{job}/result").json
    ]
    answer = server.ask("GET", f"/jobs/{job}/result?format={kind}&min_probability=1")
    warned = server.ask("GET", f"/jobs/{job}").json["warnings"]
    wanted = timeline.write_predictions(kind, timeline.abstained(rows, 1.0), list(rows[0].probabilities), None, warned)
    found = re.sub(rb'"peaks":\[[\d,]*\]', b'"peaks":[]', answer.body)  # they are in no other answer
    assert (answer.status, found) == (200, wanted)
    assert answer.headers["content-disposition"].startswith("attachment; filename*=UTF-8''test00.mp4.")


def test_the_timeline_of_the_page_is_that_of_the_format(server: Server, clip: Path) -> None:
    job = server.add(file=clip, transcript="<i>well</i>")
    server.wait(job)
    part = server.ask("GET", f"/jobs/{job}/timeline").body.decode()
    page = server.ask("GET", f"/jobs/{job}/result?format=html").body.decode()
    found, alone = (
        json.loads(re.search(r'id="recording">(.*?)</script>', text)[1])  # type: ignore[index]
        for text in (part, page)
    )
    skeleton = found.pop("page")
    assert found == alone and found["rows"][0]["text"] == "<i>well</i>" and "<i>well" not in part + page
    # The page that is saved from there is the same, once its script has put the data in.
    empty = re.sub(r"(?s)(<noscript>.*?</p>).*?(</noscript>)", r"\1\2", page)
    assert skeleton == re.sub(r'(id="recording">).*?(</script>)', r"\1null\2", empty)


def test_warnings_are_told_under_the_sender_s_name(server: Server, tmp_path: Path) -> None:
    media.write_audio(tmp_path / "still.wav", np.zeros(16_000, np.float32), 16_000)
    found = server.wait(server.add(file=tmp_path / "still.wav"))
    assert any("still.wav: " in each for each in found["warnings"]) and "/" not in "".join(found["warnings"])


# ------------------------------------------------------------------ jobs


def test_a_job_that_runs_is_cancelled_and_the_next_one_is_labelled(server: Server, clip: Path, endless: Path) -> None:
    first, second, third = server.add(file=endless), server.add(file=endless), server.add(file=clip)
    while server.ask("GET", f"/jobs/{first}").json["state"] == "waiting":
        time.sleep(0.01)
    assert server.ask("GET", f"/jobs/{third}").json["before"] == 2
    for job in (second, first):
        assert server.ask("DELETE", f"/jobs/{job}").status == 200
    assert server.wait(third)["state"] == "done"
    assert [server.ask("GET", f"/jobs/{job}").status for job in (first, second)] == [404, 404]


def test_who_hangs_up_is_not_worked_for(server: Server, clip: Path, endless: Path) -> None:
    body, headers = form({"file": endless})
    before = figures(server)["wavfusion_ended", "cancelled"]
    connection = socket.create_connection(("127.0.0.1", server.port))
    lines = [f"{name}: {value}" for name, value in {"Host": "localhost", **headers}.items()]
    head = ["POST /predict HTTP/1.1", *lines, f"Content-Length: {len(body)}", "", ""]
    connection.sendall("\r\n".join(head).encode() + body)
    while not server.ask("GET", "/health").json["running"]:
        time.sleep(0.01)
    connection.close()
    assert len(server.send("/predict", file=clip).json) == 1
    assert figures(server)["wavfusion_ended", "cancelled"] == before + 1


def figures(server: Server) -> dict[tuple[str, str], float]:
    """What Prometheus reads."""
    answer = server.ask("GET", "/metrics")
    families = text_string_to_metric_families(answer.body.decode())
    return {(each.name, each.labels.get("state", "")): each.value for family in families for each in family.samples}


def test_prometheus_reads_what_was_done(server: Server, clip: Path) -> None:
    before = figures(server)
    server.send("/predict", file=clip)
    after = figures(server)
    assert after["wavfusion_ended", "done"] == before["wavfusion_ended", "done"] + 1
    assert after["wavfusion_labelled_seconds", ""] > before["wavfusion_labelled_seconds", ""]
    assert after["wavfusion_waiting", ""] == after["wavfusion_running", ""] == 0
    assert after["process_resident_memory_bytes", ""] > 0


def test_uploads_are_removed_whatever_becomes_of_them(server: Server, clip: Path, endless: Path) -> None:
    server.wait(server.add(file=clip))
    server.wait(server.add(file=("a.wav", b"no sound")))
    job = server.add(file=endless)
    server.ask("DELETE", f"/jobs/{job}")
    refused(server, 422, "expected the field", ("speakers", ""), ("speakers", ""))
    server.send("/predict", file=clip)
    assert server.uploads() == []


def test_what_is_kept_is_asked_for_and_a_token_guards_it(trained: Path, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a secret\n")
    flags = ("--keep", str(tmp_path / "kept"), "--token-file", str(tmp_path / "token"))
    with Server(trained, tmp_path / "tmp", *flags) as server:
        assert server.send("/predict", file=clip).status == 401
        body, headers = form({"file": clip})
        answer = server.ask("POST", "/predict", body, {**headers, "Authorization": "Bearer a secret"})
        (kept,) = (tmp_path / "kept").iterdir()
        assert (kept / "recording").read_bytes() == clip.read_bytes()
        assert json.loads((kept / "result.json").read_text(encoding="utf-8")) == answer.json
        assert "keeps recordings" in server.ask("GET", "/").body.decode() and server.uploads() == []


# ------------------------------------------------------------------ what is wrong


def test_a_wrong_form_gets_one_line(server: Server, clip: Path) -> None:
    recording = ("file", clip)
    refused(server, 422, "did you mean 'transcript'", recording, ("transcrpt", "well"))
    refused(server, 422, "expected the field 'file' once", recording, recording)
    refused(server, 422, "expected a recording in the field 'file', found none", ("transcript", "well"))
    refused(server, 422, "expected auto or a number from 1 to 20, found 'many'", recording, ("speakers", "many"))
    refused(server, 422, "expected auto or a number from 1 to 20, found 99", recording, ("speakers", "99"))
    refused(server, 422, "expected UTF-8", ("transcript", ("a.txt", b"\xff\xfe\xff")), recording)
    refused(server, 422, "'transcript': expected plain text", ("transcript", ("a.docx", b"PK\3\4")), recording)
    refused(server, 422, "transcript.srt: expected srt with times", ("transcript", ("a.srt", b"well")), recording)
    refused(server, 400, "Maximum number of files is 2", *[(name, ("a.wav", b"a")) for name in ("file", "a", "b")])


def test_an_uploaded_transcript_is_read_as_in_the_shell(server: Server, clip: Path) -> None:
    """Tables, other subtitles and what Whisper prints became words, numbers and markup included."""
    other, times = ("transcript", ("a.xyz", b"hi")), ("transcript", "0:01 --> 0:02\nhi")
    refused(server, 422, "'transcript': expected a file with times, found the ending '.xyz'", other, ("file", clip))
    refused(server, 422, "expected plain text, found subtitles with times", times, ("file", clip))
    printed, table = b"[00:00.100 --> 00:00.500]  stop it", b"start,end,text\n0.1,0.5,stop it\n"
    for name, content in (("a.txt", printed), ("a.csv", table)):
        (row,) = server.send("/predict", file=clip, transcript=(name, content)).json
        assert (row["start"], row["end"], row["text"]) == (0.1, 0.5, "stop it")
    assert server.send("/predict", file=clip, transcript=("a.txt", b"stop it")).json[0]["text"] == "stop it"
    turns = f"SPEAKER x 1 0 9 <NA> <NA> X\nSPEAKER {clip.stem} 1 0.1 0.4 <NA> <NA> A\n"
    (row,) = server.send("/predict", file=clip, transcript=("a.rttm", turns.encode())).json
    assert (row["start"], row["end"], row["speaker"]) == (0.1, 0.5, "A")


def test_a_transcript_has_a_limit_of_its_own(tmp_path: Path) -> None:
    for transcript, message in ((5_000_000 * "a", "maximum size of 4096KB"), (("a.txt", 5_000_000 * b"a"), "4194304")):
        body, headers = form({"file": ("a.wav", b"a"), "transcript": transcript})
        with pytest.raises(RefusedError, match=message) as caught:
            asyncio.run(uploads.receive(pieces(body, 1 << 20), Headers(headers), tmp_path))
        assert caught.value.status == 413


def test_an_odd_transcript_gets_one_line_or_is_read(server: Server, clip: Path) -> None:
    recording = ("file", clip)
    for content in (b'["a"]', b'"abc"', b'{"segments": {"a": 1}}', b'[{"start": 0, "end": 1%b}]' % (400 * b"0")):
        refused(server, 422, "transcript.json: ", recording, ("transcript", ("a.json", content)))
    refused(
        server,
        422,
        "found all 1 after its end",
        recording,
        ("transcript", ("a.srt", SRT[40:].replace("00:00", "09:00").encode())),
    )
    many = json.dumps([{"start": 0.0, "end": 0.4, "text": "x"}] * 2000).encode()
    refused(server, 422, "segments of 4 times its length", recording, ("transcript", ("a.json", many)))
    half = b'[{"start": 0, "end": 0.3, "text": "a \\ud800 b", "speaker": "\\udfff"}]'
    (row,) = server.send("/predict", file=clip, transcript=("a.json", half)).json
    assert (row["text"], row["speaker"]) == ("a ? b", "?")
    refused(server, 422, "expected auto or a number", recording, ("speakers", 5000 * "9"))


@pytest.mark.parametrize("pause", [0.0, 1.0])  # seconds; the server has heard of it, or has not
def test_a_worker_that_died_while_nothing_was_asked_is_started_again(server: Server, clip: Path, pause: float) -> None:
    """A recording that was sent at that moment was said to have broken the decoder."""
    children = [Path(task, "children").read_text() for task in Path(f"/proc/{server.process.pid}/task").iterdir()]
    for pid in "".join(children).split():
        os.kill(int(pid), signal.SIGKILL)
    time.sleep(pause)
    assert server.send("/predict", file=clip).status == 200


def test_an_answer_that_comes_after_uvicorn_s_own_leaves_no_trace() -> None:
    """To 3,000 trailers uvicorn answered 400 itself; our answer to the headers then raised, with a trace in the log."""

    async def send(message: Any) -> None:
        raise LocalProtocolError("can't handle event type Response when role=SERVER and state=MUST_CLOSE")

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "POST", "path": "/nothing", "headers": [(b"host", b"elsewhere")]}
    asyncio.run(Guard(Response(), frozenset(["localhost"]), None)(scope, receive, send))


def test_a_head_request_with_a_broken_chunk_leaves_no_trace(server: Server) -> None:
    """Uvicorn's own answer to it had a body, which h11 does not send to a HEAD: a trace stood in the log."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"HEAD /jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX")
        connection.settimeout(10)
        assert connection.recv(1000).startswith(b"HTTP/1.1 4")
    assert b"Traceback" not in server.said() and server.send("/nothing").status == 404


def test_who_sends_before_reading_gets_the_refusal(server: Server) -> None:
    """The connection was closed in the middle of the upload, and the answer was lost: none saw a 507 or 413."""
    rest = 20_000_000
    head = f"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: {rest}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head.encode())
        for _ in range(20):
            time.sleep(0.02)
            connection.sendall(rest // 20 * b"a")
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_what_is_no_recording_gets_one_line(server: Server, endless: Path) -> None:
    refused(server, 422, "'talk.wav'", ("file", ("talk.wav", b"these are words")))
    refused(server, 422, "found 0 bytes", ("file", ("talk.wav", b"")))
    refused(server, 422, "'passwd'", ("file", ("../../etc/passwd", b"root")))
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    refused(server, 422, "'a.mp4'", ("file", ("a.mp4", playlist)))
    longer = endless.read_bytes()
    assert len(longer) < 2_000_000


def test_a_recording_that_is_too_long_or_too_large_gets_one_line(server: Server, tmp_path: Path) -> None:
    media.write_audio(tmp_path / "long.mp3", np.zeros(61 * 16_000, np.float32), 16_000)
    refused(server, 422, "expected at most 1 minutes, found 1.0", ("file", tmp_path / "long.mp3"))
    answer = server.ask("POST", "/jobs", b"", {"Content-Length": "10000000000", "Content-Type": "multipart/form-data"})
    assert answer.status == 413 and "at most 6.1943 MB" in answer.error


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404), ("POST", "/", 405), ("GET", "/jobs/none", 404), ("GET", "/docs", 404),
        ("GET", "/jobs/..%2f..%2fetc%2fpasswd", 404), ("POST", "/predict?format=mp3", 422),
        ("POST", "/predict?min_probability=2", 422), ("POST", "/jobs", 415),
    ],
)  # fmt: skip
def test_another_request_gets_one_line(server: Server, method: str, path: str, status: int) -> None:
    answer = server.ask(method, path)
    assert answer.status == status and answer.error


def test_an_unknown_format_gets_the_nearest(server: Server) -> None:
    answer = server.ask("GET", "/jobs/none/result?format=jsn")
    assert answer.status == 422 and answer.error.startswith("format: found 'jsn'; did you mean 'json'? valid: table,")


def test_the_model_and_its_warnings_stand_in_every_answer(server: Server, clip: Path) -> None:
    """A generated model's labels came over HTTP without a word about it, on the page and for programs."""
    about = server.ask("GET", "/health").json["model"]
    assert (about["name"], about["generated"], about["chance"]) == ("all", False, 0.25)
    job = server.add(file=clip)
    found = server.wait(job)
    assert found["model"] == about and found["warnings"][: len(about["warnings"])] == about["warnings"]
    (row,) = server.ask("GET", f"/jobs/{job}/result").json
    assert row["model"] == about
    line = str(Card(**about))
    part = server.ask("GET", f"/jobs/{job}/timeline").body.decode()
    assert line in server.ask("GET", "/").body.decode() and line in part


def test_the_result_of_what_failed_or_waits_says_so(server: Server, endless: Path) -> None:
    failed = server.add(file=("a.wav", b"no sound"))
    waits = server.add(file=endless)
    assert "expected a recording that is done" in server.ask("GET", f"/jobs/{waits}/result").error
    server.ask("DELETE", f"/jobs/{waits}")
    server.wait(failed)
    assert "'a.wav'" in server.ask("GET", f"/jobs/{failed}/timeline").error


# ------------------------------------------------------------------ who may ask


def asked(headers: dict[str, str], path: str = "/jobs", token: str | None = None) -> tuple[int, list[str]]:
    """Status and header names of what a guard lets through (200) or answers itself."""
    said: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        said.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": path, "headers": raw}
    asyncio.run(Guard(app, frozenset(["localhost", "my.lab"]), token)(scope, receive, send))
    return said[0]["status"], sorted(name.decode() for name, _ in said[0]["headers"])


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1:8000", "[::1]:80", "10.1.2.3", "my.lab", "MY.LAB:81"])
def test_the_server_s_own_names_and_addresses_are_answered(host: str) -> None:
    assert asked({"Host": host})[0] == 200


@pytest.mark.parametrize(
    "host", ["", "evil.example", "localhost.evil.example:8000", "evil@localhost:8000", "[::1", "a b"]
)
def test_another_host_s_name_is_refused(host: str) -> None:
    """DNS rebinding: a page elsewhere gives its own name our address."""
    assert asked({"Host": host})[0] == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://localhost:9999"},
        {"Origin": "http://[::1"}, {"Origin": ""}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
    ],
)  # fmt: skip
def test_another_site_s_page_is_refused(headers: dict[str, str]) -> None:
    assert asked({"Host": "localhost:8000", **headers})[0] == 403


def test_the_own_page_is_answered_and_no_answer_is_for_others() -> None:
    status, names = asked({"Host": "localhost:80", "Origin": "http://localhost:80", "Sec-Fetch-Site": "same-origin"})
    assert status == 200 and "cross-origin-resource-policy" in names and "access-control-allow-origin" not in names


def test_a_token_is_asked_for_where_there_is_one() -> None:
    host = {"Host": "localhost"}
    given = [{}, {"Authorization": "Bearer other"}, {"Authorization": "secret"}, {"Authorization": "Bearer \xe4"}]
    assert [asked({**host, **each}, token="secret")[0] for each in given] == [401] * 4
    assert asked({**host, "Authorization": "Bearer secret"}, token="secret")[0] == 200
    assert [asked(host, path, "secret")[0] for path in ("/", "/health", "/openapi.json")] == [200] * 3


# ------------------------------------------------------------------ the page and what it says


def test_page_and_description_ask_nobody_else(server: Server) -> None:
    page, description = (server.ask("GET", path).body.decode() for path in ("/", "/openapi.json"))
    named = set(re.findall(r"https?://[^\s\"'<]+", page + description))  # of XML's and ELAN's formats
    assert named == {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/2001/XMLSchema-instance",
        "http://www.mpi.nl/tools/elan/EAFv3.0.xsd",
    }
    assert {"/jobs", "/predict", "/health", "/metrics"} <= set(json.loads(description)["paths"])
    assert "multipart/form-data" in description and "default-src 'none'" in page


# ------------------------------------------------------------------ uploads


async def pieces(content: bytes, size: int, pause: float = 0.0) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(content), size):
        await asyncio.sleep(pause)
        yield content[start : start + size]


@given(content=st.binary(max_size=300), size=st.integers(1, 80), name=st.text(max_size=12))
def test_a_form_is_read_the_same_however_it_is_cut(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, size: int, name: str
) -> None:
    folder = tmp_path_factory.mktemp("form")
    plain = re.sub(r'["\\\r\n;=\x00]', "", name.encode("utf-8", "replace").decode())
    body, headers = form({"speakers": "2", "file": (plain, content), "transcript": "wörds"})
    found = asyncio.run(uploads.receive(pieces(body, size), Headers(headers), folder))
    assert (folder / "recording").read_bytes() == content
    assert (found.speakers, found.text, found.segments) == ("2", "wörds", None)
    assert found.name and found.name.isprintable() and "/" not in found.name


@pytest.mark.parametrize("lost", [3, 5, 40, 120, 200])
def test_a_form_that_is_cut_off_is_refused(tmp_path: Path, lost: int) -> None:
    body, headers = form({"file": ("a.wav", 100 * b"a"), "transcript": "b"})
    with pytest.raises(RefusedError, match="whole form|in the field 'file'"):
        asyncio.run(uploads.receive(pieces(body[:-lost], 64), Headers(headers), tmp_path))


async def taken(stream: AsyncGenerator[bytes, None], most: int, folder: Path) -> int:
    return sum([len(chunk) async for chunk in uploads.guarded(stream, most, folder)])


def test_an_upload_that_stalls_is_slow_or_does_not_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asyncio.run(taken(pieces(1000 * b"a", 10), 1000, tmp_path)) == 1000
    with pytest.raises(RefusedError, match="at most 0.000999 MB, found more"):
        asyncio.run(taken(pieces(1000 * b"a", 10), 999, tmp_path))
    monkeypatch.setattr(uploads, "IDLE", 0.05)
    with pytest.raises(RefusedError, match="found nothing"):
        asyncio.run(taken(pieces(b"a", 1, 5.0), 999, tmp_path))
    monkeypatch.setattr(uploads, "SLOWEST", 10_000)
    with pytest.raises(RefusedError, match="bytes/s"):
        asyncio.run(taken(pieces(100 * b"a", 1, 0.01), 999, tmp_path))


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "FREE", 1 << 60)
    with pytest.raises(RefusedError, match="nearly full") as caught:
        asyncio.run(taken(pieces(b"a", 64), 999, tmp_path))
    assert caught.value.status == 507


def test_a_disk_that_fills_while_a_recording_comes_in_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room was looked for when an upload began, and then it was written until none was left."""

    async def filling() -> AsyncGenerator[bytes, None]:
        yield body[:300]
        monkeypatch.setattr(uploads, "FREE", 1 << 60)
        yield body[300:]

    body, headers = form({"file": ("a.wav", 1000 * b"a")})
    with pytest.raises(RefusedError, match="nearly full"):
        asyncio.run(uploads.receive(uploads.guarded(filling(), 9999, tmp_path), Headers(headers), tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_large_recording_is_spooled_to_the_disk_of_the_uploads(tmp_path: Path) -> None:
    """Starlette's temporary files lie in the same temporary folder as the uploads, and not in memory."""
    body, headers = form({"file": ("a.wav", bytes(3 << 20))})
    tracemalloc.start()
    try:
        asyncio.run(uploads.receive(pieces(body, 1 << 16), Headers(headers), tmp_path))
        assert tracemalloc.get_traced_memory()[1] < 3 << 20
    finally:
        tracemalloc.stop()
    assert (tmp_path / "recording").stat().st_size == 3 << 20


@pytest.mark.parametrize(
    ("name", "seen"),
    [("../../etc/passwd", "passwd"), ("C:\\talks\\a.mp4", "a.mp4"), ("a\nb\x00.mp4", "a b .mp4"), ("/", "recording"),
     (300 * "a", 200 * "a"), ("<b>.mp4", "<b>.mp4")],
)  # fmt: skip
def test_a_sender_s_name_is_one_line_for_showing(name: str, seen: str) -> None:
    assert uploads.displayed(name) == seen


# ------------------------------------------------------------------ the queue


def waiting(tmp_path: Path, queue: int = 2) -> Jobs:
    """Jobs of which none is worked on."""
    return Jobs({"name": "none"}, tmp_path, Limits(queue=queue))


def put(jobs: Jobs) -> Any:
    with jobs.reserved() as folder:
        return jobs.add(folder, Form("a.wav"))


def test_the_queue_has_a_bound_and_a_place_becomes_free(tmp_path: Path) -> None:
    async def fill() -> None:
        jobs = waiting(tmp_path)
        first, second = put(jobs), put(jobs)
        assert [jobs.place(job) for job in (first, second)] == [0, 1]
        with pytest.raises(RefusedError, match="all 2 taken"):
            put(jobs)
        jobs.remove(first)
        assert jobs.place(second) == 0 and not first.folder.exists() and put(jobs).state == "waiting"

    asyncio.run(fill())


def test_a_place_is_counted_while_jobs_come_and_go(tmp_path: Path) -> None:
    """The table of jobs was walked in one thread while another changed it, and the request failed."""

    async def fill() -> None:
        jobs = waiting(tmp_path, 99)
        last, over = [put(jobs) for _ in range(40)][-1], threading.Event()

        def come_and_go() -> None:
            while not over.is_set():
                extra = jobs_module.Job("extra", tmp_path / "extra", Form("a.wav"))
                jobs._jobs[extra.id] = extra
                jobs._jobs.pop(extra.id)

        thread = threading.Thread(target=come_and_go)
        thread.start()
        try:
            assert {jobs.place(last) for _ in range(3000)} == {39}
        finally:
            over.set()
            thread.join()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        asyncio.run(fill())
    finally:
        sys.setswitchinterval(before)


def test_uploads_that_come_in_count_and_a_refused_one_leaves_nothing(tmp_path: Path) -> None:
    jobs = waiting(tmp_path, 1)
    with contextlib.suppress(RefusedError), jobs.reserved() as folder:
        with pytest.raises(RefusedError, match="all 1 taken"), jobs.reserved():
            pass
        (folder / "recording").write_bytes(b"a")
        raise RefusedError(400, "cut off")
    assert list(tmp_path.iterdir()) == []


def test_what_is_over_is_forgotten_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fill() -> None:
        monkeypatch.setattr(jobs_module, "MOST_KEPT", 3)
        jobs = waiting(tmp_path, 99)
        over = [put(jobs) for _ in range(5)]
        for job in over:
            jobs._end(job, "done")
        put(jobs)
        assert [job.id in jobs._jobs for job in over] == [False, False, False, True, True]
        monkeypatch.setattr(jobs_module, "KEPT", 0.01)
        last = put(jobs)
        jobs._end(last, "done")
        await asyncio.sleep(0.1)
        assert last.id not in jobs._jobs

    asyncio.run(fill())


def test_others_are_answered_while_a_recording_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large upload was copied by the thread that answers, and nobody heard of anything meanwhile."""

    async def keep() -> None:
        copied, loop = threading.Event(), asyncio.get_running_loop()
        monkeypatch.setattr(jobs_module, "_keep", lambda job, place: copied.wait(10))
        jobs = Jobs({"name": "none"}, tmp_path, Limits(), tmp_path / "kept")
        monkeypatch.setattr(jobs, "_label", lambda job: asyncio.sleep(0, ("done", None)))
        job = put(jobs)
        work = asyncio.create_task(jobs._work())
        loop.call_later(0.05, copied.set)  # by the thread that answers
        began = time.monotonic()
        await job.over.wait()
        assert (job.state, time.monotonic() - began < 5) == ("done", True)
        work.cancel()

    asyncio.run(keep())


# ------------------------------------------------------------------ beginning and end


def test_a_folder_of_a_server_that_lives_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    alive, dead = UploadFolder(), UploadFolder()
    (dead.path / "upload").mkdir()
    dead._lock.release()  # as the kernel does for a process that is killed
    UploadFolder().close()
    assert alive.path.exists() and not dead.path.exists()
    alive.close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_being_made_is_left_to_its_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second server that started between a folder's making and its locking removed it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    acquire = FileLock.acquire

    def late(self: FileLock, *arguments: Any, **settings: Any) -> Any:
        if self.timeout != 0:  # the new folder's, before it is held
            monkeypatch.setattr(FileLock, "acquire", acquire)
            UploadFolder().close()
        return acquire(self, *arguments, **settings)

    monkeypatch.setattr(FileLock, "acquire", late)
    folder = UploadFolder()
    assert folder.path.is_dir() and len(list(tmp_path.iterdir())) == 1
    folder.close()


@pytest.mark.slow
def test_a_killed_server_leaves_what_its_successor_removes(trained: Path, endless: Path, tmp_path: Path) -> None:
    killed = Server(trained, tmp_path / "tmp")
    killed.add(file=endless)
    assert killed.uploads()
    killed.end(signal.SIGKILL)
    with Server(trained, tmp_path / "tmp") as server:
        assert server.uploads() == [] and server.ask("GET", "/health").json["waiting"] == 0
        assert server.end(signal.SIGTERM) == 0
    assert list((tmp_path / "tmp").glob("wavfusion*")) == []


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGHUP])
def test_a_server_that_is_ended_during_an_upload_says_so_and_logs_no_trace(
    trained: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """The log got the trace of the request that was cut off, and who sent it an end without an answer."""
    with Server(trained, tmp_path / "tmp") as server:
        body, headers = form({"file": ("a.wav", 100_000 * b"a")})
        lines = [f"{name}: {value}" for name, value in {"Host": "localhost", **headers}.items()]
        head = ["POST /jobs HTTP/1.1", *lines, f"Content-Length: {len(body)}", "", ""]
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall("\r\n".join(head).encode() + body[:50_000])
            while not server.uploads():
                time.sleep(0.01)
            assert server.end(number) == 0
            assert b"503" in connection.recv(12) and b"found it being stopped" in connection.recv(10_000)
        assert b"Traceback" not in server.said() and server.uploads() == []


def refusal(capfd: pytest.CaptureFixture[str], *arguments: Any) -> str:
    assert main(["serve", "--model", *map(str, arguments)]) == 2
    said = capfd.readouterr().err.strip().splitlines()
    assert len(said) == 1
    return said[0]


def test_a_port_that_is_taken_and_a_model_that_is_none_get_one_line(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with app.listen("127.0.0.1", 0) as taken:
        taken.listen()
        assert "expected a free port" in refusal(capfd, trained, "--port", taken.getsockname()[1])
    assert "expected" in refusal(capfd, tmp_path / "none", "--port", 0)
    assert "expected a free port" in refusal(capfd, trained, "--host", "192.0.2.1")
    for content in (b"\n", b"\xff\xfe", b"two\nlines", "тайна".encode()):
        (tmp_path / "token").write_bytes(content)
        assert "expected a token, found" in refusal(capfd, trained, "--token-file", tmp_path / "token")
    assert "expected a free port" in refusal(capfd, trained, "--host", 64 * "a")


def test_two_at_once_are_not_mixed_up(server: Server, made: Any) -> None:
    clips = sorted((made.root / "clips").glob("test0*.mp4"))[:4]
    alone = {clip.name: server.send("/predict", file=clip).json for clip in clips}
    found: dict[str, Any] = {}

    def label(clip: Path) -> None:
        found[clip.name] = server.send("/predict", file=clip).json

    threads = [threading.Thread(target=label, args=(clip,)) for clip in clips]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert found == alone
