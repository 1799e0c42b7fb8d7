import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.testing import assert_close

from wavfusion.model import AGRU, AGRULVC, LVC
from wavfusion.model.sequence import MaskedBatchNorm, masked_mean, masked_moments

WIDTH, HEADS, CODEWORDS = 8, 4, 6
lengths = st.lists(st.integers(0, 7), min_size=1, max_size=4).filter(lambda some: max(some) > 0)
KINDS = {
    "A-GRU": lambda: AGRU(WIDTH, HEADS, dropout=0.0),
    "A-GRU, both directions": lambda: AGRU(WIDTH, HEADS, dropout=0.0, bidirectional=True),
    "LVC": lambda: LVC(WIDTH, CODEWORDS),
    "LVC, mean": lambda: LVC(WIDTH, CODEWORDS, "mean"),
    "A-GRU-LVC": lambda: AGRULVC(WIDTH, HEADS, dropout=0.0, num_codewords=CODEWORDS),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
both_modes = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def build(kind, training=False, seed=0):
    """A module whose biases, norms and running moments differ from their start."""
    torch.manual_seed(seed)
    module = KINDS[kind]()
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) if "running_var" in name else 0.2 * torch.randn_like(tensor))
    return module.train(training)


def padded(some_lengths, extra=0, seed=0):
    """Rows of the given lengths, the same numbers at whatever padding; zeros beyond."""
    size, longest = len(some_lengths), max(some_lengths) + extra
    mask = torch.arange(longest) < torch.tensor(some_lengths)[:, None]
    x = torch.randn(size, 32, WIDTH, generator=torch.Generator().manual_seed(seed))[:, :longest]
    return x.masked_fill(~mask[..., None], 0.0), mask


def reference_agru(agru, x, mask):
    """Packed torch GRU, torch's own multi-head attention, residual path and LayerNorm; padding is 0."""
    both = agru.gru.backwards is not None
    gru = nn.GRU(WIDTH, WIDTH // 2 if both else WIDTH, batch_first=True, bidirectional=both)
    state = dict(agru.gru.forwards.state_dict())
    if both:
        state |= {f"{name}_reverse": tensor for name, tensor in agru.gru.backwards.state_dict().items()}
    gru.load_state_dict(state)
    packed = pack_padded_sequence(x, mask.sum(1), batch_first=True, enforce_sorted=False)
    recurrent = pad_packed_sequence(gru(packed)[0], batch_first=True, total_length=x.shape[1])[0]
    attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    own = agru.attention
    maps = [own.q_proj, own.k_proj, own.v_proj]
    attention.load_state_dict(
        {
            "in_proj_weight": torch.cat([each.weight for each in maps]),
            "in_proj_bias": torch.cat([each.bias for each in maps]),
            "out_proj.weight": own.out_proj.weight,
            "out_proj.bias": own.out_proj.bias,
        }
    )
    attended = attention(recurrent, recurrent, recurrent, key_padding_mask=~mask, need_weights=False)[0]
    return agru.layer_norm(recurrent + attended) * mask[..., None]


@pytest.mark.parametrize("kind", ["A-GRU", "A-GRU, both directions"])
def test_agru_is_a_packed_gru_and_multi_head_attention(kind):
    agru, (x, mask) = build(kind), padded([5, 1, 7, 3])
    assert_close(agru(x, mask), reference_agru(agru, x, mask), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("width", [8, 12])
def test_agru_keeps_the_width(width, bidirectional):
    agru = AGRU(width, 4, bidirectional=bidirectional)
    assert agru(torch.zeros(2, 3, width), torch.ones(2, 3, dtype=torch.bool)).shape == (2, 3, width)


def test_agru_without_dropout_is_the_same_in_training():
    agru, batch = build("A-GRU"), padded([5, 2])
    assert_close(agru.train()(*batch), agru.eval()(*batch))


def test_agru_with_dropout_differs_in_training():
    agru, batch = AGRU(WIDTH, HEADS, dropout=0.5), padded([5, 2])
    assert not torch.allclose(agru.train()(*batch), agru.eval()(*batch))


@both_modes
@every_kind
@settings(deadline=None, max_examples=12)
@given(some_lengths=lengths, extra=st.integers(1, 9))
def test_padding_changes_nothing(kind, training, some_lengths, extra):
    longest = max(some_lengths)
    alone = build(kind, training)(*padded(some_lengths))
    more = build(kind, training)(*padded(some_lengths, extra))
    assert_close(more[:, :longest], alone, atol=1e-5, rtol=1e-5)


@both_modes
@every_kind
def test_output_at_padding_is_zero(kind, training):
    x, mask = padded([5, 1, 0], extra=2)
    assert build(kind, training)(x, mask)[~mask].abs().max() == 0


@both_modes
@every_kind
def test_gradient_on_padding_is_exactly_zero(kind, training):
    x, mask = padded([5, 1, 0], extra=2)
    build(kind, training)(x.requires_grad_(), mask).square().sum().backward()
    assert (x.grad[~mask].abs().max(), bool((x.grad[mask] != 0).any())) == (0, True)


@both_modes
@every_kind
def test_what_lies_at_padding_is_never_read(kind, training):
    x, mask = padded([5, 1, 0], extra=2)
    spoilt = x.masked_fill(~mask[..., None], float("nan"))
    assert_close(build(kind, training)(spoilt, mask), build(kind, training)(x, mask), atol=0, rtol=0)


@both_modes
@every_kind
def test_a_batch_without_any_real_step_has_finite_gradients(kind, training):
    module, x = build(kind, training), torch.zeros(2, 3, WIDTH)
    module(x, torch.zeros(2, 3, dtype=torch.bool)).sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
@both_modes
@every_kind
def test_nothing_gives_nothing(kind, training, shape):
    """A GRU and a convolution of torch refuse no steps, in words of their own."""
    x = torch.zeros(*shape, WIDTH)
    assert build(kind, training)(x, torch.ones(shape, dtype=torch.bool)).shape[:2] == shape


@every_kind
def test_one_clip_of_one_frame_can_be_trained_on(kind):
    module = build(kind, training=True)
    module(torch.randn(1, 1, WIDTH), torch.ones(1, 1, dtype=torch.bool)).sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


@every_kind
def test_permuting_rows_permutes_the_output(kind):
    (x, mask), order = padded([5, 1, 7, 3]), torch.tensor([2, 0, 3, 1])
    assert_close(build(kind, True)(x[order], mask[order]), build(kind, True)(x, mask)[order], atol=1e-5, rtol=1e-5)


def test_the_moments_are_those_of_each_clip_alone():
    x, lengths = torch.randn(3, 7, 4), [7, 3, 5]
    found = masked_moments(x, torch.arange(7) < torch.tensor(lengths)[:, None])
    alone = [x[i, :length] for i, length in enumerate(lengths)]
    assert_close(found, torch.stack([torch.cat([each.mean(0), each.std(0, correction=0)]) for each in alone]))


def test_the_deviation_of_one_step_and_of_none_is_zero_with_a_finite_gradient():
    x = torch.randn(3, 4, 2, requires_grad=True)
    mask = torch.tensor([[True, False, False, False], [False] * 4, [True] * 4])
    found = masked_moments(x, mask)
    found.square().sum().backward()
    assert found[:2, 2:].abs().max() == 0 and found[1].abs().max() == 0
    assert x.grad.isfinite().all() and x.grad[~mask].abs().max() == 0


def test_agrulvc_joins_the_two_encoders():
    both, batch = build("A-GRU-LVC"), padded([5, 1, 7])
    assert_close(both(*batch), torch.cat([both.agru(*batch), both.lvc(*batch)], -1), atol=0, rtol=0)


# ---------------------------------------------------------------- LVC against its two-dimensional source


def conv(own):
    """The same map as a convolution over a picture of height T and width 1."""
    weight = own.weight[..., None, None] if own.weight.dim() == 2 else own.weight[..., None]
    two_dimensional = nn.Conv2d(
        weight.shape[1], weight.shape[0], (weight.shape[2], 3), padding=(weight.shape[2] // 2, 1)
    )
    with torch.no_grad():
        two_dimensional.bias.zero_()
        two_dimensional.weight.normal_()[..., 1:2] = weight
    return two_dimensional


def batch_norm(own, two_dimensional=True):
    norm = (nn.BatchNorm2d if two_dimensional else nn.BatchNorm1d)(own.num_features, eps=own.eps)
    norm.load_state_dict(own.state_dict())
    return norm.train(own.training)


def reference_lvc(lvc, x, pool):
    """design: CFPNet's block on a picture [B, C, T, 1], its encoding as loops over positions and codewords."""
    block = lvc.block
    picture = x.transpose(1, 2)[..., None]
    inner = batch_norm(block.reduce_norm)(conv(block.reduce)(picture)).relu()
    inner = batch_norm(block.local_norm)(conv(block.local)(inner)).relu()
    wide = batch_norm(block.expand_norm)(conv(block.expand)(inner))
    out = (wide + batch_norm(block.residual_norm)(conv(block.residual)(picture))).relu()
    z = batch_norm(lvc.conv_norm)(conv(lvc.conv)(out)).relu()
    codewords, scales = lvc.codebook.codewords, lvc.codebook.scales
    encoded = torch.zeros(len(x), len(codewords), x.shape[2])
    for b in range(len(x)):
        for t in range(x.shape[1]):
            residual = z[b, :, t, 0] - codewords
            share = (scales * residual.square().sum(1)).softmax(0)
            encoded[b] += share[:, None] * residual
    encoded = encoded / x.shape[1] if pool == "mean" else encoded
    summary = batch_norm(lvc.codeword_norm, False)(encoded).relu().mean(1)
    gamma = lvc.fc(summary).sigmoid()[..., None, None]
    return (out + out * gamma).relu()[..., 0].transpose(1, 2)


@both_modes
@pytest.mark.parametrize("pool", ["sum", "mean"])
def test_lvc_is_its_source_on_a_picture_one_pixel_wide(pool, training):
    lvc = build("LVC" if pool == "sum" else "LVC, mean", training)
    x = torch.randn(3, 9, WIDTH)
    expected = reference_lvc(lvc, x, pool)
    assert_close(lvc(x, torch.ones(3, 9, dtype=torch.bool)), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["LVC", "LVC, mean"])
def test_clips_without_frames_stay_out_of_the_statistics_of_lvc(kind):
    x, mask = padded([5, 3, 0, 0])
    assert_close(build(kind, True)(x, mask)[:2], build(kind, True)(x[:2], mask[:2]), atol=1e-5, rtol=1e-5)


def test_lvc_sum_grows_with_the_clip_and_mean_does_not():
    x, mask = torch.randn(1, 4, WIDTH).repeat(1, 2, 1), torch.ones(1, 8, dtype=torch.bool)
    codebook = build("LVC, mean").codebook
    half = codebook(x[:, :4], mask[:, :4])
    codebook.pool = "sum"
    assert_close(codebook(x, mask), 8 * half, atol=1e-4, rtol=1e-4)


def test_lvc_stays_in_single_precision_under_autocast():
    lvc, batch = build("LVC"), padded([5, 3])
    with torch.autocast("cpu", torch.bfloat16):
        inside = lvc(*batch)
    assert_close(inside, lvc(*batch), atol=0, rtol=0)


# ---------------------------------------------------------------- masked batch norm


def moments(norm):
    return torch.stack([norm.running_mean, norm.running_var])


@settings(deadline=None, max_examples=25)
@given(lengths.filter(lambda some: sum(some) >= 2), st.integers(0, 99))
def test_masked_batch_norm_is_batch_norm_of_the_real_frames(some_lengths, seed):
    x, mask = padded(some_lengths, extra=2, seed=seed)
    own, torch_norm = MaskedBatchNorm(WIDTH).train(), nn.BatchNorm1d(WIDTH).train()
    assert_close(own(x + 9 * ~mask[..., None], mask)[mask], torch_norm(x[mask]), atol=1e-4, rtol=1e-4)


@settings(deadline=None, max_examples=25)
@given(lengths.filter(lambda some: sum(some) >= 2), st.integers(0, 99))
def test_masked_batch_norm_keeps_the_running_moments_of_batch_norm(some_lengths, seed):
    own, torch_norm = MaskedBatchNorm(WIDTH).train(), nn.BatchNorm1d(WIDTH).train()
    for offset in range(3):
        x, mask = padded(some_lengths, extra=2, seed=seed + offset)
        own(x, mask), torch_norm(x[mask])
    assert_close(moments(own), moments(torch_norm), atol=1e-5, rtol=1e-5)


def test_masked_batch_norm_has_the_gradients_of_batch_norm():
    (x, mask), grown = padded([4, 1, 6], extra=2), torch.randn(11, WIDTH)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    (MaskedBatchNorm(WIDTH)(mine, mask)[mask] * grown).sum().backward()
    (nn.BatchNorm1d(WIDTH)(theirs[mask]) * grown).sum().backward()
    assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("real", [0, 1])
def test_masked_batch_norm_leaves_its_moments_below_two_real_frames(real):
    norm, mask = MaskedBatchNorm(WIDTH).train(), torch.arange(6).view(2, 3) < real
    before = moments(norm).clone()
    norm(torch.randn(2, 3, WIDTH), mask)
    assert_close(moments(norm), before, atol=0, rtol=0)


def test_masked_batch_norm_uses_its_moments_below_two_real_frames():
    norm, x, mask = MaskedBatchNorm(WIDTH), torch.randn(1, 1, WIDTH), torch.ones(1, 1, dtype=torch.bool)
    assert_close(norm.train()(x, mask), norm.eval()(x, mask))


def test_masked_mean_is_the_mean_of_the_real_steps():
    x, mask = padded([5, 1, 3])
    assert_close(masked_mean(x, mask), torch.stack([row[real].mean(0) for row, real in zip(x, mask, strict=True)]))


def test_masked_mean_of_nothing_is_zero():
    assert masked_mean(torch.ones(1, 3, 2), torch.zeros(1, 3, dtype=torch.bool)).tolist() == [[0, 0]]
