"""Dialogue context: the network over turns, its training on a RUN, and recordings that are labelled with it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wavfusion import EmotionRecognizer
from wavfusion.cli.app import main
from wavfusion.dialogues.context import ContextConfig, FittedContext, TurnContext
from wavfusion.errors import ConfigError
from wavfusion.evaluation.context import add_context
from wavfusion.evaluation.inference import Utterances
from wavfusion.experiments.experiment import read_experiment
from wavfusion.manifest import Utterance
from wavfusion.prediction.export import export_run
from wavfusion.runs.folder import read_run
from wavfusion.runs.results import read_csv
from wavfusion.training import train

pytest_plugins = ("corpus_fixture",)

SIZE, CLASSES = 12, 4


def make(kind: str = "past", trained: bool = True, **other: Any) -> TurnContext:
    torch.manual_seed(0)
    model = TurnContext(ContextConfig(SIZE, CLASSES, kind, width=16, inner=24, **other)).eval()
    if trained:
        for parameter in model.parameters():
            nn.init.normal_(parameter, 0.0, 0.5)
    return model


def dialogue(length: int = 9, rows: int = 1) -> SimpleNamespace:
    draw = torch.Generator().manual_seed(1)
    mask = torch.ones(rows, length, dtype=torch.bool)
    return SimpleNamespace(
        vectors=torch.randn(rows, length, SIZE, generator=draw),
        scores=torch.randn(rows, length, CLASSES, generator=draw),
        known=mask.clone(),
        mask=mask,
        slot=torch.randint(2, (rows, length), generator=draw),
    )


@torch.no_grad()
def run(model: TurnContext, turns: SimpleNamespace, **other: Any) -> Tensor:
    return model(**{**vars(turns), **other})


# ------------------------------------------------------------------ the network


def test_before_training_a_context_is_the_model_itself_bit_for_bit() -> None:
    turns = dialogue()
    assert torch.equal(run(make(trained=False), turns), turns.scores)


def test_a_context_of_the_past_has_the_described_size() -> None:
    """1,254,942 parameters (comparators, 4.3), and the vector that stands for an unknown turn."""
    with torch.device("meta"):
        model = TurnContext(ContextConfig(768, 6, "past"))
    assert sum(p.numel() for p in model.parameters()) == 1_254_942 + 256


def test_the_past_alone_decides_and_adding_turns_changes_nothing_before() -> None:
    model, turns = make(), dialogue()
    before = run(model, turns)
    vectors = turns.vectors.clone()
    vectors[0, 5, :6] += 1.0
    after = run(model, turns, vectors=vectors)
    assert torch.equal(after[0, :5], before[0, :5])
    assert all((after[0, i] - before[0, i]).abs().max() > 1e-6 for i in range(5, 9))
    cut = SimpleNamespace(**{name: x[:, :5] for name, x in vars(turns).items()})
    torch.testing.assert_close(run(model, cut)[0], before[0, :5], atol=1e-5, rtol=0)
    whole = make("whole")
    assert not torch.allclose(run(whole, turns, vectors=vectors)[0, :5], run(whole, turns)[0, :5])


def test_a_context_equals_a_loop_over_pairs_of_turns() -> None:
    """One layer, one head at a time, every bias by hand."""
    model, turns = make(layers=1, reach=3), dialogue()
    layer, bias = model.layers[0], model.biases[0]
    x = model.to_width(model.input_norm(turns.vectors[0]))
    normed, attention = layer.attention_norm(x), layer.attention
    q, k, v = (p(normed).view(9, 4, 4) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    heads = torch.zeros(9, 4, 4)
    for i in range(9):
        for head in range(4):
            scores = []
            for j in range(i + 1):
                same = int(turns.slot[0, i] == turns.slot[0, j])
                distance = bias.distance[head, 3 - min(i - j, 3)]
                scores.append(q[i, head] @ k[j, head] / 2 + bias.speaker[head, same] + distance)
            weights = torch.stack(scores).softmax(0)
            heads[i, head] = sum(weights[j] * v[j, head] for j in range(i + 1))
    x = x + attention.out_proj(heads.flatten(1))
    x = x + layer.contract(torch.nn.functional.gelu(layer.expand(layer.final_norm(x))))
    expected = turns.scores[0] + model.head(model.final_norm(x))
    torch.testing.assert_close(run(model, turns)[0], expected.detach(), atol=1e-5, rtol=1e-5)


def test_a_context_knows_no_speaker_only_same_and_other() -> None:
    model, turns = make(), dialogue()
    torch.testing.assert_close(run(model, turns, slot=1 - turns.slot), run(model, turns))
    slot = turns.slot.clone()
    slot[0, 3] = 1 - slot[0, 3]
    assert not torch.allclose(run(model, turns, slot=slot), run(model, turns))


def test_a_turn_that_is_hidden_does_not_depend_on_itself() -> None:
    model, turns = make(hidden_share=1.0, dropout=0.0, attention_dropout=0.0).train(), dialogue()
    model.log_prior.copy_(torch.randn(CLASSES))
    other = run(model, turns, vectors=torch.randn(1, 9, SIZE), scores=torch.randn(1, 9, CLASSES))
    assert torch.equal(run(model, turns), other)


def test_a_turn_without_any_modality_and_a_single_turn_are_scored() -> None:
    model, turns = make(), dialogue()
    turns.known[0, 4] = False
    assert run(model, turns).isfinite().all()
    changed = turns.vectors.clone()
    changed[0, 4, :6] += 5.0
    assert torch.equal(run(model, turns, vectors=changed), run(model, turns))
    assert run(model, dialogue(1)).isfinite().all()


def test_padding_and_other_dialogues_change_nothing() -> None:
    model, turns = make("whole"), dialogue(9, 2)
    turns.mask[0, 6:], turns.known[0, 6:], turns.slot[0, 6:] = False, False, -1
    alone = SimpleNamespace(**{name: x[:1, :6] for name, x in vars(turns).items()})
    torch.testing.assert_close(run(model, turns)[0, :6], run(model, alone)[0], atol=1e-5, rtol=0)


# ------------------------------------------------------------------ predictions


def test_dialogues_are_put_together_whatever_the_order_of_the_rows() -> None:
    draw = np.random.default_rng(0)
    rows = [
        Utterance(id=f"{d}{i}", corpus="t", dialogue=d, index=i, speaker=str(i % 2)) for i in range(4) for d in "ab"
    ]
    shares = draw.dirichlet(np.ones(CLASSES), len(rows))
    vectors = draw.normal(size=(8, SIZE)).astype(np.float32)
    found = Utterances([row.id for row in rows], shares, [None] * 8, [["text"]] * 8, vectors)
    context = FittedContext(make(), 2.0)
    whole = add_context(context, rows, found)
    order = [7, 2, 0, 5, 1, 3, 6, 4]
    ids = [found.ids[i] for i in order]
    moved = replace(found, ids=ids, probabilities=shares[order], vectors=vectors[order])
    again = add_context(context, [rows[i] for i in order], moved)
    assert again.probabilities == pytest.approx(whole.probabilities[order], abs=1e-6)
    assert whole.probabilities.sum(1) == pytest.approx(1)


# ------------------------------------------------------------------ training and use


@pytest.fixture(scope="module")
def trained(made: Any, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("context")
    brief = {"train.epochs": "2", "train.new_rate": "1e-3"}
    metrics = {
        kind: train.train(read_experiment("paper", {**brief, "context": kind}), made.data, folder / kind)
        for kind in ("off", "past")
    }
    return SimpleNamespace(folder=folder, metrics=metrics, data=made.data)


def test_without_a_context_a_run_has_no_trace_of_it(trained: Any) -> None:
    off = trained.folder / "off"
    assert not (off / "context.safetensors").exists()
    assert "context" not in (off / "experiment.yaml").read_text() + (off / "config.json").read_text()


def test_the_model_below_a_context_is_the_one_without(trained: Any) -> None:
    for name in ("model.safetensors", "familiarity.safetensors", "history.csv"):
        assert (trained.folder / "past" / name).read_bytes() == (trained.folder / "off" / name).read_bytes()


def test_a_run_with_context_is_read_and_evaluated_as_it_was_scored(trained: Any, tmp_path: Path) -> None:
    run = read_run(trained.folder / "past")
    assert run.context is not None and run.context.model.config.kind == "past"
    before = (trained.folder / "past/predictions.csv").read_bytes()
    assert main(["evaluate", str(trained.folder / "past"), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again/predictions.csv").read_bytes() == before
    assert trained.metrics["past"]["n"] == trained.metrics["off"]["n"]


def test_a_trained_context_moves_the_answers(trained: Any) -> None:
    run = read_run(trained.folder / "past")
    assert run.context is not None
    assert run.context.model.head.weight.any() or read_csv(trained.folder / "past/predictions.csv") != read_csv(
        trained.folder / "off/predictions.csv"
    )


def test_parts_that_share_a_dialogue_have_no_context(made: Any, tmp_path: Path) -> None:
    first, second = made.data.part("train")[:2]
    parts = made.data.protocol.parts | {second.id: "test"}
    assert first.dialogue == second.dialogue
    data = replace(made.data, protocol=replace(made.data.protocol, parts=parts))
    with pytest.raises(ConfigError, match="random5-dialogues"):
        train.train(read_experiment("paper", {"context": "past"}), data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_with_context_is_neither_exported_nor_opened_by_onnx(trained: Any) -> None:
    with pytest.raises(ConfigError, match="dialogue context"):
        EmotionRecognizer.from_pretrained(trained.folder / "past", runtime="onnx")
    pytest.importorskip("onnx")
    with pytest.raises(ConfigError, match="dialogue context"):
        export_run(trained.folder / "past")


def test_off_is_no_truth_value_of_yaml(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("context: off\n")
    assert read_experiment(str(tmp_path / "own.yaml")).context == "off"
    assert read_experiment("paper", {"context": "off"}).context == "off"
    with pytest.raises(ConfigError, match="past"):
        read_experiment("paper", {"context": "pest"})
    with pytest.raises(ConfigError, match="off beside a system"):
        read_experiment("mmgcn", {"context": "past"})


def test_a_recording_that_goes_on_changes_no_turn_before(trained: Any, tmp_path: Path) -> None:
    """The answers at 3 turns are those of the first 3 of 5 turns; each turn is a clip of the corpus."""
    folder = tmp_path / "run"
    shutil.copytree(trained.folder / "past", folder)
    state = load_file(folder / "context.safetensors")
    draw = torch.Generator().manual_seed(0)
    state["head.weight"] = torch.randn(state["head.weight"].shape, generator=draw)
    save_file(state, folder / "context.safetensors")
    recognizer = EmotionRecognizer.from_pretrained(folder)
    plain = EmotionRecognizer.from_pretrained(trained.folder / "off")
    noise = (np.random.default_rng(0).normal(0, 0.1, 16_000 * 10)).astype(np.float32)
    turns = [{"start": 2.0 * i, "end": 2.0 * i + 2, "speaker": "ab"[i % 2], "text": f"number {i}"} for i in range(5)]
    whole = recognizer.predict(noise, sample_rate=16_000, segments=turns)
    part = recognizer.predict(noise[: 16_000 * 6], sample_rate=16_000, segments=turns[:3])
    for early, late in zip(part, whole[:3], strict=True):
        assert list(early.probabilities.values()) == pytest.approx(list(late.probabilities.values()), abs=1e-5)
    without = plain.predict(noise, sample_rate=16_000, segments=turns)
    assert all(each.contribution is None for each in whole) and without[0].contribution is not None
    assert any(a.probabilities != pytest.approx(b.probabilities, abs=1e-3) for a, b in zip(whole, without, strict=True))
    assert json.dumps([each.probability for each in whole])
