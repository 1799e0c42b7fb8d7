"""Mutated inputs, each made again from a seed and its number: `python tests/hostile.py --count 10000 --seed 0`."""

import argparse
import csv
import gc
import json
import os
import random
import re
import shutil
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context, util
from pathlib import Path
from typing import Any, TypeAlias

import sandbox
from mutations import (
    CODECS,
    TRANSCRIPTS,
    Random,
    make_request,
    mutate,
    mutate_bundle,
    mutate_media,
    mutate_transcript,
    replace_file,
    write_media,
)
from sandbox import inputs, verb

SECONDS, MEMORY, LONGEST_LINE = 20.0, 2 << 30, 1200
PATIENCE = 2.0  # seconds for the rest of a request that is cut off
KINDS = ("media", "transcripts", "tables", "manifests", "yaml", "runs", "bundles", "http")
OWN = (
    "case-",
    "tmp",
    "matplotlib",
    "store/media.jsonl",
)  # of the workspace: the last is what `check` has seen of media
Call: TypeAlias = Callable[[], int]


def _copy(place: Path, folder: Path, *names: str) -> None:
    for name in names:
        shutil.copytree(place / name, folder / name, copy_function=os.link)


def _python(read: Callable[[Path], Any], path: Path) -> int:
    """Call a reader of ours as a user's program would, which expects our three errors, and those of the disk."""
    from wavfusion.errors import ConfigError, CorpusError, MediaError

    try:
        read(path)
    except (ConfigError, CorpusError, MediaError, OSError) as error:
        sys.stderr.write(f"wavfusion: {error}\n")
        return 2
    return 0


def _decode(path: Path) -> None:
    from wavfusion import media

    media.probe(path)
    media.decode_audio(path)
    media.decode_frames(path, 5.0, (64, 64))


def _media(rng: Random, place: Path, folder: Path) -> Call:
    ending, other = rng.choice(list(CODECS)), rng.choice(list(CODECS))
    path = folder / f"m.{rng.choice([*9 * [ending], other])}"
    seed, joined = (place / f"media/m.{each}" for each in (ending, other))
    path.write_bytes(mutate_media(rng, seed.read_bytes(), ending, joined.read_bytes()))
    if rng.random() < 0.4:
        return partial(_python, _decode, path)
    if rng.random() < 0.2:
        (folder / "t.csv").write_text(f"id,audio,video,text,emotion\na,{path.name},{path.name},x,sad\n")
        return partial(verb, "prepare", "table", folder / "t.csv", "--out", folder / "out")
    out = folder / "out" / rng.choice(["x.json", "x.csv", "x.html", "x.eaf"])
    return partial(verb, "predict", path, "--model", place / "run", "--out", out)


def _transcript(rng: Random, place: Path, folder: Path) -> Call:
    ending, other = rng.choice(list(TRANSCRIPTS)), rng.choice(list(TRANSCRIPTS))
    path = folder / f"t.{rng.choice([*9 * [ending], other])}"
    path.write_bytes(mutate_transcript(rng, ending))
    if rng.random() < 0.6:
        from wavfusion import transcripts

        return partial(_python, transcripts.read, path)
    out = folder / "out" / rng.choice(["x.json", "x.vtt", "x.TextGrid", "x.eaf"])
    command = "predict", place / "media/m.wav", "--model", place / "run", "--out", out
    return partial(verb, *command, "--transcript", path)


def _table(rng: Random, place: Path, folder: Path) -> Call:
    _copy(place, folder, "raw")
    table = folder / f"raw/table.{rng.choice(['csv', 'csv', 'tsv', 'jsonl'])}"
    rows = list(csv.DictReader((place / "raw/table.csv").read_text().splitlines()))
    (folder / "raw/table.csv").unlink()
    with open(table, "w", newline="") as file:
        if table.suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if table.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    table.write_bytes(mutate(rng, table))
    flags = rng.choice([[], [], ["--no-scan"], ["--down-mix", "left"], ["--columns", "audio=video,video=audio"]])
    return partial(verb, "prepare", "table", table, "--out", folder / "out", *flags)


def _manifest(rng: Random, place: Path, folder: Path) -> Call:
    _copy(place, folder, "prep", "store")
    (folder / "split.csv").write_bytes((place / "run/split.csv").read_bytes())
    kept = [path for path in folder.rglob("*") if path.suffix in (".json", ".jsonl", ".csv", ".safetensors")]
    kept.sort(key=lambda path: (path.suffix, path.stat().st_size))
    replace_file(rng, rng.choice(kept[: -1 if rng.random() < 0.5 else None]))
    manifest, store, out = folder / "prep/manifest.jsonl", folder / "store", folder / "out"
    protocol = ["--protocol", folder / "split.csv"]
    return partial(
        verb,
        *rng.choice(
            [
                ("check", manifest),
                ("check", manifest, *protocol),
                ("check", manifest, "--against", place / "run"),
                ("report", manifest, "--out", out / "r.html"),
                ("extract", manifest, "--store", store, "--preset", "tiny"),
                ("train", "--config", "paper", *inputs(folder), "--out", out / "run", *sandbox.SHORT, *protocol),
                ("evaluate", place / "run", *inputs(folder), "--out", out / "e", "--split", "all"),
            ]
        ),
    )


def _read_yaml(path: Path) -> None:
    from wavfusion.encoders.presets import read_preset
    from wavfusion.experiments.experiment import read_experiment
    from wavfusion.study.tables import read_table_file

    read: dict[str, Callable[[str], Any]] = {"e": read_experiment, "p": read_preset, "t": read_table_file}
    read[path.stem](str(path))


PRESET = "audio: tiny\ntext: tiny\nvideo: tiny\nframe_rate: 5.0\npretrained_rate: 0.003\nnew_rate: 0.003\n"


def _yaml(rng: Random, place: Path, folder: Path) -> Call:
    what = rng.choice("ept")
    path = folder / f"{what}.yaml"
    shipped = {"e": place / "run/experiment.yaml", "t": place / "t.yaml"}
    path.write_bytes(shipped[what].read_bytes() if what in shipped else PRESET.encode())
    replace_file(rng, path)
    if rng.random() < 0.7:
        return partial(_python, _read_yaml, path)
    corpus, out = inputs(place), folder / "out"
    commands: dict[str, tuple[Any, ...]] = {
        "e": ("train", "--config", path, *corpus, "--out", out, *sandbox.SHORT),
        "p": ("extract", corpus[1], "--store", out, "--preset", path),
        "t": ("reproduce", path, *corpus, "--out", out, "--seeds", "99999999999", "--protocol", "nonesuch"),
    }
    return partial(verb, *commands[what])


def _run(rng: Random, place: Path, folder: Path) -> Call:
    _copy(place, folder, "run")
    run, out = folder / "run", folder / "out"
    light = [path for path in sorted(run.rglob("*")) if path.is_file() and path.suffix not in (".html", ".txt")]
    top = [path for path in light if path.parent == run]
    path = rng.choice(rng.choice([top, top, light]))
    replace_file(rng, path)
    clip = place / "raw/clips/00.mp4"
    commands: list[tuple[Any, ...]] = [
        ("evaluate", run, "--out", out),
        ("report", run, "--out", out / "r.html"),
        ("report", run, place / "run", "--out", out / "r.html"),
        ("bundle", run, "--out", out / "b.zip"),
        ("check", place / "prep/manifest.jsonl", "--against", run),
        ("predict", clip, "--model", run, "--out", out / "x.json"),
        ("push", run, f"{out}/pushed"),
        ("train", "--resume", "--config", "paper", *inputs(place), "--out", run, *sandbox.SHORT),
    ]
    return partial(verb, *rng.choice(commands))


def _bundle(rng: Random, place: Path, folder: Path) -> Call:
    path = folder / "b.zip"
    path.write_bytes(mutate_bundle(rng, place / "bundle.zip"))
    known = ["--manifest", place / "prep/manifest.jsonl"] if rng.random() < 0.3 else []
    return partial(verb, "evaluate", path, "--out", folder / "out", *known)


MAKE: dict[str, Callable[[Random, Path, Path], Call]] = {
    "media": _media, "transcripts": _transcript, "tables": _table, "manifests": _manifest, "yaml": _yaml, "runs": _run,
    "bundles": _bundle,
}  # fmt: skip


# ---------------------------------------------------------------------- HTTP
@cache
def _server(place: Path) -> Any:
    from server import Server

    made = Server(place / "run", Path(tempfile.mkdtemp(dir=place)), "--max-minutes", "1", "--max-megabytes", "4")
    util.Finalize(None, made.end, exitpriority=1)
    return made


def _receive(connection: socket.socket) -> bytes:
    """The next bytes of an answer; a server that waits for more of the request is told that there is none."""
    try:
        return connection.recv(1 << 16)
    except TimeoutError:
        connection.settimeout(6 * SECONDS)
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(1 << 16)


def _exchange(server: Any, request: bytes) -> tuple[str, int]:
    """Send a request; returns what is wrong with the server after it, or nothing, and the status."""
    before, began, answer = len(server.said()), time.monotonic(), b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        try:
            connection.sendall(request)
            while chunk := _receive(connection):
                answer += chunk
        except TimeoutError:
            return f"hung: no answer within {time.monotonic() - began:.0f} s", 0
        except OSError:
            pass  # refused before all of it was sent
    found = re.match(rb"HTTP/1\.1 (\d+) ", answer)
    status = int(found[1]) if found else 0
    if answer and status in (0, 500, 502, 504):
        return f"answered {answer[:200]!r}", status
    if server.ask("GET", "/health").status != 200:
        return "ill: /health does not answer 200", status
    said = server.said()[before:].decode("utf-8", "replace")
    resident = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * 4096
    return (said if "Traceback" in said else "memory" if resident > MEMORY else ""), status


# ---------------------------------------------------------------------- the harness
@dataclass(frozen=True)
class Result:
    """One case; `problem` is empty where everything held."""

    number: int
    kind: str
    problem: str = ""
    detail: str = ""
    status: int = 0
    seconds: float = 0.0
    peak: int = 0


def judge(outcome: sandbox.Outcome, stray: list[str]) -> str:
    """What is wrong with an outcome, in words by which equal faults are counted together; nothing where it is right."""
    said, status = outcome.stderr, outcome.status
    if "Traceback (most recent call last)" in said or status < 0:
        raised = re.findall(r"^(\w[\w.]*(?:Error|Exception|Interrupt|Exit|Warning)\w*)\b", said, re.MULTILINE)
        places = re.findall(r'File "[^"]*?(wavfusion/[^"]+)", line (\d+)', said)
        order = places[:1] if "Current thread" in said or "most recent call first" in said else places[-1:]
        name = {sandbox.HUNG: "hang", sandbox.FULL: "memory", sandbox.CRASHED: "crash"}.get(status, "trace")
        return f"{' '.join([name, *raised[-1:]])} at {':'.join(order[0]) if order else 'nowhere'}"
    if stray:
        return f"written outside: {stray[0]}"
    if found := re.search(r"^\S+?([^/\s]+\.py:\d+): (\w*Warning)", said, re.MULTILINE):
        return f"foreign warning {found[2]} at {found[1]}"
    if status not in (0, 1, 2):
        return f"status {status}"
    if status == 2 and not re.search(r"^wavfusion: \S", said, re.MULTILINE):
        return "status 2 without a message"
    if long := next((each for each in said.splitlines() if len(each) > LONGEST_LINE), ""):
        return f"a message without bound: {re.sub(r'/[^ ]*/', '', long)[:60]}"
    return ""


def run_case(place: Path, failures: Path, seed: int, number: int, keep: bool = False) -> Result:
    """Make, run and judge one case; the inputs of one that fails stay in `failures`."""
    rng, kind = random.Random(f"{seed}/{number}"), KINDS[number % len(KINDS)]
    name = f"{kind}-{seed}-{number}"
    if kind == "http":
        request, server = make_request(rng, (place / "media/m.wav").read_bytes()), _server(place)
        began = time.monotonic()
        problem, status = _exchange(server, request)
        if problem or keep:
            failures.mkdir(parents=True, exist_ok=True)
            (failures / name).write_bytes(request)
        lines = [each for each in problem.splitlines() if each.strip()]
        return Result(number, kind, lines[-1][:100] if lines else "", problem[-3000:], status, time.monotonic() - began)
    root = Path(tempfile.mkdtemp(prefix="case-", dir=place))
    folder = root / "a/b/case"  # so that `../..` is seen
    folder.mkdir(parents=True)
    try:
        call = MAKE[kind](rng, place, folder)
        known = sandbox.listing(root)
        outcome = sandbox.run(call, folder, SECONDS, MEMORY)
        # A store and a RUN that is resumed are what a verb writes to; `check` notes what it saw beside the manifest.
        written = [f"a/b/case/{each}" for each in ("out", "stderr", "store", "prep/media.jsonl")]
        written += ["a/b/case/run"] * ("--resume" in getattr(call, "args", ()))
        after = sandbox.listing(root, *written)
        stray = [each for each in after if after[each] != known.get(each)]
        stray += [each for each in known if each not in after and not each.startswith(tuple(written))]
        problem = judge(outcome, sorted(stray))
        if problem or keep:
            shutil.rmtree(failures / name, ignore_errors=True)
            shutil.copytree(folder, failures / name, symlinks=True, ignore=_uncopied)
        return Result(number, kind, problem, outcome.stderr[-3000:], outcome.status, outcome.seconds, outcome.peak)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _uncopied(folder: str, names: list[str]) -> list[str]:
    return [each for each in names if each in ("home", "tmp") or Path(folder, each).is_fifo()]


def _load(place: Path) -> None:
    """Write the media, and load the model once for all cases that only use it."""
    from wavfusion.prediction.recognizer import EmotionRecognizer

    (place / "media").mkdir()
    for ending in CODECS:
        write_media(place / f"media/m.{ending}")
    load = EmotionRecognizer.from_pretrained
    loaded = load(str(place / "run"))

    def from_pretrained(name: str, *more: Any, **options: Any) -> Any:
        return loaded if str(name) == str(place / "run") else load(name, *more, **options)

    EmotionRecognizer.from_pretrained = from_pretrained  # type: ignore[method-assign, assignment]


def report(results: list[Result], seed: int, seconds: float, failures: Path) -> str:
    """Counts by kind, and every problem with its number of cases and one to replay."""
    lines = [f"{len(results)} cases, seed {seed}, {seconds:.0f} s"]
    for kind in KINDS:
        own = [each for each in results if each.kind == kind]
        if not own:
            continue
        counts = sorted(Counter(each.status for each in own).items())
        statuses = " ".join(f"{status}: {count}" for status, count in counts)
        slowest, peak = max(own, key=lambda each: each.seconds), max(each.peak for each in own)
        bad = sum(bool(each.problem) for each in own)
        most = f"at most {slowest.seconds:.1f} s (case {slowest.number}), {peak >> 20} MB"
        lines.append(f"{kind:>12} {len(own):6} cases, {bad:5} problems; status {statuses}; {most}")
    for (kind, problem), count in Counter((each.kind, each.problem) for each in results if each.problem).most_common():
        first = next(each.number for each in results if (each.kind, each.problem) == (kind, problem))
        lines.append(f"  {count:5} x {kind}: {problem}; --replay {first}")
    return "\n".join([*lines, f"inputs and messages: {failures}"] if any(each.problem for each in results) else lines)


def main() -> int:
    """Run cases in several processes, or one again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS), help="of " + ", ".join(KINDS))
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--failures", type=Path, default=Path("runs/mutations"), help="where inputs that fail are kept")
    parser.add_argument("--replay", type=int, help="run this case alone, keep its input and show what it says")
    options = parser.parse_args()
    numbers = [n for n in range(len(KINDS) * options.count) if KINDS[n % len(KINDS)] in options.kinds.split(",")]
    numbers, began, results = numbers[: options.count], time.monotonic(), list[Result]()
    failures = options.failures.absolute()
    with sandbox.workspace() as place:
        _load(place)
        kept = sandbox.listing(place, *OWN)
        gc.freeze()  # what is collected after a fork is copied
        if options.replay is not None:
            results = [run_case(place, failures, options.seed, options.replay, keep=True)]
            sys.stdout.write(f"{results[0].detail}\n")
        else:
            work = partial(run_case, place, failures, options.seed)
            with ProcessPoolExecutor(options.workers, get_context("fork")) as pool:
                for done in as_completed([pool.submit(work, number) for number in numbers]):
                    results.append(each := done.result())
                    if each.problem:
                        failures.mkdir(parents=True, exist_ok=True)
                        with open(failures / "problems.jsonl", "a") as file:
                            file.write(json.dumps(vars(each)) + "\n")
                        sys.stderr.write(f"{each.number} {each.kind}: {each.problem}\n")
        changed = [each for each, about in sandbox.listing(place, *OWN).items() if kept.get(each, about) != about]
        sys.stdout.write(report(results, options.seed, time.monotonic() - began, failures) + "\n")
        if changed:
            sys.stdout.write(f"  changed outside of its case: {', '.join(changed[:9])}\n")
    return int(bool(changed) or any(each.problem for each in results))


if __name__ == "__main__":
    sys.exit(main())
