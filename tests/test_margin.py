import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from wavfusion.evaluation.shared_space import compare_gradients, post_hoc, retrieve, score_space, violations
from wavfusion.model import WavFusion, WavFusionConfig, margin_loss

NAMES = ["audio", "text", "video"]
SIZES: dict[str, Any] = {
    "classes": ["happy", "sad", "angry"],
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
    "modality_dropout": 0.3,
    "time_mask": 0.1,
}
PARTS = ["text_agru", "video_agru", "lvc"]


def build(**switches: Any) -> WavFusion:
    torch.manual_seed(0)
    return WavFusion(WavFusionConfig.from_json({**SIZES, **switches}))


def batch(size: int = 9) -> dict[str, Any]:
    chance = torch.Generator().manual_seed(1)
    widths = {"audio": (12, 16), "text": (5, 16), "video": (4, 6)}
    inputs: dict[str, Any] = {name: torch.randn(size, *shape, generator=chance) for name, shape in widths.items()}
    inputs |= {f"{name}_mask": torch.ones(size, widths[name][0], dtype=torch.bool) for name in NAMES}
    return {**inputs, "labels": torch.arange(size) % 3}


# ------------------------------------------------------------------ the pull while training


def test_the_pull_is_that_of_two_backward_passes() -> None:
    model, inputs = build(margin={"weight": 0.5}), batch()
    found = compare_gradients(model, inputs, model)
    gradients = {}
    for name in ("task", "margin"):
        model.eval().zero_grad()
        model(**inputs).losses[name].backward()
        own = model.video_encoder.block.lvc.parameters()
        gradients[name] = torch.cat([p.grad.flatten() for p in own if p.grad is not None])
    assert found["gradient_ratio_lvc"] == pytest.approx(
        0.5 * float(gradients["margin"].norm() / gradients["task"].norm()), rel=1e-4
    )
    assert found["gradient_cosine_lvc"] == pytest.approx(
        float(torch.cosine_similarity(gradients["margin"], gradients["task"], dim=0)), abs=1e-4
    )


def test_the_pull_grows_with_lambda() -> None:
    weak, strong = (build(margin={"weight": weight}) for weight in (0.1, 10.0))
    few, many = (compare_gradients(model, batch(), model)["gradient_ratio_text_agru"] for model in (weak, strong))
    assert many == pytest.approx(100 * few, rel=1e-4)


@pytest.mark.parametrize(
    ("switches", "parts"),
    [({}, PARTS), ({"lvc": False}, PARTS[:2]), ({"fusion": "concat"}, PARTS), ({"bidirectional": True}, PARTS)],
    ids=str,
)
def test_every_part_that_a_model_has_is_named(switches: dict[str, Any], parts: list[str]) -> None:
    model = build(**switches)
    assert set(compare_gradients(model, batch(), model)) == {
        f"gradient_{kind}_{p}" for kind in ("ratio", "cosine") for p in parts
    }


def test_a_batch_without_triplets_pulls_nowhere() -> None:
    model = build()
    assert compare_gradients(model, {**batch(), "labels": torch.zeros(9, dtype=torch.long)}, model) == {}


def test_looking_at_the_pull_changes_nothing_of_a_training() -> None:
    """Weights, moments of the batch norms, gradients, the random state and the mode are those of a training at work."""
    model = build()
    model.train()(**batch()).loss.backward()

    def state() -> list[torch.Tensor]:
        tensors = [*model.state_dict().values(), *(p.grad for p in model.parameters() if p.grad is not None)]
        return [torch.get_rng_state(), *(tensor.clone() for tensor in tensors)]

    before, modes = state(), [module.training for module in model.modules()]
    compare_gradients(model, batch(), model)
    assert all(torch.equal(x, y) for x, y in zip(before, state(), strict=True))
    assert modes == [module.training for module in model.modules()]


# ------------------------------------------------------------------ the space on held-out clips


@st.composite
def spaces(draw: st.DrawFn) -> tuple[np.ndarray, ...]:
    """Vectors of whole numbers, whose ties are exact, of clips that lack some modalities."""
    clips = draw(st.integers(1, 6))
    there = [(clip, name) for clip in range(clips) for name in range(3) if draw(st.booleans())] or [(0, 0)]
    emotions = [draw(st.integers(0, 2)) for _ in range(clips)]
    vectors = np.array([[draw(st.integers(-2, 2)), draw(st.integers(-2, 2)), 1.0] for _ in there])
    numbers = [(name, emotions[clip], clip) for clip, name in there]
    return vectors, *np.array(numbers).T


@given(spaces(), st.sampled_from([0.0, 0.15, 0.5]))
def test_violations_are_those_of_a_triple_loop(space: tuple[np.ndarray, ...], alpha: float) -> None:
    vectors, modality, label, _ = space
    cosine = np.stack([vectors @ anchor for anchor in vectors])
    violated = total = 0
    for i, j, k in itertools.product(range(len(vectors)), repeat=3):
        positive = modality[i] != modality[j] and label[i] == label[j]
        if positive and modality[i] == modality[k] and label[i] != label[k]:
            total += 1
            violated += cosine[i, j] < cosine[i, k] + alpha
    assert violations(vectors, modality, label, alpha) == (violated, total)


@given(spaces())
def test_no_violation_is_no_margin_loss(space: tuple[np.ndarray, ...]) -> None:
    vectors, modality, label, _ = space
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    loss = margin_loss(torch.from_numpy(vectors), torch.from_numpy(modality), torch.from_numpy(label), 0.15)
    assert (violations(vectors, modality, label, 0.15)[0] == 0) == (float(loss) < 1e-6)


@given(spaces())
def test_retrieval_is_that_of_a_plain_loop(space: tuple[np.ndarray, ...]) -> None:
    vectors, modality, label, clip = space
    expected = []
    for gallery in range(3):
        for i in range(len(vectors)):
            asked = [j for j in range(len(vectors)) if modality[j] == gallery and clip[j] != clip[i]]
            if modality[i] != gallery and asked:
                nearest = max(asked, key=lambda j, i=i: float(vectors[j] @ vectors[i]))
                same = [float(label[j] == label[i]) for j in asked]
                expected.append((float(label[nearest] == label[i]), np.mean(same)))
    assert_allclose(retrieve(vectors, modality, label, clip), np.array(expected).reshape(-1, 2))


def clips(number: int, pull: float, modalities: list[str] = NAMES) -> tuple[list[dict[str, np.ndarray]], list[int]]:
    """Clips whose vectors share a direction for each of three emotions, more or less."""
    chance = np.random.default_rng(number)
    labels = [i % 3 for i in range(number)]
    return [{name: pull * np.eye(8)[y] + chance.normal(size=8) for name in modalities} for y in labels], labels


def test_vectors_without_an_emotion_are_retrieved_at_chance() -> None:
    found = score_space(*clips(150, 0.0), 0.15)
    assert found is not None and found["inverted"] == pytest.approx(0.5, abs=0.05)
    assert found["retrieval"]["precision_at_1"] == pytest.approx(found["retrieval"]["chance"], abs=0.06)


def test_vectors_that_agree_on_the_emotion_are_retrieved() -> None:
    found = score_space(*clips(60, 50.0), 0.15)
    assert found is not None
    assert (found["violated"], found["inverted"], found["retrieval"]["precision_at_1"]) == (0.0, 0.0, 1.0)


def test_chance_is_the_share_of_the_emotion_among_other_clips() -> None:
    found = score_space(*clips(30, 0.0), 0.15)
    assert found is not None and found["retrieval"]["chance"] == pytest.approx(9 / 29)


def test_one_modality_is_no_shared_space() -> None:
    assert score_space(*clips(30, 1.0, ["text"]), 0.15) is None


def test_one_clip_leaves_its_figures_open() -> None:
    found = score_space(*clips(1, 1.0), 0.15)
    nothing = {"precision_at_1": None, "chance": None, "queries": 0}
    assert found == {"violated": None, "inverted": None, "triplets": 0, "retrieval": nothing}


def test_a_linear_map_fitted_afterwards_finds_the_emotion_in_each_modalitys_own_basis() -> None:
    """Every modality shows the emotions in other directions: there is nothing to retrieve before the map."""

    def turned(number: int) -> tuple[list[dict[str, np.ndarray]], list[int]]:
        found, labels = clips(number, 6.0)
        return [{name: np.roll(x, 2 * i) for i, (name, x) in enumerate(clip.items())} for clip in found], labels

    training, held = turned(90), turned(60)
    before, after = score_space(*held, 0.15), score_space(post_hoc(*training, held[0]), held[1], 0.15)
    assert before is not None and after is not None
    assert after["retrieval"]["precision_at_1"] > 0.9 > 0.6 > before["retrieval"]["precision_at_1"]


def test_a_modality_that_training_lacked_is_not_mapped() -> None:
    training, labels = clips(30, 1.0, ["audio", "text"])
    assert {name for clip in post_hoc(training, labels, clips(6, 1.0)[0]) for name in clip} == {"audio", "text"}
