import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from wavfusion.model.steps import Steps

masks = st.integers(1, 4).flatmap(
    lambda size: st.lists(st.lists(st.booleans(), min_size=size, max_size=size), min_size=1, max_size=5)
)


@given(masks.map(torch.tensor))
def test_packed_steps_are_the_real_ones_in_their_order_and_return_to_their_places(mask):
    steps, x = Steps(mask), torch.randn(*mask.shape, 3)
    packed = steps.pack(x)
    assert torch.equal(packed.flatten(0, -2), x[mask])
    assert torch.equal(steps.pad(packed), x * mask[..., None])


@given(masks.map(torch.tensor))
def test_gradients_of_packing_and_padding_are_those_of_indexing(mask):
    steps, x = Steps(mask), torch.randn(*mask.shape, 3, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(int(mask.sum()), 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(steps.pack, (x,))
    if not mask.all():
        assert torch.autograd.gradcheck(steps.pad, (rows,))


@given(masks.map(torch.tensor), st.data())
def test_what_is_said_of_a_sample_reaches_its_steps_packed_or_not(mask, data):
    said = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(mask), max_size=len(mask))))
    steps, x = Steps(mask), torch.randn(*mask.shape, 3)
    whole = x.masked_fill(said[:, None, None], 7.0)
    assert torch.equal(steps.pad(steps.fill(steps.pack(x), said, 7.0)), whole * mask[..., None])
    assert torch.equal(Steps().fill(x, said, 7.0), whole)


def test_without_a_mask_nothing_is_packed():
    x = torch.randn(2, 3, 4)
    assert Steps().pack(x) is x
    assert Steps().pad(x) is x


def test_a_batch_without_a_real_step_packs_to_nothing():
    steps = Steps(torch.zeros(2, 3, dtype=torch.bool))
    assert steps.pack(torch.randn(2, 3, 4)).shape == (0, 4)
    assert_close(steps.pad(torch.zeros(0, 4)), torch.zeros(2, 3, 4))
