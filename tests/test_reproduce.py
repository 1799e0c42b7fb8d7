import csv
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from wavfusion import manifest
from wavfusion.cli.app import main
from wavfusion.errors import ConfigError, CorpusError
from wavfusion.features import extract
from wavfusion.features.store import Store
from wavfusion.metrics import scores
from wavfusion.study import reproduce, tables, trainings

pytest_plugins = ("corpus_fixture",)

MINE = """
title: Mine
corpus: table
rows:
  - {name: other system, published: {accuracy: 50.0}}
  - {name: audio, settings: {model.modalities: [audio]}, paper: {accuracy: 60.0}}
  - {name: text, settings: {model.modalities: [text]}}
  - {name: both, settings: {model.modalities: [audio, text]}, paper: {accuracy: 70.0, weighted_f1: 71.0}}
  - {name: not printed, settings: {model.modalities: [video]}, extra: true}
claims:
  - {better: both, than: audio}
"""
QUICK = ["--train.epochs", "2", "--train.batch_size", "8", "--workers", "1"]


@pytest.fixture(scope="module")
def corpus(made: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The fixture's corpus with all layers that the tables need, under the names of IEMOCAP, MELD and its own."""
    folder = tmp_path_factory.mktemp("tables")
    store = folder / "store"
    shutil.copytree(made.store, store)
    rows, about = manifest.read(made.manifest), manifest.read_corpus(made.manifest)
    extract.extract(rows, about, Store(store), made.encoders, audio_layers=(8, 9, 10, 11, 12), workers=1)
    paths = {}
    for name in ("iemocap", "meld", "table"):
        paths[name] = folder / name / "manifest.jsonl"
        manifest.write(paths[name], [replace(row, corpus=name) for row in rows])
        manifest.write_corpus(paths[name], replace(about, corpus=name))
    (folder / "mine.yaml").write_text(MINE)
    return SimpleNamespace(store=store, folder=folder, mine=folder / "mine.yaml", **paths)


def command(corpus: Any, out: Path, *more: str) -> list[str]:
    return [
        *("reproduce", str(corpus.mine), "--manifest", str(corpus.table), "--store", str(corpus.store)),
        *("--out", str(out), "--seeds", "2", "--device", "cpu", *QUICK, *more),
    ]


@pytest.fixture(scope="module")
def done(corpus: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small study of a table of the user's own, two seeds."""
    out = tmp_path_factory.mktemp("done")
    assert main(command(corpus, out)) == 0
    return out


def found(out: Path, name: str = "results-mine") -> dict[str, Any]:
    return json.loads((out / f"{name}.json").read_text())


def rows_of(out: Path) -> dict[str, Any]:
    return {row["name"]: row for row in found(out)["tables"]["mine"]["rows"]}


def test_every_row_of_a_table_is_trained_but_other_systems_and_unprinted_ones(done: Path) -> None:
    assert {name for name, row in rows_of(done).items() if row["ours"]} == {"audio", "text", "both"}


def test_the_mean_of_a_row_is_that_of_its_runs(done: Path) -> None:
    row = rows_of(done)["both"]
    runs = [json.loads((done / "runs" / name / "metrics.json").read_text()) for names in row["runs"] for name in names]
    assert row["ours"]["figures"]["accuracy"]["mean"] == pytest.approx(np.mean([run["accuracy"] for run in runs]))


def test_the_seeds_are_trained_apart(done: Path) -> None:
    names = rows_of(done)["both"]["runs"]
    assert [[name.rpartition("-")[2] for name in run] for run in names] == [["seed0"], ["seed1"]]


def test_the_interval_of_a_row_is_that_of_the_counts_of_its_seeds(done: Path) -> None:
    row = rows_of(done)["text"]
    counts = []
    for (name,) in row["runs"]:
        lines = list(csv.DictReader(io.StringIO((done / "runs" / name / "predictions.csv").read_text())))
        truth, predicted, dialogues = ([each[key] for each in lines] for key in ("truth", "predicted", "dialogue"))
        classes = json.loads((done / "runs" / name / "metrics.json").read_text())["classes"]
        counts.append(scores.confusions_by_group(truth, predicted, classes, dialogues))
    expected = scores.intervals(lambda groups: np.mean(counts, axis=0), None, None)["accuracy"]["this_test_set"]
    assert row["ours"]["figures"]["accuracy"]["this_test_set"] == pytest.approx(expected)


def test_a_claim_has_the_papers_difference_and_a_verdict(done: Path) -> None:
    claim = found(done)["tables"]["mine"]["claims"][0]
    accuracy = claim["figures"]["accuracy"]
    assert (claim["stated"], claim["verdict"], accuracy["detectable"]) == ({"accuracy": 10.0}, "no verdict", None)
    assert accuracy["reason"].startswith("too few dialogues for a verdict (4; 5 are needed): ")


def test_name_and_number_of_the_clusters_stand_in_every_output(done: Path) -> None:
    clusters = rows_of(done)["both"]["ours"]["clusters"]
    assert (clusters["unit"], clusters["n"]) == ("dialogue", 4)
    lines = csv.DictReader(io.StringIO((done / "results-mine.csv").read_text()))
    assert {(line["unit"], line["clusters"]) for line in lines} == {("dialogue", "4"), ("", "")}
    page = (done / "results-mine.html").read_text()
    assert "Clusters: 4 dialogues." in page and "No verdict: 5 dialogues are needed." in page
    assert "n 9 in 4 dialogues, 2 seeds" in reproduce.results_to_text(found(done))


def test_the_table_as_csv_has_percent_and_the_protocol(done: Path) -> None:
    lines = {
        (line["row"], line["figure"]): line
        for line in csv.DictReader(io.StringIO((done / "results-mine.csv").read_text()))
    }
    ours, other = lines["audio", "accuracy"], lines["other system", "accuracy"]
    mean = rows_of(done)["audio"]["ours"]["figures"]["accuracy"]["mean"]
    assert (float(ours["mean"]), ours["stated"], ours["protocol"], other["mean"]) == (
        pytest.approx(100 * mean, abs=0.01),
        "60.0",
        "manifest",
        "",
    )


def test_the_page_shows_stated_and_own_numbers(done: Path) -> None:
    page = (done / "results-mine.html").read_text()
    mean = rows_of(done)["both"]["ours"]["figures"]["accuracy"]["mean"]
    assert f"{100 * mean:.2f} ±" in page and "70.00" in page and "both better than audio" in page


def test_baselines_are_scored_on_the_same_test_part_and_called_so(done: Path) -> None:
    """The documentation said baseline, the output `control`."""
    found_baselines = found(done)["baselines"]
    text = reproduce.results_to_text(found(done))
    assert "\nbaseline majority: accuracy " in text and "control" not in text
    assert "control" not in (done / "results-mine.html").read_text()
    test = rows_of(done)["both"]["ours"]["n"]
    assert {each["n"] for each in found_baselines.values()} == {test}
    assert {"majority", "prior", "logistic regression audio+text"} <= found_baselines.keys()


def test_done_runs_are_not_trained_again(corpus: Any, done: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (done / "runs").rglob("*") if path.is_file()}
    results = (done / "results-mine.json").read_bytes()
    assert main(command(corpus, done)) == 0
    after = {path: path.stat().st_mtime_ns for path in (done / "runs").rglob("*") if path.is_file()}
    assert (after, (done / "results-mine.json").read_bytes()) == (before, results)


@pytest.mark.slow
def test_a_second_study_gives_the_same_bytes(corpus: Any, done: Path, tmp_path: Path) -> None:
    assert main(command(corpus, tmp_path, "--workers", "1")) == 0
    names = ["results-mine.json", "results-mine.csv"] + [
        path.relative_to(done).as_posix() for path in done.glob("runs/*/*") if path.suffix in (".csv", ".safetensors")
    ]
    assert [name for name in names if (tmp_path / name).read_bytes() != (done / name).read_bytes()] == []


def test_a_run_that_fails_is_named_and_the_others_finish(
    corpus: Any, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = rows_of(done)["text"]["runs"][0][0]
    shutil.copytree(done, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "runs" / broken)
    (tmp_path / "out" / "runs" / broken).mkdir()
    (tmp_path / "out" / "runs" / broken / "experiment.yaml").write_text("{")
    assert main(command(corpus, tmp_path / "out")) == 1
    rows = rows_of(tmp_path / "out")
    assert (rows["text"]["ours"], rows["both"]["ours"] is None) == (None, False)
    assert f"failed: {broken}: ConfigError" in capsys.readouterr().out


def test_trainings_of_other_labels_are_not_taken_for_these(corpus: Any, tmp_path: Path) -> None:
    """With happy and sad exchanged in the manifest the figures of the old labels were printed again."""
    other = tmp_path / "manifest.jsonl"
    swap = {"happy": "sad", "sad": "happy"}
    rows = manifest.read(corpus.table)
    manifest.write(other, [replace(row, emotion=swap.get(row.emotion or "", row.emotion)) for row in rows])
    manifest.write_corpus(other, manifest.read_corpus(corpus.table))
    plans = [
        trainings.plan_trainings(
            trainings.Study(each, corpus.store), [tables.read_table_file(str(corpus.mine))], tmp_path
        )
        for each in (corpus.table, other)
    ]
    assert not plans[0].jobs.keys() & plans[1].jobs.keys()


SLOW = [pytest.mark.slow]


@pytest.mark.parametrize(
    "damage", [pytest.param("", marks=SLOW), pytest.param("id,truth", marks=SLOW), "half", "one row less"]
)
def test_a_damaged_training_is_made_again(corpus: Any, done: Path, tmp_path: Path, damage: str) -> None:
    """Rows of a shortened predictions.csv were pooled in silence."""
    shutil.copytree(done, tmp_path / "out")
    name = rows_of(done)["text"]["runs"][0][0]
    path = tmp_path / "out" / "runs" / name / "predictions.csv"
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    path.write_text({"half": whole[: len(whole) // 2], "one row less": "".join(lines[:-1])}.get(damage, damage))
    assert main(command(corpus, tmp_path / "out")) == 0
    assert (path.read_text(), found(tmp_path / "out")) == (whole, found(done))


def test_the_same_table_or_fold_twice_is_refused(corpus: Any, tmp_path: Path) -> None:
    """Twice the same table gave twice as many seeds, with no spread."""
    mine = tables.read_table_file(str(corpus.mine))
    with pytest.raises(ConfigError, match="each table once, found table mine 2 times"):
        trainings.plan_trainings(trainings.Study(corpus.table, corpus.store), [mine, mine], tmp_path)
    with pytest.raises(ConfigError, match="each fold once, found fold 1 2 times"):
        trainings.plan_trainings(trainings.Study(corpus.table, corpus.store, folds=[1, 1]), [mine], tmp_path)


def test_a_table_without_a_row_to_train_is_refused(corpus: Any, tmp_path: Path) -> None:
    empty = replace(tables.read_table_file(str(corpus.mine)), rows=[], claims=[])
    with pytest.raises(ConfigError, match="mine: expected a row to train, found none"):
        trainings.plan_trainings(trainings.Study(corpus.table, corpus.store), [empty], tmp_path)


def test_seeds_are_counted_from_the_one_that_is_given(corpus: Any, tmp_path: Path) -> None:
    asked = trainings.Study(corpus.table, corpus.store, seeds=2, first_seed=9)
    made = trainings.plan_trainings(asked, [tables.read_table_file(str(corpus.mine))], tmp_path)
    assert {job.experiment.seed for job in made.jobs.values()} == {9, 10}


@pytest.mark.slow
def test_a_setting_before_or_instead_of_a_table_keeps_its_value(
    corpus: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Argparse took the value of `--train.epochs 2` for a TABLE where none was given."""
    arguments = command(corpus, tmp_path, "--dry-run")
    mine = arguments.pop(1)
    assert main([*arguments[:1], "--train.epochs", "1", mine, *arguments[1:]]) == 0
    assert main([*arguments, "--train.epochs", "1"]) == 2
    assert "no shipped table is of corpus 'table'" in capsys.readouterr().err


@pytest.mark.parametrize(("device", "count"), [("cpu", os.cpu_count()), ("cuda", 1), ("cuda:1", 1)])
def test_a_gpu_trains_one_at_a_time(device: str, count: int) -> None:
    """`reproduce` started a process for each CPU core on one GPU."""
    assert trainings.default_workers(device) == count


def test_a_dry_run_lists_the_trainings_and_makes_nothing(
    corpus: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(corpus, tmp_path / "none", "--dry-run")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (len(lines), "6 trainings to do" in lines[-1], (tmp_path / "none").exists()) == (7, True, False)


def test_layers_that_the_store_lacks_are_named_before_anything_is_trained(
    made: Any, corpus: Any, tmp_path: Path
) -> None:
    asked = trainings.Study(corpus.iemocap, made.store, protocol="manifest")
    with pytest.raises(CorpusError, match="run extract --layers 8,9,10,11"):
        trainings.plan_trainings(asked, [tables.read_table_file("6")], tmp_path)


def test_a_row_without_audio_needs_no_audio_layer(made: Any, corpus: Any, tmp_path: Path) -> None:
    """Text alone asked for the audio layer that a model with audio would start from."""
    row = tables.TableSetting("text", {"model.modalities": ["text"], "model.trainable_layers": 1})
    table = tables.Table(name="text", title="Text", corpus="table", rows=[row])
    study = trainings.Study(corpus.table, made.store, protocol="manifest")
    assert len(trainings.plan_trainings(study, [table], tmp_path).jobs) == 1


def test_a_table_of_another_corpus_is_refused(corpus: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="table2: expected a manifest of meld, found iemocap"):
        trainings.plan_trainings(
            trainings.Study(corpus.iemocap, corpus.store, protocol="manifest"), [tables.read_table_file("2")], tmp_path
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["iemocap", "meld"])
def test_a_smoke_run_of_every_table_ends_with_figures(corpus: Any, tmp_path: Path, name: str) -> None:
    arguments = ["--manifest", str(getattr(corpus, name)), "--store", str(corpus.store), "--out", str(tmp_path)]
    assert (
        main(["reproduce", *arguments, "--smoke", "--protocol", "manifest", "--device", "cpu", "--workers", "2"]) == 0
    )
    rows = [row for table in found(tmp_path, "results-smoke")["tables"].values() for row in table["rows"]]
    trained = [row for row in rows if row["trained"] and not row["extra"]]
    assert len(trained) == {"iemocap": 30, "meld": 9}[name] and all(row["ours"] for row in trained)


def test_claims_about_one_dialogue_get_no_verdict_and_that_is_said_before_anything_is_trained(
    corpus: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """`--smoke` trained every row, then found that one dialogue shows no spread, and gave no figures at all."""
    out = tmp_path / "out"
    rows = [replace(row, dialogue="only") if row.split == "test" else row for row in manifest.read(corpus.table)]
    manifest.write(tmp_path / "manifest.jsonl", rows)
    manifest.write_corpus(tmp_path / "manifest.jsonl", manifest.read_corpus(corpus.table))
    arguments = ["--manifest", str(tmp_path / "manifest.jsonl"), "--store", str(corpus.store), "--out", str(out)]
    study = trainings.Study(tmp_path / "manifest.jsonl", corpus.store, smoke=True)
    trainings.plan_trainings(study, [tables.read_table_file(str(corpus.mine))], out)
    assert caplog.messages == ["mine: no verdict on claims: 1 dialogue tested, 5 are needed"]
    assert main(["reproduce", str(corpus.mine), *arguments, "--smoke", "--device", "cpu"]) == 0
    assert "no verdict; too few dialogues for a verdict (1; 5 are needed)" in capsys.readouterr().out


# ---------------------------------------------------------------------- kills


def children(pid: int) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                yield int(path.parent.name)
        except (OSError, ValueError):
            continue


def started(corpus: Any, out: Path) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-m", "wavfusion", *command(corpus, out, "--workers", "2")]
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.timeout(3600)  # twenty kills take half an hour on a loaded machine
def test_a_killed_study_goes_on_and_ends_the_same(corpus: Any, tmp_path: Path) -> None:
    """The whole study is killed at random moments, and each time started again on what it left."""
    whole = tmp_path / "whole"
    begun = time.monotonic()
    assert started(corpus, whole).wait() == 0
    seconds = time.monotonic() - begun
    draw = random.Random(0)
    for moment in range(int(os.environ.get("WAVFUSION_KILLS", "2"))):
        out = tmp_path / str(moment)
        process = started(corpus, out)
        time.sleep(draw.uniform(0.1, 0.95) * seconds)
        process.kill()
        process.wait()
        assert started(corpus, out).wait() == 0
        same = [
            (out / name).read_bytes() == (whole / name).read_bytes()
            for name in ("results-mine.json", "results-mine.csv")
        ]
        assert all(same), moment


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_but_time(corpus: Any, tmp_path: Path) -> None:
    process = started(corpus, tmp_path)
    while not list(tmp_path.glob("runs/*/experiment.yaml")):
        time.sleep(0.2)
        assert process.poll() is None
    spawned = [pid for pid in children(process.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(spawned[0], signal.SIGKILL)
    assert process.wait() == 0 and not found(tmp_path)["failed"]
