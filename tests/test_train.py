import csv
import hashlib
import io
import itertools
import json
import logging
import os
import pickletools
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from wavfusion.cli.app import main
from wavfusion.cli.output import figures_to_text
from wavfusion.errors import ConfigError, CorpusError
from wavfusion.evaluation import evaluate
from wavfusion.experiments import experiment
from wavfusion.features.dataset import choose_features, model_config
from wavfusion.features.store import FeatureSet
from wavfusion.model.config import Switches
from wavfusion.prediction.recognizer import EmotionRecognizer
from wavfusion.runs.folder import read_run
from wavfusion.training import checkpoints as kept
from wavfusion.training import train, trainer

pytest_plugins = ("corpus_fixture",)

log = logging.getLogger(__name__)

# contract.md, Files; and ours: which utterance was in which part, and the history for TensorBoard.
CONTRACT = {
    *("model.safetensors", "config.json", "encoders", "experiment.yaml", "protocol.json", "metrics.json"),
    *("predictions.csv", "history.csv", "environment.json", "checkpoints"),
}
OURS = {"split.csv", "tensorboard", "familiarity.safetensors"}
RESULTS = (
    "model.safetensors",
    "familiarity.safetensors",
    "config.json",
    "metrics.json",
    "predictions.csv",
    "history.csv",
)


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def results(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in RESULTS}


def history(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((run / "history.csv").read_text())))


def checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))


@pytest.fixture(scope="module")
def ran(made: Any, short: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short RUN with everything random in it, on the paper's losses."""
    out = tmp_path_factory.mktemp("ran") / "run"
    train.train(short(model__modality_dropout=0.2, model__time_mask=0.05), made.data, out)
    return out


@pytest.fixture
def again(ran: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(ran, tmp_path / "run"))


# ------------------------------------------------------------------ does it learn


def test_a_separable_corpus_is_learned(trained: Path) -> None:
    assert json.loads((trained / "metrics.json").read_text())["accuracy"] >= 0.85


def test_a_training_that_diverges_says_so_and_leaves_no_model(made: Any, short: Any, tmp_path: Path) -> None:
    """Probabilities that are no numbers counted as the first class, and an epoch of them could be the best."""
    with pytest.raises(ConfigError, match=r"epoch 1: .* the training diverged; lower train.pretrained_rate \(1e\+30\)"):
        train.train(short(train__new_rate=1e30, train__pretrained_rate=1e30), made.data, tmp_path / "run")
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_model_with_modality_dropout_is_scored_on_all_subsets(trained: Path) -> None:
    assert list(json.loads((trained / "metrics.json").read_text())["subsets"])[-1] == "audio+text+video"
    assert len(json.loads((trained / "metrics.json").read_text())["subsets"]) == 7


@pytest.mark.parametrize(
    "switches",
    [
        {"model__modalities": "[text]"},
        {"model__modalities": "[audio, video]"},
        {"model__modalities": "[text, video]"},
        {"model__fusion": "concat"},
        {"model__fusion": "concat", "model__modalities": "[video]"},
        {"model__task_loss": "soft"},
    ],
    ids=str,
)
def test_every_kind_of_model_trains(made: Any, short: Any, tmp_path: Path, switches: dict[str, str]) -> None:
    train.train(short(train__epochs=1, **switches), made.data, tmp_path / "run")
    assert (
        set(read_run(tmp_path / "run").model.config.modalities) == set(short(**switches).model.modalities)
        and float(history(tmp_path / "run")[0]["loss"]) < 20
    )


def test_the_margin_is_absent_from_the_losses_of_a_single_modality(made: Any, short: Any, tmp_path: Path) -> None:
    train.train(short(train__epochs=1, model__modalities="[audio]"), made.data, tmp_path / "run")
    assert "loss_margin" not in history(tmp_path / "run")[0]


def test_balanced_weights_are_inverse_frequencies_with_mean_one() -> None:
    assert train._class_weights([0.5, 0.25, 0.25, 0.0]).tolist() == pytest.approx([2 / 3, 4 / 3, 4 / 3, 0])


def test_the_balanced_loss_weighs_by_the_training_part(made: Any, short: Any, tmp_path: Path) -> None:
    kept = [row for row in made.data.utterances if row.id not in ("train03", "train07", "train11")]
    parts = {row.id: row.split for row in kept if row.emotion}
    data = replace(made.data, utterances=kept, protocol=replace(made.data.protocol, parts=parts))
    train.train(short(train__epochs=1, model__task_loss="balanced"), data, tmp_path / "run")
    weights = dict(zip(data.protocol.classes, read_run(tmp_path / "run").model.class_weights.tolist(), strict=True))
    counts = {name: sum(row.emotion == name for row in data.part("train")) for name in weights}
    total = sum(counts.values())
    assert weights == pytest.approx({name: total / (len(counts) * count) for name, count in counts.items()})


def test_unlabelled_utterances_have_no_part_in_training(ran: Path) -> None:
    named = [row["id"] for row in csv.DictReader(io.StringIO((ran / "split.csv").read_text()))]
    assert "unlabelled" not in named and len(named) == 41


def test_the_prior_is_that_of_the_training_part(ran: Path) -> None:
    assert read_run(ran).prior == [0.25] * 4


# ------------------------------------------------------------------ parameters


def build(made: Any, **switches: Any) -> tuple[Any, nn.Module]:
    found = choose_features(made.data.store, None)
    config = model_config(Switches(**switches), found, made.data.protocol.classes)
    return train.build(experiment.Training(), config, made.encoders)


def groups(made: Any, **switches: Any) -> dict[str, tuple[str, float, float]]:
    """Group, rate and decay of every tensor that learns."""
    model, network = build(made, **switches)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["name"], group["lr"], group["weight_decay"])
        for group in trainer.parameter_groups(network, model, (1e-5, 1e-3), 0.01)
        for parameter in group["params"]
    }


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("layers.0.feed_forward.intermediate_dense.weight", None),
        ("deep_layers.0.text_attention.q_proj.weight", ("pretrained", 1e-5, 0.01)),
        ("deep_layers.0.text_attention.q_proj.bias", ("pretrained", 1e-5, 0.0)),
        ("deep_layers.0.text_attention.k_proj.weight", ("new", 1e-3, 0.01)),
        ("deep_layers.2.video_attention.v_proj.bias", ("new", 1e-3, 0.0)),
        ("deep_layers.0.feed_forward.intermediate_dense.weight", ("pretrained", 1e-5, 0.01)),
        ("deep_layers.0.final_layer_norm.weight", ("pretrained", 1e-5, 0.0)),
        ("deep_layers.1.gate.fc.weight", ("new", 1e-3, 0.01)),
        ("video_encoder.entry.weight", ("new", 1e-3, 0.01)),
        ("video_encoder.entry_norm.weight", ("new", 1e-3, 0.0)),
        ("head.weight", ("new", 1e-3, 0.01)),
        ("head.bias", ("new", 1e-3, 0.0)),
        ("queries", ("new", 1e-3, 0.01)),
    ],
)
def test_a_tensor_has_the_rate_of_its_origin_and_the_decay_of_its_kind(
    made: Any, name: str, group: tuple[str, float, float] | None
) -> None:
    assert groups(made).get(name) == group


def test_codewords_do_not_decay(made: Any) -> None:
    assert [found[2] for name, found in groups(made).items() if name.endswith("codewords")] == [0.0]


def test_every_tensor_that_learns_is_in_one_group(made: Any) -> None:
    model, _ = build(made)
    assert set(groups(made)) == {name for name, x in model.named_parameters() if x.requires_grad}


def test_with_random_cross_attentions_none_of_them_is_pretrained(made: Any) -> None:
    found = groups(made, init_cross="xavier_all")
    assert {kind for name, (kind, _, _) in found.items() if "_attention." in name} == {"new"}


def test_lower_layers_learn_more_slowly_by_the_decay_of_a_layer(made: Any) -> None:
    model, network = build(made)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = trainer.parameter_groups(network, model, (1e-5, 1e-3), 0.01, layer_decay=0.5)
    rates = {names[id(x)]: group["lr"] for group in found for x in group["params"]}
    heights = [rates[f"deep_layers.{number}.final_layer_norm.weight"] for number in range(3)]
    assert heights == pytest.approx([2.5e-6, 5e-6, 1e-5])
    assert {rates[name] for name in ("deep_layers.0.text_attention.k_proj.weight", "head.weight")} == {1e-3}
    assert rates.keys() == groups(made).keys()


def test_preset_and_rates_are_those_of_the_features_unless_the_experiment_has_its_own(short: Any) -> None:
    found = FeatureSet("x", frame_rate=5.0, pretrained_rate=1e-5, new_rate=2e-4)
    own = [train.resolved(short(**said), found) for said in ({}, {"train__new_rate": "0.5"})]
    assert [(each.preset, each.train.pretrained_rate, each.train.new_rate) for each in own] == [
        ("x", 1e-5, 2e-4),
        ("x", 1e-5, 0.5),
    ]


def test_frozen_tensors_stay_as_the_checkpoint_had_them(made: Any, short: Any, tmp_path: Path) -> None:
    setting = short(train__epochs=1, model__trainable_layers=1, model__fusion_layers=3)
    train.train(setting, made.data, tmp_path / "run")
    model, _ = build(made, trainable_layers=1)
    frozen = {name: x for name, x in model.named_parameters() if not x.requires_grad}
    after = load_file(tmp_path / "run" / "model.safetensors")
    assert frozen and all(torch.equal(x, after[name]) for name, x in frozen.items())


# ------------------------------------------------------------------ epochs


def test_history_has_a_row_an_epoch_with_the_parts_of_the_loss(ran: Path) -> None:
    rows = history(ran)
    assert [float(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5]
    assert all(
        float(row["loss"]) == pytest.approx(float(row["loss_task"]) + float(row["loss_margin"]), rel=1e-3)
        for row in rows
    )


def test_the_best_epoch_is_kept(ran: Path) -> None:
    rows = history(ran)
    best = max(rows, key=lambda row: float(row["eval_weighted_f1"]))
    kept = load_file(ran / "checkpoints" / f"checkpoint-{best['step']}" / "model.safetensors")
    final = load_file(ran / "model.safetensors")
    assert all(torch.equal(tensor, kept[f"network.{name}"]) for name, tensor in final.items())


def test_the_validation_figure_of_the_best_epoch_is_that_of_the_model(ran: Path, made: Any) -> None:
    best = max(float(row["eval_weighted_f1"]) for row in history(ran))
    result, _ = evaluate.evaluate(read_run(ran), made.data.part("valid"), made.data.store, made.data.media)
    assert result["weighted_f1"] == pytest.approx(best)


@pytest.fixture(scope="module")
def averaged(made: Any, short: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RUN whose model is a moving average of the weights, after two epochs."""
    out = tmp_path_factory.mktemp("averaged") / "run"
    train.train(short(train__epochs=2, train__average=0.9), made.data, out)
    return out


def test_the_model_is_the_moving_average_over_the_steps(made: Any, averaged: Path) -> None:
    """The average of the second epoch follows from that of the first only through its steps, so the last is counted."""
    steps = sorted(checkpoints(averaged), key=lambda path: int(path.name.split("-")[1]))
    last = load_file(steps[-1] / "model.safetensors")
    best = max(history(averaged), key=lambda row: float(row["eval_weighted_f1"]))["step"]
    kept = load_file(averaged / "checkpoints" / f"checkpoint-{best}" / "model.safetensors")
    final = load_file(averaged / "model.safetensors")
    assert all(torch.equal(x, kept[f"averaged.module.{name}"]) for name, x in final.items())
    assert int(last["averaged.n_averaged"]) == int(steps[-1].name.split("-")[1])
    assert not torch.equal(last["averaged.module.head.weight"], last["network.head.weight"])


def test_validation_scores_the_average(made: Any, averaged: Path) -> None:
    best = max(float(row["eval_weighted_f1"]) for row in history(averaged))
    result, _ = evaluate.evaluate(read_run(averaged), made.data.part("valid"), made.data.store, made.data.media)
    assert result["weighted_f1"] == pytest.approx(best)


def test_a_resumed_average_is_that_of_a_training_without_a_break(
    made: Any, short: Any, averaged: Path, tmp_path: Path
) -> None:
    setting, out = short(train__epochs=2, train__average=0.9), tmp_path / "run"
    train.train(setting, made.data, out)
    for folder in sorted(checkpoints(out), key=lambda path: int(path.name.split("-")[1]))[1:]:
        shutil.rmtree(folder)
    train.train(setting, made.data, out, resume=True)
    whole, resumed = (load_file(run / "model.safetensors") for run in (averaged, out))
    assert all(torch.equal(x, resumed[name]) for name, x in whole.items())


@pytest.mark.parametrize(
    ("scores", "count"), [([], 0), ([0.1], 0), ([0.1, 0.2], 0), ([0.2, 0.2], 1), ([0.3, 0.1, 0.2], 2)]
)
def test_patience_counts_from_the_first_best_epoch(scores: list[float], count: int) -> None:
    assert kept.epochs_since_best([{kept.BEST_BY: score} for score in scores]) == count


@pytest.fixture(scope="module")
def stopped(made: Any, short: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RUN that learns too slowly for its figure to rise, and stops early."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    train.train(
        short(train__epochs=20, train__patience=2, train__new_rate=1e-6, train__pretrained_rate=1e-6), made.data, out
    )
    return out


def test_training_stops_when_patience_ends(stopped: Path) -> None:
    assert len(history(stopped)) == 3


def test_the_first_of_equal_epochs_is_kept(stopped: Path) -> None:
    final = load_file(stopped / "model.safetensors")
    kept = [load_file(path / "model.safetensors") for path in checkpoints(stopped)]
    assert [all(torch.equal(x, each[f"network.{name}"]) for name, x in final.items()) for each in kept] == [
        True,
        False,
        False,
    ]


# ------------------------------------------------------------------ the RUN folder


def test_a_run_holds_what_the_contract_names(ran: Path) -> None:
    assert {path.name for path in ran.iterdir()} == CONTRACT | OURS


def test_what_a_run_hands_over_is_no_pickle(ran: Path) -> None:
    for path in ran.rglob("*"):
        if path.is_file() and "checkpoints" not in path.relative_to(ran).parts:
            assert path.suffix in {".safetensors", ".json", ".yaml", ".csv", ".txt", ""} or "tfevents" in path.name
            with pytest.raises(ValueError):  # noqa: PT011
                list(itertools.islice(pickletools.genops(path.read_bytes()[:4096]), 50))


def test_the_experiment_of_a_run_is_read_again_as_resolved(ran: Path, short: Any) -> None:
    """The preset and the learning rates that it gave were null; so would be the layers that it leaves to the preset."""
    wanted = short(
        preset="tiny",
        model__fusion_layers=3,
        model__trainable_layers=3,
        model__margin_audio_layer=9,
        model__modality_dropout=0.2,
        model__time_mask=0.05,
        train__pretrained_rate=3e-3,
        train__new_rate=3e-3,
    )
    assert experiment.read_experiment(str(ran / "experiment.yaml")) == wanted


def test_the_protocol_of_a_run_says_what_its_figures_mean(ran: Path, made: Any) -> None:
    values = json.loads((ran / "protocol.json").read_text())
    assert (values["name"], values["selected_on"], values["speakers_disjoint"], values["hash"]) == (
        "manifest",
        "valid",
        True,
        made.data.protocol.hash,
    )


def test_the_environment_of_a_run_names_versions_hardware_and_seed(ran: Path) -> None:
    values = json.loads((ran / "environment.json").read_text())
    assert values["torch"] == torch.__version__ and values["seed"] == 0 and values["cpu_count"] == os.cpu_count()


def test_the_config_of_a_run_names_the_fingerprints_of_its_encoders(ran: Path, made: Any) -> None:
    values = json.loads((ran / "config.json").read_text())["features"]
    own = {name: getattr(made.encoders, name).fingerprint for name in ("audio", "text", "video")}
    assert {name: values[name]["fingerprint"] for name in own} == own


def test_the_tiny_encoders_of_a_run_are_its_own(ran: Path) -> None:
    assert {path.name for path in (ran / "encoders").iterdir()} == {"audio", "text", "video"}


def test_tensorboard_has_an_event_file(ran: Path) -> None:
    assert [path.stat().st_size > 500 for path in (ran / "tensorboard").iterdir()] == [True]


def test_every_kept_checkpoint_is_marked_as_complete(ran: Path) -> None:
    assert all((path / kept.COMPLETE).exists() for path in checkpoints(ran))


def test_training_writes_nothing_to_stdout_and_a_line_an_epoch_to_the_log(
    made: Any, short: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Without a terminal hours passed in silence."""
    with caplog.at_level("INFO"):
        train.train(short(train__epochs=2, model__modalities="[text]"), made.data, tmp_path / "run")
    said = [message for message in caplog.messages if message.startswith("epoch")]
    pattern = r"epoch {} of 2: loss \d\.\d{{4}}, validation weighted F1 \d\.\d{{4}}, \d+ s left"
    assert [bool(re.fullmatch(pattern.format(k + 1), line)) for k, line in enumerate(said)] == [True, True]
    assert capfd.readouterr().out == ""


def test_what_training_lacks_is_said(made: Any, short: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        replace(row, video=None)
        for row in made.data.utterances
        if row.split != "train" or row.emotion == "sad"
        if row.split != "valid" or row.emotion == "happy"
    ]
    parts = {row.id: row.split for row in rows if row.emotion}
    data = replace(made.data, utterances=rows, protocol=replace(made.data.protocol, parts=parts))
    train.train(short(train__epochs=1), data, tmp_path / "run")
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"][:4] == [
        "no training utterance is happy or neutral or angry: the model cannot learn it",
        "all training utterances are sad: expected two emotions or more to learn from",
        "the part that chooses the epoch has no utterance that is sad",
        "no training utterance has video",
    ]


# ------------------------------------------------------------------ refusals


def test_an_existing_run_is_refused(ran: Path, made: Any, short: Any) -> None:
    with pytest.raises(CorpusError, match=r"--resume.*--force"):
        train.train(short(), made.data, ran)


def test_force_starts_again_and_leaves_other_files_alone(again: Path, made: Any, short: Any) -> None:
    (again / "notes.txt").write_text("mine")
    train.train(short(train__epochs=1, model__modalities="[text]"), made.data, again, force=True)
    assert len(history(again)) == 1 and (again / "notes.txt").exists() and not (again / "encoders" / "audio").exists()


def test_force_removes_nothing_where_the_new_training_cannot_start(again: Path, made: Any, short: Any) -> None:
    """The old RUN was removed before the new one's features were looked for."""
    before = tree(again)
    with pytest.raises(CorpusError):
        train.train(short(model__trainable_layers=5), made.data, again, force=True)
    assert tree(again) == before


def test_a_run_is_not_resumed_under_another_experiment(again: Path, made: Any, short: Any) -> None:
    with pytest.raises(ConfigError, match=r"train\.batch_size 7 where it was 8"):
        setting = short(model__modality_dropout=0.2, model__time_mask=0.05, train__batch_size=7)
        train.train(setting, made.data, again, resume=True)


def test_a_finished_training_goes_on_with_more_epochs(again: Path, made: Any, short: Any) -> None:
    """`--resume` with more epochs was refused, and the only way was to start again."""
    setting = short(model__modality_dropout=0.2, model__time_mask=0.05, train__epochs=7)
    before = history(again)
    train.train(setting, made.data, again, resume=True)
    after = history(again)
    assert [row["epoch"] for row in after] == ["1.0", "2.0", "3.0", "4.0", "5.0", "6.0", "7.0"]
    assert after[:5] == before and "epochs: 7" in (again / "experiment.yaml").read_text()
    with pytest.raises(ConfigError, match=r"expected train\.epochs 7 as it was started, or more, found 5"):
        train.train(short(model__modality_dropout=0.2, model__time_mask=0.05), made.data, again, resume=True)


def test_a_training_that_stopped_early_goes_on_with_more_patience(
    stopped: Path, made: Any, short: Any, tmp_path: Path
) -> None:
    again, before = Path(shutil.copytree(stopped, tmp_path / "run")), len(history(stopped))
    setting = short(train__epochs=20, train__patience=3, train__new_rate=1e-6, train__pretrained_rate=1e-6)
    train.train(setting, made.data, again, resume=True)
    assert len(history(again)) == before + 1


def test_a_run_of_an_older_version_with_a_retired_setting_is_resumed(again: Path, made: Any, short: Any) -> None:
    """`train.recorded` stood in every RUN of the version that could record steps on a GPU."""
    text, setting = (again / "experiment.yaml").read_text(), short(model__modality_dropout=0.2, model__time_mask=0.05)
    (again / "experiment.yaml").write_text(text.replace("  resident: null\n", "  resident: null\n  recorded: false\n"))
    (again / "model.safetensors").unlink()
    train.train(setting, made.data, again, resume=True)
    assert (again / "experiment.yaml").read_text() == text and (again / "model.safetensors").exists()


def test_resume_together_with_force_is_refused(again: Path, made: Any, short: Any) -> None:
    """`--force` was passed over in silence."""
    with pytest.raises(ConfigError, match="expected one of --resume"):
        train.train(short(), made.data, again, resume=True, force=True)


@pytest.mark.parametrize("name", ["experiment.yaml", "protocol.json"])
@pytest.mark.parametrize("content", [b"{", b"", b"[]", b"\xff", None], ids=str)
def test_a_run_with_damaged_notes_is_not_resumed(
    again: Path, made: Any, short: Any, name: str, content: bytes | None
) -> None:
    """It ended in a trace; a pipe, here None, was waited for without end."""
    (again / name).unlink()
    if content is None:
        os.mkfifo(again / name)
    else:
        (again / name).write_bytes(content)
    with pytest.raises((ConfigError, CorpusError), match=name if content != b"" else "--resume|protocol"):
        train.train(short(model__modality_dropout=0.2, model__time_mask=0.05), made.data, again, resume=True)


@pytest.mark.parametrize("part", ["train", "valid"])
def test_an_empty_part_is_refused(made: Any, short: Any, tmp_path: Path, part: str) -> None:
    parts = {key: each for key, each in made.data.protocol.parts.items() if each != part}
    data = replace(made.data, protocol=replace(made.data.protocol, parts=parts))
    with pytest.raises(CorpusError, match=part):
        train.train(short(), data, tmp_path / "run")


def test_a_store_of_another_encoder_is_refused_with_both_fingerprints(made: Any, short: Any, tmp_path: Path) -> None:
    store = Path(shutil.copytree(made.store, tmp_path / "store"))
    values = json.loads((store / "encoders.json").read_text())
    own = values["tiny"]["audio"]["fingerprint"]
    values["tiny"]["audio"]["fingerprint"] = "0" * 32
    (store / "encoders.json").write_text(json.dumps(values))
    data = train.read_data(made.manifest, store)
    with pytest.raises((ConfigError, CorpusError)) as caught:
        train.load_trained_on(choose_features(data.store, None), build(made)[0].config)
    assert own in str(caught.value) and "0" * 32 in str(caught.value)


# ------------------------------------------------------------------ the same again


def test_one_seed_gives_the_same_bytes(ran: Path, made: Any, short: Any, tmp_path: Path) -> None:
    train.train(short(model__modality_dropout=0.2, model__time_mask=0.05), made.data, tmp_path / "run")
    assert results(tmp_path / "run") == results(ran)


def test_another_seed_gives_other_weights(ran: Path, made: Any, short: Any, tmp_path: Path) -> None:
    setting = short(model__modality_dropout=0.2, model__time_mask=0.05, seed=1, train__epochs=1)
    train.train(setting, made.data, tmp_path / "run")
    assert (tmp_path / "run" / "model.safetensors").read_bytes() != (ran / "model.safetensors").read_bytes()


def test_the_labels_of_the_test_part_change_no_byte_of_a_checkpoint(
    ran: Path, made: Any, short: Any, tmp_path: Path
) -> None:
    labels = {row.id: row.emotion for row in made.data.part("test")}
    shifted = dict(zip(labels, [*list(labels.values())[1:], "happy"], strict=True))
    rows = [replace(row, emotion=shifted.get(row.id, row.emotion)) for row in made.data.utterances]
    setting = short(model__modality_dropout=0.2, model__time_mask=0.05)
    train.train(setting, replace(made.data, utterances=rows), tmp_path / "run")
    for ours, other in zip(checkpoints(ran), checkpoints(tmp_path / "run"), strict=True):
        for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
            assert (ours / name).read_bytes() == (other / name).read_bytes()


def resume(made: Any, run: Path, setting: Any) -> None:
    train.train(setting, made.data, run, resume=True)


def spoil(run: Path, marked: bool) -> None:
    """Leave what a kill while the last checkpoint is written leaves."""
    for name in ("model.safetensors", "config.json", "metrics.json", "predictions.csv"):
        (run / name).unlink()
    newest = checkpoints(run)[-1]
    if not marked:
        for name in (kept.COMPLETE, "trainer_state.json", "rng_state.pth", "scheduler.pt"):
            (newest / name).unlink()
        (newest / "optimizer.pt").write_bytes(b"cut sho")


def test_a_checkpoint_that_was_cut_short_is_passed_over(ran: Path, again: Path, made: Any, short: Any) -> None:
    spoil(again, marked=False)
    resume(made, again, short(model__modality_dropout=0.2, model__time_mask=0.05))
    assert results(again) == results(ran)


CHECKPOINT = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


@pytest.mark.parametrize("name", [*CHECKPOINT, "complete"])
@pytest.mark.parametrize("damage", ["gone", "cut", "spoilt", "pipe"])
def test_a_checkpoint_damaged_after_it_was_complete_is_passed_over(
    again: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A trace, or a training that went on from other weights than it had."""
    newest, older = checkpoints(again)[-1], checkpoints(again)[-2]
    content = (newest / name).read_bytes()
    (newest / name).unlink()
    if damage == "pipe":
        os.mkfifo(newest / name)
    elif damage != "gone":
        (newest / name).write_bytes(content[:-3] if damage == "cut" else content[:-9] + b"{" + content[-8:])
    assert kept.newest(again) == older
    assert [newest.name in message and "skipped" in message for message in caplog.messages] == [True]


def test_a_run_resumed_before_a_damaged_checkpoint_has_the_same_weights(
    ran: Path, again: Path, made: Any, short: Any
) -> None:
    spoil(again, marked=True)
    (checkpoints(again)[-1] / "rng_state.pth").unlink()
    resume(made, again, short(model__modality_dropout=0.2, model__time_mask=0.05))
    assert results(again) == results(ran)


def test_a_checkpoint_whose_best_epoch_is_damaged_is_passed_over(
    stopped: Path, made: Any, short: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first epoch is the best; without it nothing can be gone on from."""
    again = Path(shutil.copytree(stopped, tmp_path / "run"))
    (checkpoints(again)[0] / "model.safetensors").write_bytes(b"cut sho")
    setting = short(train__epochs=20, train__patience=2, train__new_rate=1e-6, train__pretrained_rate=1e-6)
    resume(made, again, setting)
    assert results(again) == results(stopped)
    assert f"{again}: no complete checkpoint is left; training starts again" in caplog.messages


def sign(checkpoint: Path) -> None:
    """Write the marker anew, as for files that are as they should be."""
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in checkpoint.iterdir()}
    del digests[kept.COMPLETE]
    (checkpoint / kept.COMPLETE).write_text(json.dumps(digests))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("trainer_state.json", {}),
        ("trainer_state.json", []),
        ("trainer_state.json", {"epoch": "1"}),
        ("trainer_state.json", {"log_history": [{"loss": 1.0}]}),
        ("trainer_state.json", {"foreign": 1}),
        ("model.safetensors", b"{}"),
        ("model.safetensors", {"a": torch.zeros(2)}),
        ("optimizer.pt", b"\x80\x04."),
        ("optimizer.pt", {"state": {}, "param_groups": []}),
        ("optimizer.pt", [1]),
        ("scheduler.pt", 3),
        ("rng_state.pth", {"python": 1}),
        ("rng_state.pth", {"python": [3, [1], None], "numpy": 2, "cpu": 3}),
    ],
    ids=str,
)
def test_a_signed_checkpoint_of_wrong_content_is_an_error_that_names_it(
    again: Path, made: Any, short: Any, name: str, content: Any
) -> None:
    """KeyError, TypeError, ValueError and UnpicklingError ended `train --resume` with a trace."""
    for checkpoint in checkpoints(again)[1:]:
        shutil.rmtree(checkpoint)
    path = checkpoints(again)[0] / name
    if name == "trainer_state.json":
        state = json.loads(path.read_text())
        path.write_text(json.dumps(state | content if content and isinstance(content, dict) else content))
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif name == "model.safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    sign(path.parent)
    with pytest.raises(ConfigError, match=r"checkpoint-\d+(/trainer_state.json)?: (expected|field|unknown)"):
        resume(made, again, short(model__modality_dropout=0.2, model__time_mask=0.05))


def test_a_disk_that_fills_while_a_checkpoint_is_written_is_named_and_training_goes_on_from_there(
    ran: Path, made: Any, short: Any, tmp_path: Path
) -> None:
    """The errors of safetensors and torch, which are no OSErrors, ended `train` with a trace."""
    setting, most = short(model__modality_dropout=0.2, model__time_mask=0.05), resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for size in (100_000, (checkpoints(ran)[0] / "model.safetensors").stat().st_size + 1000):  # too few for the second
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, most[1]))
        try:
            with pytest.raises(OSError, match=r"^.*checkpoint-\d+'$") as caught:
                train.train(setting, made.data, tmp_path / "run", resume=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, most)
        assert caught.value.strerror.startswith("not written whole (is the disk full?)")
    signal.signal(signal.SIGXFSZ, before)
    resume(made, tmp_path / "run", setting)
    assert results(tmp_path / "run") == results(ran)


def test_a_run_killed_after_its_last_epoch_is_finished(ran: Path, again: Path, made: Any, short: Any) -> None:
    spoil(again, marked=True)
    resume(made, again, short(model__modality_dropout=0.2, model__time_mask=0.05))
    assert results(again) == results(ran)


def test_resuming_a_finished_run_changes_nothing(ran: Path, again: Path, made: Any, short: Any) -> None:
    resume(made, again, short(model__modality_dropout=0.2, model__time_mask=0.05))
    assert results(again) == results(ran)


def test_a_run_that_stopped_early_is_not_trained_further(stopped: Path, made: Any, short: Any, tmp_path: Path) -> None:
    """The Trainer forgets the count of its patience at a resume."""
    again = Path(shutil.copytree(stopped, tmp_path / "run"))
    setting = short(train__epochs=20, train__patience=2, train__new_rate=1e-6, train__pretrained_rate=1e-6)
    resume(made, again, setting)
    assert results(again) == results(stopped)


def test_patience_goes_on_where_it_was(stopped: Path, made: Any, short: Any, tmp_path: Path) -> None:
    again = Path(shutil.copytree(stopped, tmp_path / "run"))
    spoil(again, marked=False)
    setting = short(train__epochs=20, train__patience=2, train__new_rate=1e-6, train__pretrained_rate=1e-6)
    resume(made, again, setting)
    assert results(again) == results(stopped)


def test_a_moved_run_keeps_its_best_epoch(ran: Path, again: Path, made: Any, short: Any) -> None:
    """The Trainer's state names the best checkpoint by the path that it had."""
    for path in checkpoints(again):
        state = json.loads((path / "trainer_state.json").read_text())
        state["best_model_checkpoint"] = "/moved/away"
        (path / "trainer_state.json").write_text(json.dumps(state))
    spoil(again, marked=True)
    resume(made, again, short(model__modality_dropout=0.2, model__time_mask=0.05))
    assert results(again) == results(ran)


def test_resuming_nothing_starts_a_training(made: Any, short: Any, tmp_path: Path) -> None:
    setting = short(train__epochs=1, model__modalities="[text]")
    train.train(setting, made.data, tmp_path / "run", resume=True)
    assert len(history(tmp_path / "run")) == 1


# ------------------------------------------------------------------ live and scratch


@pytest.mark.slow
def test_live_training_equals_cached_training_but_for_the_rounding(made: Any, short: Any, tmp_path: Path) -> None:
    for mode in ("cached", "live"):
        train.train(short(train__mode=mode), made.data, tmp_path / mode)
    cached, live = (load_file(tmp_path / mode / "model.safetensors") for mode in ("cached", "live"))
    moved = build(made)[0].state_dict()
    difference = sum(float((cached[name] - live[name]).square().sum()) for name in cached) ** 0.5
    learned = sum(float((cached[name].float() - moved[name].float()).square().sum()) for name in cached) ** 0.5
    assert difference < 0.05 * learned


@pytest.mark.slow
def test_a_model_from_scratch_carries_the_encoder_that_it_learned(made: Any, short: Any, tmp_path: Path) -> None:
    setting = short(train__mode="scratch", train__epochs=3, model__modalities="[audio]")
    train.train(setting, made.data, tmp_path / "run")
    trained = read_run(tmp_path / "run")
    row = made.data.part("test")[0]
    result, said = evaluate.evaluate(trained, made.data.part("test"), made.data.store, made.data.media)
    predicted = EmotionRecognizer(trained, trained.encoders()).predict(made.root / row.audio.path)[0]
    assert list(predicted.probabilities.values()) == pytest.approx(said.probabilities[0].tolist(), abs=1e-3)
    assert result["accuracy"] == json.loads((tmp_path / "run" / "metrics.json").read_text())["accuracy"]
    assert trained.features.audio["fingerprint"] != made.encoders.audio.fingerprint


@pytest.mark.slow
def test_a_model_from_scratch_resumes_exactly(made: Any, short: Any, tmp_path: Path) -> None:
    setting = short(train__mode="scratch", train__epochs=3, model__modalities="[audio]")
    train.train(setting, made.data, tmp_path / "run")
    again = Path(shutil.copytree(tmp_path / "run", tmp_path / "again"))
    spoil(again, marked=False)
    resume(made, again, setting)
    assert results(again) == results(tmp_path / "run")


# ------------------------------------------------------------------ kills

KILLS = int(os.environ.get("WAVFUSION_KILLS", "3"))


def command(made: Any, out: Path, *rest: str) -> list[str]:
    settings = {
        "train.epochs": 24,
        "train.batch_size": 8,
        "train.patience": 6,
        "model.modality_dropout": 0.2,
        "model.time_mask": 0.05,
    }
    overrides = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    files = ["--manifest", str(made.manifest), "--store", str(made.store), "--out", str(out)]
    return [sys.executable, "-m", "wavfusion", "train", "--config", "paper", *files, *overrides, *rest]


@pytest.mark.slow
@pytest.mark.timeout(600 + 60 * KILLS)
def test_a_killed_training_resumes_to_the_same_weights(made: Any, tmp_path: Path) -> None:
    """Kills are spread over the training and the writing of its model, one in each stretch; each third comes twice."""
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    whole = tmp_path / "whole"
    started = time.monotonic()
    process = subprocess.Popen(command(made, whole), **quiet)
    while not (whole / "experiment.yaml").exists():
        assert process.poll() is None and time.monotonic() - started < 120
        time.sleep(0.02)
    begun = time.monotonic()
    while not (whole / "model.safetensors").exists():
        assert process.poll() in (None, 0)
        time.sleep(0.02)
    lasted = 1.1 * (time.monotonic() - begun)  # what comes later only scores the model
    assert process.wait() == 0
    chance = random.Random(0)
    seen = []
    for number in range(KILLS):
        out = tmp_path / f"killed{number}"
        process = subprocess.Popen(command(made, out), **quiet)
        while not (out / "experiment.yaml").exists():
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(lasted * (number + chance.random()) / KILLS)
        process.send_signal(signal.SIGKILL)
        process.wait()
        steps = [int(path.parent.name.rpartition("-")[2]) for path in out.glob(f"checkpoints/*/{kept.COMPLETE}")]
        seen.append(max(steps, default=0))
        if number % 3 == 2:
            process = subprocess.Popen(command(made, out, "--resume"), **quiet)
            time.sleep(begun - started + lasted * chance.random())
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert subprocess.run(command(made, out, "--resume"), **quiet, check=False).returncode == 0
        assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes(), (number, seen)
        assert (out / "metrics.json").read_bytes() == (whole / "metrics.json").read_bytes(), (number, seen)
        shutil.rmtree(out)
    log.info("newest complete checkpoint at each kill: %s", seen)
    assert any(0 < step < 72 for step in seen)  # 24 epochs of 3 steps


# ------------------------------------------------------------------ nothing of the test part reaches the model


def without_test(data: train.Data) -> train.Data:
    kept = {key for part in ("train", "valid") for key in data.protocol.ids(part)}
    return replace(data, protocol=data.protocol.restricted(kept))


def with_other_labels(data: train.Data) -> train.Data:
    """The test rows with each other's emotions."""
    tested = set(data.protocol.ids("test"))
    emotions = iter([row.emotion for row in data.utterances if row.id in tested][::-1])
    rows = [replace(row, emotion=next(emotions)) if row.id in tested else row for row in data.utterances]
    return replace(data, utterances=rows)


@pytest.mark.parametrize("change", [without_test, with_other_labels])
def test_the_test_part_changes_no_byte_of_a_checkpoint(made: Any, short: Any, tmp_path: Path, change: Any) -> None:
    for name, data in (("whole", made.data), ("changed", change(made.data))):
        train.train(short(train__epochs=2, model__modality_dropout=0.2), data, tmp_path / name)
    saved = [checkpoints(tmp_path / name)[-1] / "model.safetensors" for name in ("whole", "changed")]
    assert saved[0].read_bytes() == saved[1].read_bytes()


def test_selecting_on_test_is_said_in_every_result(made: Any, short: Any, tmp_path: Path) -> None:
    data = train.read_data(made.manifest, made.store, None, selected_on="test")
    found = train.train(short(train__epochs=1), data, tmp_path / "run")
    assert (found["protocol"]["selected_on"], read_run(tmp_path / "run").protocol["selected_on"]) == ("test", "test")


# ------------------------------------------------------------------ weights of the emotions, figures near chance, folds


def test_own_weights_of_emotions_replace_inverse_frequencies(made: Any, short: Any, tmp_path: Path) -> None:
    weights = {"train.class_weights": "{sad: 3}", "model.task_loss": "balanced"}
    setting = short(train__epochs=1, **{name.replace(".", "__"): value for name, value in weights.items()})
    train.train(setting, made.data, tmp_path / "run")
    found = load_file(tmp_path / "run" / "model.safetensors")["class_weights"]
    # Six training utterances of each emotion: 1, 1, 1 and 3 have a mean of 1.5.
    assert dict(zip(made.data.protocol.classes, found.tolist(), strict=True)) == pytest.approx(
        {"happy": 2 / 3, "sad": 2.0, "neutral": 2 / 3, "angry": 2 / 3}
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train.class_weights": "{sad: 3}"}, "expected model.task_loss balanced, whose weights they replace, found"),
        ({"train.class_weights": "{sad: -1}", "model.task_loss": "balanced"}, "expected numbers of 0 or more"),
    ],
)
def test_weights_of_emotions_that_have_no_effect_are_refused(values: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        experiment.read_experiment("paper", values)


def test_a_weight_of_an_unknown_emotion_is_refused(made: Any, short: Any, tmp_path: Path) -> None:
    setting = short(model__task_loss="balanced", train__class_weights="{sda: 3}")
    with pytest.raises(ConfigError, match=r"train\.class_weights: found 'sda'; did you mean 'sad'"):
        train.train(setting, made.data, tmp_path / "run")


def test_a_training_without_a_test_part_says_whose_figures_it_prints(
    made: Any, short: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """The figures of the part that had chosen the epoch were printed as if they were of a test."""
    rows = [f"{key},{part}" for key, part in made.data.protocol.parts.items() if part != "test"]
    (tmp_path / "split.csv").write_text("\n".join(["id,split", *rows]))
    data = train.read_data(made.manifest, made.store, str(tmp_path / "split.csv"))
    result = train.train(short(train__epochs=1, model__modalities="[text]"), data, tmp_path / "run")
    assert "no test part: all figures are of the part that chose the epoch" in caplog.text
    assert figures_to_text(result, tmp_path).startswith(f"{tmp_path}: 8 utterances in 4 dialogues of part valid; ")


def test_figures_near_chance_are_said_with_what_to_try(
    made: Any, short: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A training ended with a UAR of 10.9 where a guess has 12.5, and nothing said so."""
    rates = {"train__new_rate": 0.0, "train__pretrained_rate": 0.0}
    result = train.train(short(train__epochs=1, **rates), made.data, tmp_path / "run")
    (doubt,) = [each for each in caplog.messages if each.startswith("UAR ")]
    assert f"UAR {result['uar']:.1%} [" in doubt and "cannot be told from chance, 25.0%; try --config" in doubt
    lines = figures_to_text(result, tmp_path).splitlines()
    assert lines[-1].split() == ["chance", "accuracy", "0.3333", "(always", "sad)", "UAR", "0.2500"]


def test_a_subset_that_no_utterance_has_is_said_to_be_the_answer_of_the_prior(ran: Path, made: Any) -> None:
    """Where no test clip had video, a line of figures for video alone stood beside the others."""
    run, rows = read_run(ran), [replace(row, video=None) for row in made.data.part("test")]
    result, _ = evaluate.evaluate(run, rows, made.data.store, made.data.media)
    assert result["subsets"]["video"]["answered_by_prior"] == 9 == result["n"]
    assert (result["answered_by_prior"], result["subsets"]["text"]["answered_by_prior"]) == (0, 1)
    result |= {"part": "test"}
    (line,) = [each for each in figures_to_text(result, ran).splitlines() if each.split()[0] == "video"]
    assert line.endswith("(9 of 9 without it: the answer of the prior)")


def test_all_folds_are_trained_in_one_call(made: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Every fold was a command of its own, and their figures were nowhere together."""
    words = ["--manifest", str(made.manifest), "--store", str(made.store), "--out", str(tmp_path / "all")]
    words += ["--protocol", "group-folds:speaker", "--model.modalities", "text", "--train.epochs", "1"]
    assert main(["train", "--config", "paper", *words, "--fold", "all", "--device", "cpu", "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    folders = sorted(path.name for path in (tmp_path / "all").iterdir() if path.is_dir())
    assert folders == [f"fold{number}" for number in result["folds"]] and len(folders) > 1
    labelled = [row for row in made.data.utterances if row.emotion]
    assert result["n"] == len(labelled) == sum(each["n"] for each in result["folds"].values())
    with open(tmp_path / "all" / "predictions.csv", newline="") as file:
        assert {row["id"] for row in csv.DictReader(file)} == {row.id for row in labelled}
    weights = [(tmp_path / "all" / name / "model.safetensors").read_bytes() for name in folders]
    assert main(["train", "--config", "paper", *words, "--fold", "all", "--device", "cpu", "--resume"]) == 0
    assert [(tmp_path / "all" / name / "model.safetensors").read_bytes() for name in folders] == weights
