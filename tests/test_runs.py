"""The files of a RUN, written and read back without a training."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from wavfusion.corpora.protocol import resolve
from wavfusion.errors import ConfigError
from wavfusion.experiments.experiment import Experiment
from wavfusion.manifest import AudioSpan, Utterance
from wavfusion.runs import origin, results

SPLITS = ["train", "train", "valid", "test"]
ROWS = [Utterance(str(i), "c", split, speaker="s", text=f"t{i}", emotion="sad") for i, split in enumerate(SPLITS)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A RUN's folder as it is when its training starts."""
    protocol = resolve("manifest", ROWS, ["sad", "happy"])
    origin.write_origin(tmp_path, Experiment(), protocol, ROWS, "m/manifest.jsonl", tmp_path / "store", 2)
    return tmp_path


def test_the_origin_of_a_run_survives_a_round_trip(folder: Path) -> None:
    found = origin.read_origin(folder)
    assert (found.manifest.name, found.store) == ("manifest.jsonl", folder / "store")
    assert found.parts_of(ROWS) == {row.id: row.split for row in ROWS}


def test_a_row_with_the_id_of_another_corpus_has_no_part(folder: Path) -> None:
    """Ids of tables are often numbers: those of another corpus were taken for the RUN's own."""
    assert origin.read_origin(folder).parts_of([Utterance("0", "c", text="another", emotion="sad")]) == {}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("environment.json", lambda text: "[]", "environment.json: expected an object"),
        ("environment.json", lambda text: text.replace('"manifest"', '"place"'), "no manifest and store"),
        ("protocol.json", lambda text: text.replace('"promises"', '"threats"'), "field 'promises' is missing"),
        (
            "protocol.json",
            lambda text: text.replace('"train": 2', '"train": 3'),
            "in split.csv where protocol.json counts",
        ),
        ("split.csv", lambda text: text + "9,train\n", "line 6 with another number of cells"),
        ("split.csv", lambda text: text.replace("split", "part"), "'split'"),
    ],
)
def test_a_damaged_origin_is_refused_in_one_line(folder: Path, name: str, change, message: str) -> None:
    (folder / name).write_text(change((folder / name).read_text()))
    with pytest.raises(ConfigError, match=f"^[^\n]*{message}[^\n]*$"):
        origin.read_origin(folder)


def test_a_run_of_an_older_version_was_started_by_one_process(folder: Path) -> None:
    values = json.loads((folder / "environment.json").read_text())
    assert (origin.num_processes_of(folder), values.pop("processes")) == (2, 2)
    (folder / "environment.json").write_text(json.dumps(values))
    assert origin.num_processes_of(folder) == 1


def test_absolute_paths_are_reduced_to_their_last_name() -> None:
    values = {"a": ["/home/me/x.jsonl", r"C:\me\y", "runs/z"], "b": {"c": "~/store/"}, "d": 1}
    assert origin.without_absolute_paths(values) == {"a": ["x.jsonl", "y", "runs/z"], "b": {"c": "store"}, "d": 1}


def test_predictions_survive_a_round_trip(tmp_path: Path) -> None:
    metrics = {"classes": ["sad", "happy"], "protocol": {"hash": "0123456789abcdef0"}}
    results.write_results(tmp_path, metrics, ROWS[:1], np.array([[0.25, 0.75]]))
    about = {"id": "0", "dialogue": "", "speaker": "s", "truth": "sad", "predicted": "happy"}
    shares = {"p_sad": "0.250000", "p_happy": "0.750000", "protocol": "0123456789abcdef"}
    assert (results.read_csv(tmp_path / "predictions.csv"), results.read_metrics(tmp_path)) == (
        [about | shares],
        metrics,
    )


def test_the_history_holds_the_columns_of_all_epochs(tmp_path: Path) -> None:
    epochs = [{"epoch": 1.0, "step": 5, "loss": 2.5}, {"epoch": 2.0, "step": 10, "eval_uar": 0.5}]
    results.write_history(tmp_path, epochs)
    assert (tmp_path / "history.csv").read_text() == "epoch,step,eval_uar,loss\n1.0,5,,2.5\n2.0,10,0.5,\n"
    assert results.read_history(tmp_path) == epochs


def test_a_history_of_words_is_refused(tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text("epoch,loss\n1.0,low\n")
    with pytest.raises(ConfigError, match=r"history\.csv: expected numbers up to 1e\+12, found 'low'"):
        results.read_history(tmp_path)


def test_a_run_without_metrics_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"metrics\.json: expected what training writes"):
        results.read_metrics(tmp_path)


CLIPS = {  # two clips of each recording, nobody knows who speaks
    "recording": [Utterance(str(i), "table", audio=AudioSpan(f"{i // 2}.wav", float(i % 2), i % 2 + 1.0), emotion="sad")
                  for i in range(12)],
    "text": [Utterance(str(i), "table", audio=AudioSpan(f"{i}.wav"), text=f"Kids {i % 3}", emotion="sad")
             for i in range(12)],
    "speaker": [Utterance(str(i), "table", audio=AudioSpan(f"{i}.wav"), speaker=f"s{i % 4}", text="Kids",
                          emotion="sad", dialogue=f"d{i}") for i in range(12)],
}  # fmt: skip


@pytest.mark.parametrize(("unit", "number"), [("recording", 6), ("text", 3), ("speaker", 4)])
def test_clusters_of_a_manifest_are_read_back_without_its_paths_and_words(
    tmp_path: Path, unit: str, number: int
) -> None:
    rows = CLIPS[unit]
    chosen = results.clusters_of(rows)
    metrics = {"classes": ["sad", "happy"], "protocol": {"hash": "0"}}
    results.write_results(tmp_path, metrics, rows, np.tile([0.25, 0.75], (12, 1)))
    content = (tmp_path / "predictions.csv").read_text()
    found = results.Predictions(results.read_csv(tmp_path / "predictions.csv"), ["sad", "happy"])
    assert (chosen.unit, chosen.n, found.clusters.unit, found.clusters.n) == (unit, number, unit, number)
    assert len(set(zip(chosen.names, found.clusters.names, strict=True))) == number
    assert found.score()["clusters"]["n"] == number and not re.search("wav|kids", content, re.IGNORECASE)


def test_folds_of_other_units_are_pooled_by_one_that_all_have(tmp_path: Path) -> None:
    rows = [row for unit in ("recording", "speaker") for row in written(tmp_path / unit, CLIPS[unit])]
    assert results.Predictions(rows, ["sad", "happy"]).clusters.unit == "speaker"


def written(folder: Path, rows: Sequence[Utterance]) -> list[dict[str, str]]:
    metrics = {"classes": ["sad", "happy"], "protocol": {"hash": "0"}}
    results.write_results(folder, metrics, rows, np.tile([0.25, 0.75], (len(rows), 1)))
    return results.read_csv(folder / "predictions.csv")


@pytest.mark.parametrize("cell", ["1e308", "-inf", "1e400"])
def test_a_history_of_endless_numbers_is_refused(tmp_path: Path, cell: str) -> None:
    """The page's plot ended in numpy.linalg.LinAlgError: Singular matrix."""
    (tmp_path / "history.csv").write_text(f"epoch,loss\n1.0,{cell}\n")
    with pytest.raises(ConfigError, match=rf"history\.csv: expected numbers up to 1e\+12, found '{cell}'"):
        results.read_history(tmp_path)


def test_the_loss_of_a_training_that_diverged_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text("epoch,loss\n1.0,nan\n")
    assert results.read_history(tmp_path) == [{"epoch": 1.0}]
