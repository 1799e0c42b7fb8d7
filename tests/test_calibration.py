"""One temperature for a model's probabilities."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import log_loss

from wavfusion.errors import ConfigError
from wavfusion.evaluation import evaluate
from wavfusion.metrics.calibration import fit_temperature, tempered
from wavfusion.runs.folder import read_run

pytest_plugins = ("corpus_fixture",)


def answers(count: int, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of logits that are `sharpness` times too large, and emotions drawn from the true ones."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(count, 4)) * 1.5
    truth = np.array([rng.choice(4, p=row) for row in softmax(logits, axis=1)])
    return softmax(sharpness * logits, axis=1), truth


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_planted_temperature_is_found(sharpness: float) -> None:
    assert fit_temperature(*answers(20_000, sharpness)) == pytest.approx(sharpness, rel=0.05)


def test_the_likelihood_is_the_best_of_a_grid() -> None:
    predicted, truth = answers(500, 2.5)
    best = fit_temperature(predicted, truth)
    grid = [log_loss(truth, tempered(predicted, t), labels=range(4)) for t in np.linspace(0.2, 6, 200)]
    assert log_loss(truth, tempered(predicted, best), labels=range(4)) <= min(grid) + 1e-5


def test_probabilities_are_the_softmax_of_the_logits_over_the_temperature() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 6)) * 4
    assert np.abs(tempered(softmax(logits, axis=1), 2.2) - softmax(logits / 2.2, axis=1)).max() < 1e-12


@given(
    st.lists(st.floats(0, 1, allow_subnormal=False), min_size=2, max_size=7).filter(lambda row: sum(row) > 1e-3),
    st.floats(0.05, 20),
)
def test_no_temperature_changes_an_order(row: list[float], temperature: float) -> None:
    before = np.array([row]) / sum(row)
    after = tempered(before, temperature)
    assert np.isclose(after.sum(), 1) and after[0, before[0].argmax()] == after.max()


@pytest.mark.parametrize("count", [3, 30, 300])
def test_answers_without_an_error_are_as_sure_as_their_number_warrants(count: int) -> None:
    """A model that was right on all 8 utterances of a validation part was made to say 100 % of everything."""
    truth = np.arange(count) % 3
    predicted = np.full((count, 3), 0.1) + 0.7 * np.eye(3)[truth]
    sure = tempered(predicted, fit_temperature(predicted, truth)).max(1)
    assert sure == pytest.approx(np.full(count, 1 - 1 / (count + 2)), abs=2e-3)


def test_a_run_keeps_its_temperature_and_tells_what_it_does(trained: Path, made: Any) -> None:
    run = read_run(trained)
    found = json.loads((trained / "metrics.json").read_text())["calibration"]
    data = made.data
    result, predicted = evaluate.evaluate(run, data.part("valid"), data.store, data.media)
    order = {name: i for i, name in enumerate(run.classes)}
    emotions = {row.id: str(row.emotion) for row in data.part("valid")}
    truth = np.array([order[emotions[name]] for name in predicted.ids])
    before = tempered(predicted.probabilities, 1 / run.temperature)
    assert found["temperature"] == run.temperature == fit_temperature(before, truth)
    figures = result["calibration"]["nll"]
    assert figures["after"] == pytest.approx(result["nll"]) and figures["before"] == pytest.approx(
        log_loss(truth, before, labels=range(len(order))), abs=1e-6
    )
    assert result["nll"] == pytest.approx(log_loss(truth, predicted.probabilities, labels=range(len(order))), abs=1e-6)
    assert (before.argmax(1) == predicted.probabilities.argmax(1)).all()


@pytest.mark.parametrize("value", [0, -1, "hot", 1e6, None])
def test_a_temperature_that_none_has_is_refused(trained: Path, tmp_path: Path, value: Any) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    about = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**about, "temperature": value}))
    with pytest.raises(ConfigError, match="expected a RUN"):
        read_run(run)
