"""Audio encoders in the layouts of the hub's well-known checkpoints, as random files in its format."""

import json
import subprocess
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.test_encoders import CONVOLUTIONS, LAYER_NORM, SMALL, random_model, tone
from tests.test_whisper import BASE, DECODER, TOKENS
from wavfusion.encoders import load_audio
from wavfusion.errors import ConfigError

DEEP = {**LAYER_NORM, "num_hidden_layers": 24}
SHALLOW = {"num_hidden_layers": 12}
DATA2VEC = {"num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 19}
# The library's classes, the flags and the depth that the checkpoint has, and whether its waveforms are normalised.
LAYOUTS = {
    "facebook/wav2vec2-base": ("Wav2Vec2", SHALLOW, True),
    "facebook/wav2vec2-xls-r-300m and mms-300m": ("Wav2Vec2", DEEP, True),
    "facebook/mms-1b": ("Wav2Vec2", {**DEEP, "num_hidden_layers": 48}, True),
    "facebook/hubert-base-ls960": ("Hubert", SHALLOW, True),
    "facebook/hubert-large-ll60k": ("Hubert", DEEP, True),
    "ntu-spml/distilhubert": ("Hubert", {"num_hidden_layers": 2, "feat_proj_layer_norm": False}, False),
    "HuBERT with a batch norm before its positions": ("Hubert", {**SHALLOW, "conv_pos_batch_norm": True}, True),
    "microsoft/wavlm-base-plus": ("WavLM", SHALLOW, False),
    "microsoft/wavlm-large": ("WavLM", {**DEEP, "num_buckets": 320, "max_bucket_distance": 800}, True),
    "microsoft/unispeech-sat-base": ("UniSpeechSat", SHALLOW, False),
    "microsoft/unispeech-sat-large": ("UniSpeechSat", DEEP, True),
    "facebook/data2vec-audio-base": ("Data2VecAudio", {**SHALLOW, **DATA2VEC, "conv_bias": False}, True),
    "facebook/data2vec-audio-large": ("Data2VecAudio", {**DATA2VEC, "num_hidden_layers": 24}, True),
}


def layout(name):
    kind, flags, _ = LAYOUTS[name]
    config = getattr(transformers, f"{kind}Config")(**{**SMALL, **CONVOLUTIONS, **flags})
    return random_model(getattr(transformers, f"{kind}Model"), config)


def save_as_published(folder, model, do_normalize, binary=False):
    """Write a checkpoint as these are: the names of the weight norm are those of older versions of PyTorch."""
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
        tensors = {key.replace(f"parametrizations.weight.{new}", old): x for key, x in tensors.items()}
    if binary:
        (folder / "model.safetensors").unlink()
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    values = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16000}
    values |= {"do_normalize": do_normalize}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))


def reference(folder, model, samples):
    """Outputs of all layers of the library's model, behind the library's own preparation of the waveform."""
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    with torch.no_grad():
        values = extractor(samples, sampling_rate=16_000, return_tensors="pt").input_values
        return [x[0] for x in model(values, output_hidden_states=True).hidden_states]


def apart(one, other):
    """The largest difference, in units of the largest value or of 1."""
    assert one.shape == other.shape
    return float((one - other).abs().max()) / max(1.0, float(other.abs().max()))


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_published_layout_loads_and_gives_the_library_s_hidden_states_alone_and_in_a_batch(tmp_path, name):
    """Without the last layer: the library's last hidden state of a pre-norm model is behind the final norm."""
    model, clips = layout(name), [tone(seconds, i) for i, seconds in enumerate((0.4, 1.3, 0.7))]
    save_as_published(tmp_path, model, LAYOUTS[name][2], binary=name.endswith("base"))
    encoder = load_audio(str(tmp_path))
    layers = range(encoder.num_layers)
    for plain in (encoder, encoder.quick()):
        for clip, found in zip(clips, plain.encode(clips, layers), strict=True):
            expected, alone = reference(tmp_path, model, clip), plain.encode([clip], layers)[0]
            assert max(apart(found[layer], expected[layer]) for layer in layers) < 1e-5
            assert max(apart(alone[layer], expected[layer]) for layer in layers) < 1e-5
    assert expected[-2].std() > 1e-2


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_published_layout_that_lacks_a_tensor_or_has_one_of_another_shape_is_refused(tmp_path, name):
    save_as_published(tmp_path, layout(name), True)
    key = "encoder.layers.1.feed_forward.output_dense.weight"
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({k: x for k, x in tensors.items() if k != key}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=rf"^encoder '[^\n]*': [^\n]*1 are missing, first '{key}'$"):
        load_audio(str(tmp_path))
    save_file({**tensors, key: torch.zeros(31, 48)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=rf"^[^\n]*'{key}': expected \(32, 48\), found \(31, 48\)$"):
        load_audio(str(tmp_path))


def test_the_decoder_of_a_whisper_alone_is_refused(tmp_path):
    config = transformers.WhisperConfig(**BASE, **DECODER, **TOKENS)
    random_model(transformers.WhisperForCausalLM, config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"^[^\n]*expected all its tensors, [^\n]* first 'encoder.conv1.bias'$"):
        load_audio(str(tmp_path))


def test_a_language_model_is_refused_as_audio_encoder_with_the_families_that_load(tmp_path):
    config = transformers.GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=4)
    random_model(transformers.GPT2LMHeadModel, config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"^[^\n]*expected one of wav2vec2, hubert, [^\n]*, found 'gpt2'; [^\n]*$"):
        load_audio(str(tmp_path))


LARGE = """
import resource, sys
from pathlib import Path
import torch, transformers
from tests.test_encoders import LAYER_NORM, tone
from tests.test_layouts import apart, reference, save_as_published
from wavfusion.encoders import load_audio
kind, folder, step = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
if step == "save":
    sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**LAYER_NORM, **sizes))
    save_as_published(folder, model, True)
else:
    encoder, clips = load_audio(str(folder)), [tone(1.1), tone(0.6, 1)]
    assert encoder.width == 1024 and encoder.num_layers == 24 and encoder.sizes()["pre_norm"]
    model = getattr(transformers, f"{kind}Model").from_pretrained(folder).eval()
    for clip, found in zip(clips, encoder.encode(clips, range(24))):
        expected = reference(folder, model, clip)
        assert max(apart(found[layer], expected[layer]) for layer in range(24)) < 1e-5
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Wav2Vec2", "Hubert", "WavLM"])
def test_24_layers_of_1024_load_within_4_gb_and_give_the_library_s_hidden_states(tmp_path, kind):
    """XLS-R and MMS of 300 million, HuBERT-large, WavLM-large; the memory holds the library's own model, too."""
    for step in ("save", "load"):
        command = [sys.executable, "-W", "ignore", "-c", LARGE, kind, str(tmp_path), step]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
        assert done.returncode == 0, done.stderr[-2000:]
        assert int(done.stdout.split()[-1]) < 4096
