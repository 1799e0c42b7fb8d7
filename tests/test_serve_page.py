"""The server's page in a browser, many at once, for long, and under attack.

`WAVFUSION_LOOP=30` asks for requests in a loop of thirty minutes instead of one.
"""

import json
import os
import re
import shutil
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import Page
from server import Server, form

from wavfusion import media
from wavfusion.serve.uploads import FIELDS

pytest_plugins = ("corpus_fixture",)
pytestmark = pytest.mark.slow

LOOP = 60 * float(os.environ.get("WAVFUSION_LOOP", "1"))


@pytest.fixture(scope="module")
def server(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(trained, tmp_path_factory.mktemp("serve") / "tmp", "--max-megabytes", "50") as running:
        yield running


@pytest.fixture(scope="module")
def clip(made: Any) -> Path:
    return Path(made.root / "clips/test00.mp4")


@pytest.fixture
def page(browser: Page, server: Server) -> Page:
    browser.look(1100)
    browser.console.clear()
    browser.requests.clear()
    browser.open(f"http://localhost:{server.port}/")
    return browser


def until(page: Page, condition: str, seconds: float = 60.0) -> None:
    """Wait for something to be true of a page."""
    end = time.monotonic() + seconds
    while not page.run(f"Boolean({condition})"):
        assert time.monotonic() < end, (condition, page.run("document.body.innerText")[:600], page.console)
        time.sleep(0.05)


def choose(page: Page, field: str, *paths: Path) -> None:
    """Choose files as a person would."""
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=root, selector=f"#{field}")["nodeId"]
    page.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])


def shown(page: Page) -> None:
    until(page, "document.querySelector('#status').textContent === 'Done.'")


# ------------------------------------------------------------------ the page


def test_a_chosen_recording_becomes_a_timeline_that_follows_the_player(
    page: Page, server: Server, clip: Path, tmp_path: Path
) -> None:
    evil = tmp_path / "<img src=x onerror=alert(1)>.mp4"
    shutil.copy(clip, evil)
    choose(page, "file", evil)
    page.run("document.querySelector('#transcript').value = '<script>alert(2)</script> & well'")
    page.run("document.querySelector('#send').click()")
    shown(page)
    assert page.run("document.querySelector('#result h2').textContent") == evil.name
    assert page.run("document.querySelector('li.utterance .text').textContent") == "<script>alert(2)</script> & well"
    assert page.run("document.querySelectorAll('#result img').length") == 0
    ready = "const p = document.querySelector('#player'); p.readyState ? done() : p.onloadedmetadata = done"
    page.run(f"new Promise(done => {{ {ready} }})")
    page.run("document.querySelector('li.utterance button').click()")
    until(page, "document.querySelector('li.utterance').ariaCurrent")
    names = page.run("[...document.querySelectorAll('#saving button')].map((b) => b.dataset.file.split('.').pop())")
    assert sorted(names) == ["TextGrid", "csv", "csv", "eaf", "html", "json", "srt", "vtt"]
    until(page, "!document.querySelector('#cancel').offsetParent")
    assert server.ask("GET", "/health").json["waiting"] == 0 and server.uploads() == []
    origins = {re.sub(r"^(blob:)?(https?://[^/]+).*", r"\2", each) for each in page.requests}
    assert (page.console, origins) == ([], {f"http://localhost:{server.port}"})


@pytest.mark.parametrize("button", ["microphone", "camera"])
def test_what_is_recorded_in_the_page_is_labelled(page: Page, button: str) -> None:
    page.run(f"document.querySelector('#{button}').click()")
    until(page, "document.querySelector('#status').textContent.includes('2 s')")
    page.run("document.querySelector('#stop').click()")
    until(page, "document.querySelector('#status').textContent.includes('recording.')")
    page.run("document.querySelector('#send').click()")
    shown(page)
    page.run("document.querySelector('li.utterance details').open = true")
    until(page, "document.querySelector('li.utterance details p')")
    used = page.run("document.querySelector('li.utterance details p').textContent")
    assert ("video" in used) == (button == "camera") and "audio" in used and page.console == []


def test_each_channel_of_a_call_is_chosen_to_be_a_speaker(page: Page, tmp_path: Path) -> None:
    sides = 0.3 * np.sin(np.outer([0.07, 0.12], np.arange(32_000)))
    media.write_audio(tmp_path / "call.wav", sides.astype(np.float32), 16_000)
    choose(page, "file", tmp_path / "call.wav")
    page.run("document.querySelector('#channel').value = 'each'")
    page.run("document.querySelector('#send').click()")
    shown(page)
    texts = page.run("[...document.querySelectorAll('li.utterance .text')].map((each) => each.textContent)")
    assert texts == ["left", "right"] and page.console == []


def tab_to(page: Page, place: str) -> None:
    """Press Tab until the focus is on an element."""
    for _ in range(40):
        if page.run(f"document.activeElement.matches({json.dumps(place)})"):
            return
        page.press("Tab")
    raise AssertionError(place)


def test_the_first_action_is_to_choose_recordings(page: Page) -> None:
    visible = "[...document.querySelectorAll('.primary')].filter((each) => each.checkVisibility())"
    assert page.run(f"{visible}.map((each) => each.textContent)") == ["Choose recordings"]
    page.press("Tab")
    assert page.run("document.activeElement.id") == "file"


def test_several_recordings_are_labelled_with_their_transcripts_and_one_is_shown(
    page: Page, server: Server, clip: Path, tmp_path: Path
) -> None:
    for name in ("one.mp4", "two.mp4"):
        shutil.copy(clip, tmp_path / name)
    (tmp_path / "bad.wav").write_text("no sound")
    (tmp_path / "two.txt").write_text("the second one")
    choose(page, "file", tmp_path / "one.mp4", tmp_path / "bad.wav", tmp_path / "two.mp4")
    choose(page, "transcript-file", tmp_path / "two.txt")
    assert page.run("document.querySelector('#send').textContent") == "Label 3 recordings"
    page.run("document.querySelector('#send').click()")
    until(page, "document.querySelector('#status').textContent === '1 could not be labelled.'")
    assert "'bad.wav'" in page.run("document.querySelector('#error').textContent")
    states = page.run("[...document.querySelectorAll('#files li')].map((each) => each.textContent)")
    assert states[0] == "one.mp4done" and states[2] == "two.mp4done" and "expected" in states[1]
    assert page.run("document.querySelector('#result h2').textContent") == "one.mp4"
    page.run("""(() => {
        const field = document.querySelector('#totals input');
        field.value = 'Ann';
        field.dispatchEvent(new Event('change', { bubbles: true }));
    })()""")
    page.run("document.querySelectorAll('#files button')[2].click()")
    assert page.run("document.querySelector('#result h2').textContent") == "two.mp4"
    assert page.run("document.querySelector('li.utterance .text').textContent") == "the second one"
    page.run("document.querySelectorAll('#files button')[0].click()")
    # Corrections of one recording are kept while another one is shown.
    assert page.run("document.querySelector('#totals input').value") == "Ann"
    assert server.uploads() == [] and page.console == []


def test_a_transcript_that_belongs_to_no_recording_is_said(page: Page, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("words")
    shutil.copy(clip, tmp_path / "one.mp4")
    choose(page, "file", clip, tmp_path / "one.mp4")
    choose(page, "transcript-file", tmp_path / "other.txt")
    page.run("document.querySelector('#send').click()")
    told = page.run("document.querySelector('#error').textContent")
    assert told == "Expected transcripts named as the recordings, found other.txt."


def test_all_of_it_goes_by_keyboard(page: Page, clip: Path) -> None:
    choose(page, "file", clip)
    page.run("document.querySelector('#file').focus()")
    tab_to(page, "#options summary")
    page.press("Enter")
    tab_to(page, "#speakers")
    tab_to(page, "#send")
    page.press("Enter")
    shown(page)
    for _ in range(40):
        page.press("Tab")
        if page.run("document.activeElement.closest('li.utterance') !== null"):
            break
    page.press("Enter")
    until(page, "document.querySelector('li.utterance').ariaCurrent")


def test_a_wrong_file_is_said_and_the_page_goes_on(page: Page, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "words.wav").write_text("no sound")
    choose(page, "file", tmp_path / "words.wav")
    page.run("document.querySelector('#send').click()")
    until(page, "!document.querySelector('#error').hidden")
    assert "'words.wav'" in page.run("document.querySelector('#error').textContent")
    choose(page, "file", clip)
    page.run("document.querySelector('#send').click()")
    shown(page)
    assert page.run("document.querySelector('#error').hidden")


def test_a_recording_is_cancelled_from_the_page(page: Page, server: Server, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=120 * 16_000).astype(np.float32)
    media.write_audio(tmp_path / "long.wav", (0.1 * noise).clip(-1, 1), 16_000)
    choose(page, "file", tmp_path / "long.wav")
    page.run("document.querySelector('#send').click()")
    until(page, "/Labelling|Segmenting/.test(document.querySelector('#status').textContent)")
    leaves = "dispatchEvent(new Event('beforeunload', { cancelable: true }))"
    assert not page.run(leaves)  # a reload ended the work without asking
    page.run("document.querySelector('#cancel').click()")
    until(page, "document.querySelector('#status').textContent === 'Cancelled.'")
    assert page.run(leaves)
    assert page.run("document.querySelector('#error').hidden") and server.uploads() == []


@pytest.mark.parametrize("width", [360, 768, 1100])
def test_the_page_stays_within_the_screen(page: Page, clip: Path, width: int) -> None:
    page.look(width)
    choose(page, "file", clip)
    page.run("document.querySelector('#send').click()")
    shown(page)
    assert page.run("document.documentElement.scrollWidth") <= width


def test_every_control_of_the_page_has_a_name(page: Page, clip: Path) -> None:
    choose(page, "file", clip)
    page.run("document.querySelector('#send').click()")
    shown(page)
    page.run("document.querySelector('#options').open = true")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    kinds = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    controls = {"button", "link", "checkbox", "combobox", "textbox", "Video", "Audio", "image", "progressbar"}
    assert {"button", "combobox", "textbox"} <= {kind for kind, _ in kinds}
    assert {kind for kind, name in kinds if kind in controls and not name.strip()} == set()


# ------------------------------------------------------------------ many, and for long


def test_fifty_uploads_at_once_are_neither_lost_nor_mixed_up(server: Server, made: Any) -> None:
    clips = sorted((made.root / "clips").glob("test0*.mp4"))
    words = [f"number {i}" for i in range(7)]
    alone = [[server.send("/predict", file=clip, transcript=each).json for each in words] for clip in clips]
    found: dict[int, Any] = {}

    def label(number: int) -> None:
        clip = clips[number % len(clips)]
        found[number] = server.send("/predict", file=clip, transcript=words[number % 7]).json

    threads = [threading.Thread(target=label, args=(number,)) for number in range(50)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [found[number] == alone[number % len(clips)][number % 7] for number in range(50)] == 50 * [True]


def state(server: Server) -> tuple[int, int, int, int]:
    """Megabytes, threads and file handles of the server and its process that labels, and uploads."""
    pids = [server.process.pid]
    for task in Path(f"/proc/{pids[0]}/task").iterdir():
        pids += [int(pid) for pid in (task / "children").read_text().split()]
    megabytes = threads = handles = 0
    for pid in pids:
        status = dict(re.findall(r"^(\w+):\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE))
        megabytes += int(status["RssAnon"]) // 1024
        threads += int(status["Threads"])
        handles += len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return megabytes, threads, handles, len(server.uploads())


@pytest.mark.timeout(LOOP + 900)
def test_requests_in_a_loop_leave_memory_threads_and_files_where_they_were(server: Server, clip: Path) -> None:
    def once(number: int) -> None:
        server.send("/predict?format=html", file=clip, transcript=f"number {number}")
        job = server.add(file=("a.wav", b"no sound"), transcript=1000 * "word ")
        server.wait(job)
        server.ask("POST", "/jobs", *form({"wrong": "field"}))
        server.ask("GET", "/")
        server.ask("GET", "/metrics")

    for number in range(150):  # what is over and still may be asked for has its bound by then
        once(number)
    before, end, number = state(server), time.monotonic() + LOOP, 0
    while time.monotonic() < end:
        once(number := number + 1)
    after = state(server)
    assert number > LOOP, number
    assert after[0] <= 1.1 * before[0] and after[1] <= before[1] + 2 and after[2] <= before[2] + 2, (before, after)
    assert after[3] == 0


# ------------------------------------------------------------------ attacks


def raw(server: Server, content: bytes, pause: float = 0.0, pieces: int = 1) -> bytes:
    """Send bytes, slowly where asked, and read what comes back."""
    size = -(-len(content) // pieces)
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        try:
            for start in range(0, len(content), size):
                connection.sendall(content[start : start + size])
                time.sleep(pause)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it was refused before its end
        found = b""
        try:
            while piece := connection.recv(65536):
                found += piece
        except OSError:
            pass
        return found


def lives(server: Server, clip: Path) -> None:
    assert len(server.send("/predict", file=clip).json) == 1 and server.uploads() == []


def test_a_bomb_in_a_zip_called_mp4_gets_its_line(server: Server, clip: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.mp4", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("zeros", bytes(20_000_000))
    answer = server.send("/predict", file=tmp_path / "bomb.mp4")
    assert answer.status == 422 and "bomb.mp4" in answer.error
    lives(server, clip)


def test_a_header_that_claims_ten_gigabytes_gets_its_line_or_its_sound(server: Server, clip: Path) -> None:
    sound = np.zeros(16_000, np.int16).tobytes()
    head = b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0data\xff\xff\xff\xff"
    answer = server.send("/predict", file=("huge.wav", head + sound))
    assert answer.status == 200 and answer.json[0]["end"] <= 1.01
    lives(server, clip)


def test_a_hundred_thousand_fields_are_refused_at_the_first(server: Server, clip: Path) -> None:
    body, headers = form([(f"field{i}", "x") for i in range(100_000)])
    found = raw(server, request(body, headers))
    assert b" 400 " in found[:20] and b"Maximum number of fields is %d" % len(FIELDS) in found
    body, headers = form([("speakers", "") for _ in range(100_000)])
    assert b" 400 " in raw(server, request(body, headers))[:20]
    lives(server, clip)


def request(body: bytes, headers: dict[str, str], length: int | None = None) -> bytes:
    lines = {"Host": "localhost", "Content-Length": str(len(body) if length is None else length), **headers}
    head = ["POST /predict HTTP/1.1", *(f"{name}: {value}" for name, value in lines.items()), "", ""]
    return "\r\n".join(head).encode() + body


def test_an_upload_that_is_cut_off_leaves_nothing(server: Server, clip: Path) -> None:
    body, headers = form({"file": clip})
    raw(server, request(body[: len(body) // 2], headers, len(body)))
    raw(server, request(body, headers)[:40])
    lives(server, clip)


def test_an_endless_upload_is_ended_at_the_limit(server: Server, clip: Path) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    head += b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    chunk = b"%x\r\n%b\r\n" % (1 << 20, bytes(1 << 20))
    content = head + b"%x\r\n%b\r\n" % (len(part), part) + 70 * chunk
    assert b" 413 " in raw(server, content, pieces=70)[:20]
    lives(server, clip)


def test_a_very_slow_upload_is_given_up(server: Server, clip: Path) -> None:
    body, headers = form({"file": ("a.wav", bytes(600))})
    found: list[bytes] = []
    slow = threading.Thread(target=lambda: found.append(raw(server, request(body, headers), 0.5, 60)))
    slow.start()
    lives(server, clip)  # nobody waits for it
    slow.join()
    assert b" 408 " in found[0][:20]
    lives(server, clip)


def test_headers_without_end_are_refused(server: Server, clip: Path) -> None:
    found = raw(server, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + bytes(1 << 20).replace(b"\0", b"a"))
    assert b" 400 " in found[:20] or not found
    lives(server, clip)


def test_nothing_outside_of_its_folder_is_written(server: Server, clip: Path, tmp_path: Path) -> None:
    outside = sorted(str(path) for path in tmp_path.parent.rglob("*"))
    for name in ("../../../escape.mp4", "/etc/escape.mp4", "..\\..\\escape.mp4", "%2e%2e%2fescape.mp4"):
        found = server.send("/predict", file=(name, clip.read_bytes())).json
        assert "/" not in found[0]["file"] and "\\" not in found[0]["file"]
    assert sorted(str(path) for path in tmp_path.parent.rglob("*")) == outside
    assert json.loads(server.ask("GET", "/health").body)["status"] == "ok"
