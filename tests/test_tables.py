from dataclasses import asdict
from pathlib import Path

import pytest

from wavfusion.errors import ConfigError
from wavfusion.experiments import experiment
from wavfusion.study import tables

# Trainings of arXiv 2412.05558's tables: 16 of WavFusion and 10 systems on IEMOCAP, 2 and 7 on MELD.
TRAININGS = {"iemocap": 26, "meld": 9}


@pytest.mark.parametrize("corpus", TRAININGS)
def test_rows_that_tables_share_are_one_training(corpus: str) -> None:
    found = {
        each.to_yaml()
        for name in tables.shipped_tables()
        if (table := tables.read_table_file(name)).corpus == corpus
        for each in table.experiments("paper", 0, {}, extra=False).values()
    }
    assert len(found) == TRAININGS[corpus]


@pytest.mark.parametrize(
    ("table", "row", "accuracy", "weighted_f1"),
    [
        ("1", "WavFusion", 70.53, 70.60),
        ("1", "M2FNet", 69.69, 69.86),
        ("2", "WavFusion", 66.93, 66.10),
        ("3", "V", 29.88, 26.31),
        ("4", "without LVC", 69.90, 69.84),
        ("5", "lambda = 10", 64.43, 64.19),
        ("6", "attention 8/4", 69.29, 69.06),
    ],
)
def test_the_papers_numbers_are_those_printed(table: str, row: str, accuracy: float, weighted_f1: float) -> None:
    found = next(each for each in tables.read_table_file(table).rows if each.name == row)
    assert found.stated == {"accuracy": accuracy, "weighted_f1": weighted_f1}


def test_the_full_model_of_every_table_is_the_base_experiment() -> None:
    base = experiment.read_experiment("paper", {"seed": "3"})
    full = {"3": "A+V+T", "4": "with LVC", "5": "lambda = 1", "6": "attention 9/3"}
    assert all(
        tables.read_table_file(name).experiments("paper", 3, {}, False)[row] == base for name, row in full.items()
    )


def test_a_setting_of_all_rows_yields_to_a_rows_own() -> None:
    found = tables.read_table_file("5").experiments(
        "paper", 0, {"model.margin.weight": "3.0", "train.epochs": "2"}, False
    )
    assert {row: (each.model.margin.weight, each.train.epochs) for row, each in found.items()} == {
        "lambda = 0": (0.0, 2),
        "lambda = 0.01": (0.01, 2),
        "lambda = 0.1": (0.1, 2),
        "lambda = 1": (3.0, 2),
        "lambda = 10": (10.0, 2),
    }


def test_rows_that_are_not_printed_are_trained_on_request() -> None:
    table = tables.read_table_file("3")
    assert set(table.experiments("paper", 0, {}, True)) - set(table.experiments("paper", 0, {}, False)) == {"T+V"}


ROW = "{name: a, settings: {}}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"title: x\ncorpus: any\nrowz: [{ROW}]", "unknown field 'rowz': did you mean 'rows'"),
        (f"title: x\nrows: [{ROW}]", "field 'corpus' is missing"),
        (f"title: x\ncorpus: any\nrows: [{ROW}, {ROW}]", "expected each row once, found a, a"),
        (
            f"title: x\ncorpus: any\nrows: [{ROW}]\nclaims: [{{better: a, than: b}}]",
            "a claim about 'b', which is no row",
        ),
        ("title: x\ncorpus: any\nrows: [{name: a, settings: {model.lcv: false}}]", "did you mean 'model.lvc'"),
        ("title: x\ncorpus: any\nrows: [{name: a}]", "expected settings .* or published figures"),
        (
            "title: x\ncorpus: any\nrows: [{name: a, settings: {}, paper: {accurracy: 1}}]",
            "did you mean 'rows.0.paper.accuracy'",
        ),
        (
            "title: x\ncorpus: any\nrows: [{name: a, settings: {}, paper: {accuracy: .nan}}]",
            "'rows.0.paper.accuracy': expected percent from 0 to 100 or null, found nan",
        ),
        ("title: x\ncorpus: any\nrows: [{name: a, settings: {seed: 7}}]", "expected no seed of its own"),
        (
            "title: x\ncorpus: any\nrows: [{name: a, settings: {}, extra: 'false'}]",
            "'rows.0.extra': expected true or false, found 'false'",
        ),
        (f"title: x\ncorpus: any\nrows: [{ROW}]\nclaims: [{{beter: a, than: a}}]", "did you mean 'claims.0.better'"),
        (
            f"title: x\ncorpus: any\nrows: [{ROW}]\nclaims: [{{better: 1, than: a}}]",
            "'claims.0.better': expected a string, found 1",
        ),
        (f"title: x\ncorpus: any\nrows: [{ROW}]\nclaims: [{{better: a, than: a}}]", "expected a claim about two rows"),
        ("title: x\ncorpus: any\nrows: 3", "field 'rows': expected a list, found 3"),
    ],
)
def test_a_wrong_table_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        tables.read_table_file(str(tmp_path / "mine.yaml"))


def test_empty_settings_are_those_of_the_base_experiment(tmp_path: Path) -> None:
    """A row with nothing after `settings:` was taken for another system, and never trained."""
    (tmp_path / "mine.yaml").write_text("title: x\ncorpus: any\nrows:\n  - name: a\n    settings:\n")
    assert tables.read_table_file(str(tmp_path / "mine.yaml")).rows[0].settings == {}


def test_an_unknown_table_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'table3'"):
        tables.read_table_file("tabel3")


def test_the_row_most_like_a_model_is_found_with_what_differs() -> None:
    paper = asdict(experiment.read_experiment("paper").model.with_layers(12, 3))
    rows, stated, differs = tables.closest_row("iemocap", paper) or ([], {}, [""])
    assert len(rows) == 5 and stated["accuracy"] == 70.53 and differs == []
    shallow = {**paper, "fusion_layers": 1, "trainable_layers": 1, "margin_audio_layer": 11, "lvc_pool": "mean"}
    assert tables.closest_row("iemocap", shallow) == (
        ["Deep layers: attention 11/1"],
        {"accuracy": 68.61, "weighted_f1": 68.55},
        ["lvc_pool mean (sum)"],
    )
    assert tables.closest_row("generated", paper) is None


def test_a_model_of_other_modalities_stands_beside_a_row_of_as_many_differences_with_its_own() -> None:
    pair = asdict(
        experiment.read_experiment("recommended", {"model.modalities": "audio,video"}).model.with_layers(12, 3)
    )
    rows, stated, differs = tables.closest_row("iemocap", pair) or ([], {}, [])
    assert rows == ["Modalities: A+V"] and stated["accuracy"] == 66.33 and "modality_dropout 0.15 (0.0)" in differs
