import json
import pickle
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open
from tokenizers import ByteLevelBPETokenizer
from transformers.models.efficientnet.image_processing_pil_efficientnet import EfficientNetImageProcessorPil

from wavfusion.encoders import load_audio, load_text, load_video, tiny
from wavfusion.encoders.bundle import load_encoder
from wavfusion.encoders.checkpoint import UNUSED
from wavfusion.encoders.presets import PRECISIONS, PRESETS, read_preset
from wavfusion.encoders.text import MAX_TOKENS, TextEncoder, normalized
from wavfusion.encoders.video import EfficientNetEncoder
from wavfusion.encoders.wav2vec2 import Wav2Vec2Encoder
from wavfusion.errors import ConfigError

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
CONVOLUTIONS = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
FAMILIES = {
    "wav2vec2 with group norm, post-norm": (transformers.Wav2Vec2Config, transformers.Wav2Vec2Model, {}),
    "wav2vec2 with layer norm, pre-norm": (transformers.Wav2Vec2Config, transformers.Wav2Vec2Model, LAYER_NORM),
    "hubert": (transformers.HubertConfig, transformers.HubertModel, {}),
    "hubert large": (transformers.HubertConfig, transformers.HubertModel, LAYER_NORM),
    "wavlm": (transformers.WavLMConfig, transformers.WavLMModel, {}),
    "wavlm large": (transformers.WavLMConfig, transformers.WavLMModel, LAYER_NORM),
    "unispeech-sat": (transformers.UniSpeechSatConfig, transformers.UniSpeechSatModel, {}),
    "unispeech-sat large": (transformers.UniSpeechSatConfig, transformers.UniSpeechSatModel, LAYER_NORM),
    "data2vec": (
        transformers.Data2VecAudioConfig,
        transformers.Data2VecAudioModel,
        {"num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 19, "layerdrop": 0.0},
    ),
}
# What preprocessor_config.json of google/efficientnet-b0 holds.
B0 = {
    "do_center_crop": False,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.47853944, 0.4732864, 0.47434163],
    "image_processor_type": "EfficientNetImageProcessor",
    "include_top": True,
    "resample": 0,
    "rescale_factor": 1 / 255,
    "rescale_offset": False,
    "size": {"height": 112, "width": 112},
}


def random_model(kind, config):
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases too, or a forgotten one would not show
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def audio_family(name):
    config, kind, settings = FAMILIES[name]
    return random_model(kind, config(**{**SMALL, **CONVOLUTIONS, **settings}))


def tone(seconds, seed=0):
    random = np.random.default_rng(seed)
    time = np.arange(int(16_000 * seconds)) / 16_000
    return (0.3 * np.sin(2 * np.pi * (150 + 200 * time) * time) + 0.05 * random.normal(size=time.shape)).astype("f4")


def reference_hidden(model, waveform, do_normalize=True):
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=do_normalize)
    values = extractor(waveform, sampling_rate=16_000, return_tensors="pt").input_values.to(model.dtype)
    with torch.no_grad():
        return [x[0] for x in model(values, output_hidden_states=True).hidden_states]


def largest_difference(one, other):
    assert one.shape == other.shape
    return float((one - other).abs().max())


@pytest.fixture(scope="module")
def video():
    return load_video("tiny")


@pytest.fixture(scope="module")
def text():
    return load_text("tiny")


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), np.uint8)


# ---------------------------------------------------------------------- audio


@pytest.mark.parametrize("name", FAMILIES)
def test_shallow_layers_equal_the_library_s_hidden_states(name):
    model, waveform = audio_family(name), tone(0.7)
    expected = reference_hidden(model, waveform)
    found = Wav2Vec2Encoder(model, {}, name).encode([waveform], [0, 1, 2])[0]
    assert max(largest_difference(found[layer], expected[layer]) for layer in (0, 1, 2)) < 1e-5


def test_the_top_layer_of_a_post_norm_model_equals_its_last_hidden_state():
    model, waveform = audio_family("wav2vec2 with group norm, post-norm"), tone(0.5)
    found = Wav2Vec2Encoder(model, {}, "x").encode([waveform], [3])[0][3]
    assert largest_difference(found, reference_hidden(model, waveform)[-1]) < 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_a_clip_alone_and_in_a_padded_batch_has_the_same_features(name):
    """Hugging Face's group norm sees the padding: features up to 1 apart (trap T6)."""
    encoder, clips = Wav2Vec2Encoder(audio_family(name), {}, name), [tone(t, i) for i, t in enumerate((0.3, 1.1, 0.62))]
    together = encoder.encode(clips, [2])
    alone = [encoder.encode([clip], [2])[0] for clip in clips]
    assert max(largest_difference(one[2], other[2]) for one, other in zip(together, alone, strict=True)) < 1e-5


def test_layers_above_the_highest_asked_for_do_not_run():
    model = audio_family("hubert")
    model.encoder.layers[2].forward = None
    assert set(Wav2Vec2Encoder(model, {}, "x").encode([tone(0.2)], [1, 2])[0]) == {1, 2}


def test_all_layers_are_there_again_after_encoding():
    model = audio_family("hubert")
    Wav2Vec2Encoder(model, {}, "x").encode([tone(0.2)], [1])
    assert len(model.encoder.layers) == 3


def test_one_sample_gives_one_finite_step():
    found = Wav2Vec2Encoder(audio_family("wavlm"), {}, "x").encode([np.ones(1, "f4")], [2])[0][2]
    assert found.shape == (1, 32) and torch.isfinite(found).all()


def test_no_thread_shows_the_warning_that_torch_has_for_the_masks_of_wavlm():
    """Each thread put back the filters that it had found: one that began second heard the warning from then on."""
    encoder, entered, left = Wav2Vec2Encoder(audio_family("wavlm"), {}, "x"), threading.Barrier(2), threading.Event()

    def wait(*_):
        if entered.wait(timeout=60) == 0:
            left.wait(timeout=60)  # the other one has ended meanwhile

    encoder.model.encoder.register_forward_pre_hook(wait)

    def encode(seconds):
        try:
            return encoder.hidden([torch.from_numpy(tone(seconds))], [3])[0][3].shape[1]
        finally:
            left.set()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(encode, (0.2, 0.4))) == [9, 19]


def test_a_model_without_normalisation_gets_the_samples_as_they_are():
    model, waveform = audio_family("hubert"), tone(0.4)
    found = Wav2Vec2Encoder(model, {"do_normalize": False}, "x").encode([waveform], [2])[0][2]
    assert largest_difference(found, reference_hidden(model, waveform, do_normalize=False)[2]) < 1e-5


def test_a_layer_that_the_model_lacks_is_refused():
    with pytest.raises(ConfigError, match="expected layers 0 to 3, found 4"):
        Wav2Vec2Encoder(audio_family("hubert"), {}, "x").encode([tone(0.2)], [4])


def test_a_model_of_another_sample_rate_is_refused():
    with pytest.raises(ConfigError, match="8000 Hz"):
        Wav2Vec2Encoder(audio_family("hubert"), {"sampling_rate": 8000}, "x")


# ---------------------------------------------------------------------- text


def test_text_features_equal_the_library_s_last_hidden_state(text):
    tokens = text.tokenizer(["Kids are talking by the door."], return_tensors="pt")
    with torch.no_grad():
        expected = text.model(**tokens).last_hidden_state[0]
    found = text.encode(["No.", "Kids are talking by the door."])[1]
    assert largest_difference(found, expected) < 1e-5


def test_all_text_layers_equal_the_library_s_hidden_states(text):
    tokens = text.tokenizer(["Oh, no!"], return_tensors="pt")
    with torch.no_grad():
        expected = torch.stack(text.model(**tokens, output_hidden_states=True).hidden_states)[:, 0]
    assert largest_difference(text.encode(["Oh, no!", "A longer one, for the padding."], "all")[0], expected) < 1e-5


def test_all_text_layers_are_as_many_as_the_encoder_says(text):
    assert len(text.encode(["Hi"], "all")[0]) == text.num_layers


def test_typographic_quotes_become_plain_ones(text):
    assert torch.equal(text.encode(["“It’s…”"])[0], text.encode(['"It\'s..."'])[0])


def test_half_of_a_surrogate_pair_becomes_a_question_mark():
    assert normalized("a \ud83d b") == "a ? b"


def test_a_long_text_is_cut_at_192_tokens(text):
    assert len(text.encode(["word " * 500])[0]) == MAX_TOKENS == 192


# ---------------------------------------------------------------------- video


@pytest.mark.parametrize("include_top", [True, False])
@pytest.mark.parametrize("offset", [True, False])
def test_pixel_values_equal_the_library_s_processor(pictures, include_top, offset):
    values = {**B0, "include_top": include_top, "rescale_offset": offset}
    values |= {"rescale_factor": 1 / 127.5} if offset else {}
    processor = EfficientNetImageProcessorPil.from_dict(values)
    expected = processor(list(pictures), return_tensors="pt").pixel_values
    found = EfficientNetEncoder(tiny.video_model(), values, "x").pixel_values(torch.from_numpy(pictures))
    assert largest_difference(found, expected) < 1e-5


def test_the_checkpoint_s_own_values_are_used():
    encoder = EfficientNetEncoder(tiny.video_model(), {**B0, "size": {"height": 96, "width": 80}}, "x")
    assert (encoder.size, encoder.interpolation) == ((96, 80), "nearest")


def test_a_centre_crop_is_refused():
    with pytest.raises(ConfigError, match="do_center_crop"):
        EfficientNetEncoder(tiny.video_model(), {**B0, "do_center_crop": True}, "x")


def test_frame_features_equal_the_library_s_pooled_output(video, pictures):
    with torch.no_grad():
        expected = video.model(pixel_values=video.pixel_values(torch.from_numpy(pictures)).contiguous()).pooler_output
    assert expected.std() > 1e-2 and largest_difference(video.encode(pictures), expected) < 1e-5


def test_a_frame_does_not_depend_on_those_beside_it(video):
    frames = np.random.default_rng(1).integers(0, 256, (18, 112, 112, 3), np.uint8)
    assert largest_difference(video.encode(frames)[17:], video.encode(frames[17:])) < 1e-5


# ---------------------------------------------------------------------- the hub's file format


def save_text_checkpoint(folder):
    bpe = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator(["kids are talking by the door", "dogs sit"], vocab_size=290, special_tokens=special)
    bpe.save_model(str(folder))
    size = bpe.get_vocab_size()
    config = transformers.RobertaConfig(vocab_size=size, max_position_embeddings=514, type_vocab_size=1, **SMALL)
    model = random_model(transformers.RobertaForMaskedLM, config)
    model.save_pretrained(folder)
    transformers.RobertaTokenizer.from_pretrained(folder).save_pretrained(folder)
    return model


def text_tokenizer(folder):
    """A tokenizer in the one file that all fast ones have, whatever the family."""
    bpe = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator(["kids are talking by the door", "dogs sit"], vocab_size=290, special_tokens=special)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, pad_token="<pad>", unk_token="<unk>", model_max_length=100
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


TEXT_FAMILIES = {
    "bert": (transformers.BertConfig, transformers.BertForMaskedLM, "bert"),
    "xlm-roberta": (transformers.XLMRobertaConfig, transformers.XLMRobertaForMaskedLM, "roberta"),
    "distilbert": (transformers.DistilBertConfig, transformers.DistilBertForMaskedLM, "distilbert"),
    "deberta-v2": (transformers.DebertaV2Config, transformers.DebertaV2ForMaskedLM, "deberta"),
    "modernbert": (transformers.ModernBertConfig, transformers.ModernBertForMaskedLM, "model"),
    "mpnet": (transformers.MPNetConfig, transformers.MPNetForMaskedLM, "mpnet"),
}


@pytest.mark.parametrize("name", TEXT_FAMILIES)
def test_any_bidirectional_text_encoder_gives_the_library_s_hidden_states(tmp_path, name):
    config, kind, base = TEXT_FAMILIES[name]
    tokenizer = text_tokenizer(tmp_path)
    sizes = {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48} if name == "distilbert" else SMALL
    tokens = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
    relative = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
    more = relative if name == "deberta-v2" else {}
    model = random_model(kind, config(vocab_size=len(tokenizer), **sizes, **tokens, **more))
    model.save_pretrained(tmp_path)
    encoder, texts = load_text(str(tmp_path)), ["kids sit", "dogs are talking by the door"]
    found = encoder.encode(texts, "all")
    for text, features in zip(texts, found, strict=True):
        with torch.no_grad():
            output = getattr(model, base)(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        expected = torch.stack(output.hidden_states)[:, 0]
        assert len(features) == encoder.num_layers and largest_difference(features, expected) < 1e-5
        assert largest_difference(encoder.encode([text])[0], output.last_hidden_state[0]) < 1e-5
    assert len(encoder.encode(["kids " * 200])[0]) == encoder.max_tokens == 100


def test_a_decoder_alone_is_refused_as_text_encoder(tmp_path):
    tokenizer = text_tokenizer(tmp_path)
    config = transformers.GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4)
    random_model(transformers.GPT2LMHeadModel, config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="expected a bidirectional text encoder, .* found a model of type 'gpt2'"):
        load_text(str(tmp_path))


def test_an_encoder_with_a_decoder_is_refused_as_text_encoder(tmp_path):
    tokenizer = text_tokenizer(tmp_path)
    config = transformers.T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4)
    random_model(transformers.T5ForConditionalGeneration, config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="expected a bidirectional text encoder, .* found a model of type 't5'"):
        load_text(str(tmp_path))


def test_a_tensor_of_another_shape_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    load_audio("tiny").save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["encoder.layers.5.attention.k_proj.weight"] = torch.zeros(3, 5)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"^[^\n]*encoder '.*': expected [^\n]*$"):
        load_audio(str(tmp_path))


def save_video_checkpoint(folder):
    torch.manual_seed(0)
    model = transformers.EfficientNetForImageClassification(tiny.video_config()).eval()
    model.efficientnet.load_state_dict(tiny.video_model().state_dict())
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(B0))
    return model


@pytest.mark.parametrize(
    ("kind", "config", "base"),
    [
        (transformers.Wav2Vec2ForCTC, transformers.Wav2Vec2Config, "wav2vec2"),
        (transformers.Wav2Vec2ForPreTraining, transformers.Wav2Vec2Config, "wav2vec2"),
        (transformers.HubertModel, transformers.HubertConfig, None),
        (transformers.WavLMModel, transformers.WavLMConfig, None),
    ],
)
def test_an_audio_checkpoint_gives_the_library_s_numbers(tmp_path, kind, config, base):
    model = random_model(
        kind, config(**SMALL, **CONVOLUTIONS, vocab_size=20, codevector_dim=16, proj_codevector_dim=16)
    )
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(tiny.audio_preprocessor()))
    expected = reference_hidden(getattr(model, base) if base else model, tone(0.4))
    assert largest_difference(load_audio(str(tmp_path)).encode([tone(0.4)], [2])[0][2], expected[2]) < 1e-5


def test_a_text_checkpoint_gives_the_library_s_numbers(tmp_path):
    model = save_text_checkpoint(tmp_path)
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path)("kids sit by the door", return_tensors="pt")
    with torch.no_grad():
        expected = model.roberta(**tokens).last_hidden_state[0]
    assert largest_difference(load_text(str(tmp_path)).encode(["kids sit by the door"])[0], expected) < 1e-5


def test_a_video_checkpoint_gives_the_library_s_numbers(tmp_path, pictures):
    model = save_video_checkpoint(tmp_path)
    values = EfficientNetImageProcessorPil.from_pretrained(tmp_path)(list(pictures), return_tensors="pt")
    with torch.no_grad():
        expected = model.efficientnet(**values).pooler_output
    assert largest_difference(load_video(str(tmp_path)).encode(pictures), expected) < 1e-5


@pytest.mark.parametrize("load", [load_audio, load_text, load_video])
def test_an_encoder_saved_and_loaded_has_the_same_fingerprint(tmp_path, load):
    encoder = load("tiny")
    encoder.save(tmp_path)
    assert load(str(tmp_path)).fingerprint == encoder.fingerprint


@pytest.mark.parametrize("load", [load_audio, load_text, load_video])
def test_a_saved_encoder_holds_no_tensor_that_its_fingerprint_leaves_out(tmp_path, load):
    """A spoilt bit in RoBERTa's pooler, which no feature depends on, went unnoticed in a RUN's encoders."""
    load("tiny").save(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if any(part in name for part in UNUSED)]


def test_a_fingerprint_survives_lists_that_come_back_as_tuples(tmp_path):
    """A config that had not been through a file named its strides as a tuple, and the fingerprint hashed its print."""
    encoder = Wav2Vec2Encoder(audio_family("hubert"), {}, "x")
    encoder.save(tmp_path)
    assert load_audio(str(tmp_path)).fingerprint == encoder.fingerprint


@pytest.mark.parametrize("load", [load_audio, load_text, load_video])
def test_one_changed_weight_changes_the_fingerprint(tmp_path, load):
    encoder = load("tiny")
    with torch.no_grad():
        next(iter(encoder.model.encoder.parameters())).view(-1)[0] += 1e-3
    encoder.save(tmp_path)
    assert load(str(tmp_path)).fingerprint != load("tiny").fingerprint


@pytest.mark.parametrize(
    "change", [{"image_std": [0.5, 0.5, 0.51]}, {"resample": 2}, {"include_top": False}, {"rescale_offset": True}]
)
def test_one_changed_preprocessing_value_changes_the_fingerprint(change):
    model = tiny.video_model()
    one, other = (EfficientNetEncoder(model, {**B0, **more}, "x").fingerprint for more in (change, {}))
    assert one != other


@pytest.mark.parametrize("change", [{"num_attention_heads": 2}, {"hidden_act": "relu"}, {"layer_norm_eps": 1e-3}])
def test_the_same_tensors_run_in_another_way_have_another_fingerprint(change):
    model, other = tiny.text_model(), tiny.text_model()
    other.config.update(change)
    one, two = (TextEncoder(x, tiny.tokenizer(), "x").fingerprint for x in (model, other))
    assert one != two


def test_tiny_s_fingerprints_are_those_of_the_day_it_was_made():
    """Another number here means that every store and every RUN made with `tiny` is refused from now on."""
    assert [load("tiny").fingerprint for load in (load_audio, load_text, load_video)] == [
        "90615184515b07bcc813f8dcc07195d1",
        "4a20fbae7866babe5ef0b86f78e16c0f",
        "9f47bf1c97392ee3121bfc89be81f86e",
    ]


def test_missing_tensors_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    load_audio("tiny").save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["encoder.layers.5.attention.k_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"1 are missing, first 'encoder.layers.5.attention.k_proj.weight'"):
        load_audio(str(tmp_path))


def test_a_model_of_another_family_is_refused(tmp_path):
    load_text("tiny").save(tmp_path)
    with pytest.raises(ConfigError, match="expected one of wav2vec2, .*, whisper, found 'roberta'"):
        load_audio(str(tmp_path))


def test_a_text_model_without_its_tokenizer_is_refused(tmp_path):
    """The library then makes one of five special tokens, for which every word is unknown."""
    tiny.text_model().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="tokenizer"):
        load_text(str(tmp_path))


class Harmful:
    def __reduce__(self):
        return (open, ("executed", "w"))


def test_a_pickled_checkpoint_executes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load_audio("tiny").save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with open(tmp_path / "pytorch_model.bin", "wb") as file:
        pickle.dump(Harmful(), file)
    with pytest.raises(ConfigError, match="pytorch_model.bin|expected `tiny`"):
        load_audio(str(tmp_path))
    assert not (tmp_path / "executed").exists()


def test_a_zipped_pickled_checkpoint_executes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load_audio("tiny").save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"masked_spec_embed": Harmful()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="expected `tiny`"):
        load_audio(str(tmp_path))
    assert not (tmp_path / "executed").exists()


def test_a_folder_that_is_no_checkpoint_says_what_it_lacks(tmp_path):
    """It was `Repo id must be in the form 'repo_name'` of a folder, and `found None` of faster-whisper's form."""
    load_audio("tiny").save(tmp_path / "whole")
    for name, files in {"empty": [], "bare": ["config.json"], "faster": ["config.json", "model.bin"]}.items():
        (tmp_path / name).mkdir()
        for file in files:
            shutil.copy(tmp_path / "whole/config.json", tmp_path / name / file)
    expected = {
        "empty": "found no config.json",
        "bare": "found none",
        "faster": "found faster-whisper's form, which --asr takes",
        "whale": rf"found no such folder; did you mean '{tmp_path}/whole'\? valid: .*",
    }
    for name, found in expected.items():
        with pytest.raises(ConfigError, match=rf"^encoder '[^\n]*{name}': expected [^\n]*{found}$"):
            load_audio(str(tmp_path / name))


def test_a_misspelt_hub_id_is_told_the_nearest():
    with pytest.raises(ConfigError, match=r"did you mean 'openai/whisper-base'\?$"):
        load_audio("openai/whisper-bsae")


def test_a_hub_id_without_a_network_is_one_line_at_once():
    start = time.monotonic()
    with pytest.raises(ConfigError, match=r"^encoder 'nobody/none': expected `tiny`, a local folder[^\n]*$"):
        load_audio("nobody/none")
    assert time.monotonic() - start < 5


# ---------------------------------------------------------------------- half precision


def test_sound_and_words_in_half_precision_differ_a_little_and_have_another_fingerprint():
    inputs = {
        "audio": lambda each: each.encode([tone(1.0)], [9])[0][9],
        "text": lambda each: each.encode(["Oh no."])[0],
    }
    for modality, encode in inputs.items():
        full, half = (load_encoder(modality, "tiny", precision) for precision in PRECISIONS)
        assert full.fingerprint != half.fingerprint == load_encoder(modality, "tiny", "bf16").fingerprint
        assert encode(half).dtype == torch.float32
        assert 0 < largest_difference(encode(full), encode(half)) < 0.1


def test_a_quick_twin_keeps_the_precision():
    encoder = load_encoder("audio", "tiny", "bf16")
    one, other = (each.encode([tone(1.0)], [9])[0][9] for each in (encoder, encoder.quick()))
    assert largest_difference(one, other) < 0.1 and encoder.quick().precision == "bf16"
    assert largest_difference(load_encoder("audio", "tiny").encode([tone(1.0)], [9])[0][9], other) > 0


def test_pictures_stay_in_single_precision(pictures):
    full, half = (load_encoder("video", "tiny", precision) for precision in PRECISIONS)
    assert full.fingerprint == half.fingerprint
    assert torch.equal(full.encode(pictures), half.encode(pictures))


# ---------------------------------------------------------------------- presets


def test_a_preset_file_says_the_same_as_a_shipped_one(tmp_path):
    (tmp_path / "mine.yaml").write_text("{audio: tiny, text: tiny, video: tiny, pretrained_rate: 3e-3, new_rate: 3e-3}")
    assert read_preset(str(tmp_path / "mine.yaml")) == PRESETS["tiny"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{audio: a, text: b, video: c, frame_rat: 3}", "did you mean 'frame_rate'"),
        (
            "{audio: a, text: b, video: c, frame_rate: fast}",
            "expected frames per second, above 0 to 100, found 'fast'",
        ),
        ("[", "expected YAML"),
        ("just words", "expected keys and values"),
        ("{audio: a, text: b, video: }", "'video': expected a non-empty string"),
        ("{audio: a, text: b, video: c, frame_rate: 0}", "above 0 to 100, found 0"),
        ("{audio: a, text: b, video: c, frame_rate: 1e9}", "above 0 to 100, found 1000000000"),
        ("{audio: a, text: b, video: c, frame_rate: yes}", "found True"),
        (
            "{audio: a, text: b, video: c, precision: bf61}",
            r"'precision': .* \(did you mean 'bf16'\?\), found 'bf61'",
        ),
        ("{audio: a, text: b, video: c, precision: 16}", "found 16"),
        ("{audio: a, text: b, video: c, new_rate: -1}", "'new_rate': expected a learning rate, 0 or more, found -1"),
        (
            "{audio: a, text: b, video: c, pretrained_rate: .nan}",
            "'pretrained_rate': .*0 or more, found nan",
        ),
        ("audio: a\ntext: b\naudio: c\nvideo: d", r"mine.yaml:3: expected YAML; found 'audio' for the second time"),
    ],
)
def test_a_wrong_preset_file_is_one_line(tmp_path, content, message):
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_preset(str(tmp_path / "mine.yaml"))


def test_a_preset_that_does_not_exist_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'tiny'"):
        read_preset("tinny")


def test_progress_bars_that_the_user_switched_off_stay_off():
    """Loading an encoder switched the library's bars on again, whatever they had been before."""
    transformers.logging.disable_progress_bar()
    try:
        load_text("tiny")
        with pytest.raises(ConfigError):
            load_text("/nowhere")
        assert not transformers.logging.is_progress_bar_enabled()
    finally:
        transformers.logging.enable_progress_bar()


def test_importing_the_encoders_room_is_cheap():
    program = "import sys, wavfusion.encoders as e; print({'torch', 'transformers'} & set(sys.modules)); e.load_audio"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
