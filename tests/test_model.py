import itertools
import json
import math
import runpy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch.testing import assert_close
from transformers import HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2Model, WavLMConfig, WavLMModel

import wavfusion.model
from wavfusion.errors import ConfigError
from wavfusion.fast.network import accelerate
from wavfusion.model import WavFusion, WavFusionConfig
from wavfusion.model.config import MODALITIES

GOLDEN = Path(__file__).parent / "golden"
SUBSETS = [list(some) for size in (1, 2, 3) for some in itertools.combinations(MODALITIES, size)]
SIZES = {
    "classes": ["happy", "sad", "neutral", "angry"],
    "hidden_size": 32,
    "num_heads": 4,
    "intermediate_size": 48,
    "num_layers": 5,
    "fusion_layers": 2,
    "trainable_layers": 3,
    "margin_audio_layer": 3,
    "text_size": 24,
    "video_size": 12,
    "video_width": 8,
    "dropout": 0.0,
}
WEIGHTED = {"text_layers": "weighted", "num_text_layers": 3}
RECOMMENDED = {"time_positions": True, "bidirectional": True, "lvc_pool": "mean", **WEIGHTED}
CONFIGS = {
    "paper": {},
    "recommended": {**RECOMMENDED, "margin": {"reduction": "anchor"}},
    "concat": {"fusion": "concat"},
    "mult": {"fusion": "mult"},
    "keep_self_attn": {"keep_self_attn": True},
    "weighted text": WEIGHTED,
    "weighted audio": {"audio_layers": "weighted", "weighted_layers": [0, 1, 2]},
    "every second audio step": {"audio_stride": 2, "time_positions": True},
    "mean and deviation": {"pooling": "mean_deviation"},
    "concat, mean and deviation": {"fusion": "concat", "pooling": "mean_deviation"},
    "weighted outputs": {"pooled_layers": "weighted", "pre_norm": True},
    "concat, weighted outputs": {"fusion": "concat", "pooled_layers": "weighted"},
    "audio, weighted outputs": {"modalities": ["audio"], "pooled_layers": "weighted", "pre_norm": True},
    "mean gate, no LVC": {"gate": "mean", "lvc": False},
    "deeper margin layer": {"margin_audio_layer": 1, "trainable_layers": 1},
    "no margin, soft": {"margin": {"weight": 0.0}, "task_loss": "soft"},
    "stable layer norm": {"pre_norm": True, "time_positions": True},
    "concat, stable layer norm": {"fusion": "concat", "pre_norm": True},
    "wavlm": {"position_buckets": 8, "position_distance": 20, "keep_self_attn": True},
    **{"+".join(some): {"modalities": some} for some in SUBSETS[:-1]},
    "text+video, recommended": {"modalities": ["text", "video"], **RECOMMENDED},
}
every_config = pytest.mark.parametrize("name", CONFIGS)
few_configs = pytest.mark.parametrize("name", ["paper", "recommended", "concat", "mult", "wavlm", "stable layer norm"])
both_modes = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
AUDIO, TEXT, VIDEO = [40, 17, 33, 5], [6, 3, 1, 9], [4, 7, 1, 2]


def configure(**switches):
    return WavFusionConfig.from_json({**SIZES, **switches})


def build(name="paper", training=False, **more):
    """A model in which every tensor is off its starting value, so that none is inert in a test."""
    torch.manual_seed(0)
    model = WavFusion(configure(**{**CONFIGS[name], **more}))
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if tensor.is_floating_point() and key != "class_weights":
                tensor.add_(torch.rand_like(tensor) if "running_var" in key else 0.1 * torch.randn_like(tensor))
    return model.train(training)


def batch_for(config, audio=AUDIO, text=TEXT, video=VIDEO, extra=0, seed=0):
    """Samples of the given lengths: the same numbers at whatever padding, zeros beyond."""
    random, batch = torch.Generator().manual_seed(seed), {}
    for modality, lengths in zip(MODALITIES, (audio, text, video), strict=True):
        *layers, _, width = config.feature_shape(modality, 64)
        x = torch.randn(len(lengths), *(layers or [1]), 64, width, generator=random)
        longest = max(1, *lengths) + extra
        mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
        x = x[:, :, :longest] * mask[:, None, :, None]
        here = modality in config.modalities
        batch[modality] = (x if layers else x[:, 0]) if here else None
        batch[f"{modality}_mask"] = mask if here else None
    shares = torch.rand(len(audio), len(config.classes), generator=random).softmax(-1)
    batch["labels"] = shares if config.task_loss == "soft" else torch.arange(len(audio)) % 3
    return batch


def without(batch, modality, rows=None):
    """The batch without a modality in some rows, or at all."""
    if rows is None:
        return {**batch, modality: None, f"{modality}_mask": None}
    mask = batch[f"{modality}_mask"].clone()
    mask[rows] = False
    return {**batch, f"{modality}_mask": mask}


def tensors(batch):
    """Modality, features and, as wide as these, where they are real."""
    for modality in MODALITIES:
        x, mask = batch[modality], batch[f"{modality}_mask"]
        if x is not None:
            yield modality, x, (mask[:, None] if x.dim() == 4 else mask)[..., None].expand_as(x)


def gradients_are_finite(model):
    return all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def close(found, expected, tolerance=1e-5):
    assert_close(found, expected, atol=tolerance, rtol=tolerance)


# ---------------------------------------------------------------- against Hugging Face's models


PARENTS = {
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2Model, {}),
    "wav2vec2, stable": (Wav2Vec2Config, Wav2Vec2Model, {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}),
    "hubert": (HubertConfig, HubertModel, {}),
    "hubert, stable": (HubertConfig, HubertModel, {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}),
    "wavlm": (WavLMConfig, WavLMModel, {"num_buckets": 8, "max_bucket_distance": 20}),
    "wavlm, stable": (
        WavLMConfig,
        WavLMModel,
        {"num_buckets": 8, "max_bucket_distance": 20, "do_stable_layer_norm": True, "feat_extract_norm": "layer"},
    ),
}
every_parent = pytest.mark.parametrize("parent", PARENTS)


def pretrained(parent):
    """A tiny random checkpoint of a family, and the switches that follow from it."""
    config, model, more = PARENTS[parent]
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "conv_dim": (8, 8),
        "conv_stride": (5, 2),
        "conv_kernel": (10, 3),
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
    }
    torch.manual_seed(0)
    theirs = model(config(**sizes, **more)).eval()
    with torch.no_grad():
        for tensor in theirs.encoder.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
    buckets = {"position_buckets": 8, "position_distance": 20} if parent.startswith("wavlm") else {}
    return theirs, {"pre_norm": "stable" in parent, **buckets}


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
@pytest.mark.parametrize("trainable", [1, 3])
@every_parent
def test_audio_alone_is_the_rest_of_its_checkpoint(parent, trainable):
    theirs, switches = pretrained(parent)
    model = WavFusion(configure(modalities=["audio"], trainable_layers=trainable, **switches)).eval()
    model.load_pretrained(theirs.encoder.state_dict())
    wave, mask = torch.randn(2, 500), torch.arange(500) < torch.tensor([500, 300])[:, None]
    found = theirs(wave, attention_mask=mask.long(), output_hidden_states=True)
    real = theirs._get_feature_vector_attention_mask(found.last_hidden_state.shape[1], mask.long())
    last = model(found.hidden_states[5 - trainable], real, None, None, None, None).hidden[-1]
    close((model.final_norm(last) if switches["pre_norm"] else last)[real], found.last_hidden_state[real])


@pytest.mark.parametrize("parent", ["wav2vec2", "wav2vec2, stable"])
def test_audio_alone_is_labelled_by_the_mean_of_what_its_checkpoint_puts_out(parent):
    theirs, switches = pretrained(parent)
    model = WavFusion(configure(modalities=["audio"], **switches)).eval()
    model.load_pretrained(theirs.encoder.state_dict())
    found = theirs(torch.randn(2, 500), output_hidden_states=True)
    mask = torch.ones(found.last_hidden_state.shape[:2], dtype=torch.bool)
    logits = model(found.hidden_states[2], mask, None, None, None, None).logits
    close(logits, model.head(found.last_hidden_state.mean(1)))


@every_parent
def test_loaded_deep_layers_with_kept_self_attention_are_the_rest_of_the_checkpoint(parent):
    theirs, switches = pretrained(parent)
    model = WavFusion(configure(keep_self_attn=True, **switches)).eval()
    model.load_pretrained(theirs.encoder.state_dict())
    found = theirs(torch.randn(4, 500), output_hidden_states=True)
    start, steps = found.hidden_states[2], found.hidden_states[2].shape[1]
    batch = {**batch_for(model.config), "audio": start, "audio_mask": torch.ones(4, steps, dtype=torch.bool)}
    last = model(**batch).hidden[-1]
    close(model.final_norm(last) if switches["pre_norm"] else last, found.last_hidden_state)


@pytest.mark.parametrize("switches", [{}, {"init_cross": "xavier_all"}, {"fusion": "concat"}, {"keep_self_attn": True}])
def test_loading_a_checkpoint_fills_exactly_the_tensors_that_it_has(switches):
    theirs, _ = pretrained("wav2vec2")
    model = WavFusion(configure(**switches))
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    model.load_pretrained(theirs.encoder.state_dict())
    moved = {name for name, tensor in model.named_parameters() if not torch.equal(tensor, before[name])}
    copied = {name for name in before if "_attention." in name and ("k_proj" in name or "v_proj" in name)}
    assert moved == model.pretrained_names() | (copied if switches.get("init_cross") != "xavier_all" else set())


# ---------------------------------------------------------------- golden


@pytest.mark.parametrize("name", ["paper", "recommended", "wavlm"])
def test_stored_weights_and_inputs_give_the_stored_logits_and_losses(name):
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - a safe_open is no dict
        config = WavFusionConfig.from_json(json.loads(file.metadata()["config"]))
    model = WavFusion(config).eval()
    model.load_state_dict({key.removeprefix("weights."): x for key, x in stored.items() if key.startswith("weights.")})
    output = model(**{key.removeprefix("inputs."): x for key, x in stored.items() if key.startswith("inputs.")})
    found = {"logits": output.logits, **{f"losses.{key}": loss for key, loss in output.losses.items()}}
    close(found, {key: stored[key] for key in found})


def test_golden_files_are_those_that_their_script_writes():
    variants = runpy.run_path(str(GOLDEN / "make.py"))["VARIANTS"]
    assert sorted(path.stem for path in GOLDEN.glob("*.safetensors")) == sorted(variants)


# ---------------------------------------------------------------- properties of every configuration


some_lengths = st.tuples(*[st.lists(st.integers(0, 40), min_size=3, max_size=3) for _ in MODALITIES])


@both_modes
@every_config
@settings(deadline=None, max_examples=2)
@given(some_lengths, st.integers(1, 20))
def test_padding_a_batch_changes_nothing(name, training, lengths, extra):
    model = build(name, training)
    found = model(**batch_for(model.config, *lengths, extra=extra))
    expected = model(**batch_for(model.config, *lengths))
    close((found.logits, found.loss), (expected.logits, expected.loss))


@every_config
def test_a_sample_alone_has_the_logits_that_it_has_in_a_batch(name):
    model = build(name)
    alone = [model(**batch_for_row(model.config, row)).logits for row in range(4)]
    close(torch.cat(alone), model(**batch_for(model.config)).logits)


def batch_for_row(config, row):
    """One sample, cut to its own lengths."""
    batch = {key: None if x is None else x[row : row + 1] for key, x in batch_for(config).items()}
    for modality, lengths in zip(MODALITIES, (AUDIO, TEXT, VIDEO), strict=True):
        if batch[modality] is not None:
            batch[modality] = batch[modality][..., : lengths[row], :]
            batch[f"{modality}_mask"] = batch[f"{modality}_mask"][:, : lengths[row]]
    return batch


@pytest.mark.parametrize("lacking", [[], [1], [0, 1, 2, 3]])
@every_config
def test_fast_paths_give_the_losses_and_gradients_of_the_plain_form(name, lacking):
    found = []
    for fast in (False, True):
        model = build(name)
        if fast:
            accelerate(model)
        output = model(**without(batch_for(model.config, extra=3), model.config.modalities[0], lacking))
        output.loss.backward()
        gradients = {name: x.grad for name, x in model.named_parameters() if x.grad is not None}
        found.append((output.logits, output.losses, output.vectors, gradients))
    assert_close(found[1], found[0], atol=1e-5, rtol=1e-4)


@both_modes
@every_config
def test_gradients_on_padding_are_exactly_zero(name, training):
    model = build(name, training)
    batch = batch_for(model.config, extra=3)
    for _, x, _ in tensors(batch):
        x.requires_grad_()
    model(**batch).loss.backward()
    found = {modality: float(x.grad[~real].abs().max()) for modality, x, real in tensors(batch)}
    assert found == dict.fromkeys(model.config.modalities, 0.0)


@every_config
def test_every_real_step_has_a_gradient(name):
    model = build(name)
    batch = batch_for(model.config)
    for _, x, _ in tensors(batch):
        x.requires_grad_()
    model(**batch).logits.square().sum().backward()
    for modality, x, real in tensors(batch):
        stride = model.config.audio_stride if modality == "audio" else 1
        assert (x.grad.abs().sum(-1) > 0)[..., ::stride][real[..., ::stride, 0]].all()


@every_config
def test_not_a_number_at_padding_reaches_neither_loss_nor_gradient(name):
    """The weights of text layers once met it in their gradient, as 0 times NaN."""
    clean, spoilt = build(name, training=True), build(name, training=True)
    batch = batch_for(clean.config, extra=3)
    bad = {modality: torch.where(real, x, float("nan")) for modality, x, real in tensors(batch)}
    expected, found = clean(**batch).loss, spoilt(**{**batch, **bad}).loss
    found.backward()
    assert_close(found, expected, atol=0, rtol=0)
    assert gradients_are_finite(spoilt)


@every_config
def test_permuting_a_batch_permutes_the_output(name):
    model, order = build(name, training=True), torch.tensor([2, 0, 3, 1])
    batch = batch_for(model.config)
    moved = build(name, training=True)(**{key: None if x is None else x[order] for key, x in batch.items()})
    expected = model(**batch)
    close((moved.logits, moved.loss), (expected.logits[order], expected.loss))


@pytest.mark.parametrize("rows", [[0], [0, 1, 2, 3]], ids=["one sample", "all samples"])
@every_config
def test_samples_without_a_modality_train_with_finite_gradients(name, rows):
    model = build(name, training=True)
    for modality in model.config.modalities:
        loss = model(**without(batch_for(model.config), modality, rows)).loss
        loss.backward()
        assert (modality, bool(loss.isfinite()), gradients_are_finite(model)) == (modality, True, True)


@pytest.mark.parametrize("rows", [[0], [0, 1, 2, 3]], ids=["one sample", "all samples"])
@few_configs
def test_samples_without_anything_train_with_finite_gradients(name, rows):
    model = build(name, training=True)
    batch = batch_for(model.config)
    for modality in model.config.modalities:
        batch = without(batch, modality, rows)
    loss = model(**batch).loss
    loss.backward()
    assert (bool(loss.isfinite()), gradients_are_finite(model)) == (True, True)


@every_config
def test_a_sample_without_a_modality_leaves_the_logits_of_the_others(name):
    model = build(name)
    batch, others = batch_for(model.config), torch.tensor([0, 2, 3])
    expected = model(**batch).logits[others]
    for modality in model.config.modalities:
        close(model(**without(batch, modality, [1])).logits[others], expected, 1e-6)


@few_configs
def test_a_missing_modality_changes_the_logits_of_its_sample(name):
    model = build(name)
    batch = batch_for(model.config)
    for modality in model.config.modalities:
        assert (model(**without(batch, modality, [1])).logits - model(**batch).logits)[1].abs().max() > 1e-4


@pytest.mark.parametrize("name", [name for name in CONFIGS if len(configure(**CONFIGS[name]).modalities) > 1])
def test_absent_as_none_is_absent_as_empty_rows(name):
    model = build(name)
    batch, modalities = batch_for(model.config), model.config.modalities
    for some in SUBSETS:
        if set(some) < set(modalities):
            as_none = as_rows = batch
            for modality in set(modalities) - set(some):
                as_none, as_rows = without(as_none, modality), without(as_rows, modality, [0, 1, 2, 3])
            found, expected = model(**as_none), model(**as_rows)
            close((found.logits, found.loss), (expected.logits, expected.loss))


@pytest.mark.parametrize("some", SUBSETS, ids="+".join)
@few_configs
def test_one_model_labels_all_seven_subsets(name, some):
    model = build(name)
    batch = batch_for(model.config)
    for modality in set(MODALITIES) - set(some):
        batch = without(batch, modality)
    output = model(**batch)
    assert (tuple(output.logits.shape), bool(output.loss.isfinite())) == ((4, 4), True)


@every_config
def test_one_sample_of_one_step_can_be_trained_on(name):
    model = build(name, training=True)
    loss = model(**batch_for(model.config, [1], [1], [1])).loss
    loss.backward()
    assert (bool(loss.isfinite()), gradients_are_finite(model)) == (True, True)


@pytest.mark.parametrize("name", ["paper", "recommended", "concat", "wavlm", "stable layer norm", "audio+video"])
def test_short_audio_beside_a_sample_without_audio_is_what_it_is_alone(name):
    model = build(name)
    both = batch_for(model.config, [7, 0], [3, 2], [2, 4])
    alone = {key: None if x is None else x[:1] for key, x in both.items()}
    close(model(**both).logits[:1], model(**alone).logits)


@every_config
def test_a_saved_state_loads_strictly_and_gives_the_same_logits(name):
    model, fresh = build(name), WavFusion(configure(**CONFIGS[name])).eval()
    fresh.load_state_dict({key: tensor.clone() for key, tensor in model.state_dict().items()}, strict=True)
    batch = batch_for(model.config)
    assert_close(fresh(**batch).logits, model(**batch).logits, atol=0, rtol=0)


@every_config
def test_half_precision_autocast_stays_near_single_precision(name):
    model = build(name, training=True)
    batch = batch_for(model.config)
    expected = build(name, training=True)(**batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(**batch)
    found.loss.backward()
    assert_close(found.logits.float(), expected.logits, atol=0.05, rtol=0.05)
    assert gradients_are_finite(model)


@few_configs
def test_two_passes_before_one_backward_are_allowed(name):
    model = build(name, training=True)
    batch = batch_for(model.config)
    (model(**batch).loss + model(**batch).loss).backward()
    assert gradients_are_finite(model)


# ---------------------------------------------------------------- what the output names


@every_config
def test_intermediates_have_the_documented_shapes(name):
    model = build(name)
    config, output = model.config, model(**batch_for(model.config))
    heard = "audio" in config.modalities
    entry = math.ceil(max(AUDIO) / config.audio_stride) if heard else 32
    deep = max(entry, 32)  # queries that stand in for absent audio
    layers = config.num_layers - config.input_layer - config.num_deep if heard else 0
    fused = {"text", "video"} <= set(config.modalities)
    assert {
        "hidden": [tuple(x.shape) for x in output.hidden],
        "gates": [tuple(x.shape) for x in output.gates],
        "vectors": {modality: tuple(x.shape) for modality, x in output.vectors.items()},
        "losses": list(output.losses),
    } == {
        "hidden": [(4, entry, 32)] * (layers + (heard or config.num_deep > 0)) + [(4, deep, 32)] * config.num_deep,
        "gates": [(4, deep, 32)] * (config.num_deep if fused else 0),
        "vectors": dict.fromkeys(config.modalities, (4, 64)) if config.has_margin else {},
        "losses": ["task", "margin"] if config.has_margin else ["task"],
    }


@every_config
def test_total_loss_is_the_weighted_sum_of_its_parts(name):
    model = build(name)
    output, weight = model(**batch_for(model.config)), model.config.margin.weight
    expected = output.losses["task"] + weight * output.losses.get("margin", torch.zeros(()))
    close(output.loss, expected, 1e-6)


def test_a_weight_on_one_audio_layer_alone_is_that_layer():
    weighted = build("weighted audio")
    state = {key: x for key, x in weighted.state_dict().items() if key != "audio_layer_weights"}
    single = WavFusion(configure()).eval()
    single.load_state_dict(state)
    with torch.no_grad():
        weighted.audio_layer_weights.copy_(torch.tensor([-1e4, 0.0, -1e4]))
        batch = batch_for(weighted.config)
        close(weighted(**batch).logits, single(**{**batch, "audio": batch["audio"][:, 1]}).logits)


def test_weighted_audio_layers_must_end_where_the_model_starts():
    with pytest.raises(ConfigError, match="weighted_layers: expected layers up to 2, from which the model starts"):
        configure(weighted_layers=[0, 1])


@pytest.mark.parametrize("name", ["audio+text", "audio+video", "audio", "text", "video", "concat"])
def test_no_gate_without_both_branches(name):
    model = build(name)
    assert model(**batch_for(model.config)).gates == []


@pytest.mark.parametrize("name", ["paper", "recommended", "mean gate, no LVC", "text+video"])
def test_gates_are_shares(name):
    model = build(name)
    gates = torch.stack(model(**batch_for(model.config)).gates)
    assert 0 <= gates.min() and gates.max() <= 1


def test_without_labels_there_is_no_loss():
    model = build()
    batch = {**batch_for(model.config), "labels": None}
    assert (model(**batch).loss, model(**batch).losses) == (None, {})


def test_balanced_loss_follows_the_class_weights():
    model = build(task_loss="balanced")
    batch = batch_for(model.config)
    before = model(**batch).losses["task"]
    model.class_weights.fill_(2.0)
    close(model(**batch).losses["task"], 2 * before)


def test_a_modality_that_the_model_lacks_is_refused():
    with pytest.raises(ValueError, match=r"video: this model was built for audio\+text"):
        build("audio+text")(**batch_for(configure()))


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(ValueError, match="expected at least one modality"):
        build()(None, None, None, None, None, None)


@pytest.mark.parametrize(("size", "steps"), [(0, 4), (2, 0)])
def test_an_empty_tensor_is_refused(size, steps):
    config = configure()
    audio, mask = torch.zeros(size, steps, config.hidden_size), torch.ones(size, steps, dtype=torch.bool)
    with pytest.raises(ValueError, match="audio: expected an utterance and a step or more"):
        build()(audio, mask, None, None, None, None)


def test_a_mask_without_its_tensor_is_refused():
    batch = {**batch_for(configure()), "text": None}
    with pytest.raises(ValueError, match="text: expected a tensor and its mask"):
        build()(**batch)


# ---------------------------------------------------------------- what learns


DEPTHS = [(fused, trained) for fused in (1, 2, 3) for trained in (0, 1, 2, 3)]


@pytest.mark.parametrize(("fused", "trained"), DEPTHS)
@pytest.mark.parametrize("switches", [{}, {"keep_self_attn": True}, {"pre_norm": True}, {"init_cross": "xavier_all"}])
def test_pretrained_tensors_learn_in_the_trainable_layers_alone(switches, fused, trained):
    sizes = {"num_layers": 3, "fusion_layers": fused, "trainable_layers": trained, "margin_audio_layer": 0}
    model = build(**switches, **sizes)
    pretrained_names, learning = model.pretrained_names(), set()
    for name, parameter in model.named_parameters():
        if name in pretrained_names and parameter.requires_grad and not name.startswith("final_norm."):
            stack, number, _ = name.split(".", 2)
            learning.add(int(number) + (len(model.layers) if stack == "deep_layers" else 0))
    assert learning == set(range(3 - trained, 3))


@pytest.mark.parametrize(("fused", "trained"), DEPTHS)
@pytest.mark.parametrize("switches", [{}, {"keep_self_attn": True}, {"fusion": "concat"}])
def test_frozen_tensors_get_no_gradient_and_all_others_do(switches, fused, trained):
    sizes = {"num_layers": 3, "fusion_layers": fused, "trainable_layers": trained, "margin_audio_layer": 0}
    model = build(training=True, **switches, **sizes)
    model(**without(batch_for(model.config), "audio", [1])).loss.backward()
    found = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    # a bias of the keys shifts every score of a query alike, which no softmax sees: rounding decides about its gradient
    blind = {name for name, _ in model.named_parameters() if "k_proj.bias" in name}
    assert found - blind == {name for name, p in model.named_parameters() if p.requires_grad} - blind


@every_config
def test_every_learning_tensor_gets_a_gradient(name):
    model = build(name, training=True)
    batch = batch_for(model.config)
    if {"audio"} < set(model.config.modalities):
        batch = without(batch, "audio", [1])
    model(**batch).loss.backward()
    blind = {"final_norm"} if model.config.modalities[0] != "audio" and not model.config.num_deep else set()
    idle = {key for key, p in model.named_parameters() if p.requires_grad and p.grad is None} - blind
    assert idle == set()


@pytest.mark.parametrize("name", ["paper", "concat", "audio"])
def test_tensors_that_do_not_learn_stay_as_they_are_in_training(name):
    model = build(name, training=True, trainable_layers=1, margin_audio_layer=1)
    frozen = {key: p.clone() for key, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(**batch_for(model.config)).loss.backward()
    optimizer.step()
    assert all(torch.equal(p, frozen[key]) for key, p in model.named_parameters() if key in frozen)


def test_frozen_layers_stay_without_dropout_in_training():
    model = build("deeper margin layer", training=True, dropout=0.5)
    batch = batch_for(model.config)
    first, second = (model(**batch).hidden[: len(model.layers) + 1] for _ in range(2))
    assert_close(first, second, atol=0, rtol=0)


def test_trainable_layers_drop_in_training():
    model = build("audio", training=True, dropout=0.5)
    batch = batch_for(model.config)
    assert not torch.equal(model(**batch).hidden[-1], model(**batch).hidden[-1])


def test_a_few_steps_of_training_learn_a_batch_by_heart():
    model = build(training=True)
    batch = batch_for(model.config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(25):
        optimizer.zero_grad()
        model(**batch).losses["task"].backward()
        optimizer.step()
    assert torch.equal(model.eval()(**batch).logits.argmax(-1), batch["labels"])


# ---------------------------------------------------------------- modality dropout, time masks and positions


CROWD = 96


def crowd(model):
    """Many samples, the first without text."""
    same = [[length] * CROWD for length in (6, 3, 2)]
    batch = without(batch_for(model.config, *same), "text", [0])
    for _, x, _ in tensors(batch):
        x.requires_grad_()
    return batch


def reached(batch):
    """Which samples of which modality a gradient came to: [M, B]."""
    return torch.stack([x.grad.abs().flatten(1).sum(1) > 0 for _, x, _ in tensors(batch)])


@pytest.mark.parametrize("name", ["paper", "recommended", "concat"])
def test_modality_dropout_never_drops_all_that_a_sample_has(name):
    model = build(name, training=True, modality_dropout=0.9, margin={"weight": 0.0})
    batch = crowd(model)
    model(**batch).logits.square().sum().backward()
    assert reached(batch).any(0).all()


@pytest.mark.parametrize("name", ["paper", "recommended", "concat"])
def test_modality_dropout_drops_with_its_chance(name):
    model = build(name, training=True, modality_dropout=0.5, margin={"weight": 0.0})
    batch = crowd(model)
    model(**batch).logits.square().sum().backward()
    assert float(reached(batch)[:, 1:].float().mean()) == pytest.approx(0.5 + 0.5**3, abs=0.1)


@few_configs
def test_modality_dropout_trains_with_finite_gradients(name):
    model = build(name, training=True, modality_dropout=0.6)
    batch = batch_for(model.config)
    for _ in range(2):
        model(**batch).loss.backward()
    assert gradients_are_finite(model)


def test_the_head_has_the_dropout_of_the_others_or_one_of_its_own():
    shares = [
        build("audio", **each).head_dropout.p for each in ({"dropout": 0.2}, {"dropout": 0.2, "head_dropout": 0.0})
    ]
    assert shares == [0.2, 0.0]


def test_modality_dropout_and_time_masks_rest_in_evaluation():
    batch = batch_for(configure())
    assert_close(build(modality_dropout=0.9, time_mask=0.9)(**batch).logits, build()(**batch).logits, atol=0, rtol=0)


def test_time_masks_zero_spans_of_about_their_share():
    model = build("audio", training=True, time_mask=0.2)
    steps = model(torch.ones(64, 200, 32), torch.ones(64, 200, dtype=torch.bool), None, None, None, None).hidden[0]
    assert float((steps == 0).float().mean()) == pytest.approx(0.2, abs=0.04)


@pytest.mark.parametrize("name", ["paper", "concat", "mult"])
def test_a_stride_takes_every_third_audio_step_of_a_clip(name):
    batch = batch_for(configure())
    thinned = {**batch, "audio": batch["audio"][:, ::3], "audio_mask": batch["audio_mask"][:, ::3]}
    plain = build(name)(**thinned)
    mult = name == "mult"  # which always has positions in seconds
    assert torch.allclose(build(name, audio_stride=3)(**batch).logits, plain.logits, atol=0, rtol=0) is not mult


def test_strided_audio_steps_keep_their_seconds_and_their_relative_positions():
    model, strided = (build("wavlm", audio_stride=stride) for stride in (1, 3))
    masks = {"audio": torch.ones(1, 40, dtype=torch.bool)}
    thinned = {"audio": masks["audio"][:, ::3]}
    times = strided._clock(thinned, thinned["audio"])["audio"]
    assert_close(times, model._clock(masks, masks["audio"])["audio"][:, ::3])
    whole = model._relative(torch.zeros(1, 40, 1))
    assert_close(strided._relative(torch.zeros(1, 14, 1)), whole[:, ::3, ::3], atol=0, rtol=0)


@pytest.mark.parametrize(("positions", "differs"), [(True, True), (False, False)])
def test_the_frame_rate_matters_where_positions_are_in_seconds(positions, differs):
    slow, fast = (build(time_positions=positions, frame_rate=rate) for rate in (5.0, 10.0))
    batch = batch_for(slow.config)
    assert (not torch.allclose(slow(**batch).logits, fast(**batch).logits, atol=1e-6)) is differs


@pytest.mark.parametrize("modality", ["text", "video"])
def test_without_positions_deep_layers_read_the_order_of_frames_through_the_gru_alone(modality):
    model = build()
    batch = batch_for(model.config)
    flipped = {**batch, modality: batch[modality][:1].flip(1).expand_as(batch[modality])}
    assert (model(**flipped).logits - model(**batch).logits)[0].abs().max() > 1e-5


# ---------------------------------------------------------------- configurations


TABLE_6 = {
    "concat 12/0": ({"fusion": "concat", "margin_audio_layer": 12, "trainable_layers": 0}, 12),
    "concat 12/0, three trained": ({"fusion": "concat"}, 9),
    "attention 11/1": ({"fusion_layers": 1, "trainable_layers": 1, "margin_audio_layer": 11}, 11),
    "attention 10/2": ({"fusion_layers": 2, "trainable_layers": 2, "margin_audio_layer": 10}, 10),
    "attention 9/3": ({}, 9),
    "attention 8/4": ({"fusion_layers": 4, "trainable_layers": 4, "margin_audio_layer": 8}, 8),
    "one fused, three trained": ({"fusion_layers": 1}, 9),
    "one fused, margin from 9": ({"fusion_layers": 1, "trainable_layers": 1}, 9),
    "three fused, none trained": ({"trainable_layers": 0}, 9),
    "margin far below": ({"margin_audio_layer": 4}, 4),
    "margin far below, but off": ({"margin_audio_layer": 4, "margin": {"weight": 0.0}}, 9),
    "audio alone": ({"modalities": ["audio"]}, 9),
    "no audio": ({"modalities": ["text", "video"], "margin_audio_layer": 4}, 9),
}


@pytest.mark.parametrize(("switches", "layer"), TABLE_6.values(), ids=TABLE_6.keys())
def test_the_input_is_the_lowest_layer_that_a_row_of_table_6_needs(switches, layer):
    assert WavFusionConfig.from_json({"classes": ["happy"], **switches}).input_layer == layer


@pytest.mark.parametrize("modalities", SUBSETS, ids="+".join)
def test_a_config_survives_json(modalities):
    config = configure(modalities=modalities, **RECOMMENDED, margin={"alpha": 0.2, "reduction": "anchor"})
    assert WavFusionConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_modalities_come_in_their_order():
    assert configure(modalities=["video", "audio"]).modalities == ["audio", "video"]


BAD = {
    "modalities": ({"modalities": ["audio", "smell"]}, r"modalities: expected a choice of .*audio.*, found .*smell"),
    "no modality": ({"modalities": []}, r"modalities: expected .*, found \[\]"),
    "dropout": ({"dropout": 1.0}, "dropout: expected a share from 0 to below 1, found 1.0"),
    "modality_dropout": ({"modality_dropout": -0.1}, "modality_dropout: expected .* found -0.1"),
    "time_mask": ({"time_mask": 1.5}, "time_mask: expected .* found 1.5"),
    "audio_stride": ({"audio_stride": 0}, "audio_stride: expected a whole number from 1, found 0"),
    "fusion_layers": ({"fusion_layers": 6}, "fusion_layers: expected 0 to 5 layers, found 6"),
    "trainable_layers": ({"trainable_layers": -1}, "trainable_layers: expected 0 to 5 layers, found -1"),
    "nothing fused": ({"fusion_layers": 0}, r"fusion_layers: expected at least 1 \(none with fusion concat\), found 0"),
    "margin_audio_layer": (
        {"margin_audio_layer": 4},
        "margin_audio_layer: expected an unfused layer, 0 to 3 .* found 4",
    ),
    "unknown": ({"fusion_layer": 3}, "unknown field 'fusion_layer': did you mean 'fusion_layers'"),
}


@pytest.mark.parametrize(("switches", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_config_is_refused_by_name(switches, message):
    with pytest.raises(ConfigError, match=message):
        configure(**switches)


@pytest.mark.parametrize("name", wavfusion.model.__all__)
def test_every_public_name_loads(name):
    assert getattr(wavfusion.model, name).__module__.startswith("wavfusion.model.")


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Fusion'"):
        _ = wavfusion.model.Fusion


def test_the_control_after_mult_has_about_as_many_weights_as_the_deep_layers() -> None:
    sizes = {"hidden_size": 96, "text_size": 96, "intermediate_size": 4 * 96, "num_heads": 4}
    deep, control = (WavFusion(configure(fusion=kind, **sizes)) for kind in ("deep", "mult"))
    layers = sum(p.numel() for layer in deep.deep_layers for p in layer.parameters())
    stacks = sum(p.numel() for p in control.cross_modal.stacks.parameters())
    assert stacks == pytest.approx(layers, rel=0.03)
