from pathlib import Path
from typing import Any

import pytest
import torch

from wavfusion.errors import ConfigError
from wavfusion.experiments import experiment
from wavfusion.features.batches import collate
from wavfusion.features.dataset import Features, Sample, SampleOrigin, choose_features, model_config
from wavfusion.model.config import MODALITIES, Switches
from wavfusion.training import train
from wavfusion.training.resident import Resident

pytest_plugins = ("corpus_fixture",)

TENSORS = [f"{name}{mask}" for name in MODALITIES for mask in ("", "_mask")] + ["labels"]


def features(made: Any, part: str, **switches: Any) -> Features:
    data: train.Data = made.data
    found = choose_features(data.store, None)
    config = model_config(Switches(**switches), found, data.protocol.classes)
    return Features(data.part(part), data.store, data.media, found, config, first_window=part == "train")


def same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if one is not None and other is not None else one is other


# ------------------------------------------------------------------ batches


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_gathered_batch_is_the_batch_that_is_padded_from_the_store(made: Any, part: str) -> None:
    samples = features(made, part)
    held = Resident(samples, "cpu")
    assert len(held) == len(samples) and held.lengths() == samples.lengths()
    lacking = [i for i in range(len(samples)) if samples[i].video is None]
    for numbers in ([0, 1, 2], list(range(len(samples)))[::-1], [*lacking], [3, None, 4]):
        expected = collate([samples[i] for i in numbers])
        found = held.collate([held[i] for i in numbers])
        assert all(same(found[key], expected[key]) for key in TENSORS), numbers
        assert found["rows"] == expected["rows"]
    assert lacking or part == "test"


def test_gathered_layers_of_text_stand_before_its_steps() -> None:
    class Layers(Features):
        def __init__(self) -> None:
            self.variants = 0
            self.text = [torch.randn(3, 2 + number, 2).half() for number in range(3)]

        def __len__(self) -> int:
            return 3

        def __getitem__(self, number: int | None) -> Sample:
            row = SampleOrigin(str(number), None, None, None, 1.0)
            return Sample(row, text=None if number is None else self.text[number], label=[0.5, 0.5])

    samples = Layers()
    held = Resident(samples, "cpu")
    expected = collate([samples[i] for i in (2, 0, None)])
    found = held.collate([2, 0, None])
    assert found["text"].shape == (3, 3, 4, 2)
    assert all(same(found[key], expected[key]) for key in TENSORS)


def test_features_that_take_more_than_there_is_room_for_are_refused(made: Any) -> None:
    with pytest.raises(MemoryError, match="at most 0 MB"):
        Resident(features(made, "train"), "cpu", room=1000.0)


# ------------------------------------------------------------------ training


def test_training_from_resident_features_gives_the_same_bytes(made: Any, short: Any, tmp_path: Path) -> None:
    for name, chosen in (("store", {}), ("resident", {"train__resident": True})):
        train.train(short(train__epochs=2, **chosen), made.data, tmp_path / name)
    for file in ("model.safetensors", "history.csv", "predictions.csv"):
        assert (tmp_path / "resident" / file).read_bytes() == (tmp_path / "store" / file).read_bytes()


@pytest.mark.parametrize(("key", "value"), [("train__mode", "live"), ("train__fast", False)])
def test_resident_features_of_another_mode_or_without_fast_paths_are_refused(short: Any, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match="train.resident: expected train.mode cached and train.fast true, found"):
        short(train__resident=True, **{key: value})


def test_what_is_no_truth_value_is_named() -> None:
    with pytest.raises(ConfigError, match="field 'train.resident': expected true or false or null, found 'maybe'$"):
        experiment.read_experiment("paper", {"train.resident": "maybe"})
    assert experiment.read_experiment("paper", {"train.resident": "False"}).train.resident is False
