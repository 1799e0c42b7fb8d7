"""Augmented variants of utterances: in the store, as samples, and in a training."""

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from wavfusion import media
from wavfusion.corpora.protocol import resolve
from wavfusion.encoders.bundle import load_encoders
from wavfusion.encoders.presets import PRESETS
from wavfusion.errors import ConfigError, CorpusError
from wavfusion.features.batches import LengthBatches, collate
from wavfusion.features.clips import Media, Medium, plan_windows
from wavfusion.features.dataset import Features, choose_features, model_config
from wavfusion.features.extract import _extraction_worker, extract
from wavfusion.features.store import FeatureSet, Store, merge_feature_sets, read_feature_sets
from wavfusion.manifest import AudioSpan, Corpus, Utterance
from wavfusion.model.config import Switches
from wavfusion.runs.origin import read_settings
from wavfusion.training import train
from wavfusion.training.resident import Resident

pytest_plugins = ("corpus_fixture",)

# ---------------------------------------------------------------------- the store

ENCODER = {"fingerprint": "f"}
CLEAN = FeatureSet("x", frame_rate=5.0, pretrained_rate=1e-4, new_rate=1e-4, audio=ENCODER, audio_layers=[9])
VARIED = dataclasses.replace(CLEAN, variants=2, augment=["noise"])


KEY_BEFORE = "audio-8579fbe2cc298f677b9123059125cb8daf3a0ffd"


def plan(wanted: FeatureSet, seconds: float = 4.0) -> list[Any]:
    row = Utterance("u", "table", audio=AudioSpan("a.wav"))
    return plan_windows(row, {"a.wav": Medium("content", seconds, None)}, wanted)


def test_the_key_of_clean_features_is_what_it_was_before_there_were_variants() -> None:
    """Stores that were filled before stay valid: this key was computed by the version without variants."""
    assert plan(VARIED)[0].audio.keys == plan(CLEAN)[0].audio.keys == {9: KEY_BEFORE}


def test_variants_have_keys_by_number_and_recipe() -> None:
    other = dataclasses.replace(VARIED, augment=["noise", "gain"])
    keys = [key for wanted in (VARIED, other) for key in plan(wanted)[0].audio.all_keys()]
    assert len(keys) == 6 and len(set(keys)) == 5  # both with the clean one


def test_only_the_first_window_has_variants() -> None:
    assert [len(clip.audio.variants) for clip in plan(VARIED, 40.0)] == [2, 0, 0]


def test_a_store_without_variants_does_not_speak_of_them() -> None:
    about = {"variants", "augment"}
    assert not about & CLEAN.to_json().keys() and about < VARIED.to_json().keys()


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ({}, (2, ["noise"])),
        ({"variants": 1, "augment": ["noise"]}, (2, ["noise"])),
        ({"variants": 3, "augment": ["noise"]}, (3, ["noise"])),
        ({"variants": 1, "augment": ["gain"]}, (1, ["gain"])),
        ({"audio": {"fingerprint": "other"}}, (0, [])),
    ],
    ids=str,
)
def test_the_store_tells_the_variants_that_were_made_last(new: dict[str, Any], expected: tuple[int, list[str]]) -> None:
    joined = merge_feature_sets(VARIED, dataclasses.replace(CLEAN, **new))
    assert (joined.variants, joined.augment) == expected


@pytest.fixture(scope="module")
def encoders() -> Any:
    return load_encoders("tiny", PRESETS["tiny"], ("audio", "text"))


@pytest.fixture
def rows(tmp_path: Path) -> list[Utterance]:
    """Three clips, and a file that is no audio."""
    (tmp_path / "corpus").mkdir()
    for number in range(3):
        hum = 0.4 * np.sin(np.arange(6400 + 1600 * number) / 8)
        media.write_audio(tmp_path / "corpus" / f"{number}.wav", hum.astype(np.float32), media.SAMPLE_RATE)
    (tmp_path / "corpus" / "3.wav").write_bytes(b"no audio")
    return [Utterance(str(n), "table", audio=AudioSpan(f"{n}.wav"), text=f"words {n}") for n in range(4)]


def fill(rows: list[Utterance], folder: Path, encoders: Any, **settings: Any) -> Any:
    about = Corpus("table", str(folder.parent / "corpus"), None, ["happy", "sad"], "0")
    return extract(rows, about, Store(folder, create=True), encoders, **{"workers": 1, **settings})


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {key: x for path in (folder / "shards").glob("*.safetensors") for key, x in load_file(path).items()}


def equal(one: Path, other: Path) -> bool:
    """Whether two stores hold the same, to the last bit of half precision, which threads may change."""
    held, found = tensors(one), tensors(other)
    return held.keys() == found.keys() and all(torch.allclose(held[key], found[key], 2e-3, 2e-3) for key in held)


def test_only_audio_varies_and_only_what_is_missing_is_made(
    rows: list[Utterance], tmp_path: Path, encoders: Any
) -> None:
    made = [dict(fill(rows, tmp_path / "store", encoders, variants=count).made) for count in (0, 1, 3, 3)]
    assert made == [
        {"audio": 3 * audio, "text": 4 * text, "video": 0} for audio, text in ((1, 1), (1, 0), (2, 0), (0, 0))
    ]


def test_variants_are_the_same_for_any_order_workers_and_interruption(
    rows: list[Utterance], tmp_path: Path, encoders: Any
) -> None:
    fill(rows, tmp_path / "whole", encoders, variants=2)
    fill(rows[:1], tmp_path / "parts", encoders)
    fill(rows[1:][::-1], tmp_path / "parts", encoders, variants=1)
    fill(rows[::-1], tmp_path / "parts", encoders, variants=2, workers=3)
    load = partial(load_encoders, "tiny", PRESETS["tiny"], ("audio", "text"))
    fill([], tmp_path / "process", encoders)
    wanted = read_feature_sets(Store(tmp_path / "whole"))["tiny"]
    root = tmp_path / "corpus"
    work = _extraction_worker(tmp_path / "process", root, str(root), load, "cpu", wanted, True)
    work(rows)
    assert equal(tmp_path / "whole", tmp_path / "parts") and equal(tmp_path / "whole", tmp_path / "process")


def test_a_variant_differs_from_the_clean_features(rows: list[Utterance], tmp_path: Path, encoders: Any) -> None:
    fill(rows, tmp_path / "store", encoders, variants=2)
    line = (next((tmp_path / "store").glob("index-*.jsonl"))).read_text().splitlines()[0]
    found, held = json.loads(line), tensors(tmp_path / "store")
    features = [held[key] for layers in (found["audio"], *found["audio_variants"]) for key in layers.values()]
    assert len(features) == 3 and not any(
        one.shape == other.shape and torch.equal(one, other) for one, other in zip(features, features[1:], strict=False)
    )


def test_an_unreadable_file_is_listed_once_whatever_its_variants(
    rows: list[Utterance], tmp_path: Path, encoders: Any
) -> None:
    summary = fill(rows, tmp_path / "store", encoders, variants=3)
    assert [name for name, _, _ in summary.bad] == ["3"]
    assert len(Store(tmp_path / "store").failures) == 4  # so that training knows of each


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"augment": ["noise"]}, "augment: expected variants of 1 or more"),
        ({"variants": 1, "augment": ["nois"]}, "found 'nois'"),
    ],
)
def test_a_recipe_without_variants_or_of_unknown_kinds_is_refused(
    rows: list[Utterance], tmp_path: Path, encoders: Any, settings: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        fill(rows, tmp_path / "store", encoders, **settings)


# ---------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory, encoders: Any) -> train.Data:
    """A small corpus of hums with words, and its features."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "corpus").mkdir()
    rows = []
    for number in range(16):
        part, emotion = ["train", "train", "valid", "test"][number // 4], ["happy", "sad"][number % 2]
        hum = 0.4 * np.sin(np.arange(5000 + 300 * number) / [8, 20][number % 2])
        media.write_audio(folder / "corpus" / f"{number}.wav", hum.astype(np.float32), media.SAMPLE_RATE)
        speaker, audio, text = f"{part}-{number % 4}", AudioSpan(f"{number}.wav"), f"words of {number}"
        row = Utterance(str(number), "table", split=part, speaker=speaker, audio=audio, text=text, emotion=emotion)
        rows.append(row)
    fill(rows, folder / "store", encoders)
    return data_of(rows, folder / "store", folder / "corpus")


def data_of(rows: Any, folder: Path, root: Path) -> train.Data:
    store = Store(folder)
    return train.Data(rows, resolve(None, rows, ["happy", "sad"]), store, Media(store, root, str(root)))


@pytest.fixture(scope="module")
def varied(clean: train.Data, encoders: Any, tmp_path_factory: pytest.TempPathFactory) -> train.Data:
    """The same corpus, with two variants of each utterance in a copy of its store."""
    folder = shutil.copytree(clean.store.folder, tmp_path_factory.mktemp("varied") / "store")
    about = Corpus("table", str(clean.media.root), None, ["happy", "sad"], "0")
    kinds = ["speed", "noise"]  # a change of gain alone is undone by the encoder's normalisation
    extract(clean.utterances, about, Store(folder), encoders, variants=2, augment=kinds, workers=1)
    return data_of(clean.utterances, folder, clean.media.root)


@pytest.fixture(scope="module")
def brief(short: Any) -> Any:
    """The function that makes experiments of two epochs on audio and text."""
    return partial(short, train__epochs=2, train__batch_size=4, model__modalities="[audio, text]")


def samples_of(data: train.Data, variants: int, modalities: tuple[str, ...] = ("audio", "text")) -> Features:
    found = choose_features(data.store, None)
    config = model_config(Switches(modalities=list(modalities)), found, data.protocol.classes)
    rows = data.part("train")
    return Features(rows, data.store, data.media, found, config, first_window=True, variants=variants)


def test_samples_of_variants_differ_in_audio_alone(varied: train.Data) -> None:
    samples = samples_of(varied, 2)
    clean, first, second = (samples[number * len(samples) + 3] for number in range(3))
    assert clean.row == first.row == second.row and clean.label == second.label
    assert torch.equal(clean.text, second.text)
    assert not any(
        x.shape == y.shape and torch.equal(x, y) for x, y in ((clean.audio, first.audio), (first.audio, second.audio))
    )


@pytest.mark.parametrize("modalities", [("audio",), ("text",)])
def test_samples_end_where_their_variants_do(varied: train.Data, modalities: tuple[str, ...]) -> None:
    samples = samples_of(varied, 2, modalities)
    kinds = 3 if "audio" in modalities else 1  # text has no variants
    assert len(list(samples)) == kinds * len(samples)


def test_an_epoch_draws_each_sample_once_in_the_order_of_a_training_without_variants() -> None:
    lengths = [1.0 + i % 7 for i in range(300)]
    clean, varied = (list(LengthBatches(lengths, 8, 5, variants=count)) for count in (0, 3))
    assert [number % 300 for number in varied] == clean
    assert [sum(number // 300 == each for number in varied) > 40 for each in range(4)] == [True] * 4


def test_seed_and_epoch_decide_the_draws() -> None:
    def drawn(seed: int, epoch: int) -> dict[int, int]:
        sampler = LengthBatches([1.0] * 100, 8, seed, variants=3)
        sampler.set_epoch(epoch)
        return {number % 100: number // 100 for number in sampler}

    assert drawn(1, 2) == drawn(1, 2) != drawn(1, 3) != drawn(2, 3)


def test_resident_variants_give_the_batches_that_are_padded_from_the_store(varied: train.Data) -> None:
    samples = samples_of(varied, 2)
    held, n = Resident(samples, "cpu"), len(samples)
    assert len(held) == n and held.lengths() == samples.lengths()
    for numbers in ([0, n + 1, 2 * n + 2], [2 * n + 5, None, 6, n + 6]):
        expected, found = collate([samples[i] for i in numbers]), held.collate(numbers)
        assert found["video"] is expected["video"] is None
        for key in [f"{name}{mask}" for name in ("audio", "text") for mask in ("", "_mask")] + ["labels"]:
            assert torch.equal(found[key], expected[key]), (numbers, key)
        assert found["rows"] == expected["rows"]


RESULTS = (
    "model.safetensors",
    "familiarity.safetensors",
    "metrics.json",
    "predictions.csv",
    "history.csv",
    "config.json",
)


def results(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in RESULTS}


@pytest.fixture(scope="module")
def run(varied: train.Data, brief: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RUN of two epochs that drew from two variants."""
    out = tmp_path_factory.mktemp("run") / "run"
    train.train(brief(train__variants=2), varied, out)
    return out


def test_a_training_with_variants_resumes_to_the_same_bytes(
    varied: train.Data, brief: Any, run: Path, tmp_path: Path
) -> None:
    again = Path(shutil.copytree(run, tmp_path / "run"))
    (again / "model.safetensors").unlink()
    last = max((again / "checkpoints").iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))
    shutil.rmtree(last)
    train.train(brief(train__variants=2), varied, again, resume=True)
    assert results(again) == results(run)


def test_a_training_without_variants_is_the_same_whatever_the_store_holds(
    clean: train.Data, varied: train.Data, brief: Any, run: Path, tmp_path: Path
) -> None:
    for name, data in (("clean", clean), ("varied", varied)):
        train.train(brief(), data, tmp_path / name)
    assert results(tmp_path / "clean") == results(tmp_path / "varied")
    weights = (each / "model.safetensors" for each in (run, tmp_path / "clean"))
    assert len({path.read_bytes() for path in weights}) == 2


def test_a_run_tells_its_variants_and_is_not_resumed_with_others(varied: train.Data, brief: Any, run: Path) -> None:
    assert read_settings(run)["train"]["augment"] == ["speed", "noise"]
    with pytest.raises(ConfigError, match=r"train.augment \['noise'\] where it was"):
        train.train(brief(train__variants=2, train__augment="[noise]"), varied, run, resume=True)


def test_variants_that_the_store_lacks_are_named_with_the_remedy(
    clean: train.Data, varied: train.Data, brief: Any, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="train.variants: expected variants among the features.*extract --variants 1"):
        train.train(brief(train__variants=1), clean, tmp_path / "run")
    with pytest.raises(CorpusError, match="of variant 3 of .*run extract --variants 3 --augment speed,noise --layers"):
        train.train(brief(train__variants=3), varied, tmp_path / "run")
    with pytest.raises(CorpusError, match="of variant 1 of .*--augment noise "):
        train.train(brief(train__variants=1, train__augment="[noise]"), varied, tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train__variants": -1}, "train.variants: expected 0 or more"),
        ({"train__variants": 1, "train__mode": "live"}, "train.variants: expected train.mode cached"),
        ({"train__augment": "[noise]"}, "train.augment: expected train.variants of 1 or more"),
    ],
    ids=str,
)
def test_settings_of_variants_that_do_not_fit_are_refused(brief: Any, settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        brief(**settings)
