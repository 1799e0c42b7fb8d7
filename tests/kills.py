"""Verbs killed at random moments and run again: `python tests/kills.py --count 1000 --seed 0`."""

import argparse
import csv
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import sandbox
from sandbox import inputs, verb

SETTLED = 15.0  # seconds in which the processes of a killed verb must have ended: one that is importing sees it late
NOTE = b"a note of the user's\n"


@dataclass(frozen=True)
class Scenario:
    """A verb to be killed.

    Attributes:
        command: its arguments, given the workspace and the folder of its results.
        again: flags of the run after the kill, and of one that finds an earlier result.
        compared: results that equal those of an undisturbed run byte for byte, as patterns.
        kept: with `again`, an earlier result stands until the new one takes its place.
    """

    command: Callable[[Path, Path], tuple[Any, ...]]
    again: tuple[str, ...]
    compared: tuple[str, ...]
    kept: bool = False


TWO_EPOCHS = ("--train.epochs", "2", "--train.batch_size", "4")
ONE_WORKER = ("--workers", "1", *sandbox.SHORT)
SCENARIOS = {
    "extract": Scenario(
        lambda place, out: ("extract", place / "prep/manifest.jsonl", "--store", out, "--preset", "tiny"), (), ()
    ),
    "train": Scenario(
        lambda place, out: ("train", "--resume", "--config", "paper", *inputs(place), "--out", out, *TWO_EPOCHS),
        (),
        ("model.safetensors", "metrics.json", "predictions.csv", "config.json", "protocol.json"),
    ),
    "predict": Scenario(
        lambda place, out: ("predict", place / "raw/clips", "--model", place / "run", "--out", out, "--format", "json"),
        (),
        ("*.json",),
    ),
    "prepare": Scenario(
        lambda place, out: ("prepare", "table", place / "raw", "--out", out),
        ("--force",),
        ("manifest.jsonl", "corpus.json", "exclusions.json"),
        kept=True,
    ),
    "evaluate": Scenario(
        lambda place, out: ("evaluate", place / "run", "--explain", "--out", out),
        ("--force",),
        ("metrics.json", "predictions.csv", "explain.json"),
        kept=True,
    ),
    "reproduce": Scenario(
        lambda place, out: ("reproduce", place / "t.yaml", *inputs(place), "--out", out, "--seeds", "1", *ONE_WORKER),
        (),
        ("results-t.csv", "**/predictions.csv", "**/metrics.json"),
    ),
    "bundle": Scenario(
        lambda place, out: ("bundle", place / "run", "--out", out / "b.zip", "--with-truth"),
        ("--force",),
        ("b.zip",),
        kept=True,
    ),
    "lookalike": Scenario(
        lambda place, out: ("lookalike", "meld", "--out", out, "--parts", "2,2,2", "--speakers", "3"),
        ("--force",),
        ("**/*",),
    ),
}


def torn(path: Path) -> str:
    """What keeps a file from being read as a whole; nothing where it is whole, or of a kind that is not checked."""
    import torch
    import yaml
    from safetensors import safe_open

    try:
        match path.suffix:
            case ".json":
                json.loads(path.read_bytes())
            case ".jsonl":
                for line in path.read_text().splitlines():
                    json.loads(line)
            case ".csv":
                if len({len(row) for row in csv.reader(path.read_text().splitlines(), strict=True)}) != 1:
                    return "rows of several lengths"
            case ".safetensors":
                with safe_open(path, "pt") as file:
                    _ = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
            case ".zip":
                with zipfile.ZipFile(path) as archive:
                    return archive.testzip() or ""
            case ".yaml":
                yaml.safe_load(path.read_text())
            case ".html":
                return "" if path.read_text().rstrip().endswith("</html>") else "no end"
            case ".pt" | ".pth" | ".bin":
                torch.load(path, weights_only=False)
    except Exception as error:  # whatever a parser meets
        return f"{type(error).__name__}: {error}"
    return ""


def unfinished(path: Path) -> bool:
    """Whether a file stands under a name that says so, or in a folder without the mark of a complete one."""
    checkpoint = next((each for each in path.parents if each.name.startswith("checkpoint-")), None)
    return path.name.startswith(".") or (checkpoint is not None and not (checkpoint / "complete").exists())


def results(scenario: Scenario, out: Path) -> dict[str, bytes]:
    """The bytes of the results that must be equal."""
    found = {path for pattern in scenario.compared for path in out.glob(pattern) if path.is_file()}
    found = {path for path in found if path.name != "note.txt" and not unfinished(path)}
    return {str(path.relative_to(out)): path.read_bytes() for path in found}


def features(out: Path) -> dict[str, np.ndarray]:
    """Every feature of a store."""
    from wavfusion.features.store import Store

    store = Store(out)
    return {key: store.read(key).float().numpy() for key in store.keys()}  # noqa: SIM118 - a store is no dictionary


def differences(verb_name: str, reference: Path, out: Path) -> str:
    """Where results differ from those of an undisturbed run."""
    if verb_name == "extract":
        stored, again = features(reference), features(out)
        # What shares a batch moves the last digits: about two steps of half precision.
        equal = [key for key in stored.keys() & again if np.allclose(stored[key], again[key], 4e-3, 4e-3)]
        found = f"features: {len(equal)} of {len(stored)} equal, {len(again)} stored"
        return found if len(equal) < max(len(stored), len(again)) else ""
    scenario = SCENARIOS[verb_name]
    wanted, made = results(scenario, reference), results(scenario, out)
    differ = [name for name in wanted.keys() | made.keys() if wanted.get(name) != made.get(name)]
    return f"results differ: {', '.join(sorted(differ)[:3])}" if differ else ""


def settle(leader: int) -> str:
    """Wait until no process of a killed verb is left; names, and ends, those that stay."""
    until = time.monotonic() + SETTLED
    while (left := sandbox.session(leader)) and time.monotonic() < until:
        time.sleep(0.05)
    name = ""
    for each in left:
        with suppress(OSError):  # it has just ended
            name = Path(f"/proc/{each}/cmdline").read_bytes().replace(b"\0", b" ").decode()[-120:]
            os.kill(each, signal.SIGKILL)
    return f"orphans: {len(left)}: {name}" if left else ""


@dataclass(frozen=True)
class Result:
    """One kill; `share` is the moment, of the seconds that the verb takes undisturbed."""

    number: int
    verb: str
    share: float
    problem: str
    detail: str = ""


TAKES: dict[str, float] = {}  # seconds of each verb, in this process


def kill_once(place: Path, failures: Path, seed: int, number: int) -> Result:
    """Kill a verb, look at what it left, run it again and compare."""
    rng, name = random.Random(f"{seed}/{number}"), list(SCENARIOS)[number % len(SCENARIOS)]
    scenario, reference = SCENARIOS[name], place / "undisturbed" / name
    earlier, share = bool(scenario.again) and rng.random() < 0.5, rng.random()
    known = sandbox.listing(place, "case-", "matplotlib", "said")
    root = Path(tempfile.mkdtemp(prefix="case-", dir=place))
    out = root / "out"
    try:
        for _ in range(20):
            shutil.rmtree(root)
            shutil.copytree(reference, out) if earlier else out.mkdir(parents=True)
            notes = [root / "note.txt", out / "note.txt"][: 1 if name == "lookalike" else 2]
            for note in notes:
                note.write_bytes(NOTE)
            command = scenario.command(place, out)
            if leader := _kill(partial(verb, *command, *scenario.again * earlier), root, name, share):
                break
        else:
            return Result(number, name, share, "never killed: it always ended before")
        problem = settle(leader) or _left(out, scenario, reference, earlier)
        outcome = sandbox.run(partial(verb, *command, *scenario.again), root, 300, 4 << 30)
        problem = problem or _rerun(outcome) or differences(name, reference, out)
        if any(note.read_bytes() != NOTE for note in notes if note.exists()) or not all(map(Path.exists, notes)):
            problem = problem or "lost: the user's note"
        after = sandbox.listing(place, "case-", "matplotlib", "said")
        if changed := [each for each in known if after.get(each) != known[each]]:
            problem = problem or f"lost: {changed[0]} is another"
        if problem:
            shutil.copytree(root, failures / f"{name}-{seed}-{number}", dirs_exist_ok=True, symlinks=True)
        return Result(number, name, share, problem, outcome.stderr[-2000:] if problem else "")
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _kill(call: Callable[[], int], root: Path, name: str, share: float) -> int:
    """Start a verb and kill it after a share of its time; returns its process, 0 where it ended before."""
    leader = sandbox.fork(call, root)
    time.sleep(share * TAKES[name])
    os.kill(leader, signal.SIGKILL)  # of a process that has ended, too, until it is waited for
    _, status = os.waitpid(leader, 0)
    TAKES[name] *= 1.05 if os.WIFSIGNALED(status) else 0.8  # the load of the machine changes
    if os.WIFSIGNALED(status):
        return leader
    settle(leader)
    return 0


def _left(out: Path, scenario: Scenario, reference: Path, earlier: bool) -> str:
    """What is wrong with what a killed verb left."""
    for path in sorted(out.rglob("*")):
        if path.is_file() and not unfinished(path) and (why := torn(path)):
            return f"torn: {path.relative_to(out)}: {why[:100]}"
    if earlier and scenario.kept:
        wanted, there = results(scenario, reference), results(scenario, out)
        if lost := [name for name in wanted if there.get(name) != wanted[name]]:
            return f"lost: the earlier {lost[0]}"
    return ""


def _rerun(outcome: sandbox.Outcome) -> str:
    lines = outcome.stderr.strip().splitlines() or [""]
    if outcome.status or "Traceback" in outcome.stderr:
        return f"run again: status {outcome.status}: {lines[-1][-150:]}"
    return ""


def prepare(place: Path, names: Iterable[str]) -> None:
    """Run every verb undisturbed, in a forked process as the others."""
    for name in names:
        out = place / "undisturbed" / name
        out.mkdir(parents=True)
        began, home = time.monotonic(), Path(tempfile.mkdtemp(prefix="case-", dir=place))
        outcome = sandbox.run(partial(verb, *SCENARIOS[name].command(place, out)), home, 300, 4 << 30)
        assert outcome.status == 0, outcome
        TAKES[name] = time.monotonic() - began
        sys.stderr.write(f"{name}: {TAKES[name]:.1f} s undisturbed\n")


def main() -> int:
    """Kill verbs in several processes and count what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbs", default=",".join(SCENARIOS), help="of " + ", ".join(SCENARIOS))
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--failures", type=Path, default=Path("runs/kills"), help="where what was left is kept")
    options = parser.parse_args()
    chosen, names = options.verbs.split(","), list(SCENARIOS)
    numbers = [n for n in range(len(names) * options.count) if names[n % len(names)] in chosen][: options.count]
    began, found = time.monotonic(), list[Result]()
    with sandbox.workspace() as place:
        prepare(place, [name for name in names if name in chosen])
        work = partial(kill_once, place, options.failures.absolute(), options.seed)
        with ProcessPoolExecutor(options.workers, get_context("fork")) as pool:
            for done in as_completed([pool.submit(work, number) for number in numbers]):
                found.append(each := done.result())
                if len(found) % 50 == 0:
                    sys.stderr.write(f"{len(found)} of {len(numbers)} after {time.monotonic() - began:.0f} s\n")
                if each.problem:
                    sys.stderr.write(f"{each.number} {each.verb} at {each.share:.2f}: {each.problem}\n{each.detail}\n")
    bad = [each for each in found if each.problem]
    lines = [f"{len(found)} kills, seed {options.seed}, {time.monotonic() - began:.0f} s, {len(bad)} problems"]
    lines += [f"{verb_name:>12} {count}" for verb_name, count in Counter(each.verb for each in found).items()]
    kinds = Counter(f"{each.verb}: {each.problem.partition(':')[0]}" for each in bad)
    lines += [f"  {count:4} x {kind}" for kind, count in kinds.most_common()]
    sys.stdout.write("\n".join(lines) + "\n")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
