from fractions import Fraction

import av
import numpy as np
import pytest
import torch
import transformers
from torch.testing import assert_close

from wavfusion.encoders import load_audio
from wavfusion.encoders.stack import AudioEncoder
from wavfusion.encoders.whisper import PADDING, WhisperEncoder
from wavfusion.errors import ConfigError
from wavfusion.media import decode_audio, write_audio
from wavfusion.model import WavFusion, WavFusionConfig
from wavfusion.model.fusion import DeepLayer, SelfAttentionLayer, Source

pytest_plugins = ("real",)

BASE = {"d_model": 32, "encoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 48, "vocab_size": 60}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}
DECODER = {"decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 48}
LAYOUTS = {
    "12 layers": {"encoder_layers": 12},
    "24 layers": {"encoder_layers": 24},
    "128 mel bins, as large-v3": {"num_mel_bins": 128},
    "gelu of tanh": {"activation_function": "gelu_new"},
}


def whisper(**layout):
    """A Whisper with random weights, its norms and biases moved, too: a forgotten one would not show otherwise."""
    torch.manual_seed(0)
    model = transformers.WhisperModel(transformers.WhisperConfig(**{**BASE, **DECODER, **TOKENS, **layout})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def clip(seconds, seed=0):
    random = np.random.default_rng(seed)
    time = np.arange(round(16_000 * seconds)) / 16_000
    return (0.3 * np.sin(2 * np.pi * (150 + 20 * time) * time) + 0.05 * random.normal(size=time.shape)).astype("f4")


def reference(model, samples):
    """Hugging Face's features of 30 s: outputs of all layers, the last one behind the final norm."""
    bins = model.config.num_mel_bins
    extractor = transformers.WhisperFeatureExtractor(feature_size=bins)
    values = extractor(samples, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.no_grad():
        return [x[0] for x in model.encoder(values, output_hidden_states=True).hidden_states]


def apart(one, other):
    """The largest difference, in units of the largest value: some of Whisper's channels reach hundreds."""
    assert one.shape == other.shape
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_30_s_give_the_hidden_states_of_the_library_layer_by_layer(layout):
    model, samples = whisper(**LAYOUTS[layout]), clip(30)
    expected, last = reference(model, samples), model.config.encoder_layers
    norm = model.encoder.layer_norm
    found = WhisperEncoder(model, {}, "x").encode([samples], range(last + 1))[0]
    assert max(apart(found[layer], expected[layer]) for layer in range(last)) < 1e-5
    with torch.no_grad():
        assert apart(norm(found[last].clone()), expected[last]) < 1e-5


def test_a_clip_of_29_s_and_a_half_differs_from_the_padded_30_s_by_nothing_but_rounding():
    """With its silence it fills the 30 s: there is nothing that the library sees and this does not."""
    model, samples = whisper(), clip(29.5)
    expected = reference(model, samples)
    found = WhisperEncoder(model, {}, "x").encode([samples], [2])[0][2]
    assert PADDING * 320 >= 8000 and apart(found, expected[2][:1475]) < 1e-5


def test_a_clip_alone_and_in_a_padded_batch_has_the_same_features():
    encoder, clips = WhisperEncoder(whisper(), {}, "x"), [clip(t, i) for i, t in enumerate((0.3, 2.7, 1.1))]
    together = encoder.encode(clips, [0, 1, 3])
    alone = [encoder.encode([each], [0, 1, 3])[0] for each in clips]
    for one, other in zip(together, alone, strict=True):
        assert max(apart(one[layer], other[layer]) for layer in (0, 1, 3)) < 1e-5


@pytest.mark.parametrize(("samples", "steps"), [(1, 1), (320, 1), (321, 2), (480_000, 1500)])
def test_a_step_is_20_ms_and_a_begun_one_counts(samples, steps):
    found = WhisperEncoder(whisper(), {}, "x").encode([np.ones(samples, "f4")], [1])[0][1]
    assert found.shape == (steps, 32) and torch.isfinite(found).all()


def test_more_than_30_s_at_once_are_refused():
    with pytest.raises(ConfigError, match=r"expected at most 30 s at once, found 30.02 s"):
        WhisperEncoder(whisper(), {}, "x").encode([np.zeros(480_001, "f4")], [1])


def test_layers_above_the_highest_of_those_wanted_do_not_run():
    model = whisper()
    model.encoder.layers[2].forward = None
    assert set(WhisperEncoder(model, {}, "x").encode([clip(0.2)], [1, 2])[0]) == {1, 2}


def test_the_quick_twin_gives_the_same_features():
    encoder, samples = WhisperEncoder(whisper(), {}, "x"), clip(1.3)
    assert apart(encoder.quick().encode([samples], [3])[0][3], encoder.encode([samples], [3])[0][3]) < 1e-5


def test_another_spectrogram_is_refused():
    with pytest.raises(ConfigError, match="expected windows of 400 samples every 160, found"):
        WhisperEncoder(whisper(), {"hop_length": 320}, "x")


@pytest.mark.parametrize("kind", ["encoder alone, as saved by a RUN", "with its decoder", "for recognition"])
def test_a_checkpoint_of_the_hub_loads_and_gives_the_library_s_hidden_states(tmp_path, kind):
    model, samples = whisper(), clip(30)
    expected = reference(model, samples)
    if kind == "encoder alone, as saved by a RUN":
        WhisperEncoder(model, {}, "x").save(tmp_path)
    elif kind == "with its decoder":
        model.save_pretrained(tmp_path)
    else:
        whole = transformers.WhisperForConditionalGeneration(model.config)
        whole.model.load_state_dict(model.state_dict())
        whole.save_pretrained(tmp_path)
    encoder = load_audio(str(tmp_path))
    assert apart(encoder.encode([samples], [2])[0][2], expected[2]) < 1e-5
    assert not any("decoder" in name for name, _ in encoder.named_parameters())
    assert encoder.fingerprint == WhisperEncoder(model, {}, "another name").fingerprint


def test_the_layers_of_the_decoder_are_not_even_made(tmp_path, monkeypatch):
    """They took 100 MB of whisper-base, and were thrown away."""
    whisper().save_pretrained(tmp_path)
    made, layer = [], transformers.models.whisper.modeling_whisper.WhisperDecoderLayer
    monkeypatch.setattr(layer, "__init__", lambda *_, **__: made.append(1))
    assert load_audio(str(tmp_path)).num_layers > 0 and made == []


def test_a_checkpoint_without_one_tensor_of_the_encoder_is_refused(tmp_path):
    model = whisper()
    tensors = {name: x for name, x in model.state_dict().items() if name != "encoder.layers.1.fc1.weight"}
    model.save_pretrained(tmp_path, state_dict=tensors)
    with pytest.raises(ConfigError, match=r"1 are missing, first 'encoder.layers.1.fc1.weight'"):
        load_audio(str(tmp_path))


# ---------------------------------------------------------------- one sound in several files


@pytest.fixture(scope="module")
def containers(tmp_path_factory):
    """One sound of 48 kHz, in 16 bits, in files of several kinds."""
    folder, rate = tmp_path_factory.mktemp("containers"), 48_000
    time = np.arange(round(3.7 * rate)) / rate
    sound = 0.3 * np.sin(2 * np.pi * (150 + 40 * time) * time) + 0.05 * np.random.default_rng(0).normal(size=len(time))
    samples = (32767 * sound).round().astype("i2")
    for name in ("sound.wav", "sound.flac"):
        write_audio(folder / name, (samples / 32768).astype("f4"), rate)
    with av.open(str(folder / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate, layout="mono")
        for start in range(0, len(samples), 1024):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], "s16", "mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return folder


@pytest.mark.parametrize("name", ["sound.flac", "sound.mkv"])
def test_one_sound_in_two_containers_has_the_same_features(containers, name):
    encoder = WhisperEncoder(whisper(), {}, "x")
    one, other = (decode_audio(containers / each).samples for each in ("sound.wav", name))
    layers = range(encoder.num_layers + 1)
    expected, found = (encoder.encode([each], layers)[0] for each in (one, other))
    assert max(apart(found[layer], expected[layer]) for layer in layers) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sound.flac", "sound.mkv"])
def test_one_sound_in_two_containers_has_the_same_features_of_the_real_whisper_base(containers, whisper_base, name):
    encoder = load_audio(str(whisper_base))
    one, other = (decode_audio(containers / each).samples for each in ("sound.wav", name))
    expected, found = (encoder.encode([each], range(7))[0] for each in (one, other))
    assert max(apart(found[layer], expected[layer]) for layer in range(7)) < 1e-4


@pytest.mark.slow
def test_the_real_whisper_base_gives_the_library_s_hidden_states(whisper_base):
    encoder, samples = load_audio(str(whisper_base)), clip(30)
    model = transformers.WhisperModel.from_pretrained(whisper_base).eval()
    expected, found = reference(model, samples), encoder.encode([samples], range(6))[0]
    assert max(apart(found[layer], expected[layer]) for layer in range(6)) < 1e-5


# ---------------------------------------------------------------- the layers that start from it


@pytest.fixture
def started():
    """Whisper's encoder, and a network whose last three layers took its tensors: one as it is, two deep ones."""
    encoder = WhisperEncoder(whisper(), {}, "x")
    switches = {"fusion_layers": 2, "trainable_layers": 3, "margin_audio_layer": 0, "dropout": 0.0}
    sizes = {"hidden_size": 32, "num_layers": encoder.num_layers, "text_size": 32, "video_size": 8, **encoder.sizes()}
    network = WavFusion(WavFusionConfig(classes=["happy", "sad"], **switches, **sizes)).eval()
    network.load_pretrained(encoder.transformer())
    return encoder, network


def stream(steps=(13, 5, 1)):
    mask = torch.arange(max(steps)) < torch.tensor(steps)[:, None]
    return torch.randn(len(steps), max(steps), 32, generator=torch.Generator().manual_seed(4)), mask


def test_layers_that_start_from_whisper_equal_its_own(started):
    """The keys of Whisper have no bias; one of 0 changes nothing, nor does any other: it is the same for all keys."""
    encoder, network = started
    hidden, mask = stream()
    allowed = mask[:, None, None, :]
    own: SelfAttentionLayer = network.layers[0]
    assert_close(own(hidden, mask)[mask], encoder.model.encoder.layers[0](hidden, allowed)[mask], atol=1e-5, rtol=1e-5)
    for number, deep in enumerate(network.deep_layers, start=1):
        assert isinstance(deep, DeepLayer)
        parent = encoder.model.encoder.layers[number]
        source = Source(parent.self_attn_layer_norm(hidden), mask)
        found = deep(hidden, mask, source, source)[0]
        assert_close(found[mask], parent(hidden, allowed)[mask], atol=1e-5, rtol=1e-5)


def test_the_final_norm_behind_the_layers_is_whisper_s(started):
    encoder, network = started
    hidden, _ = stream()
    assert torch.equal(network.final_norm(hidden), encoder.model.encoder.layer_norm(hidden))


def test_the_first_step_is_centred_on_the_first_sample(started):
    """wav2vec 2.0's first step is centred 12.5 ms later: its 400 samples begin with the first."""
    _, network = started
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert network._clock({"audio": mask}, mask)["audio"].tolist() == [pytest.approx([0.0, 0.02, 0.04])]


def test_scratch_gives_whisper_new_weights_and_no_decoder():
    encoder: AudioEncoder = WhisperEncoder(whisper(), {}, "x")
    before = encoder.model.encoder.layers[0].fc1.weight.clone()
    encoder.randomize()
    assert not torch.equal(before, encoder.model.encoder.layers[0].fc1.weight) and encoder.model.decoder is None
