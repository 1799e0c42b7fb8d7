import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from wavfusion.training.recorded import Losses, Recorded, record

from wavfusion.errors import ConfigError
from wavfusion.experiments import experiment
from wavfusion.features.batches import collate, model_inputs
from wavfusion.features.dataset import Features, Sample, SampleOrigin, choose_features, model_config
from wavfusion.model.config import MODALITIES, Switches
from wavfusion.model.wavfusion import WavFusion
from wavfusion.training import recorded, train
from wavfusion.training.resident import LEVELS, Resident

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


def test_few_shapes_hold_every_window_and_pad_the_rest(made: Any) -> None:
    samples = features(made, "test")  # of half a second, and of 15 s
    held, exact = Resident(samples, "cpu", few_shapes=True), Resident(samples, "cpu")
    shapes = set()
    for number in range(len(samples)):
        padded, tight = held.collate([number]), exact.collate([number])
        for name in MODALITIES:
            if tight[name] is None:
                assert padded[name] is None
                continue
            real = tight[name].shape[1]
            assert torch.equal(padded[name][:, :real], tight[name])
            assert int(padded[f"{name}_mask"].sum()) == int(tight[f"{name}_mask"].sum())
            assert not padded[name][:, real:].any()
        shapes.add(padded["audio"].shape)
    assert 1 < len(shapes) <= LEVELS
    assert len(shapes) < len({exact.collate([i])["audio"].shape for i in range(len(samples))})


def test_features_that_take_more_than_there_is_room_for_are_refused(made: Any) -> None:
    with pytest.raises(MemoryError, match="at most 0 MB"):
        Resident(features(made, "train"), "cpu", room=1000.0)


# ------------------------------------------------------------------ recorded steps


def test_a_shape_that_comes_again_is_recorded_and_says_what_the_model_says(made: Any) -> None:
    samples = features(made, "train", dropout=0.0)
    torch.manual_seed(0)
    model = WavFusion(samples.config).train()
    plain, steps = copy.deepcopy(model), Recorded(model)
    batches = [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3], [0, 1, 2, 3]]
    for count, numbers in enumerate(batches):
        inputs = model_inputs(collate([samples[i] for i in numbers]), MODALITIES, "cpu")
        ours, theirs = steps(**inputs), plain(**inputs)
        assert torch.equal(ours.loss, theirs.loss) and torch.equal(ours.logits, theirs.logits)
        assert list(ours.losses) == list(theirs.losses) == ["task", "margin"]
        assert all(torch.equal(ours.losses[name], theirs.losses[name]) for name in ours.losses)
        ours.loss.backward(), theirs.loss.backward()
        assert (ours.steps is None) == (count >= 2)  # a recording says no more than its losses and logits
    assert len(steps) == 1
    pairs = zip(model.parameters(), plain.parameters(), strict=True)
    assert all(same(one.grad, other.grad) for one, other in pairs)
    assert all(torch.equal(x, y) for x, y in zip(model.buffers(), plain.buffers(), strict=True))


def test_recording_puts_the_running_moments_back_and_holds_batches_of_its_own(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Warming up before a recording runs the model, on tensors that every later batch is copied over."""
    samples = features(made, "train")
    model = WavFusion(samples.config).train()
    inputs = model_inputs(collate([samples[i] for i in range(4)]), MODALITIES, "cpu")
    given = tuple(x for x in inputs.values() if x is not None)
    steps = Losses(model, [name for name, x in inputs.items() if x is not None])
    before = {name: x.clone() for name, x in model.named_buffers()}
    seen: list[tuple[torch.Tensor, ...]] = []

    def warm(module: Losses, tensors: tuple[torch.Tensor, ...], allow_unused_input: bool) -> Losses:
        seen.append(tensors)
        assert not torch.is_autocast_cache_enabled()
        for _ in range(3):
            module(*tensors)
        return module

    monkeypatch.setattr(recorded, "on_gpu", lambda tensor: True)
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", warm)
    assert record(steps, given) is steps
    assert torch.is_autocast_cache_enabled()
    assert all(torch.equal(x, before[name]) for name, x in model.named_buffers())
    assert all(torch.equal(x, y) and x.data_ptr() != y.data_ptr() for x, y in zip(seen[0], given, strict=True))


# ------------------------------------------------------------------ training


def test_training_from_resident_features_gives_the_same_bytes(made: Any, short: Any, tmp_path: Path) -> None:
    for name, chosen in (("store", {}), ("resident", {"train__resident": True})):
        train.train(short(train__epochs=2, **chosen), made.data, tmp_path / name)
    for file in ("model.safetensors", "history.csv", "predictions.csv"):
        assert (tmp_path / "resident" / file).read_bytes() == (tmp_path / "store" / file).read_bytes()


def test_training_in_few_shapes_gives_the_same_model_but_for_rounding(
    made: Any, short: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded_shapes = []
    monkeypatch.setattr(recorded, "record", lambda steps, given: recorded_shapes.append(given) or steps)
    for name, chosen in (("plain", {}), ("recorded", {"train__recorded": True})):
        train.train(short(train__epochs=2, model__dropout=0.0, **chosen), made.data, tmp_path / name)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "recorded"))
    assert max(float((one[key] - other[key]).abs().max()) for key in one) < 1e-4
    assert recorded_shapes


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (
            {"train__resident": True, "train__mode": "live"},
            "train.resident: expected train.mode cached and train.fast true, found train.mode live",
        ),
        (
            {"train__recorded": True, "train__fast": False},
            "train.recorded: expected train.mode cached and train.fast true, found train.mode cached and",
        ),
        ({"train__recorded": True, "train__resident": False}, "expected resident features"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(short: Any, chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        short(**chosen)


@pytest.mark.parametrize(
    ("name", "valid"), [("train.resident", "true or false or null"), ("train.recorded", "true or false")]
)
def test_what_is_no_truth_value_is_named(name: str, valid: str) -> None:
    with pytest.raises(ConfigError, match=f"^paper and --{name}: field '{name}': expected {valid}, found 'maybe'$"):
        experiment.read_experiment("paper", {name: "maybe"})
    assert not experiment.read_experiment("paper", {name: "False"}).train.recorded
