"""Systems over dialogues trained on stored features: their RUN, their place in tables, and what they refuse."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from wavfusion import manifest
from wavfusion.cli.app import main
from wavfusion.comparators.systems import SYSTEMS
from wavfusion.corpora.protocol import divide_parts
from wavfusion.dialogues.batch import UNLABELLED, collate_dialogues, group_by_dialogue, number_speakers
from wavfusion.errors import ConfigError, CorpusError
from wavfusion.experiments.experiment import System, read_experiment
from wavfusion.features.dataset import Features, choose_features, model_config
from wavfusion.manifest import Utterance
from wavfusion.runs.folder import read_run
from wavfusion.runs.results import read_csv, read_history
from wavfusion.training import train
from wavfusion.training.systems import STATE, read_dialogues

pytest_plugins = ("corpus_fixture",)

BRIEF = {"train.epochs": "3", "train.batch_size": "4", "train.new_rate": "1e-3"}


def setting(name: str = "turn_gru", **other: str) -> Any:
    return read_experiment(name, BRIEF | {key.replace("__", "."): value for key, value in other.items()})


@pytest.fixture(scope="module")
def run(made: Any, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    out = tmp_path_factory.mktemp("system") / "run"
    return SimpleNamespace(out=out, metrics=train.train(setting(), made.data, out), data=made.data)


def test_a_system_writes_the_files_of_a_run(run: Any) -> None:
    names = {path.name for path in run.out.iterdir()}
    expected = "experiment.yaml protocol.json split.csv environment.json config.json model.safetensors"
    assert {*expected.split(), "metrics.json", "predictions.csv", "history.csv"} <= names
    assert json.loads((run.out / "metrics.json").read_text()) == run.metrics
    assert [row["epoch"] for row in read_history(run.out)] == [1, 2, 3]
    assert read_experiment(str(run.out / "experiment.yaml")).system == setting().system


def test_the_figures_of_a_system_are_those_of_its_predictions(run: Any) -> None:
    rows = read_csv(run.out / "predictions.csv")
    assert [row["id"] for row in rows] == [row.id for row in run.data.part("test")]
    truth, predicted = [row["truth"] for row in rows], [row["predicted"] for row in rows]
    classes = run.metrics["classes"]
    expected = f1_score(truth, predicted, labels=classes, average="weighted", zero_division=0)
    assert run.metrics["weighted_f1"] == pytest.approx(expected)
    shares = np.array([[float(row[f"p_{name}"]) for name in classes] for row in rows])
    assert shares.sum(1) == pytest.approx(1, abs=1e-5)


def test_two_trainings_with_one_seed_are_equal_and_one_that_was_stopped_ends_as_both(run: Any, tmp_path: Path) -> None:
    files = ("predictions.csv", "model.safetensors", "metrics.json", "config.json", "history.csv")
    train.train(setting(train__epochs="2"), run.data, tmp_path / "run")
    assert (tmp_path / "run/checkpoints" / STATE).exists()
    train.train(setting(), run.data, tmp_path / "run", resume=True)
    train.train(setting(), run.data, tmp_path / "again")
    for name in files:
        assert (tmp_path / "run" / name).read_bytes() == (run.out / name).read_bytes()
        assert (tmp_path / "again" / name).read_bytes() == (run.out / name).read_bytes()
    other = train.train(setting(seed="1"), run.data, tmp_path / "other")
    assert other["nll"] != run.metrics["nll"]


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name not in ("turn_gru", "haan")])
def test_every_shipped_experiment_of_a_system_trains(name: str, made: Any, tmp_path: Path) -> None:
    more = {"system__options": "{polarity: [2, 0, 1, 2]}"} if name == "unimse" else {}
    found = train.train(setting(name, train__epochs="1", **more), made.data, tmp_path / "run")
    assert found["system"]["name"] == name and found["n"] == len(made.data.part("test"))


def test_without_a_test_part_a_system_is_scored_on_what_chose_its_epoch(made: Any, tmp_path: Path) -> None:
    """The vectors of no utterance had no width."""
    kept = {key for key, part in made.data.protocol.parts.items() if part != "test"}
    data = replace(made.data, protocol=made.data.protocol.restricted(kept))
    assert train.train(setting(), data, tmp_path / "run")["part"] == "valid"


def test_a_run_of_a_system_is_reported_and_compared(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    train.train(setting("turn_mlp"), run.data, other)
    assert main(["report", str(run.out)]) == 0, capsys.readouterr().err
    assert "turn_gru" in (run.out / "report.html").read_text()
    assert main(["report", str(run.out), str(other)]) == 0, capsys.readouterr().err
    assert "paired" in (run.out / "compared.html").read_text()


def test_a_run_of_a_system_is_no_model_for_recordings(run: Any) -> None:
    with pytest.raises(ConfigError, match="turn_gru"):
        read_run(run.out)


def test_parts_that_share_a_dialogue_are_refused(made: Any, tmp_path: Path) -> None:
    parts = {**made.data.protocol.parts}
    first = made.data.part("train")[0]
    neighbour = next(row.id for row in made.data.part("train") if row.dialogue == first.dialogue and row != first)
    mixed = replace(made.data, protocol=replace(made.data.protocol, parts=parts | {neighbour: "test"}))
    with pytest.raises(ConfigError, match="without a common dialogue.*random5-dialogues"):
        train.train(setting(), mixed, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "typed", "message"),
    [
        ("mmgcn", {"system.options.layer": "4"}, "did you mean 'layers'"),
        ("mmgcn", {"system.options.layers": "many"}, "expected an integer"),
        ("mmgcn", {"model.lvc": "false"}, "mmgcn has no such setting"),
        ("mmgcn", {"train.average": "0.9"}, "mmgcn has no such setting"),
        ("mmgcn", {"model.task_loss": "soft"}, "ce or balanced"),
        ("hitrans", {"model.modalities": "audio,text"}, "expected text"),
    ],
)
def test_a_setting_that_a_system_does_not_have_is_refused(
    name: str, typed: dict[str, str], message: str, made: Any, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        train.train(read_experiment(name, typed), made.data, tmp_path / "run")


def test_an_unknown_system_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="mmgcn"):
        read_experiment("mmgcn", {"system.name": "mmgnc"})


def test_without_a_system_an_experiment_is_written_as_before() -> None:
    assert "system" not in read_experiment("paper").to_yaml()


def test_dialogues_hold_the_mean_features_of_their_turns_in_order(made: Any) -> None:
    features = choose_features(made.data.store, None)
    config = model_config(read_experiment("paper").model, features, made.data.protocol.classes)
    parts = read_dialogues(made.data, features, config, System("turn_gru"))
    every = [key for each in parts["train"] for key in each.ids]
    assert sorted(every) == sorted(row.id for row in made.data.part("train"))
    rows = {row.id: row for row in made.data.utterances}
    for each in parts["train"]:
        assert len({rows[key].dialogue for key in each.ids}) == 1
        assert [rows[key].index for key in each.ids] == sorted(rows[key].index for key in each.ids)
    turn = parts["train"][0]
    samples = Features([rows[turn.ids[0]]], made.data.store, made.data.media, features, config)
    assert turn.present["text"][0] and len(samples) == 1
    torch.testing.assert_close(turn.vectors["text"][0], samples[0].text.float().mean(0), atol=1e-4, rtol=1e-4)


def test_turns_without_an_emotion_are_context_where_all_are_seen(made: Any) -> None:
    features = choose_features(made.data.store, None)
    config = model_config(read_experiment("paper").model, features, made.data.protocol.classes)
    unlabelled = [row for row in made.data.utterances if row.id not in made.data.protocol.parts]
    assert [row.id for row in unlabelled] == ["unlabelled"]
    systems = (System("turn_gru"), System("turn_gru", turns="all"))
    labelled, whole = (read_dialogues(made.data, features, config, each)["train"] for each in systems)
    assert sum(len(each.ids) for each in whole) == sum(len(each.ids) for each in labelled) + 1
    of_it = next(each for each in whole if "unlabelled" in each.ids)
    assert of_it.label[of_it.ids.index("unlabelled")] == UNLABELLED


def row(key: str, dialogue: str | None, index: int | None) -> Utterance:
    return Utterance(id=key, corpus="table", dialogue=dialogue, index=index)


def test_utterances_are_grouped_by_dialogue_and_ordered_by_index() -> None:
    rows = [row("a", "x", 1), row("b", None, 0), row("c", "x", 0), row("d", "y", 3), row("e", None, 5)]
    assert group_by_dialogue(rows) == [[2, 0], [1], [3], [4]]
    assert group_by_dialogue([row("a", "x", 1), row("c", "x", None)]) == [[0, 1]]


def test_speakers_are_numbered_by_their_first_turn_and_an_unknown_one_is_nobody_else() -> None:
    assert number_speakers(["b", "a", None, "b", None]).tolist() == [0, 1, 2, 0, 3]


def test_padding_has_no_speaker_label_or_modality(made: Any) -> None:
    features = choose_features(made.data.store, None)
    config = model_config(read_experiment("paper").model, features, made.data.protocol.classes)
    dialogues = read_dialogues(made.data, features, config, System("turn_gru"))["train"]
    short = replace_length(dialogues[0], 1)
    batch = collate_dialogues([dialogues[1], short])
    assert batch.mask.sum(1).tolist() == [len(dialogues[1].ids), 1]
    assert (batch.slot[~batch.mask] == -1).all() and (batch.label[~batch.mask] == UNLABELLED).all()
    assert not any(has[~batch.mask].any() for has in batch.present.values())


def replace_length(dialogue: Any, count: int) -> Any:
    vectors, present = ({name: x[:count] for name, x in each.items()} for each in (dialogue.vectors, dialogue.present))
    return replace(
        dialogue,
        ids=dialogue.ids[:count],
        vectors=vectors,
        present=present,
        slot=dialogue.slot[:count],
        label=dialogue.label[:count],
    )


def test_random5_dialogues_tests_every_dialogue_once_and_divides_none() -> None:
    rows = [
        replace(row(f"{d}-{i}", f"dialogue {d}", i), emotion="happy", speaker="a") for d in range(40) for i in range(3)
    ]
    folds = divide_parts("random5-dialogues", rows, ["happy", "sad"])
    tested = [key for fold in folds for key in fold.ids("test")]
    assert sorted(tested) == sorted(each.id for each in rows)
    for fold in folds:
        for number in range(40):
            assert len({fold.parts[f"{number}-{i}"] for i in range(3)}) == 1
        assert len(fold.ids("test")) == 24 and len(fold.ids("valid")) == 12
    with pytest.raises(CorpusError, match="10 or more dialogues"):
        divide_parts("random5-dialogues", rows[:27], ["happy", "sad"])


TABLE = """
title: Mine
corpus: table
rows:
  - {name: fusion, settings: {model.modalities: [audio, text]}}
  - {name: graph, system: mmgcn, settings: {system.options.layers: 2}, published: {accuracy: 50.0}}
claims:
  - {better: fusion, than: graph}
"""


def test_a_system_is_a_row_of_a_table_beside_published_figures(made: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(TABLE)
    command = ["reproduce", str(tmp_path / "mine.yaml"), "--manifest", str(made.manifest), "--store", str(made.store)]
    command += ["--out", str(tmp_path / "out"), "--seeds", "1", "--workers", "1", "--train.epochs", "2"]
    assert main([*command, "--dry-run"]) == 0
    assert main([*command, "--train.new_rate", "1e-3"]) == 0
    content = json.loads((tmp_path / "out/results-mine.json").read_text())["tables"]["mine"]
    fusion, graph = content["rows"]
    assert graph["stated"] == {"accuracy": 50.0} and graph["ours"]["n"] == fusion["ours"]["n"]
    run = read_experiment(str(tmp_path / "out/runs" / graph["runs"][0][0] / "experiment.yaml"))
    assert run.system is not None and run.system.options == {"layers": 2}
    assert (run.train.epochs, run.train.new_rate) == (2, 3e-4)  # epochs are for all rows, a rate is not
    assert content["claims"][0]["verdict"]


def test_a_table_under_a_protocol_that_divides_dialogues_leaves_the_systems_out(
    made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text(TABLE)
    rows = [each for each in manifest.read(made.manifest) if each.emotion]
    lines = [f"{each.id},{('train', 'valid', 'test')[number % 3]}" for number, each in enumerate(rows)]
    (tmp_path / "split.csv").write_text("\n".join(["id,split", *lines]))
    command = ["reproduce", str(tmp_path / "mine.yaml"), "--manifest", str(made.manifest), "--store", str(made.store)]
    command += ["--out", str(tmp_path / "out"), "--seeds", "1", "--workers", "1", "--train.epochs", "1"]
    assert main([*command, "--protocol", str(tmp_path / "split.csv")]) == 0
    content = json.loads((tmp_path / "out/results-mine.json").read_text())["tables"]["mine"]
    assert content["rows"][0]["ours"] and content["rows"][1]["ours"] is None
    assert "not trained: graph" in capsys.readouterr().err
