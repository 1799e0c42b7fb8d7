from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from wavfusion.fast import margin
from wavfusion.fast.margin import fast_hinge_sums, sorted_hinge_sums
from wavfusion.model import SharedEncoder, margin_loss, task_loss
from wavfusion.model.losses import hinge_sums

REDUCTIONS = ["triplet", "anchor"]
sorted_margin_loss = partial(margin_loss, hinges=sorted_hinge_sums)
both_ways = pytest.mark.parametrize("margin_loss", [margin_loss, sorted_margin_loss], ids=["as printed", "sorted"])
rows = st.lists(st.tuples(st.sampled_from([-1, 0, 1, 2]), st.integers(0, 2)), min_size=1, max_size=9)


def draw(some_rows, seed=0):
    modality, label = torch.tensor(some_rows).T
    vectors = torch.randn(len(some_rows), 5, generator=torch.Generator().manual_seed(seed))
    return vectors, modality, label


def loop(vectors, modality, label, alpha, reduction):
    """Eq. 13 as printed, one triplet at a time."""
    anchors = []
    n = len(vectors)
    for i in range(n):
        terms = [
            max(
                0.0,
                alpha - F.cosine_similarity(vectors[i], vectors[j], 0) + F.cosine_similarity(vectors[i], vectors[k], 0),
            )
            for j in range(n)
            for k in range(n)
            if min(modality[i], modality[j], modality[k]) >= 0
            and modality[i] != modality[j]
            and label[i] == label[j]
            and modality[i] == modality[k]
            and label[i] != label[k]
        ]
        if terms:
            anchors.append([float(term) for term in terms])
    if not anchors:
        return 0.0
    if reduction == "anchor":
        return sum(sum(terms) / len(terms) for terms in anchors) / len(anchors)
    return sum(map(sum, anchors)) / sum(map(len, anchors))


@both_ways
@settings(deadline=None, max_examples=40)
@given(rows, st.integers(0, 99), st.sampled_from([0.0, 0.15, 2.0]))
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_margin_loss_is_a_triple_loop(margin_loss, reduction, some_rows, seed, alpha):
    vectors, modality, label = draw(some_rows, seed)
    expected = loop(vectors, modality, label, alpha, reduction)
    assert float(margin_loss(vectors, modality, label, alpha, reduction)) == pytest.approx(expected, abs=1e-6)


many_rows = st.lists(st.tuples(st.sampled_from([-1, 0, 1, 2]), st.integers(0, 3)), min_size=1, max_size=60)


@settings(deadline=None, max_examples=60)
@given(many_rows, st.integers(0, 99), st.sampled_from([0.0, 0.15, 2.0]), st.booleans())
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_margin_loss_by_sorting_has_the_value_and_the_gradient_of_the_cube(reduction, some_rows, seed, alpha, tied):
    vectors, modality, label = draw(some_rows, seed)
    vectors = vectors.round() if tied else vectors
    found = []
    for loss_of in (margin_loss, sorted_margin_loss):
        x = vectors.clone().requires_grad_()
        loss = loss_of(x, modality, label, alpha, reduction)
        loss.backward()
        found.append((loss, x.grad / x.grad.abs().max().clamp(min=1e-3)))
    assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)


class Largest(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple) else [made]:
            self.elements = max(self.elements, each.numel() if isinstance(each, torch.Tensor) else 0)
        return made


@pytest.mark.parametrize(("hinges", "power"), [(fast_hinge_sums, 2), (hinge_sums, 3)])
def test_the_fast_margin_loss_of_many_vectors_forms_no_cube(hinges, power):
    """At 1,536 vectors, a batch of 512, the cube has 14 GB."""
    rows_of_all = [(modality, i % 4) for modality in range(3) for i in range(40)]
    vectors, modality, label = draw(rows_of_all)
    with Largest() as largest:
        margin_loss(vectors.requires_grad_(), modality, label, 0.15, hinges=hinges).backward()
    assert largest.elements == len(rows_of_all) ** power


def test_few_vectors_have_the_same_margin_loss_to_the_last_bit():
    batch = draw([(modality, i % 4) for modality in range(3) for i in range(margin.CUBE // 3)])
    assert torch.equal(margin_loss(*batch, 0.15, "anchor", fast_hinge_sums), margin_loss(*batch, 0.15, "anchor"))


def test_the_two_reductions_differ_where_anchors_have_unequal_numbers_of_triplets():
    batch = draw([(0, 0), (0, 1), (0, 1), (1, 0), (1, 1), (2, 1)])
    assert abs(margin_loss(*batch, 0.5, "triplet") - margin_loss(*batch, 0.5, "anchor")) > 1e-3


@both_ways
@settings(deadline=None, max_examples=25)
@given(rows, st.integers(0, 99))
def test_margin_loss_is_never_negative(margin_loss, some_rows, seed):
    assert margin_loss(*draw(some_rows, seed), 0.15) >= 0


NO_TRIPLETS = {
    "one emotion": [(0, 1), (0, 1), (1, 1), (2, 1)],
    "one modality": [(1, 0), (1, 1), (1, 2)],
    "one vector": [(0, 0)],
    "all absent": [(-1, 0), (-1, 1), (-1, 0)],
    "absent would have been the positive": [(0, 0), (0, 1), (-1, 0), (-1, 1)],
}


@both_ways
@pytest.mark.parametrize("some_rows", NO_TRIPLETS.values(), ids=NO_TRIPLETS.keys())
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_margin_loss_without_triplets_is_a_differentiable_zero(margin_loss, reduction, some_rows):
    vectors, modality, label = draw(some_rows)
    loss = margin_loss(vectors.requires_grad_(), modality, label, 0.15, reduction)
    loss.backward()
    assert (loss.item(), vectors.grad.abs().max().item()) == (0.0, 0.0)


@both_ways
@settings(deadline=None, max_examples=20)
@given(rows, st.floats(1e-3, 1e3))
def test_margin_loss_does_not_see_the_length_of_vectors(margin_loss, some_rows, factor):
    vectors, modality, label = draw(some_rows)
    scale = torch.linspace(1, factor, len(vectors))[:, None]
    assert_close(margin_loss(vectors * scale, modality, label, 0.15), margin_loss(vectors, modality, label, 0.15))


@settings(deadline=None, max_examples=20)
@given(rows, st.randoms(use_true_random=False))
def test_margin_loss_does_not_see_the_order_of_vectors(some_rows, random):
    vectors, modality, label = draw(some_rows)
    order = torch.tensor(random.sample(range(len(some_rows)), len(some_rows)))
    moved = margin_loss(vectors[order], modality[order], label[order], 0.15, "anchor")
    assert_close(moved, margin_loss(vectors, modality, label, 0.15, "anchor"))


@both_ways
def test_margin_loss_has_the_gradient_of_a_finite_difference(margin_loss):
    vectors, modality, label = draw([(0, 0), (0, 1), (1, 0), (1, 1), (2, 1)])
    vectors.requires_grad_()
    margin_loss(vectors, modality, label, 0.5).backward()
    step = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1)) * 1e-2
    ahead, behind = (margin_loss(vectors.detach() + sign * step, modality, label, 0.5) for sign in (1, -1))
    assert float((vectors.grad * step).sum()) == pytest.approx(float(ahead - behind) / 2, rel=1e-2)


@both_ways
def test_margin_loss_falls_when_one_emotion_gathers_across_modalities(margin_loss):
    apart, modality, label = draw([(m, c) for m in (0, 1, 2) for c in (0, 1)])
    gathered = F.one_hot(label, 5).float() + 0.01 * apart
    assert margin_loss(gathered, modality, label, 0.15) == 0 < margin_loss(apart, modality, label, 0.15)


@both_ways
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_margin_loss_survives_vectors_of_zero_length(margin_loss, reduction):
    vectors, modality, label = draw([(0, 0), (0, 1), (1, 0), (1, 1)])
    vectors = vectors.index_fill(0, torch.tensor([0]), 0.0).requires_grad_()
    margin_loss(vectors, modality, label, 0.15, reduction).backward()
    assert vectors.grad.isfinite().all()


@both_ways
def test_margin_loss_is_computed_in_single_precision_under_autocast(margin_loss):
    batch = draw([(m, c) for m in (0, 1, 2) for c in (0, 1, 2)])
    with torch.autocast("cpu", torch.bfloat16):
        inside = margin_loss(*batch, 0.15)
    assert_close(inside, margin_loss(*batch, 0.15), rtol=0, atol=0)


def test_shared_encoder_maps_means_as_it_maps_every_step():
    shared, x = SharedEncoder({"audio": 6, "text": 3}, size=4), torch.randn(2, 9, 6)
    each = torch.stack([shared({"audio": step})[0] for step in x.unbind(1)])
    assert_close(shared({"audio": x.mean(1)})[0], each.mean(0), atol=1e-5, rtol=1e-5)


LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
LABELS = torch.tensor([0, 1, 1, 3, 2, 1])
SHARES = torch.rand(6, 4, generator=torch.Generator().manual_seed(3)).softmax(-1)
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.5])


def test_task_loss_is_cross_entropy():
    assert_close(task_loss(LOGITS, LABELS), F.cross_entropy(LOGITS, LABELS))


def test_balanced_task_loss_weighs_each_utterance_by_its_emotion():
    assert_close(task_loss(LOGITS, LABELS, WEIGHTS), F.cross_entropy(LOGITS, LABELS, WEIGHTS, reduction="none").mean())


@pytest.mark.parametrize("target", [LABELS, SHARES], ids=["labels", "shares"])
def test_smoothed_labels_give_the_loss_that_torch_has(target):
    assert_close(task_loss(LOGITS, target, None, 0.2), F.cross_entropy(LOGITS, target, label_smoothing=0.2))


def test_soft_task_loss_is_cross_entropy_against_shares():
    assert_close(task_loss(LOGITS, SHARES), F.cross_entropy(LOGITS, SHARES))


def test_soft_task_loss_takes_class_weights_as_torch_does():
    assert_close(task_loss(LOGITS, SHARES, WEIGHTS), F.cross_entropy(LOGITS, SHARES, WEIGHTS))


def test_task_loss_of_a_certain_rater_is_that_of_the_label():
    assert_close(task_loss(LOGITS, F.one_hot(LABELS, 4).float()), task_loss(LOGITS, LABELS))


def test_task_loss_of_a_confident_mistake_is_finite_in_half_precision():
    logits = torch.tensor([[300.0, -300.0]], dtype=torch.bfloat16)
    assert float(task_loss(logits, torch.tensor([1]))) == pytest.approx(600, rel=0.01)
