"""Work in several processes: every result once, whatever dies; on Ray too (`make test-slow`)."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.chores import never, squarer
from wavfusion import manifest
from wavfusion.cli.app import main
from wavfusion.errors import ConfigError, MediaError
from wavfusion.features import extract
from wavfusion.features.store import Store
from wavfusion.processes import pool
from wavfusion.processes.pool import Lost, spread
from wavfusion.processes.timing import timed

pytest_plugins = ("corpus_fixture",)

RAY = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra [ray], which `make test-slow` installs"),
]
ENGINES = ["processes", pytest.param("ray", marks=RAY)]


@pytest.mark.parametrize("engine", ENGINES)
def test_every_item_is_worked_on_once_by_as_many_processes(tmp_path: Path, engine: str) -> None:
    found = dict(spread(partial(squarer, tmp_path), range(8), 2, engine))
    results = {number: each for number, each in found.items() if not isinstance(each, Lost)}
    assert {number: each[0] for number, each in results.items()} == {number: number**2 for number in range(8)}
    assert 1 <= len({each[1] for each in results.values()}) <= 2 and len(list(tmp_path.iterdir())) == 8


@pytest.mark.parametrize("engine", ENGINES)
def test_a_process_that_dies_costs_what_it_was_doing_and_that_is_done_again(
    tmp_path: Path, engine: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = dict(spread(partial(squarer, tmp_path), [1, 20, 2, 3, 4], 2, engine))
    if engine == "processes":  # an actor of Ray says it on its own machine
        assert caplog.text.count("a process died (killed, or out of memory): its item is started again") == 1
    assert [found[i][0] for i in range(5)] == [1, 400, 4, 9, 16]
    begun = [path.name.split("-")[0] for path in tmp_path.iterdir()]
    assert sorted(begun) == ["1", "2", "20", "20", "3", "4"]


@pytest.mark.parametrize("engine", ENGINES)
def test_what_always_kills_its_process_is_given_up_and_the_others_are_done(tmp_path: Path, engine: str) -> None:
    found = dict(spread(partial(squarer, tmp_path), [1, 30, 2], 1, engine))
    assert isinstance(found[1], Lost) and "died 3 times" in found[1].reason
    assert [found[i][0] for i in (0, 2)] == [1, 4] and len(list(tmp_path.glob("30-*"))) == pool.TRIES


@pytest.mark.parametrize("engine", ENGINES)
def test_what_the_work_raises_is_raised(tmp_path: Path, engine: str) -> None:
    with pytest.raises(MediaError, match="no square"):
        list(spread(partial(squarer, tmp_path), [40], 2, engine))
    with pytest.raises(ConfigError, match="expected a model"):
        list(spread(never, [1], 1, engine))


@pytest.mark.parametrize("engine", ENGINES[1:])
def test_an_actor_of_a_cluster_that_dies_costs_what_it_was_doing(tmp_path: Path, engine: str) -> None:
    found = dict(spread(partial(squarer, tmp_path), [1, 50, 2, 3], 2, engine))
    assert [found[i][0] for i in range(4)] == [1, 2500, 4, 9]
    assert len(list(tmp_path.glob("50-*"))) == 2


def test_processes_end_with_whoever_wanted_their_results(tmp_path: Path) -> None:
    results = spread(partial(squarer, tmp_path), range(100), 2)
    _, first = next(results)
    results.close()
    assert not isinstance(first, Lost)
    with pytest.raises(ProcessLookupError):
        os.kill(first[1], 0)


IDLE = """
import sys
sys.path.insert(0, {tests!r})
from chores import locker
from wavfusion.processes.pool import spread
if __name__ == "__main__":
    print(sorted(spread(locker, [1, 2, 3], 2)))
"""


def test_idle_processes_end_by_themselves_and_leave_no_semaphore(tmp_path: Path) -> None:
    """They were killed, and Python warned of leaked semaphores at the end of `bench`."""
    (tmp_path / "program.py").write_text(IDLE.format(tests=str(Path(__file__).parent)))
    done = subprocess.run([sys.executable, tmp_path / "program.py"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[(0, 1), (1, 2), (2, 3)]\n", "")


PROGRAM = """
import sys
from functools import partial
from pathlib import Path
sys.path.insert(0, {tests!r})
from chores import sleeper
from wavfusion.processes.pool import spread
if __name__ == "__main__":
    list(spread(partial(sleeper, Path({folder!r})), [1], 1, preload={preload!r}))
"""


@pytest.mark.parametrize("preload", [None, "wavfusion.errors"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_a_parent_that_is_killed_or_interrupted(
    tmp_path: Path, how: signal.Signals, preload: str | None
) -> None:
    program = PROGRAM.format(tests=str(Path(__file__).parent), folder=str(tmp_path), preload=preload)
    (tmp_path / "program.py").write_text(program)
    parent = subprocess.Popen([sys.executable, tmp_path / "program.py"], stderr=subprocess.DEVNULL)
    wait_for(lambda: any(tmp_path.glob("*.pid")))
    (child,) = (int(path.stem) for path in tmp_path.glob("*.pid"))
    parent.send_signal(how)
    parent.wait()
    wait_for(lambda: not Path(f"/proc/{child}").exists())


def test_a_process_that_still_imports_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """A process looked for its parent when it had imported everything: those of `lookalike` outlived it by seconds."""
    program = PROGRAM.format(tests=str(Path(__file__).parent), folder=str(tmp_path), preload=None)
    program = program.replace("import sleeper", "import Importing").replace("partial(sleeper, Path", "Importing(Path")
    (tmp_path / "program.py").write_text(program)
    parent = subprocess.Popen([sys.executable, tmp_path / "program.py"], stderr=subprocess.DEVNULL)
    wait_for(lambda: any(tmp_path.glob("*.pid")))
    (child,) = (int(path.stem) for path in tmp_path.glob("*.pid"))
    parent.kill()
    parent.wait()
    wait_for(lambda: not Path(f"/proc/{child}").exists())


def test_a_killed_lookalike_leaves_no_process(tmp_path: Path) -> None:
    """Dialogues were rendered by children of children, which went on writing when the first of them were killed."""
    arguments = ["lookalike", "iemocap", "--out", str(tmp_path / "tree"), "--speakers", "6", "--parts", "26,4,4"]
    parent = subprocess.Popen([sys.executable, "-m", "wavfusion", *arguments], stderr=subprocess.DEVNULL)
    wait_for(lambda: any((tmp_path / "tree").rglob("*.*")))
    family = [child for child in descendants(parent.pid) if child != parent.pid]
    parent.kill()
    parent.wait()
    assert len(family) > 1
    wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in family))


def descendants(pid: int) -> list[int]:
    below = [int(name) for path in Path(f"/proc/{pid}/task").glob("*/children") for name in path.read_text().split()]
    return [pid, *(each for child in below for each in descendants(child))]


def test_every_item_gets_a_fresh_process_where_it_needs_one(tmp_path: Path) -> None:
    found = dict(spread(partial(squarer, tmp_path), range(5), 2, preload="wavfusion.errors", fresh=True))
    assert len({each[1] for each in found.values() if not isinstance(each, Lost)}) == 5


def test_a_timing_waits_for_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """`reproduce --dry-run` timed how long a GPU takes to be asked, not to compute."""
    order: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", order.append)
    timed(lambda: order.append("work"), "cuda:0")
    assert order == ["cuda:0", "work", "cuda:0"]


def wait_for(done: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not done():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_without_ray_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'wavfusion\[ray\]'"):
        list(spread(never, [1], 1, "ray"))


@pytest.mark.parametrize("engine", ENGINES)
def test_several_processes_store_the_features_that_one_does(
    made: Any, tmp_path: Path, engine: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Under the keys that one process gave them, each once, the same to half a unit of half precision or so."""
    rows = made.data.utterances[:24]
    about = manifest.read_corpus(made.manifest)
    one, several = (Store(tmp_path / name, create=True) for name in ("one", "several"))
    first = extract.extract(rows, about, one, made.encoders, workers=1)
    caplog.set_level("INFO")
    second = extract.extract(rows, about, several, made.encoders, workers=2, engine=engine)
    assert "extract: 24 of 24 utterances" in caplog.text
    assert (second.wanted, second.made, second.bad) == (first.wanted, first.made, [])
    assert set(one.keys()) == set(several.keys())
    assert max(float((one.read(key).float() - several.read(key).float()).abs().max()) for key in one.keys()) < 5e-3
    assert len(list((tmp_path / "several").glob("index-*"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_several_processes_label_as_one_does(
    trained: Path, made: Any, tmp_path: Path, engine: str, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """In the order of the files; a bad one is named at the end, and stops nobody."""
    paths = sorted({row.audio.path for row in made.data.part("test")})[:3]
    files = [str(made.root / path) for path in paths]
    files.insert(1, str(tmp_path / "bad.wav"))
    (tmp_path / "bad.wav").write_text("no audio")
    ask = ["predict", "--model", str(trained), *files, "--format", "json", "--device", "cpu"]
    assert main(ask) == 1
    alone = capsysbinary.readouterr()
    assert main([*ask, "--workers", "2", "--engine", engine]) == 1
    beside = capsysbinary.readouterr()
    one, other = json.loads(alone.out), json.loads(beside.out)
    assert [each["file"] for each in one] == [each["file"] for each in other]
    for mine, theirs in zip(one, other, strict=True):
        assert mine["emotion"] == theirs["emotion"] and mine["probabilities"] == pytest.approx(
            theirs["probabilities"], abs=1e-4
        )
    assert b"bad.wav" in beside.err.splitlines()[-1]
