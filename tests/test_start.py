"""Training that starts from another RUN: its weights, its head by emotion, its encoders, and what is refused."""

import filecmp
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from wavfusion.cli.app import main
from wavfusion.encoders.tiny import audio_model
from wavfusion.errors import ConfigError, CorpusError
from wavfusion.experiments.experiment import Experiment, read_experiment
from wavfusion.fast.network import accelerate
from wavfusion.features.dataset import choose_features, model_config
from wavfusion.features.store import Store
from wavfusion.model.config import Switches
from wavfusion.model.wavfusion import WavFusion
from wavfusion.prediction.recognizer import EmotionRecognizer
from wavfusion.runs.card import make_card
from wavfusion.runs.folder import Run, read_run
from wavfusion.runs.hub import write_hub_folder
from wavfusion.runs.origin import training_data_of
from wavfusion.training import train
from wavfusion.training.start import settings_of, warn_of_known

pytest_plugins = ("corpus_fixture",)

SAME = {"train.pretrained_rate": "0", "train.new_rate": "0", "train.epochs": "1"}  # learns nothing


def of(start: Run, **overrides: str) -> Experiment:
    """The experiment of a RUN with some values by dotted key, `__` for the dot."""
    values = {key.replace("__", "."): value for key, value in overrides.items()}
    return read_experiment(None, values, settings_of(start))


def shell(*arguments: Any) -> int:
    return main([str(each) for each in arguments])


@pytest.fixture(scope="module")
def start(made: Any, short: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A RUN of audio and text: LVC would follow the batches at any learning rate."""
    out = tmp_path_factory.mktemp("start") / "first"
    setting = short(train__epochs=3, model__modalities="[audio,text]", model__modality_dropout=0.2)
    train.train(setting, made.data, out)
    return read_run(out)


@pytest.fixture(scope="module")
def same(start: Run, made: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RUN that started from it and learned nothing."""
    out = tmp_path_factory.mktemp("same") / "mine"
    train.train(read_experiment(None, SAME, settings_of(start)), made.data, out, start=start)
    return out


def config_of(made: Any, *classes: str, **switches: Any) -> Any:
    return model_config(Switches(**switches), choose_features(made.data.store, None), classes)


# ------------------------------------------------------------------ the weights


def test_at_a_rate_of_zero_its_own_predictions_come_out(same: Path, start: Run) -> None:
    names = ("predictions.csv", "metrics.json", "model.safetensors", "familiarity.safetensors")
    assert [name for name in names if not filecmp.cmp(same / name, start.folder / name, shallow=False)] == []


def test_shared_emotions_keep_their_logits_in_another_order(start: Run, made: Any) -> None:
    torch.manual_seed(1)
    switches = {"modalities": ["audio", "text"]}
    model = accelerate(WavFusion(config_of(made, "sad", "amused", "angry", **switches)).eval())
    new = model.head.weight[1].clone()
    model.start_from(start.model)
    batch = (
        torch.randn(2, 30, start.model.config.hidden_size),
        torch.ones(2, 30, dtype=torch.bool),
        None,
        None,
        None,
        None,
    )
    ours, theirs = model(*batch).logits, start.model(*batch).logits
    rows = [start.classes.index("sad"), start.classes.index("angry")]
    assert torch.equal(model.head.weight[[0, 2]], start.model.head.weight[rows])
    torch.testing.assert_close(ours[:, [0, 2]], theirs[:, rows], rtol=0, atol=1e-5)  # a product of another size
    assert torch.equal(model.head.weight[1], new)


def test_layers_are_taken_by_their_number_in_the_encoder(made: Any) -> None:
    """`layers.0` is another layer where more of them learn: its tensors would have had the same names and shapes."""
    torch.manual_seed(0)
    depth = audio_model().config.num_hidden_layers
    both = [
        WavFusion(config_of(made, "sad", modalities=["audio"], trainable_layers=count)) for count in (depth, depth - 1)
    ]
    both[1].start_from(both[0])
    name = "feed_forward.output_dense.weight"
    found, first, second = (each.get_parameter(name) for each in (both[1].layers[0], *both[0].layers[:2]))
    assert torch.equal(found, second) and not torch.equal(found, first)


def test_another_modality_begins_anew_beside_what_fits(start: Run, made: Any, tmp_path: Path) -> None:
    more = of(start, **SAME | {"model.modalities": "audio,text,video"})
    train.train(more, made.data, tmp_path / "run", start=start)
    trained = read_run(tmp_path / "run").model
    assert trained.config.modalities == ["audio", "text", "video"]
    assert torch.equal(trained.deep_layers[0].text_attention.v_proj.weight,
                       start.model.deep_layers[0].text_attention.v_proj.weight)  # fmt: skip


def test_training_from_it_is_no_worse_than_the_start(start: Run, made: Any, tmp_path: Path) -> None:
    found = train.train(of(start, train__epochs="8"), made.data, tmp_path / "run", start=start)
    before = json.loads((start.folder / "metrics.json").read_text())
    assert found["uar"] >= before["uar"]


def test_an_emotion_that_it_did_not_know_is_learned(start: Run, made: Any, tmp_path: Path) -> None:
    utterances = [replace(row, emotion={"sad": "bored"}.get(row.emotion, row.emotion)) for row in made.data.utterances]
    protocol = replace(made.data.protocol, classes=["bored", "happy", "angry", "neutral"])
    data = replace(made.data, utterances=utterances, protocol=protocol)
    found = train.train(of(start, train__epochs="12"), data, tmp_path / "run", start=start)
    assert found["classes"] == protocol.classes and found["per_class"]["bored"]["recall"] >= 0.5


# ------------------------------------------------------------------ the experiment


def test_what_the_experiment_says_goes_before_the_switches_of_the_run(start: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("model: {dropout: 0.3, margin: {alpha: 0.2}}\ntrain: {epochs: 2}\n")
    found = read_experiment(str(tmp_path / "mine.yaml"), {"train.epochs": "4"}, settings_of(start))
    assert (found.model.dropout, found.model.margin.alpha, found.train.epochs) == (0.3, 0.2, 4)
    assert (found.model.modalities, found.model.modality_dropout, found.preset) == (["audio", "text"], 0.2, None)
    assert found.model.fusion_layers == start.model.config.fusion_layers


# ------------------------------------------------------------------ the encoders


def test_encoders_that_lie_in_the_start_lie_in_the_new_run(start: Run, made: Any, tmp_path: Path) -> None:
    old = shutil.copytree(start.folder, tmp_path / "old")
    about = json.loads((old / "config.json").read_text())
    for name in ("audio", "text"):
        about["features"][name]["name"] = f"/elsewhere/{name}"
    (old / "config.json").write_text(json.dumps(about))
    moved = read_run(old)
    train.train(read_experiment(None, SAME, settings_of(moved)), made.data, tmp_path / "run", start=moved)
    shutil.rmtree(old)
    clip = made.root / "clips/test05.wav"
    ours, theirs = (EmotionRecognizer.from_pretrained(each).predict(clip) for each in (tmp_path / "run", start.folder))
    assert ours[0].probabilities == theirs[0].probabilities


def test_extract_from_a_run_stores_what_its_training_took(start: Run, made: Any, tmp_path: Path) -> None:
    assert (
        shell("extract", made.manifest, "--store", tmp_path / "store", "--from", start.folder, "--device", "cpu") == 0
    )
    expected = {key for key in Store(made.store).keys() if not key.startswith("video")}
    assert set(Store(tmp_path / "store").keys()) == expected


def test_the_shell_extracts_and_trains_from_a_run_on_several_folds(start: Run, made: Any, tmp_path: Path) -> None:
    assert (
        shell("extract", made.manifest, "--store", tmp_path / "store", "--from", start.folder, "--device", "cpu") == 0
    )
    common = ("--from", start.folder, "--manifest", made.manifest, "--store", tmp_path / "store", "--device", "cpu")
    folds = ("--protocol", "group-folds:speaker", "--fold", "1,2", "--out", tmp_path / "runs")
    assert shell("train", *common, *folds, "--train.epochs", "1") == 0
    starts = [training_data_of(tmp_path / "runs" / fold).start for fold in ("fold1", "fold2")]
    assert [each and each.weights for each in starts] == [start.weights_digest] * 2


# ------------------------------------------------------------------ what is noted


def test_the_card_says_what_the_start_was_trained_on(same: Path, start: Run, tmp_path: Path) -> None:
    first = "table (recorded), 24 utterances of 2 speakers"
    assert make_card(read_run(same)).trained_on == f"{first}, starting from first ({first})"
    found = json.loads((same / "environment.json").read_text())["trained_on"]["start"]
    assert found == {"name": "first", "weights": start.weights_digest, "trained_on": first}
    write_hub_folder(same, tmp_path / "hub", "somebody/mine")
    assert f"| start | first | those of what trained it: {first} | |\n" in (tmp_path / "hub/README.md").read_text()


def test_utterances_that_trained_the_start_are_told_where_they_are_tested(
    start: Run, made: Any, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_known(start, made.data.utterances, made.data.protocol)
    assert caplog.messages == []
    swapped = {"train": "test", "test": "train"}
    parts = {key: swapped.get(part, part) for key, part in made.data.protocol.parts.items()}
    warn_of_known(start, made.data.utterances, replace(made.data.protocol, parts=parts))
    assert caplog.messages[0].startswith("24 utterances of the parts valid and test trained")


def test_of_a_published_start_a_shared_corpus_is_told(
    start: Run, made: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    published = Path(shutil.copytree(start.folder, tmp_path / "published"))
    (published / "split.csv").unlink()
    about = json.loads((published / "environment.json").read_text())
    about["trained_on"]["corpus"] = "meld+ravdess+table"
    (published / "environment.json").write_text(json.dumps(about))
    others = [replace(row, corpus="ravdess") for row in made.data.utterances]
    for rows in (made.data.utterances, others):  # every table is called so
        warn_of_known(read_run(published), rows, made.data.protocol)
    (line,) = caplog.messages
    assert line.startswith("the corpus ravdess trained")


# ------------------------------------------------------------------ resume


def test_a_training_from_a_run_is_resumed_to_the_same_bytes(start: Run, made: Any, tmp_path: Path) -> None:
    for name in ("whole", "broken"):
        train.train(of(start, train__epochs="2"), made.data, tmp_path / name, start=start)
    newest = max((tmp_path / "broken/checkpoints").iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))
    shutil.rmtree(newest)
    (tmp_path / "broken/model.safetensors").unlink()
    train.train(of(start, train__epochs="2"), made.data, tmp_path / "broken", start=start, resume=True)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "broken")]
    assert files[0] == files[1]


def test_another_start_is_not_resumed(same: Path, start: Run, made: Any, tmp_path: Path) -> None:
    other = read_run(shutil.copytree(start.folder, tmp_path / "other"))
    for found, named in ((None, "found no --from"), (other, "found --from other with weights")):
        with pytest.raises(ConfigError, match=rf"expected --from first with weights \w+ as it was started, {named}"):
            train.train(read_experiment(None, SAME, settings_of(start)), made.data, same, start=found, resume=True)


# ------------------------------------------------------------------ what is refused


def edited_store(made: Any, place: Path, **changes: Any) -> Store:
    """A copy whose note on what made its features differs."""
    folder = Path(shutil.copytree(made.store, place))
    about = json.loads((folder / "encoders.json").read_text())
    for name, values in changes.items():
        about["tiny"][name] = {**about["tiny"][name], **values} if isinstance(values, dict) else values
    (folder / "encoders.json").write_text(json.dumps(about))
    return Store(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"audio": {"fingerprint": "0" * 32}}, "expected features of the encoders of"),
        ({"audio_layers": [0]}, "expected audio layer"),
    ],
    ids=["encoders", "layers"],
)
def test_a_store_of_others_is_refused_with_the_command_that_extracts(
    changes: dict[str, Any], said: str, start: Run, made: Any, tmp_path: Path
) -> None:
    data = replace(made.data, store=edited_store(made, tmp_path / "store", **changes))
    with pytest.raises(ConfigError) as error:
        train.train(of(start), data, tmp_path / "run", start=start)
    command = f"run: wavfusion extract {made.manifest} --store {tmp_path / 'store'} --from {start.folder}"
    assert said in str(error.value) and str(error.value).endswith(command) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_the_place_of_the_start_is_not_trained_into(start: Run, made: Any) -> None:
    with pytest.raises(CorpusError, match="expected another folder than that of --from"):
        train.train(of(start), made.data, start.folder, start=start, force=True)


def test_random_encoders_are_not_for_a_start(start: Run, made: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--from: expected train.mode cached or live.*found scratch"):
        train.train(of(start, train__mode="scratch"), made.data, tmp_path / "run", start=start)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (("train", "--manifest", "m", "--store", "s", "--out", "o"), "expected --config EXPERIMENT, or --from RUN"),
        (("train", "--from", "gone", "--manifest", "m", "--store", "s", "--out", "o"), "expected a RUN folder"),
        (("extract", "{manifest}", "--store", "s", "--from", "x", "--preset", "tiny"), "neither --preset nor --view"),
    ],
    ids=["neither", "gone", "preset"],
)
def test_one_line_says_what_a_start_needs(
    call: tuple[str, ...], said: str, made: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert shell(*(each.format(manifest=made.manifest) for each in call)) == 2
    line = capfd.readouterr().err
    assert said in line and line.count("\n") == 1
