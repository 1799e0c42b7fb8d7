"""`--where`: a verb works on the rows of a manifest of which conditions hold."""

import json
from pathlib import Path
from typing import Any

import pytest

from wavfusion import manifest
from wavfusion.cli.app import main
from wavfusion.errors import ConfigError, CorpusError
from wavfusion.manifest import Utterance, parse_where, select
from wavfusion.study import tables, trainings

pytest_plugins = ("corpus_fixture",)

ROWS = [
    Utterance("a", "table", speaker="Ann", split="train", emotion="sad"),
    Utterance("b", "table", speaker="ben b.", split="test", emotion="sad"),
    Utterance("c", "table", speaker=None, split="test", emotion="joy"),
]


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ("speaker=Ann", "a"),
        ("speaker=Ann|ben b.", "ab"),
        ("speaker!=Ann", "bc"),
        ("split=test,emotion=sad", "b"),
        (" split=test", "bc"),
        ("id!=a|b", "c"),
    ],
)
def test_the_rows_are_kept_of_which_all_conditions_hold(where: str, ids: str) -> None:
    assert "".join(row.id for row in select(ROWS, where)) == ids


@pytest.mark.parametrize("where", ["", "speaker", "speaker=", "=Ann", "speaker=Ann,", "speaker=a||b", "speaker!Ann"])
def test_a_malformed_condition_shows_the_form(where: str) -> None:
    with pytest.raises(ConfigError, match=r"expected conditions such as speaker=ann\|ben,split!=test|holds a name"):
        parse_where(where)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("speker=Ann", "found 'speker'; did you mean 'speaker'"),
        ("audio=a.wav", "a field of the manifest that holds a name, found 'audio'"),
        ("speaker=Anna", "no row has speaker 'Anna'; nearest: Ann"),
        ("speaker=Ann,split=test", "expected rows of which all of it holds, found none in 3"),
    ],
)
def test_conditions_that_fit_nothing_are_named(where: str, message: str) -> None:
    with pytest.raises((ConfigError, CorpusError)) as caught:
        select(ROWS, where)
    assert message in str(caught.value)


def test_a_wrong_condition_is_one_line_before_anything_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "nowhere.jsonl", "--where", "speker=a"]) == 2
    assert "--where: expected a field of the manifest that holds a name, found 'speker'" in capsys.readouterr().err


def test_a_subset_is_checked(made: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(made.manifest), "--where", "split=train|test,emotion=sad"]) == 0
    rows = [row for row in manifest.read(made.manifest) if row.emotion == "sad" and row.split != "valid"]
    assert f"{len(rows)} rows, 0 problems" in capsys.readouterr().out.splitlines()


def test_a_subset_is_extracted(made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["extract", str(made.manifest), "--store", str(tmp_path / "store"), "--preset", "tiny", "--json"]
    assert main([*command, "--where", "id=train00|train01"]) == 0
    assert json.loads(capsys.readouterr().out)["made"] == {"audio": 2, "text": 2, "video": 2}


def test_a_subset_is_trained_on_and_the_run_says_which(made: Any, tmp_path: Path) -> None:
    command = ["train", "--config", "paper", "--manifest", str(made.manifest), "--store", str(made.store)]
    where = "id!=train00|train01"
    assert main([*command, "--where", where, "--train.epochs", "1", "--out", str(tmp_path / "run")]) == 0
    about = json.loads((tmp_path / "run" / "protocol.json").read_text())
    assert (about["name"], about["counts"]["train"]) == (f"manifest where {where}", 22)
    assert main(["evaluate", str(tmp_path / "run"), "--split", "train"]) == 0
    assert json.loads((tmp_path / "run" / "evaluate" / "metrics.json").read_text())["n"] == 22


def test_a_subset_is_evaluated_and_the_figures_say_which(
    made: Any, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(trained), "--where", "speaker=test-0", "--out", str(tmp_path)]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    rows = [row for row in manifest.read(made.manifest) if row.speaker == "test-0" and row.emotion]
    assert (metrics["n"], metrics["protocol"]["tested_on"]) == (len(rows), "rows where speaker=test-0")
    assert "tested on rows where speaker=test-0" in capsys.readouterr().out


def test_a_subset_is_reproduced_on(made: Any, tmp_path: Path) -> None:
    table = tmp_path / "one.yaml"
    table.write_text("title: t\ncorpus: any\nrows:\n  - {name: all, settings: {}}\n")
    study = trainings.Study(made.manifest, made.store, where="speaker!=train-0")
    (job,) = trainings.plan_trainings(study, [tables.read_table_file(str(table))], tmp_path).jobs.values()
    assert (job.protocol.name, len(job.protocol.ids("train"))) == ("manifest where speaker!=train-0", 12)


def test_the_page_of_a_subset_says_which(made: Any, tmp_path: Path) -> None:
    command = ["report", str(made.manifest), "--out", str(tmp_path / "page.html")]
    assert main([*command, "--where", "speaker=test-0"]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "table, where speaker=test-0" in page and "1 speaker," in page
