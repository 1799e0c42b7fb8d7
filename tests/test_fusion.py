import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from transformers import HubertConfig, Wav2Vec2Config, WavLMConfig
from transformers.models.hubert.modeling_hubert import HubertEncoderLayer, HubertEncoderLayerStableLayerNorm
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2EncoderLayer, Wav2Vec2EncoderLayerStableLayerNorm
from transformers.models.wavlm.modeling_wavlm import WavLMEncoderLayer, WavLMEncoderLayerStableLayerNorm

from wavfusion.fast.network import accelerate, restore
from wavfusion.model import CrossModalAttention, DeepLayer, Gate, SelfAttentionLayer, WavFusionConfig
from wavfusion.model.attention import Attention, RelativePositions, positions
from wavfusion.model.fusion import Source

WIDTH, HEADS, INNER = 32, 4, 48
SIZES = {"hidden_size": WIDTH, "num_heads": HEADS, "intermediate_size": INNER, "dropout": 0.0}
PARENTS = {
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2EncoderLayer, False),
    "wav2vec2, stable": (Wav2Vec2Config, Wav2Vec2EncoderLayerStableLayerNorm, True),
    "hubert": (HubertConfig, HubertEncoderLayer, False),
    "hubert, stable": (HubertConfig, HubertEncoderLayerStableLayerNorm, True),
}
WAVLM = {"wavlm": (WavLMEncoderLayer, False), "wavlm, stable": (WavLMEncoderLayerStableLayerNorm, True)}
every_parent = pytest.mark.parametrize("parent", PARENTS)
BUCKETS, DISTANCE = 32, 200
RELATIVE = {"position_buckets": BUCKETS, "position_distance": DISTANCE}


def deep_layer(**switches):
    return DeepLayer(WavFusionConfig(classes=["happy"], **SIZES, **switches))


def self_attention_layer(**switches):
    return SelfAttentionLayer(WavFusionConfig(classes=["happy"], **SIZES, **switches))


def shake(module):
    """Move every tensor from its start, so that norms, biases and WavLM's constants take part."""
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in module.parameters():
            tensor.add_(0.3 * torch.randn_like(tensor))
    return module.eval()


def sizes(**more):
    return {
        "hidden_size": WIDTH,
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-3,
        "attn_implementation": "eager",
        **more,
    }


def theirs(parent):
    config, layer, pre_norm = PARENTS[parent]
    return shake(layer(config(**sizes()))), {"pre_norm": pre_norm, "layer_norm_eps": 1e-3}


def sound(lengths=(13, 5, 1)):
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return torch.randn(len(lengths), max(lengths), WIDTH, generator=torch.Generator().manual_seed(4)), mask


def additive(mask):
    return torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)[:, None, None]


def close_where_real(ours, expected, mask):
    assert_close(ours[mask], expected[mask], atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------- against the layers that ours replace


@every_parent
def test_deep_layer_fed_the_audio_thrice_is_the_layer_it_replaces(parent):
    layer, kind = theirs(parent)
    deep = deep_layer(**kind).eval()
    deep.load_pretrained(layer.state_dict())
    hidden, mask = sound()
    source = Source(layer.layer_norm(hidden) if kind["pre_norm"] else hidden, mask)
    close_where_real(deep(hidden, mask, source, source)[0], layer(hidden, attention_mask=additive(mask)), mask)


@pytest.mark.parametrize("branch", ["text", "video"])
def test_deep_layer_of_one_branch_is_the_layer_it_replaces_without_a_gate(branch):
    layer, kind = theirs("wav2vec2")
    deep = deep_layer(modalities=["audio", branch], **kind).eval()
    deep.load_pretrained(layer.state_dict())
    hidden, mask = sound()
    fused, share = deep(hidden, mask, **{branch: Source(hidden, mask)})
    close_where_real(fused, layer(hidden, attention_mask=additive(mask)), mask)
    assert share is None


@every_parent
def test_self_attention_layer_is_its_parent(parent):
    layer, kind = theirs(parent)
    own = self_attention_layer(**kind).eval()
    own.load_pretrained(layer.state_dict())
    hidden, mask = sound()
    close_where_real(own(hidden, mask), layer(hidden, attention_mask=additive(mask)), mask)


@every_parent
def test_kept_self_attention_without_cross_scale_is_the_parent(parent):
    layer, kind = theirs(parent)
    deep = deep_layer(keep_self_attn=True, **kind).eval()
    deep.load_pretrained(layer.state_dict())
    (hidden, mask), other = sound(), Source(torch.randn(3, 4, WIDTH), torch.ones(3, 4, dtype=torch.bool))
    close_where_real(deep(hidden, mask, other, other)[0], layer(hidden, attention_mask=additive(mask)), mask)


def wavlm(kind):
    layer, pre_norm = WAVLM[kind]
    theirs = shake(layer(WavLMConfig(**sizes(num_buckets=BUCKETS, max_bucket_distance=DISTANCE))))
    relative = RelativePositions(BUCKETS, DISTANCE, HEADS)
    relative.load_state_dict({"rel_attn_embed.weight": theirs.attention.rel_attn_embed.weight})
    return theirs, {"pre_norm": pre_norm, "layer_norm_eps": 1e-3, **RELATIVE}, relative


@pytest.mark.parametrize("length", [1, 7, 400])
@pytest.mark.parametrize("kind", WAVLM)
def test_self_attention_layer_is_that_of_wavlm(kind, length):
    layer, switches, relative = wavlm(kind)
    own = self_attention_layer(**switches).eval()
    own.load_pretrained(layer.state_dict())
    hidden, mask = sound((length, length))
    close_where_real(own(hidden, mask, relative(length)), layer(hidden)[0], mask)


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
@pytest.mark.parametrize("kind", WAVLM)
def test_self_attention_layer_is_that_of_wavlm_on_padded_rows(kind):
    layer, switches, relative = wavlm(kind)
    own = self_attention_layer(**switches).eval()
    own.load_pretrained(layer.state_dict())
    hidden, mask = sound()
    close_where_real(own(hidden, mask, relative(13)), layer(hidden, attention_mask=mask)[0], mask)


@pytest.mark.parametrize("kind", WAVLM)
def test_kept_self_attention_of_wavlm_keeps_its_relative_positions(kind):
    layer, switches, relative = wavlm(kind)
    deep = deep_layer(keep_self_attn=True, **switches).eval()
    deep.load_pretrained(layer.state_dict())
    hidden, mask = sound((9, 9))
    close_where_real(deep(hidden, mask, relative=relative(9))[0], layer(hidden)[0], mask)


@pytest.mark.parametrize(("buckets", "distance", "length"), [(320, 800, 1500), (32, 200, 500), (8, 16, 40)])
def test_relative_positions_fall_into_the_buckets_of_wavlm(buckets, distance, length):
    config = WavLMConfig(**sizes(num_buckets=buckets, max_bucket_distance=distance))
    expected = WavLMEncoderLayer(config).attention._relative_positions_bucket
    relative = RelativePositions(buckets, distance, 1)
    with torch.no_grad():
        relative.rel_attn_embed.weight.copy_(torch.arange(buckets)[:, None])
    steps = torch.arange(length)
    assert torch.equal(relative(length)[0].long(), expected(steps[None, :] - steps[:, None]))


# ---------------------------------------------------------------- what a deep layer takes from a checkpoint


def test_cross_attentions_start_from_the_self_attention():
    layer, kind = theirs("wav2vec2")
    deep = deep_layer(**kind)
    deep.load_pretrained(layer.state_dict())
    started = [
        {n: x.tolist() for n, x in each.state_dict().items()} for each in (deep.text_attention, deep.video_attention)
    ]
    assert started == [{n: x.tolist() for n, x in layer.attention.state_dict().items()}] * 2


def test_xavier_leaves_the_cross_attentions_and_loads_the_rest():
    layer, kind = theirs("wav2vec2")
    deep = deep_layer(init_cross="xavier_all", **kind)
    before = {name: tensor.clone() for name, tensor in deep.state_dict().items()}
    deep.load_pretrained(layer.state_dict())
    moved = {name for name, tensor in deep.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in layer.state_dict() if not name.startswith("attention.")}


# ---------------------------------------------------------------- deep layers


KINDS = {
    "post-norm": {},
    "pre-norm": {"pre_norm": True},
    "mean gate": {"gate": "mean"},
    "text alone": {"modalities": ["audio", "text"]},
    "kept self-attention": {"keep_self_attn": True},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def deep_inputs(kind, absent=(), seed=5):
    torch.manual_seed(seed)
    layer = shake(deep_layer(**KINDS[kind]))
    masks = {name: torch.arange(6) < torch.tensor([6, 2, 4])[:, None] for name in ("text", "video")}
    for name, row in absent:
        masks[name][row] = False
    hidden, mask = sound()
    return layer, hidden, mask, {name: Source(torch.randn(3, 6, WIDTH), each) for name, each in masks.items()}


@every_kind
def test_a_layer_without_any_source_adds_nothing_from_the_cross_attention(kind):
    layer, hidden, mask, sources = deep_inputs(kind, absent=[("text", 1), ("video", 1)])
    query = torch.randn_like(hidden)
    assert layer.cross(query, sources["text"], sources["video"])[0][1].abs().max() == 0


@pytest.mark.parametrize(("absent", "stays"), [("text", "video"), ("video", "text")])
@pytest.mark.parametrize("kind", ["post-norm", "mean gate"])
def test_an_absent_modality_leaves_the_other_stream_alone(kind, absent, stays):
    layer, hidden, _, sources = deep_inputs(kind, absent=[(absent, 0), (absent, 1), (absent, 2)])
    expected = getattr(layer, f"{stays}_attention").fuse(hidden, sources[stays], None)
    assert_close(layer.cross(hidden, sources["text"], sources["video"])[0], expected, atol=0, rtol=0)


@pytest.mark.parametrize("kind", ["post-norm", "mean gate"])
def test_gate_says_which_modality_was_absent(kind):
    layer, hidden, mask, sources = deep_inputs(kind, absent=[("text", 0), ("video", 1)])
    share = layer(hidden, mask, sources["text"], sources["video"])[1]
    assert [share[i][mask[i]].unique().tolist() for i in (0, 1)] == [[0.0], [1.0]]


@every_kind
def test_a_source_absent_from_the_batch_is_a_source_of_empty_rows(kind):
    layer, hidden, mask, sources = deep_inputs(kind, absent=[("video", row) for row in range(3)])
    whole, alone = (layer(hidden, mask, sources["text"], video) for video in (sources["video"], None))
    assert_close(alone[0], whole[0], atol=1e-6, rtol=1e-6)
    assert alone[1] is None or torch.equal(alone[1], whole[1])


def with_gradients(layer, fast, hidden, run):
    """What a layer makes of its audio, with the gradients of all tensors."""
    accelerate(layer if fast else restore(layer).feed_forward)
    hidden = hidden.clone().requires_grad_()
    layer.zero_grad()
    found = list(run(hidden))
    sum((x * torch.linspace(-1, 1, x.shape[-1])).sum() for x in found).backward()
    return found, [hidden.grad, *(x.grad for x in layer.parameters())]


def assert_padding_is_left_out(layer, hidden, mask, run):
    """At real steps a layer says the same, whether or not it computes the others."""
    real = mask[..., None]
    plain, fast = (
        with_gradients(layer, fast, hidden, lambda x: (y * real for y in run(x) if y is not None))
        for fast in (False, True)
    )
    assert_close(fast, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lengths", [(13, 5, 1), (4, 4, 4), (7, 0, 3), (0, 0, 0)])
@every_kind
def test_deep_layer_without_padding_says_the_same_with_the_same_gradients(kind, lengths):
    layer, _, _, sources = deep_inputs(kind, absent=[("text", 0), ("video", 2)])
    mask = torch.arange(13) < torch.tensor(lengths)[:, None]
    hidden, clock = torch.randn(3, 13, WIDTH), torch.randn(3, 13, WIDTH)

    def run(hidden):
        fused, share = layer(hidden, mask, sources["text"], sources["video"], clock)
        return fused, None if share is None else share.expand_as(fused)

    assert_padding_is_left_out(layer, hidden, mask, run)


@pytest.mark.parametrize("switches", [{}, {"pre_norm": True}, RELATIVE])
def test_self_attention_layer_without_padding_says_the_same_with_the_same_gradients(switches):
    layer = shake(self_attention_layer(**switches))
    hidden, _ = sound()
    mask = torch.rand(3, 13) < 0.5
    relative = RelativePositions(BUCKETS, DISTANCE, HEADS)(13).detach() if switches == RELATIVE else None
    assert_padding_is_left_out(layer, hidden, mask, lambda x: [layer(x, mask, relative)])


@every_kind
def test_padding_costs_a_deep_layer_nothing_on_a_cpu(kind):
    layer, hidden, mask, sources = deep_inputs(kind)
    accelerate(layer)
    seen = []
    layer.final_layer_norm.register_forward_hook(lambda module, given, made: seen.append(len(made)))
    layer(hidden, mask, sources["text"], sources["video"])
    assert seen == [int(mask.sum())]


@every_kind
def test_deep_layer_reads_no_padding_of_its_sources(kind):
    layer, hidden, mask, sources = deep_inputs(kind)
    before = layer(hidden, mask, sources["text"], sources["video"])[0]
    for source in sources.values():
        source.hidden = torch.where(source.mask[..., None], source.hidden, torch.full((), 1e3))
    assert_close(layer(hidden, mask, sources["text"], sources["video"])[0], before, atol=1e-6, rtol=1e-6)


def test_without_self_attention_no_frame_sees_another():
    layer, hidden, mask, sources = deep_inputs("post-norm")
    before = layer(hidden, mask, sources["text"], sources["video"])[0]
    changed = hidden.index_fill(1, torch.tensor([3]), 1.0)
    moved = (layer(changed, mask, sources["text"], sources["video"])[0] - before).abs().amax((0, 2)) > 1e-5
    assert moved.nonzero().flatten().tolist() == [3]


# ---------------------------------------------------------------- gate and attention


ALL = torch.ones(1, 1, 1, dtype=torch.bool)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 999), st.floats(0.01, 100))
def test_the_mix_lies_between_the_streams(seed, scale):
    torch.manual_seed(seed)
    gate, text, video = Gate(6), scale * torch.randn(2, 3, 6), scale * torch.randn(2, 3, 6)
    mixed, _ = gate(text, video, ALL, ALL)
    slack = 1e-5 * scale
    assert ((mixed >= torch.minimum(text, video) - slack) & (mixed <= torch.maximum(text, video) + slack)).all()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 999), st.floats(0.01, 100))
def test_the_share_of_the_text_lies_between_0_and_1(seed, scale):
    torch.manual_seed(seed)
    share = Gate(6)(scale * torch.randn(2, 3, 6), scale * torch.randn(2, 3, 6), ALL, ALL)[1]
    assert ((share >= 0) & (share <= 1)).all()


def test_the_gate_starts_without_a_preference():
    assert_close(Gate(6)(torch.zeros(1, 2, 6), torch.zeros(1, 2, 6), ALL, ALL)[1], torch.full((1, 2, 6), 0.5))


def test_the_gate_reads_both_streams():
    gate, text, video = Gate(6), torch.randn(1, 2, 6, requires_grad=True), torch.randn(1, 2, 6, requires_grad=True)
    gate.text_weight(text, video).sum().backward()
    assert min(text.grad.abs().max(), video.grad.abs().max()) > 0


def test_cross_modal_attention_is_scaled_dot_product_attention_by_hand():
    own = shake(CrossModalAttention(8, 2, 0.0))
    query, source = torch.randn(1, 3, 8), torch.randn(1, 5, 8)
    q, k, v = own.q_proj(query)[0], own.k_proj(source)[0], own.v_proj(source)[0]
    heads = [(q[:, h] @ k[:, h].T / math.sqrt(4)).softmax(-1) @ v[:, h] for h in (slice(0, 4), slice(4, 8))]
    expected = own.out_proj(torch.cat(heads, -1))
    assert_close(own.fuse(query, Source(source, torch.ones(1, 5, dtype=torch.bool)), None)[0], expected)


@pytest.mark.parametrize("with_bias", [False, True])
def test_attention_to_an_empty_row_is_zero_and_stops_its_gradient(with_bias):
    own, mask = Attention(8, 2, 0.0), torch.tensor([[True, True, False], [False, False, False]])
    query, source = torch.randn(2, 4, 8, requires_grad=True), torch.randn(2, 3, 8, requires_grad=True)
    attended = own(query, source, mask, bias=torch.randn(2, 2, 4, 3) if with_bias else None)
    attended.square().sum().backward()
    found = [float(x.abs().max()) for x in (attended[1].detach(), query.grad[1], source.grad[1], source.grad[0, 2])]
    assert found == [0, 0, 0, 0] and all(p.grad.isfinite().all() for p in own.parameters())


def test_positions_join_keys_but_not_values():
    own, mask = shake(Attention(8, 2, 0.0)), torch.ones(1, 1, dtype=torch.bool)
    query, source = torch.randn(1, 3, 8), torch.randn(1, 1, 8)
    assert_close(own(query, source, mask, source_positions=torch.randn(1, 1, 8)), own(query, source, mask))


def test_attention_refuses_heads_that_do_not_divide_the_width():
    with pytest.raises(ValueError, match="attention width 10 does not divide into 4 heads"):
        Attention(10, 4)


def test_closeness_of_positions_depends_on_the_seconds_between_them_alone():
    times = torch.tensor([[0.0, 0.2, 3.0, 3.2, 70.0, 70.2]])
    found = positions(times, 32)[0]
    assert_close((found[::2] * found[1::2]).sum(-1), torch.full((3,), float(found[0] @ found[1])), atol=2e-3, rtol=0)


def test_two_audio_steps_have_different_positions():
    found = positions(torch.arange(0, 15, 0.02)[None], 32)[0]
    assert torch.cdist(found, found).fill_diagonal_(9).min() > 0.1
