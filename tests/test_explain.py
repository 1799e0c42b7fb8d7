import csv
import io
import itertools
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from wavfusion.cli.app import main
from wavfusion.evaluation import evaluate
from wavfusion.evaluation.explain import (
    WindowParts,
    contributions,
    gate_auc,
    gate_statistics,
    mean_contributions,
    shapley,
    shift,
    shifted_accuracy,
    window_parts,
)
from wavfusion.evaluation.inference import Utterances, classify, classify_subsets, subsets
from wavfusion.features.batches import collate, model_inputs
from wavfusion.features.dataset import Sample, SampleOrigin
from wavfusion.model import WavFusion, WavFusionConfig
from wavfusion.model.wavfusion import WavFusionOutput
from wavfusion.prediction import timeline
from wavfusion.prediction.recognizer import EmotionRecognizer
from wavfusion.runs.folder import read_run
from wavfusion.training import train
from wavfusion.transcripts import Segment

pytest_plugins = ("corpus_fixture",)

NAMES = ["audio", "text", "video"]
CLASSES = ["happy", "sad", "angry"]
PRIOR = [0.5, 0.3, 0.2]
SIZES: dict[str, Any] = {
    "classes": CLASSES,
    "hidden_size": 16,
    "num_heads": 2,
    "intermediate_size": 24,
    "num_layers": 4,
    "fusion_layers": 2,
    "trainable_layers": 2,
    "margin_audio_layer": 2,
    "text_size": 16,
    "video_size": 6,
    "video_width": 8,
}
WIDTHS = {"audio": 16, "text": 16, "video": 6}
STEPS = {"audio": 40, "text": 5, "video": 6}


def configure(**switches: Any) -> WavFusionConfig:
    return WavFusionConfig.from_json({**SIZES, **switches})


def sample(name: str, seed: int, present: Sequence[str] = NAMES, seconds: float = 1.0) -> Sample:
    chance = torch.Generator().manual_seed(seed)
    made = {each: 3 * torch.randn(STEPS[each] + seed % 3, WIDTHS[each], generator=chance) for each in NAMES}
    return Sample(SampleOrigin(name, None, None, None, seconds), **{each: made[each] for each in present})


def explained(model: nn.Module, samples: list[Sample], names: Sequence[str] = NAMES) -> list[dict[str, float]]:
    sets = subsets(names)
    return contributions(sets, classify_subsets(model, samples, sets, PRIOR), PRIOR)


# ------------------------------------------------------------------ Shapley values


@st.composite
def games(draw: st.DrawFn) -> tuple[list[str], dict[frozenset[str], float]]:
    players = NAMES[: draw(st.integers(1, 3))]
    sets = [frozenset(some) for size in range(len(players) + 1) for some in itertools.combinations(players, size)]
    return players, {some: draw(st.floats(-30, 30)) for some in sets}


@given(games())
def test_shares_add_up(game: tuple[list[str], dict[frozenset[str], float]]) -> None:
    players, values = game
    whole = values[frozenset(players)] - values[frozenset()]
    assert sum(shapley(players, values).values()) == pytest.approx(whole, abs=1e-9)


@given(games())
def test_shares_are_those_of_the_formula_over_subsets(game: tuple[list[str], dict[frozenset[str], float]]) -> None:
    players, values = game
    count = len(players)
    for player, share in shapley(players, values).items():
        expected = 0.0
        for some in values:
            if player not in some:
                weight = math.factorial(len(some)) * math.factorial(count - len(some) - 1) / math.factorial(count)
                expected += weight * (values[some | {player}] - values[some])
        assert share == pytest.approx(expected, abs=1e-9)


@given(games(), st.permutations(NAMES))
def test_names_and_order_of_the_players_do_not_matter(
    game: tuple[list[str], dict[frozenset[str], float]], names: list[str]
) -> None:
    players, values = game
    other = dict(zip(players, names, strict=False))
    renamed = {frozenset(other[each] for each in some): value for some, value in values.items()}
    shares = shapley([other[each] for each in reversed(players)], renamed)
    assert {each: shares[other[each]] for each in players} == pytest.approx(shapley(players, values), abs=1e-9)


@given(games())
def test_players_that_can_stand_in_for_each_other_share_alike(
    game: tuple[list[str], dict[frozenset[str], float]],
) -> None:
    players, values = game
    alike = {some: values[frozenset(sorted(players)[: len(some)])] for some in values}
    shares = list(shapley(players, alike).values())
    assert shares == pytest.approx([shares[0]] * len(players), abs=1e-9)


# ------------------------------------------------------------------ contributions


@pytest.mark.parametrize(
    "switches",
    [{}, {"fusion": "concat"}, {"fusion": "mult"}, {"time_positions": True, "bidirectional": True}, {"pre_norm": True}],
    ids=str,
)
@settings(max_examples=10)
@given(st.integers(0, 10_000), st.lists(st.sampled_from(subsets(NAMES)), min_size=1, max_size=5))
def test_contributions_add_up_to_the_difference_to_the_prior(
    switches: dict[str, Any], seed: int, present: list[list[str]]
) -> None:
    torch.manual_seed(seed)
    model = WavFusion(configure(**switches))
    samples = [sample(f"u{i // 2}", seed + i, names, 1.0 + i) for i, names in enumerate(present)]
    whole = classify(model, samples, NAMES, PRIOR)
    for shares, chances, there in zip(explained(model, samples), whole.probabilities, whole.modalities, strict=True):
        emotion = chances.argmax()
        assert abs(sum(shares.values()) - math.log(chances[emotion] / PRIOR[emotion])) < 1e-5
        assert list(shares) == there


@pytest.mark.parametrize("names", subsets(NAMES), ids="+".join)
def test_contributions_of_a_model_of_some_modalities_add_up(names: list[str]) -> None:
    torch.manual_seed(0)
    model = WavFusion(configure(modalities=names))
    chances = classify(model, [sample("a", 1)], names, PRIOR).probabilities[0]
    wanted = math.log(chances.max() / PRIOR[chances.argmax()])
    assert sum(explained(model, [sample("a", 1)], names)[0].values()) == pytest.approx(wanted, abs=1e-5)


class OneMatters(nn.Module):
    """Reads the emotion off one modality, and answers with the prior without it."""

    def __init__(self, modality: str) -> None:
        super().__init__()
        self.modality = modality

    def forward(self, labels: Tensor | None = None, **inputs: Tensor | None) -> WavFusionOutput:
        size = next(len(x) for x in inputs.values() if x is not None)
        x = inputs[self.modality]
        logits = torch.tensor(PRIOR).log().expand(size, -1)
        return WavFusionOutput(logits if x is None else logits + x[:, 0, :3])


@pytest.mark.parametrize("modality", NAMES)
def test_contributions_name_the_only_modality_that_matters(modality: str) -> None:
    samples = [sample(f"u{i}", i) for i in range(20)]
    rest = {name: 0.0 for name in NAMES if name != modality}
    for shares, chances in zip(
        explained(OneMatters(modality), samples),
        classify(OneMatters(modality), samples, NAMES, PRIOR).probabilities,
        strict=True,
    ):
        wanted = {modality: math.log(chances.max() / PRIOR[chances.argmax()]), **rest}
        assert shares == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("modality", NAMES)
def test_contributions_of_a_trained_model_name_the_modality_that_was_planted(modality: str) -> None:
    torch.manual_seed(0)
    model = WavFusion(configure(modality_dropout=0.3, margin={"weight": 0.0}))
    samples = [sample(f"u{i}", i) for i in range(90)]
    for i, each in enumerate(samples):
        getattr(each, modality)[:, i % 3] += 10
        each.label = i % 3
    inputs = model_inputs(collate(samples[:60]), NAMES, "cpu")
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        model.train()(**inputs).loss.backward()
        optimizer.step()
    shares = [max(each, key=lambda name: each[name]) for each in explained(model, samples[60:])]
    assert shares.count(modality) >= 28


def test_windows_are_averaged_before_the_logarithm() -> None:
    long = [sample("a", 1, seconds=15.0), sample("a", 2, ["audio"], seconds=5.0)]
    model = OneMatters("audio")
    one, other = (classify(model, [each], ["audio"], PRIOR).probabilities[0] for each in long)
    mean = (15 * one + 5 * other) / 20
    assert explained(model, long)[0]["audio"] == pytest.approx(math.log(mean.max() / PRIOR[mean.argmax()]), abs=1e-6)


def test_a_modality_of_one_window_counts_for_the_utterance() -> None:
    assert list(explained(OneMatters("text"), [sample("a", 1), sample("a", 2, ["audio"])])[0]) == NAMES


def test_an_utterance_without_evidence_has_no_contributions() -> None:
    assert explained(OneMatters("text"), [sample("a", 1, []), sample("b", 2)])[0] == {}


def test_an_emotion_that_training_lacked_has_finite_contributions() -> None:
    said = [Utterances(["a"], np.array([[0.0, 0.1, 0.9]]), [None], [["text"]])]
    assert contributions([["text"]], said, [0.5, 0.5, 0.0])[0]["text"] == pytest.approx(math.log(0.9 / 1e-12))


def test_mean_contributions_are_of_the_utterances_that_were_called_so() -> None:
    rows = [{"audio": 1.0, "text": 3.0}, {"text": 5.0}, {"audio": 7.0}]
    found = mean_contributions(rows, ["sad", "sad", "happy"], CLASSES)
    assert found == {"happy": {"audio": 7.0}, "sad": {"audio": 1.0, "text": 4.0}}


# ------------------------------------------------------------------ gates


def test_shares_by_layer_average_to_the_text_share() -> None:
    torch.manual_seed(0)
    model = WavFusion(configure())
    present = [NAMES, NAMES, ["text", "video"], ["audio", "text"]]
    samples = [sample(f"u{i // 2}", i, names, 1.0 + i) for i, names in enumerate([*present, *present])]
    truth = {each.row.id: "sad" for each in samples}
    found = gate_statistics(window_parts(model, samples, NAMES), truth, CLASSES)
    shares = [share for share in classify(model, samples, NAMES, PRIOR).text_share if share is not None]
    assert found is not None and len(found["by_layer"]) == 2
    assert np.mean(found["by_layer"]) == found["by_emotion"]["sad"] == pytest.approx(np.mean(shares), abs=1e-6)


def test_a_padded_sample_is_gated_as_alone() -> None:
    """Stand-in queries were averaged together with padding where another sample of the batch had longer sound."""
    torch.manual_seed(0)
    model = WavFusion(configure())
    samples = [sample("a", 1, ["text", "video"]), sample("b", 2), sample("c", 3)]
    together = classify(model, samples, NAMES, PRIOR).text_share
    alone = [classify(model, [each], NAMES, PRIOR).text_share[0] for each in samples]
    assert together == pytest.approx(alone, abs=1e-6)


def seen(name: str, seconds: float, steps: list[float], layers: list[float]) -> WindowParts:
    return WindowParts(name, seconds, np.array(layers), np.array(steps))


def test_gates_are_averaged_by_emotion_and_layer() -> None:
    watched = [seen("a", 1.0, [], [0.2, 0.4]), seen("b", 1.0, [], [0.6, 0.8]), WindowParts("c", 1.0)]
    found = gate_statistics(watched, {"a": "sad", "b": "angry", "c": "sad"}, CLASSES)
    assert found is not None and found["utterances"] == 2
    assert found["by_layer"] == pytest.approx([0.4, 0.6])
    assert found["by_emotion"] == pytest.approx({"sad": 0.3, "angry": 0.7})


def test_windows_count_by_their_seconds_in_the_gates_of_an_utterance() -> None:
    found = gate_statistics([seen("a", 15.0, [], [0.2]), seen("a", 5.0, [], [0.6])], {"a": "sad"}, CLASSES)
    assert found is not None and found["by_layer"] == pytest.approx([0.3])


def test_seconds_go_on_through_the_windows_of_an_utterance() -> None:
    first, second = [0.1] * 49 + [0.9] * 10, [0.5] * 10
    windows = [seen("a", 3.0, first, [0.5]), WindowParts("b", 1.0), seen("a", 1.0, second, [0.5])]
    found = gate_statistics(windows, {"a": "sad", "b": "sad"}, CLASSES)
    shares = [(each["second"], round(each["text_share"], 6)) for each in found["by_second"]] if found else []
    assert shares == [(0, round((49 * 0.1 + 0.9) / 50, 6)), (1, 0.9), (3, 0.5)]


def test_a_model_without_gates_has_no_gate_statistics() -> None:
    watched = window_parts(WavFusion(configure(fusion="concat")), [sample("a", 1)], NAMES)
    assert gate_statistics(watched, {"a": "sad"}, CLASSES) is None


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=12))
def test_the_auc_counts_pairs(rows: list[tuple[int, bool]]) -> None:
    rows = [*rows, (0, True), (1, False)]
    shares: dict[str, float | None] = {f"u{i}": share / 4 for i, (share, _) in enumerate(rows)}
    flags = {f"u{i}": flag for i, (_, flag) in enumerate(rows)}
    pairs = [(x > y) + (x == y) / 2 for (x, a), (y, b) in itertools.product(rows, rows) if a and not b]
    assert gate_auc({**shares, "ungated": None}, flags) == pytest.approx(np.mean(pairs))


# ------------------------------------------------------------------ timing


def test_no_shift_is_the_plain_evaluation() -> None:
    torch.manual_seed(1)
    config = configure(time_positions=True)
    model = WavFusion(config)
    samples = [sample(f"u{i}", i, names) for i, names in enumerate(subsets(NAMES) * 3)]
    said = classify(model, samples, NAMES, PRIOR)
    truth = {name: CLASSES[i % 3] for i, name in enumerate(said.ids)}
    found = shifted_accuracy(model, samples, truth, config, PRIOR, shifts=[0.0])
    right = float(np.mean(said.probabilities.argmax(1) == np.arange(len(said.ids)) % 3))
    assert found == {"seconds": [0.0], **{name: [right] for name in NAMES}}


@pytest.mark.parametrize(("modality", "seconds", "steps"), [("video", 0.4, 2), ("audio", -0.4, -20), ("text", 0.4, 2)])
def test_a_shift_moves_steps_frames_and_tokens_by_seconds(modality: str, seconds: float, steps: int) -> None:
    each = sample("a", 0)  # one second: 5 tokens of 0.2 s
    moved = shift(each, modality, seconds, 5.0)
    assert torch.equal(getattr(moved, modality), getattr(each, modality).roll(steps, 0))
    assert all(getattr(moved, name) is getattr(each, name) for name in NAMES if name != modality)


def test_a_shift_moves_a_waveform() -> None:
    sound = torch.arange(16_000.0)
    each = replace(sample("a", 0, []), waveform=sound)
    moved = shift(each, "audio", 0.25, 5.0).waveform
    assert moved is not None and torch.equal(moved, sound.roll(4_000))


class FirstFrame(nn.Module):
    """Knows the emotion only from what it sees while the sound begins."""

    def forward(self, labels: Tensor | None = None, **inputs: Tensor | None) -> WavFusionOutput:
        video = inputs["video"]
        assert video is not None
        return WavFusionOutput(video[:, 0, :3])


def test_a_model_that_needs_the_picture_in_time_loses_it_by_a_shift() -> None:
    samples = [sample(f"u{i}", i) for i in range(30)]
    truth = {}
    for i, each in enumerate(samples):
        assert each.video is not None
        each.video[0, i % 3] += 50
        truth[each.row.id] = CLASSES[i % 3]
    found = shifted_accuracy(FirstFrame(), samples, truth, configure(), PRIOR, shifts=[-0.2, 0.0, 0.2])
    assert found["video"][1] == 1.0 > 0.7 > max(found["video"][0], found["video"][2])
    assert found["audio"] == [1.0, 1.0, 1.0]


# ------------------------------------------------------------------ the whole, on a corpus


@pytest.fixture(scope="module")
def written(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("explained")
    every = ["--modalities", "all-subsets", "--explain", "--device", "cpu"]
    assert main(["evaluate", str(trained), "--out", str(out), *every]) == 0
    return out


def read(folder: Path, name: str = "explain.json") -> dict[str, Any]:
    return json.loads((folder / name).read_text("utf-8"))


def test_explain_json_holds_every_part(written: Path) -> None:
    found = read(written)
    assert list(found) == [
        *("split", "protocol", "n", "modalities", "contributions", "gates", "margin", "shift", "utterances")
    ]
    assert found["margin"]["own"]["triplets"] == found["margin"]["post_hoc"]["triplets"] > 0


def test_contributions_stand_in_metrics_json_where_all_subsets_are_scored(written: Path) -> None:
    assert read(written)["contributions"] == read(written, "metrics.json")["contributions"] != {}


def test_contributions_need_all_subsets(trained: Path, tmp_path: Path) -> None:
    main(["evaluate", str(trained), "--out", str(tmp_path), "--device", "cpu"])
    assert read(tmp_path, "metrics.json")["contributions"] == {} and not (tmp_path / "explain.json").exists()


def test_no_shift_has_the_accuracy_of_metrics_json(written: Path) -> None:
    shift = read(written)["shift"]
    accuracy = read(written, "metrics.json")["accuracy"]
    assert {shift[name][shift["seconds"].index(0.0)] for name in NAMES} == {accuracy}


def test_explaining_twice_gives_the_same_bytes(written: Path, trained: Path, tmp_path: Path) -> None:
    main(["evaluate", str(trained), "--out", str(tmp_path), "--explain", "--device", "cpu"])
    assert (tmp_path / "explain.json").read_bytes() == (written / "explain.json").read_bytes()


def test_an_explanation_lies_in_the_run_and_is_not_overwritten(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_folder = Path(shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints")))
    (run_folder / "explain.json").write_text("old")
    assert main(["evaluate", str(run_folder), "--explain", "--device", "cpu"]) == 2
    assert "explain.json" in capfd.readouterr().err and not (run_folder / "evaluate").exists()


def test_no_space_is_fitted_on_the_clips_that_it_is_judged_on(trained: Path, tmp_path: Path) -> None:
    main(["evaluate", str(trained), "--out", str(tmp_path), "--explain", "--split", "train", "--device", "cpu"])
    assert read(tmp_path)["margin"]["post_hoc"] is None


def test_a_model_without_margin_loss_is_judged_in_a_space_fitted_afterwards(
    made: Any, short: Any, tmp_path: Path
) -> None:
    train.train(short(train__epochs=1, model__margin__weight=0.0), made.data, tmp_path / "run")
    trained = read_run(tmp_path / "run")
    part = evaluate.Part(
        made.data.part("test"), evaluate.EmotionMap(trained.classes), {}, 0, training=made.data.part("train")
    )
    found = evaluate.explain(trained, part, made.data.store, made.data.media)["margin"]
    assert found["own"] is None and found["post_hoc"]["retrieval"]["queries"] > 0
    assert not [name for name in (tmp_path / "run" / "history.csv").read_text().split(",") if "gradient" in name]


def test_the_pull_of_the_margin_loss_is_told_every_epoch(trained: Path) -> None:
    lines = (trained / "history.csv").read_text().splitlines()
    numbers = [i for i, name in enumerate(lines[0].split(",")) if name.startswith("gradient_ratio_")]
    assert len(numbers) == 3 and all(float(line.split(",")[i]) > 0 for line in lines[1:] for i in numbers)


def test_a_long_clip_is_explained_as_evaluate_explains_it(written: Path, trained: Path, made: Any) -> None:
    row = next(row for row in made.data.utterances if row.id == "long")
    segments = [Segment(0.0, 999.0, text=row.text)]
    predicted = EmotionRecognizer.from_pretrained(trained).predict(made.root / row.audio.path, segments=segments)[0]
    assert predicted.contribution == pytest.approx(read(written)["utterances"]["long"]["contribution"], abs=5e-3)


def test_a_prediction_adds_up_from_the_prior(trained: Path, made: Any) -> None:
    recognizer = EmotionRecognizer.from_pretrained(trained)
    row = made.data.part("test")[0]
    said = recognizer.predict(made.root / row.audio.path, row.text)[0]
    prior = dict(zip(recognizer.classes, recognizer.trained.prior, strict=True))
    assert said.contribution is not None and said.emotion is not None
    total = sum(said.contribution.values())
    assert abs(total - math.log(said.probability / prior[said.emotion])) < 1e-5


def test_absent_modalities_have_no_contribution(trained: Path, made: Any) -> None:
    row = made.data.part("test")[0]
    said = EmotionRecognizer.from_pretrained(trained).predict(made.root / row.audio.path)[0]
    assert said.contribution is not None and list(said.contribution) == said.modalities == ["audio", "video"]


def test_a_model_without_modality_dropout_says_so_once(
    made: Any, short: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train.train(short(train__epochs=1), made.data, tmp_path / "run")
    clips = [str(made.root / made.data.part("test")[i].audio.path) for i in (0, 1)]
    for command in (
        ["predict", "--model", str(tmp_path / "run"), *clips],
        ["evaluate", str(tmp_path / "run"), "--modalities", "all-subsets", "--explain"],
    ):
        assert main([*command, "--device", "cpu"]) == 0
        assert capfd.readouterr().err.count("without modality dropout") == 1


def test_a_model_trained_for_subsets_needs_no_such_warning(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    main(["evaluate", str(trained), "--out", str(tmp_path), "--modalities", "all-subsets", "--device", "cpu"])
    assert "without modality dropout" not in capfd.readouterr().err


def test_the_table_of_predictions_leaves_absent_modalities_empty(trained: Path, made: Any) -> None:
    recognizer = EmotionRecognizer.from_pretrained(trained)
    said = recognizer.predict(made.root / made.data.part("test")[0].audio.path)
    row = next(csv.DictReader(io.StringIO(timeline.to_csv(said, recognizer.classes))))
    assert said[0].contribution is not None
    assert [row[f"contribution_{name}"] for name in NAMES] == [
        str(said[0].contribution["audio"]),
        "",
        str(said[0].contribution["video"]),
    ]


@pytest.mark.slow
def test_a_model_that_hears_waveforms_is_explained_too(made: Any, short: Any, tmp_path: Path) -> None:
    train.train(short(train__mode="live", train__epochs=2), made.data, tmp_path / "run")
    data = made.data
    trained = read_run(tmp_path / "run")
    part = evaluate.Part(data.part("test"), evaluate.EmotionMap(trained.classes), {}, 0, training=data.part("valid"))
    found = evaluate.explain(trained, part, data.store, data.media)
    result, _ = evaluate.evaluate(trained, data.part("test"), data.store, data.media, [NAMES])
    assert found["shift"]["audio"][found["shift"]["seconds"].index(0.0)] == result["accuracy"]
    assert found["gates"]["by_second"] and found["margin"]["own"]
    assert "gradient_ratio_lvc" in (tmp_path / "run" / "history.csv").read_text()
