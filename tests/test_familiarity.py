"""Out-of-distribution distances of utterances."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf

from wavfusion import media
from wavfusion.cli.app import main
from wavfusion.metrics import familiarity
from wavfusion.prediction.recognizer import EmotionRecognizer
from wavfusion.runs.folder import FAMILIARITY, read_run

pytest_plugins = ("corpus_fixture",)


def drawn(count: int, seed: int, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, 5)) @ np.diag([1, 2, 3, 4, 5]) + shift).astype(np.float32)


def test_distances_are_mahalanobis_ones() -> None:
    known = familiarity.fit(drawn(20_000, 0), drawn(2_000, 1))
    x = np.array([[0.0, 0, 0, 0, 0], [2.0, 0, 0, 0, 0], [0, 0, 0, 0, 10.0], [1.0, 2.0, 3.0, 4.0, 5.0]])
    assert known.distances(x) == pytest.approx([0, 2, 2, np.sqrt(5)], abs=0.1)
    assert known.limit == pytest.approx(np.sqrt(15.09), rel=0.05)  # the 99th percentile of chi square with 5 degrees


@pytest.mark.parametrize("count", [3, 40, 2_500])
def test_the_covariance_is_shrunk_as_scikit_learn_shrinks_it(count: int) -> None:
    vectors = drawn(count, 0, shift=3.0)
    found = familiarity.shrunk_covariance(vectors, vectors.mean(0, dtype=np.float64))
    assert found == pytest.approx(LedoitWolf().fit(vectors.astype(np.float64)).covariance_, rel=1e-9)


def test_fewer_vectors_than_their_width_are_enough() -> None:
    known = familiarity.fit(drawn(3, 0), drawn(3, 1))
    assert np.isfinite(known.distances(drawn(10, 2))).all() and np.isfinite(known.limit)


def test_a_run_knows_where_its_training_data_lie(trained: Path, made: Any) -> None:
    known = read_run(trained).familiarity
    assert known is not None and known.mean.shape == (read_run(trained).model.config.hidden_size,)
    assert (trained / FAMILIARITY).exists() and 0 < known.limit < 1e3


def test_an_utterance_out_of_distribution_is_warned_of_with_its_distance(
    trained: Path, made: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recognizer = EmotionRecognizer.from_pretrained(trained)
    row = made.data.part("valid")[0]
    recognizer.predict(made.root / row.audio.path, row.text)
    assert "out of distribution" not in caplog.text
    noise = np.random.default_rng(0).uniform(-1, 1, 32_000).astype(np.float32)
    media.write_audio(tmp_path / "noise.wav", noise, 16_000)
    recognizer.predict(tmp_path / "noise.wav", "zzz qqq xxx " * 30)
    assert "noise.wav: 1 of 1 utterances are out of distribution: distances up to" in caplog.text


def test_it_is_published_with_the_model(trained: Path, tmp_path: Path) -> None:
    assert main(["push", str(trained), str(tmp_path / "model")]) == 0
    one, other = read_run(trained).familiarity, read_run(tmp_path / "model").familiarity
    assert one is not None and other is not None and one.limit == other.limit
