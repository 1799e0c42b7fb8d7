from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from wavfusion.errors import ConfigError
from wavfusion.experiments import experiment
from wavfusion.experiments.experiment import Experiment, Training
from wavfusion.model.config import Switches

# Section K of the design, in the words of the experiment file.
PAPER = {
    "modalities": ["audio", "text", "video"],
    "fusion": "deep",
    "fusion_layers": None,  # those of the preset
    "trainable_layers": None,
    "margin_audio_layer": None,
    "keep_self_attn": False,
    "gate": "vector",
    "init_cross": "pretrained_all",
    "time_positions": False,
    "bidirectional": False,
    "lvc": True,
    "lvc_pool": "sum",
    "audio_layers": "last",
    "text_layers": "last",
    "margin": {"weight": 1.0, "alpha": 0.15, "reduction": "triplet", "size": 64},
    "task_loss": "ce",
    "modality_dropout": 0.0,
    "time_mask": 0.0,
}
RECOMMENDED = PAPER | {
    "time_positions": True,
    "bidirectional": True,
    "lvc_pool": "mean",
    "text_layers": "weighted",
    "margin": {"weight": 1.0, "alpha": 0.15, "reduction": "anchor", "size": 64},
    "task_loss": "balanced",
    "modality_dropout": 0.15,
    "time_mask": 0.05,
}
OPTIMISER = {"batch_size": 32, "epochs": 30, "patience": 8, "weight_decay": 0.01, "warmup": 0.1, "clip": 1.0}


def written(folder: Path, text: str) -> str:
    path = folder / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", experiment.shipped_experiments())
def test_every_shipped_experiment_parses(name: str) -> None:
    assert isinstance(experiment.read_experiment(name), Experiment)


def test_paper_and_recommended_ship() -> None:
    assert {"paper", "recommended"} <= set(experiment.shipped_experiments())


def test_the_paper_is_what_the_dataclasses_say_by_default() -> None:
    assert experiment.read_experiment("paper") == Experiment()


def test_the_paper_file_writes_every_switch_out() -> None:
    values = yaml.safe_load(Path(experiment.__file__).with_name("paper.yaml").read_text())
    assert set(values["model"]) == set(Switches.__dataclass_fields__)


@pytest.mark.parametrize(("name", "switches"), [("paper", PAPER), ("recommended", RECOMMENDED)])
def test_a_shipped_experiment_has_the_switches_of_the_design(name: str, switches: dict[str, object]) -> None:
    found = asdict(experiment.read_experiment(name).model)
    assert {key: found[key] for key in switches} == switches


@pytest.mark.parametrize("name", ["paper", "recommended"])
def test_a_shipped_experiment_has_the_optimiser_of_the_design(name: str) -> None:
    found = asdict(experiment.read_experiment(name).train)
    assert {key: found[key] for key in OPTIMISER} == OPTIMISER


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("modle: {}", "did you mean 'model'"),
        ("model: {fusion_layer: 2}", "did you mean 'model.fusion_layers'"),
        ("model: {margin: {wieght: 2}}", "did you mean 'model.margin.weight'"),
        ("train: {epoch: 2}", "did you mean 'train.epochs'"),
    ],
)
def test_an_unknown_key_at_any_depth_names_the_nearest(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        experiment.read_experiment(written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("train: {epochs: many}", "epochs"),
        ("train: {epochs: 2.5}", "epochs"),
        ("train: {epochs: 0}", "epochs"),
        ("train: {precision: fp8}", "precision"),
        ("model: {lvc: 3}", "lvc"),
        ("model: {fusion: late}", "fusion"),
        ("model: {dropout: 1.5}", "dropout"),
        ("model: {modalities: [audio, smell]}", "modalities"),
        ("model: {margin: {reduction: all}}", "reduction"),
        ("model: {margin: 3}", "margin"),
        ("train: {warmup: 3}", "warmup"),
        ("train: {average: 1.0}", "train.average: expected a share from 0 to below 1, found 1.0"),
        ("train: {layer_decay: 0.0}", "train.layer_decay: expected a factor above 0, up to 1, found 0.0"),
        ("model: {label_smoothing: 1.0}", "label_smoothing: expected a share from 0 to below 1, found 1.0"),
        ("model: {head_dropout: -0.1}", "head_dropout: expected a share from 0 to below 1, found -0.1"),
        ("train: {clip: 0}", "clip"),
        ("train: {new_rate: -1}", "new_rate"),
        ("seed: one", "seed"),
        ("seed: -1", "seed"),
        ("model: {margin: {alpha: -0.1}}", "margin"),
        ("model: {margin: {alpha: .nan}}", "margin"),
        ("model: {margin: {weight: .nan}}", "margin"),
        ("model: {modalities: []}", "modalities"),
        ("model: {modalities: [audio, audio]}", "modalities"),
    ],
)
def test_a_value_of_the_wrong_kind_names_its_key_in_one_line(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(ConfigError, match=key) as caught:
        experiment.read_experiment(written(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["- a\n- b", "a: [", "just words", "model: {lvc: true}}", "[]", "0", "a: 2020-13-45", "[" * 5000, "? [a]\n: b"],
)
def test_what_is_no_experiment_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        experiment.read_experiment(written(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: 1\ntrain: {epochs: 1}\nseed: 2\n", ":3: expected YAML; found 'seed'"),
        ("train:\n  epochs: 1\n  clip: 1\n  epochs: 2\n", ":4: expected YAML; found 'epochs'"),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    """YAML's readers take the last and say nothing."""
    with pytest.raises(ConfigError, match=said):
        experiment.read_experiment(written(tmp_path, text))


def test_a_file_that_is_not_there_names_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match="did you mean 'paper'"):
        experiment.read_experiment("papr")


def test_an_empty_file_is_the_paper(tmp_path: Path) -> None:
    assert experiment.read_experiment(written(tmp_path, "")) == Experiment()


def test_1e_4_is_a_number_in_a_file(tmp_path: Path) -> None:
    """YAML 1.1 reads 1e-4 as a word."""
    assert experiment.read_experiment(written(tmp_path, "train: {new_rate: 1e-4}")).train.new_rate == 1e-4


def test_1e_4_is_a_number_in_an_override() -> None:
    assert experiment.read_experiment("paper", {"train.new_rate": "1e-4"}).train.new_rate == 1e-4


def test_overrides_reach_every_depth() -> None:
    found = experiment.read_experiment("paper", {"seed": "7", "model.margin.weight": "0.5", "model.lvc": "false"})
    assert (found.seed, found.model.margin.weight, found.model.lvc) == (7, 0.5, False)


def test_an_override_leaves_its_neighbours_alone() -> None:
    found = experiment.read_experiment("recommended", {"model.margin.weight": "0.5"})
    assert found.model.margin.reduction == "anchor"


@pytest.mark.parametrize("value", ["[audio, video]", "audio,video", "audio, video", "audio+video"])
def test_a_list_can_be_overridden(value: str) -> None:
    """A plain list, as every other flag takes it, was refused."""
    assert experiment.read_experiment("paper", {"model.modalities": value}).model.modalities == ["audio", "video"]


def test_an_override_by_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="modalities"):
        experiment.read_experiment("paper", {"model.modalities": ""})


def test_modalities_are_kept_in_their_order() -> None:
    assert experiment.read_experiment("paper", {"model.modalities": "[video, audio]"}).model.modalities == [
        "audio",
        "video",
    ]


def test_an_unknown_override_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'model\.margin\.weight'"):
        experiment.read_experiment("paper", {"model.margin.wight": "1"})


def test_an_override_of_the_wrong_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="epochs"):
        experiment.read_experiment("paper", {"train.epochs": "soon"})


@pytest.mark.parametrize("name", experiment.shipped_experiments())
def test_what_is_written_is_read_again(tmp_path: Path, name: str) -> None:
    wanted = experiment.read_experiment(name, {"train.new_rate": "3e-05", "preset": "tiny"})
    assert experiment.read_experiment(written(tmp_path, wanted.to_yaml())) == wanted


def test_settings_lists_what_can_be_overridden() -> None:
    assert {"preset", "seed", "model.margin.alpha", "train.mode"} <= set(experiment.settings())


def test_an_experiment_of_an_older_version_is_read_without_its_retired_setting(tmp_path: Path) -> None:
    older = written(tmp_path, "train: {epochs: 3, recorded: true}")
    assert experiment.read_experiment(older) == experiment.read_experiment(written(tmp_path, "train: {epochs: 3}"))


def test_a_training_of_no_epochs_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.epochs"):
        Training(epochs=0)
