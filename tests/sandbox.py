"""What both harnesses need: a tiny corpus with all that is made of it, and verbs in watched, forked processes."""

import csv
import faulthandler
import os
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TABLE = """title: two rows
corpus: table
rows:
  - {name: a, settings: {}, paper: {accuracy: 70.0}}
  - {name: b, settings: {model.lvc: false}}
claims: [{better: a, than: b}]
"""
HUNG, FULL, CRASHED = -1, -2, -3  # in place of an exit status
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Outcome:
    """What became of a forked call; seconds are of the processor, bytes the most that it held."""

    status: int
    stderr: str
    seconds: float
    peak: int


def verb(*arguments: object) -> int:
    """Run a verb as the shell would."""
    from wavfusion.cli.app import main

    return main([str(each) for each in arguments])


def build(folder: Path) -> None:
    """Make a corpus of 16 clips and everything that verbs make of it, in this process, which has then imported all."""
    import torch
    from corpus_fixture import EMOTIONS, WORDS, write_clip

    torch.set_num_threads(1)  # threads do not survive a fork
    rows = []
    for i in range(16):
        emotion, part = EMOTIONS[i % 4], ("train", "train", "valid", "test")[i // 4]
        path = f"clips/{i:02d}.{'wav' if i % 4 == 1 else 'mp4'}"
        write_clip(folder / "raw" / path, emotion, 0.5 + 0.05 * (i % 4), i)
        row = {"id": f"u{i:02d}", "audio": path, "video": "" if i % 4 == 1 else path, "text": f"{WORDS[emotion]} {i}"}
        row |= {"emotion": emotion, "split": part, "speaker": f"{part}-{i % 2}", "dialogue": f"{part}-{i // 2}"}
        rows.append(row | {"index": str(i % 2), "start": "", "end": ""})
    with open(folder / "raw/table.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (folder / "t.yaml").write_text(TABLE)
    manifest, store, run = folder / "prep/manifest.jsonl", folder / "store", folder / "run"
    for command in (
        ("prepare", "table", folder / "raw", "--out", folder / "prep"),
        ("extract", manifest, "--store", store, "--preset", "tiny", "--layers", "8,9,10,11,12"),
        ("train", "--config", "paper", *inputs(folder), "--out", run, *SHORT),
        ("evaluate", run, "--explain"),
        ("bundle", run, "--out", folder / "bundle.zip", "--with-truth"),
        ("report", run),
        ("report", manifest),
        ("check", manifest, "--against", run),
        ("predict", folder / "raw/clips/00.mp4", "--model", run, "--out", folder / "seen.html"),
    ):
        assert verb(*command) == 0, command
    shutil.rmtree(run / "tensorboard")  # its names hold the time


SHORT = ("--train.epochs", "1", "--train.batch_size", "8")


def inputs(folder: Path) -> tuple[str | Path, ...]:
    """The flags of a training's corpus and features."""
    return "--manifest", folder / "prep/manifest.jsonl", "--store", folder / "store"


@contextmanager
def workspace() -> Iterator[Path]:
    """A temporary folder with `build`'s work; messages of that are dropped."""
    with tempfile.TemporaryDirectory(prefix="wavfusion-harness-") as name:
        os.environ["MPLCONFIGDIR"] = f"{name}/matplotlib"
        said, kept = os.open(f"{name}/said", os.O_CREAT | os.O_WRONLY), [os.dup(1), os.dup(2)]
        os.dup2(said, 1), os.dup2(said, 2)
        try:
            build(Path(name))
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os.dup2(kept[0], 1), os.dup2(kept[1], 2)
        yield Path(name)


def fork(call: Callable[[], int], folder: Path) -> int:
    """Start a call in a process of its own session, with `folder` as its home; returns the process's id."""
    for name in ("home", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    if pid := os.fork():
        return pid
    status = 70
    try:
        os.setsid()
        said = os.open(folder / "stderr", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDWR), 0), os.dup2(0, 1), os.dup2(said, 2)
        faulthandler.enable(2)
        os.environ |= {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")}
        tempfile.tempdir = None
        os.chdir(folder)
        warnings.resetwarnings()
        # Its own processes must not load this program again, as those of `python -m wavfusion` do not.
        sys.modules["__main__"].__dict__.pop("__file__", None)
        sys.modules["__main__"].__spec__ = None
        status = call()
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stderr.flush()
        finally:
            os._exit(status)


def run(call: Callable[[], int], folder: Path, seconds: float, memory: int) -> Outcome:
    """Wait for a forked call; one above its limits is ended, and where it was stands in `stderr`."""
    pid = fork(call, folder)
    watched, began, ended, peak = os.pidfd_open(pid), time.monotonic(), 0, 0
    while not select.select([watched], [], [], 0.05)[0]:
        peak = max(peak, int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        used = sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])) / TICKS
        if used > seconds or time.monotonic() - began > 6 * seconds:  # a loaded machine is no hang
            ended = HUNG
        elif peak > memory:
            ended = FULL
        if ended:
            os.kill(pid, signal.SIGABRT)
            select.select([watched], [], [], 2)
            break
    os.close(watched)
    os.kill(pid, signal.SIGKILL)
    _, status, used_of = os.wait4(pid, 0)
    code = ended or (os.WEXITSTATUS(status) if os.WIFEXITED(status) else CRASHED)
    stderr = (folder / "stderr").read_text("utf-8", "replace") if (folder / "stderr").exists() else ""
    stderr = stderr.partition("\nExtension modules:")[0]  # of the fault handler's report
    return Outcome(code, stderr, used_of.ru_utime + used_of.ru_stime, max(peak, used_of.ru_maxrss << 10))


def session(leader: int) -> list[int]:
    """Living processes that a forked call has started and left."""
    found = []
    for each in Path("/proc").iterdir():
        try:
            fields = (each / "stat").read_text().rpartition(")")[2].split() if each.name.isdigit() else []
        except OSError:
            continue
        if fields and int(fields[3]) == leader and fields[0] not in "ZX":
            found.append(int(each.name))
    return found


def listing(folder: Path, *but: str) -> dict[str, tuple[int, int]]:
    """Size and time of change of everything in a folder, without what begins with one of some names."""
    found = {}
    for place, folders, files in os.walk(folder):
        names = {name: os.path.relpath(os.path.join(place, name), folder) for name in (*folders, *files)}
        folders[:] = [name for name in folders if not names[name].startswith(but)]  # others' cases come and go
        for name in (each for each in files if not names[each].startswith(but)):
            about = os.lstat(os.path.join(place, name))
            found[names[name]] = about.st_size, about.st_mtime_ns
    return found
