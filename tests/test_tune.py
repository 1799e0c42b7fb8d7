"""`tune`: trials on the validation part, resumed and equal again, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from wavfusion import manifest
from wavfusion.cli.app import main
from wavfusion.errors import ConfigError
from wavfusion.experiments.experiment import read_experiment
from wavfusion.runs.results import read_history
from wavfusion.study import tune
from wavfusion.training.checkpoints import BEST_BY

pytest_plugins = ("corpus_fixture",)
pytest.importorskip("optuna")

SPACE = {"train.new_rate": {"low": 1.0e-4, "high": 1.0e-2, "log": True}, "system.options.width": [8, 16]}


def command(made: Any, out: Path, *more: str) -> list[str]:
    typed = ["--train.epochs", "2", "--train.batch_size", "4", "--workers", "1", "--out", str(out), *more]
    return ["tune", "--config", "turn_gru", "--manifest", str(made.manifest), "--store", str(made.store), *typed]


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("space") / "space.yaml"
    path.write_text(yaml.safe_dump(SPACE))
    return str(path)


@pytest.fixture(scope="module")
def done(made: Any, space: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tune") / "out"
    assert main(command(made, out, "--space", space, "--trials", "4")) == 0
    return out


def result(out: Path) -> dict[str, Any]:
    return json.loads((out / "tune.json").read_text())


def test_every_trial_of_the_budget_stands_in_the_output_with_its_validation_figure(done: Path) -> None:
    content = result(done)
    assert content["budget"] == 4 and [each["number"] for each in content["trials"]] == [0, 1, 2, 3]
    for each in content["trials"]:
        assert 1e-4 <= each["settings"]["train.new_rate"] <= 1e-2
        scores = [row[BEST_BY] for row in read_history(done / f"trial{each['number']}")]
        assert each["weighted_f1"] == pytest.approx(max(scores))
    assert content["best"]["weighted_f1"] == max(each["weighted_f1"] for each in content["trials"])


def test_the_best_trial_is_an_experiment_that_trains(done: Path) -> None:
    best, found = result(done)["best"], read_experiment(str(done / "best.yaml"))
    assert found.train.new_rate == pytest.approx(best["settings"]["train.new_rate"])
    assert found.system is not None and found.system.options["width"] == best["settings"]["system.options.width"]


def test_no_trial_has_a_figure_or_a_prediction_of_the_test_part(done: Path, made: Any) -> None:
    tested = {row.id for row in manifest.read(made.manifest) if row.split == "test"}
    for folder in done.glob("trial[0-9]*"):
        split = (folder / "split.csv").read_text() if folder.is_dir() else ""
        assert not any(f"{key}," in split for key in tested)
        if folder.is_dir():
            assert json.loads((folder / "metrics.json").read_text())["part"] == "valid"


def test_the_test_part_need_not_even_have_features(made: Any, space: str, tmp_path: Path) -> None:
    """Rows of the test part whose media were never extracted: a search that read them would stop."""
    rows = manifest.read(made.manifest)
    broken = [row if row.split != "test" or row.audio is None else _elsewhere(row) for row in rows if row.emotion]
    manifest.write(tmp_path / "manifest.jsonl", broken)
    manifest.write_corpus(tmp_path / "manifest.jsonl", manifest.read_corpus(made.manifest))
    typed = command(made, tmp_path / "out", "--space", space, "--trials", "1")
    typed[typed.index("--manifest") + 1] = str(tmp_path / "manifest.jsonl")
    assert main(typed) == 0


def _elsewhere(row: Any) -> Any:
    return replace(row, audio=replace(row.audio, start=0.01, end=0.11), video=None)


def test_a_search_that_was_stopped_ends_with_the_same_trials(made: Any, space: str, done: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(command(made, out, "--space", space, "--trials", "4")) == 0
    first = result(out)
    assert first["trials"] == result(done)["trials"]
    shutil.rmtree(out / "trial3")
    assert main(command(made, out, "--space", space, "--trials", "5")) == 0
    more = result(out)["trials"]
    assert len(more) == 5 and more[:3] == first["trials"][:3]


def test_another_search_in_the_same_folder_is_refused(
    made: Any, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(made, done, "--trials", "4")) == 2
    assert "expected the search that it was started with" in capsys.readouterr().err


def test_without_a_space_rate_dropout_weights_and_width_are_searched() -> None:
    found = tune.read_space(None, read_experiment("mmgcn"), 3e-4)
    assert found == {
        "train.new_rate": [1e-4, 3e-4, 9e-4],
        "model.task_loss": ["ce", "balanced"],
        "system.options.dropout": [0.1, 0.3, 0.5],
        "system.options.width": [200, 100],
    }
    assert "model.dropout" in tune.read_space(None, read_experiment("paper"), 1e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected values by dotted key"),
        ("train.new_rate: 3", "a list of values, or low and high"),
        ("train.new_rate: {low: 1}", "'high' is missing"),
        ("train.new_rate: {low: 2.0, high: 1.0}", "low below high"),
        ("train.new_rate: {low: 0.0, high: 1.0, log: true}", "above 0"),
    ],
)
def test_a_space_that_is_none_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        tune.read_space(tmp_path / "space.yaml", read_experiment("paper"), 1e-4)


def test_a_trial_below_the_median_of_the_others_is_ended_early(made: Any, tmp_path: Path) -> None:
    """Six trials of a fair rate, then one of a rate of 0, which never leaves chance."""
    typed = {"train.epochs": "9", "train.patience": "9", "train.batch_size": "4"}
    search = tune.Search(Path(made.manifest), Path(made.store), "turn_gru", typed, {"train.new_rate": [3e-3]}, 6)
    tune.tune(search, tmp_path, 1)
    trial = tune._open(tmp_path).ask()
    assert "below the median" in str(tune._run_trial(search, tmp_path, "cpu", (trial.number, {"train.new_rate": 0.0})))
    assert len(read_history(tmp_path / f"trial{trial.number}")) < 9
