"""The faster forms of the model's modules: the same values, gradients and weights."""

import copy

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from wavfusion.fast.attention import PackedRows, PackedSource
from wavfusion.fast.network import FASTER, accelerate, restore
from wavfusion.model import WavFusion, WavFusionConfig

masks = st.integers(1, 4).flatmap(
    lambda size: st.lists(st.lists(st.booleans(), min_size=size, max_size=size), min_size=1, max_size=5)
)


CONFIG = WavFusionConfig(
    classes=["a", "b"],
    hidden_size=16,
    num_heads=2,
    intermediate_size=24,
    num_layers=4,
    margin_audio_layer=1,
    text_size=16,
    video_size=6,
    video_width=8,
    keep_self_attn=True,
)


@given(masks.map(torch.tensor))
def test_packed_steps_are_the_real_ones_in_their_order_and_return_to_their_places(mask):
    rows, x = PackedRows(mask), torch.randn(*mask.shape, 3)
    assert torch.equal(rows.pack(x), x[mask])
    assert torch.equal(rows.pad(rows.pack(x)), x * mask[..., None])


@given(masks.map(torch.tensor))
def test_gradients_of_packing_and_padding_are_those_of_indexing(mask):
    rows, x = PackedRows(mask), torch.randn(*mask.shape, 3, dtype=torch.float64, requires_grad=True)
    packed = torch.randn(int(mask.sum()), 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rows.pack, (x,))
    assert torch.autograd.gradcheck(rows.pad, (packed,))


@given(masks.map(torch.tensor), st.data())
def test_each_packed_step_knows_whether_its_sample_has_the_source(mask, data):
    present = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(mask), max_size=len(mask))))
    source = PackedSource(torch.zeros(len(mask), 1, 3), present[:, None], rows=PackedRows(mask))
    assert torch.equal(source.present[:, 0], present[:, None].expand_as(mask)[mask])


def test_a_batch_without_a_real_step_packs_to_nothing():
    rows = PackedRows(torch.zeros(2, 3, dtype=torch.bool))
    assert rows.pack(torch.randn(2, 3, 4)).shape == (0, 4)
    assert_close(rows.pad(torch.zeros(0, 4)), torch.zeros(2, 3, 4))


def classes_of(network):
    return [type(module) for module in network.modules()]


def test_a_model_is_accelerated_and_restored_whole():
    model = WavFusion(CONFIG)
    before = classes_of(model)
    assert not {*FASTER} & {*classes_of(accelerate(model))}
    assert classes_of(restore(model)) == before


def test_weights_load_from_a_plain_model_to_a_fast_one_and_back():
    plain, fast = WavFusion(CONFIG), accelerate(WavFusion(CONFIG))
    fast.load_state_dict(plain.state_dict())
    again = WavFusion(CONFIG)
    again.load_state_dict(fast.state_dict())
    assert all(torch.equal(x, y) for x, y in zip(again.parameters(), plain.parameters(), strict=True))


def test_accelerating_keeps_parameters_of_an_optimiser_hooks_and_copies():
    model, calls = WavFusion(CONFIG), []
    parameters = {*map(id, model.parameters())}
    model.deep_layers[0].register_forward_hook(lambda *_: calls.append(1))
    batch = (torch.randn(2, 5, 16), torch.tensor([[True] * 5, [True] * 3 + [False] * 2]), *[None] * 4)
    copied = copy.deepcopy(accelerate(model))
    copied(*batch)
    assert {*map(id, model.parameters())} == parameters and calls == [1]


def test_a_fast_module_of_a_plain_class_is_still_of_that_class():
    assert all(issubclass(fast, plain) and plain is not fast for plain, fast in FASTER.items())
    assert isinstance(accelerate(nn.GELU()), nn.GELU)
