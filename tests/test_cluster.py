"""Work in several processes: every result once, whatever dies; on Ray too (`make test-slow`)."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.chores import never, squarer
from wavfusion import manifest
from wavfusion.cli.app import main
from wavfusion.errors import ConfigError, MediaError
from wavfusion.features import extract
from wavfusion.features.store import Store
from wavfusion.processes import pool
from wavfusion.processes.pool import Lost, spread

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
        assert caplog.text.count("a process died (killed, or out of memory): what it was doing is done again") == 1
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


def test_processes_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys; from functools import partial; from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from chores import sleeper; from wavfusion.cluster import spread\n"
        f"if __name__ == '__main__': list(spread(partial(sleeper, Path({str(tmp_path)!r})), [1], 1))\n"
    )
    (tmp_path / "program.py").write_text(program)
    parent = subprocess.Popen([sys.executable, tmp_path / "program.py"])
    wait_for(lambda: any(tmp_path.glob("*.pid")))
    (child,) = (int(path.stem) for path in tmp_path.glob("*.pid"))
    parent.kill()
    parent.wait()
    wait_for(lambda: not Path(f"/proc/{child}").exists())


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
    assert "extract: 24 of 24 clips" in caplog.text
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
    sounds = sorted({row.audio.path for row in made.data.part("test")})[:3]
    files = [str(made.root / path) for path in sounds]
    files.insert(1, str(tmp_path / "bad.wav"))
    (tmp_path / "bad.wav").write_text("no sound")
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
