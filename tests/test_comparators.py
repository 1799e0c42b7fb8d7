"""Comparators: MFCC and eGeMAPS with linear classifiers, alone and as rows of a table."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.signal import savgol_filter
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.svm import LinearSVC
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from wavfusion import manifest
from wavfusion.cli.app import main
from wavfusion.comparators import acoustic
from wavfusion.comparators.linear import STRENGTHS, predict_linear
from wavfusion.errors import ConfigError, CorpusError
from wavfusion.features.clips import Media
from wavfusion.features.store import Store
from wavfusion.metrics.calibration import fit_temperature, tempered
from wavfusion.study import tables, trainings

pytest_plugins = ("corpus_fixture",)

INSTALLED = importlib.util.find_spec("opensmile") is not None
NOISE = np.random.default_rng(0)


# ------------------------------------------------------------------ features


def test_mfcc_are_those_of_an_independent_implementation() -> None:
    """The mel spectrum of transformers, and the DCT as a sum of cosines."""
    samples = (NOISE.normal(size=8000) * np.linspace(0, 0.3, 8000)).astype(np.float32)
    bank = mel_filter_bank(257, 40, 0.0, 8000.0, 16_000, norm=None, mel_scale="htk")
    logarithms = spectrogram(
        samples, window_function(400, "hann"), 400, 160, fft_length=512, power=2.0, center=False,
        mel_filters=bank, mel_floor=1e-10, log_mel="log", dtype=np.float64,
    ).T  # fmt: skip
    n, k = np.arange(40), np.arange(13)[:, None]
    cosines = np.sqrt(2 / 40) * np.cos(np.pi * k * (2 * n + 1) / 80)
    cosines[0] /= np.sqrt(2)
    assert acoustic.mfcc(samples) == pytest.approx(logarithms @ cosines.T, abs=1e-4)


def test_a_signal_shorter_than_a_window_has_one_frame() -> None:
    assert acoustic.mfcc(np.ones(3, np.float32)).shape == (1, 13)


def test_deltas_are_slopes_of_a_line_through_five_frames() -> None:
    values = NOISE.normal(size=(20, 3))
    assert acoustic.deltas(values) == pytest.approx(savgol_filter(values, 5, 1, deriv=1, axis=0, mode="nearest"))


def test_statistics_are_mean_and_deviation_of_coefficients_and_deltas() -> None:
    samples = NOISE.normal(size=4000).astype(np.float32)
    own, found = acoustic.mfcc(samples), acoustic.mfcc_statistics(samples)
    assert found.shape == (52,) and found[:13] == pytest.approx(own.mean(0))
    assert found[13:26] == pytest.approx(acoustic.deltas(own).mean(0)) and found[26:39] == pytest.approx(own.std(0))


def media_of(made: Any) -> tuple[list[manifest.Utterance], Media]:
    return manifest.read(made.manifest), Media(Store(made.store), made.root, str(made.root))


def test_audio_is_decoded_from_the_media_each_once(made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, media = media_of(made)
    found = acoustic.describe_audio(rows, media, "mfcc", tmp_path)
    assert found.keys() == {row.id for row in rows if row.audio}
    row = next(row for row in rows if row.id == "long")
    assert row.audio and row.speaker
    samples = acoustic.decode_audio(made.root / row.audio.path).samples
    assert found["long"] == pytest.approx(acoustic.mfcc_statistics(samples)) and len(samples) > 16 * 16_000
    monkeypatch.setattr(acoustic, "decode_audio", None)  # what a second call may not need
    again = acoustic.describe_audio(rows, media, "mfcc", tmp_path)
    assert all((again[name] == vector).all() for name, vector in found.items())


def test_audio_that_cannot_be_decoded_has_no_features(made: Any, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    rows, _ = media_of(made)
    media = Media(Store(tmp_path / "store", create=True), tmp_path, str(tmp_path))
    assert acoustic.describe_audio(rows[:3], media, "mfcc", tmp_path / "out") == {}


@pytest.mark.skipif(INSTALLED, reason="the extra [egemaps] is installed")
def test_egemaps_without_its_extra_names_the_command_that_installs_it() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'wavfusion\[egemaps\]'"):
        acoustic.require_extractor("egemaps")


@pytest.mark.skipif(not INSTALLED, reason="the extra [egemaps] is not installed")
def test_egemaps_are_those_of_opensmile(made: Any, tmp_path: Path) -> None:
    import opensmile

    rows, media = media_of(made)
    found = acoustic.describe_audio(rows[:4], media, "egemaps", tmp_path)
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    for row in (row for row in rows[:4] if row.id in found):
        samples = acoustic.decode_audio(made.root / row.audio.path).samples
        assert found[row.id] == pytest.approx(smile.process_signal(samples, 16_000).to_numpy()[0], rel=1e-5)
        assert found[row.id].shape == (88,)


# ------------------------------------------------------------------ classifiers


def data(rng: np.random.Generator, separation: float, count: int = 120) -> tuple[Any, Any, Any]:
    """Vectors of three classes in five dimensions, one of which is on another scale."""
    labels = {f"u{i}": i % 3 for i in range(count)}
    centres = rng.normal(size=(3, 5)) * separation
    vectors = {key: (centres[label] + rng.normal(size=5)) * [1, 1, 1, 1, 1000] for key, label in labels.items()}
    ids = list(labels)
    return vectors, labels, {"train": ids[: count // 2], "valid": ids[count // 2 : -30], "test": ids[-30:]}


def by_hand(classifier: str, vectors: Any, labels: Any, parts: Any, balanced: bool = False) -> Any:
    """The same with scikit-learn alone: the weighted F1 of each C on the valid part, and the models."""
    x = {part: np.stack([vectors[key] for key in ids]) for part, ids in parts.items()}
    y = {part: [labels[key] for key in ids] for part, ids in parts.items()}
    mean, deviation = x["train"].mean(0), x["train"].std(0)
    x = {part: (each - mean) / deviation for part, each in x.items()}
    scores, models = [], []
    for strength in STRENGTHS:
        kind: Any = LinearSVC(C=strength, dual=False) if classifier == "svm" else LogisticRegression(C=strength)
        kind.set_params(max_iter=2000, class_weight="balanced" if balanced else None)
        models.append(kind.fit(x["train"], y["train"]))
        scores.append(f1_score(y["valid"], kind.predict(x["valid"]), average="weighted", zero_division=0))
    return x, y, scores, models


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("classifier", ["svm", "logistic"])
def test_regularisation_is_chosen_on_the_valid_part_and_decisions_are_scikit_learns(
    classifier: str, balanced: bool
) -> None:
    vectors, labels, parts = data(np.random.default_rng(3), 0.5)
    found = predict_linear(classifier, vectors, labels, parts, 3, balanced)
    x, y, scores, models = by_hand(classifier, vectors, labels, parts, balanced)
    best = int(np.argmax(scores))
    assert (found.validation, found.strength) == (pytest.approx(scores[best]), STRENGTHS[best])
    assert found.probabilities.argmax(1).tolist() == models[best].predict(x["test"]).tolist()
    assert len(set(scores)) > 1 and best > 0
    if classifier == "logistic":
        temperature = fit_temperature(models[best].predict_proba(x["valid"]), np.array(y["valid"]))
        wanted = tempered(models[best].predict_proba(x["test"]), temperature)
        assert found.probabilities == pytest.approx(wanted, abs=0.01)


@pytest.mark.parametrize("classifier", ["svm", "logistic"])
def test_what_can_be_told_is_found_and_what_cannot_is_not(classifier: str) -> None:
    rng = np.random.default_rng(1)
    vectors, labels, parts = data(rng, 3.0, 300)
    truth = [labels[key] for key in parts["test"]]
    found = predict_linear(classifier, vectors, labels, parts, 3, False).probabilities
    assert np.mean(found.argmax(1) == truth) > 0.95 and found.sum(1) == pytest.approx(1)
    shuffled = dict(zip(labels, rng.permutation(list(labels.values())).tolist(), strict=True))
    lost = predict_linear(classifier, vectors, shuffled, parts, 3, False).probabilities
    assert np.mean(lost.argmax(1) == [shuffled[key] for key in parts["test"]]) < 0.6


def test_the_test_part_changes_nothing_but_its_own_predictions() -> None:
    vectors, labels, parts = data(np.random.default_rng(2), 1.0)
    before = predict_linear("svm", vectors, labels, parts, 3, False)
    vectors[parts["test"][0]] = vectors[parts["test"][0]] + 1e6
    after = predict_linear("svm", vectors, labels, parts, 3, False)
    assert (after.strength, after.validation) == (before.strength, before.validation)
    assert (after.probabilities[1:] == before.probabilities[1:]).all()


def test_two_emotions_and_an_emotion_without_training_rows() -> None:
    vectors, labels, parts = data(np.random.default_rng(5), 3.0)
    parts = {part: [key for key in ids if labels[key] != 1] for part, ids in parts.items()}
    found = predict_linear("logistic", vectors, labels, parts, 3, False).probabilities
    assert np.mean(found.argmax(1) == [labels[key] for key in parts["test"]]) > 0.9 and found[:, 1].max() < 0.01


def test_an_utterance_without_audio_gets_the_shares_of_the_training() -> None:
    vectors, labels, parts = data(np.random.default_rng(2), 1.0)
    lacking = parts["test"][4]
    del vectors[lacking], vectors[parts["train"][0]]
    found = predict_linear("svm", vectors, labels, parts, 3, False).probabilities
    shares = np.bincount([labels[key] for key in parts["train"]]) / len(parts["train"])
    assert found[4] == pytest.approx(shares) and not np.allclose(found[5], shares)


def test_a_part_without_audio_is_refused() -> None:
    vectors, labels, parts = data(np.random.default_rng(2), 1.0)
    others = {key: vector for key, vector in vectors.items() if key not in parts["valid"]}
    with pytest.raises(CorpusError, match="audio features in part 'valid', found none"):
        predict_linear("svm", others, labels, parts, 3, False)


# ------------------------------------------------------------------ rows of tables

MINE = """
title: Mine
corpus: any
rows:
  - {name: text, settings: {model.modalities: [text]}}
  - {name: MFCC, comparator: mfcc_logistic, paper: {accuracy: 40.0}}
claims:
  - {better: MFCC, than: text}
"""


def test_a_comparator_that_does_not_exist_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'mfcc_logistic'"):
        tables.TableSetting("x", comparator="mfc_logistic")


def test_a_row_is_one_thing_alone() -> None:
    for wrong in ({}, {"settings": {}, "comparator": "mfcc_logistic"}):
        with pytest.raises(ConfigError, match="x: expected settings"):
            tables.TableSetting("x", **wrong)


@pytest.mark.skipif(INSTALLED, reason="the extra [egemaps] is installed")
def test_a_missing_extra_is_said_before_anything_is_trained(made: Any, tmp_path: Path) -> None:
    rows = [
        tables.TableSetting("a", {"model.modalities": ["text"]}),
        tables.TableSetting("b", comparator="egemaps_svm"),
    ]
    table = tables.Table(name="t", title="T", corpus="any", rows=rows)
    with pytest.raises(ConfigError, match=r"\[egemaps\]"):
        trainings.plan_trainings(trainings.Study(made.manifest, made.store), [table], tmp_path)


def test_a_comparator_has_the_figures_and_tests_of_a_row(
    made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text(MINE)
    places = ["--manifest", str(made.manifest), "--store", str(made.store), "--out", str(tmp_path / "out")]
    quick = ["--train.epochs", "1", "--workers", "1", "--seeds", "1", "--device", "cpu"]
    assert main(["reproduce", str(tmp_path / "mine.yaml"), *places, *quick]) == 0
    table = json.loads((tmp_path / "out" / "results-mine.json").read_text())["tables"]["mine"]
    text, row = table["rows"]
    assert (row["ours"]["n"], row["ours"]["seeds"], row["stated"]) == (text["ours"]["n"], 1, {"accuracy": 40.0})
    rows, media = media_of(made)
    split = {row.id: row.split for row in rows if row.emotion}
    parts = {part: [key for key, own in split.items() if own == part] for part in ("train", "valid", "test")}
    classes = text["ours"]["per_class_f1"]
    labels = {row.id: list(classes).index(row.emotion) for row in rows if row.emotion}
    vectors = acoustic.describe_audio(rows, media, "mfcc", tmp_path / "out" / "comparators")
    found = predict_linear("logistic", vectors, labels, parts, len(classes), False)
    right = np.mean(found.probabilities.argmax(1) == [labels[key] for key in parts["test"]])
    assert row["ours"]["figures"]["accuracy"]["mean"] == pytest.approx(right) and right > 0.6
    assert row["ours"]["validation_weighted_f1"] == pytest.approx(found.validation)
    claim = table["claims"][0]["figures"]["accuracy"]
    assert claim["difference"] == pytest.approx(right - text["ours"]["figures"]["accuracy"]["mean"])
    assert (
        "MFCC" in capsys.readouterr().out
        and '<th scope="row" class="name">MFCC' in (tmp_path / "out" / "results-mine.html").read_text()
    )
