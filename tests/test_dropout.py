import pytest
import torch
import torch.nn.functional as F

from wavfusion.fast.attention import FastAttention, attend
from wavfusion.fast.elementwise import FastDropout, noise
from wavfusion.fast.network import restore


@pytest.mark.parametrize("chance", [0.1, 0.5, 0.9])
def test_the_share_dropped_and_the_mean_are_right(chance: float):
    torch.manual_seed(0)
    factors = noise(torch.ones(1000, 1000), chance)
    assert (factors == 0).double().mean() == pytest.approx(chance, abs=4 * (chance * (1 - chance) / 1e6) ** 0.5)
    assert factors.double().mean() == pytest.approx(1, abs=0.02)
    assert factors.unique().tolist() == pytest.approx([0, 65536 / (65536 - round(65536 * chance))])


def test_elements_are_dropped_independently():
    """Four elements share a random word."""
    torch.manual_seed(0)
    dropped = (noise(torch.ones(40_000, 8), 0.3) == 0).double()
    together = torch.corrcoef(dropped.T) - torch.eye(8)
    assert together.abs().max() < 0.025


def test_no_two_calls_drop_the_same_and_a_seed_repeats_them():
    torch.manual_seed(1)
    first, second = noise(torch.ones(64), 0.5), noise(torch.ones(64), 0.5)
    torch.manual_seed(1)
    assert torch.equal(noise(torch.ones(64), 0.5), first) and not torch.equal(first, second)


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_all_or_nothing_is_dropped(chance: float):
    dropout = FastDropout(chance).train()
    assert torch.equal(dropout(torch.ones(3, 5)), torch.full((3, 5), 1 - chance))


def test_nothing_is_dropped_outside_training():
    assert torch.equal(FastDropout(0.5).eval()(torch.ones(9)), torch.ones(9))


def test_restored_dropout_draws_pytorchs_own_masks():
    dropout = restore(FastDropout(0.5)).train()
    torch.manual_seed(2)
    found = dropout(torch.ones(50))
    torch.manual_seed(2)
    assert torch.equal(found, F.dropout(torch.ones(50), 0.5))


@pytest.mark.parametrize("biased", [False, True])
def test_attention_for_a_cpu_equals_pytorchs_with_its_gradients(biased: bool):
    torch.manual_seed(3)
    query, key, value = (torch.randn(2, 4, length, 16, requires_grad=True) for length in (9, 5, 5))
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])[:, None, None]
    allowed = torch.randn(2, 4, 9, 5).masked_fill(~mask, float("-inf")) if biased else mask
    wanted = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
    found = attend(query, key, value, allowed, 0.0)
    weight = torch.randn_like(found)
    gradients = [torch.autograd.grad((each * weight).sum(), (query, key, value)) for each in (found, wanted)]
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_dropout_on_attention_weights_keeps_the_mean_of_what_is_attended():
    torch.manual_seed(4)
    query, key, value = torch.randn(1, 1, 3, 8), torch.randn(1, 1, 6, 8), torch.randn(1, 1, 6, 8)
    mask = torch.ones(1, 1, 1, 6, dtype=torch.bool)
    draws = torch.stack([attend(query, key, value, mask, 0.2) for _ in range(4000)])
    error = draws.std(0) / 4000**0.5
    assert ((draws.mean(0) - attend(query, key, value, mask, 0.0)).abs() < 5 * error).all()


def test_attention_in_training_differs_from_pytorchs_by_its_masks_alone():
    torch.manual_seed(5)
    attention = FastAttention(16, 4, dropout=0.3).train()
    x, mask = torch.randn(2, 7, 16), torch.tensor([[True] * 7, [False] * 7])
    found = torch.stack([attention(x, x, mask) for _ in range(1500)])
    restore(attention)
    plain = torch.stack([attention(x, x, mask) for _ in range(1500)])
    error = (found.var(0) + plain.var(0)).sqrt() / 1500**0.5
    assert ((found.mean(0) - plain.mean(0)).abs() <= 5 * error).all() and found[:, 1].abs().max() == 0
