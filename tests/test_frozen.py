"""What computes the same faster, against the library's own modules."""

import copy
import shutil

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers.activations import GELUActivation

from tests.test_encoders import CONVOLUTIONS, FAMILIES, SMALL, largest_difference, random_model, reference_hidden, tone
from wavfusion.cli.app import main
from wavfusion.encoders import load_text, tiny
from wavfusion.encoders.video import EfficientNetEncoder
from wavfusion.encoders.wav2vec2 import Wav2Vec2Encoder
from wavfusion.fast.elementwise import FastGELU
from wavfusion.fast.encoders import (
    STEPS,
    FourierConv,
    WindowConvs,
    fold_norms,
    replace_convolutions,
    replace_positional_convolution,
)

pytest_plugins = ("corpus_fixture",)

LONG = {**CONVOLUTIONS, "num_conv_pos_embeddings": 128}


def long_family(name):
    config, kind, settings = FAMILIES[name]
    return random_model(kind, config(**{**SMALL, **LONG, **settings}))


@given(
    steps=st.integers(1, 900),
    taps=st.sampled_from([64, 65, 128, 200]),
    groups=st.sampled_from([1, 2]),
    bias=st.booleans(),
)
def test_a_convolution_by_fourier_transforms_equals_the_plain_one(steps, taps, groups, bias):
    torch.manual_seed(steps)
    conv = nn.Conv1d(8, 12 if groups == 1 else 4, taps, padding=taps // 2, groups=groups, bias=bias)
    x = torch.randn(2, 8, steps)
    with torch.inference_mode():
        assert largest_difference(FourierConv(conv)(x), conv(x)) < 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_a_quick_audio_encoder_gives_the_library_s_hidden_states(name):
    """In double precision: data2vec's of single precision are 9e-6 from these on AVX2, ours 7e-6, up to 4.8 in size."""
    model, clips = long_family(name), [tone(8.0), tone(0.4, 1)]
    quick = Wav2Vec2Encoder(model, {}, name).quick()
    found = quick.encode(clips, [1, 2])
    expected = [reference_hidden(copy.deepcopy(model).double(), clip) for clip in clips]
    positional = quick.model.encoder.pos_conv_embed
    assert hasattr(positional, "layers") or isinstance(positional.conv, FourierConv)  # data2vec has short kernels
    for one, other in zip(found, expected, strict=True):
        assert max(largest_difference(one[i], other[i]) for i in (1, 2)) < 1e-5


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("steps", [1, 2, STEPS - 1, STEPS, STEPS + 1, 3 * STEPS + 5])
@pytest.mark.parametrize("more", [0, 319])
def test_convolutions_of_windows_equal_the_library_s(name, steps, more):
    """At the edges of a block, with and without samples left over; the waveform is loud and off its zero."""
    model = long_family(name)
    quick = Wav2Vec2Encoder(model, {}, name).quick().model.feature_extractor
    waveform = 3 + 5 * torch.randn(1, 400 + 320 * (steps - 1) + more, generator=torch.Generator().manual_seed(steps))
    with torch.inference_mode():
        expected, found = model.feature_extractor(waveform), quick(waveform)
    assert isinstance(quick, WindowConvs) and expected.shape[-1] == steps
    assert largest_difference(found, expected) < 2e-5 * max(1.0, float(expected.abs().max()))


def test_silence_passes_the_norm_of_the_first_convolution():
    model = long_family("hubert")
    quick = Wav2Vec2Encoder(model, {}, "x").quick().model.feature_extractor
    with torch.inference_mode():
        assert largest_difference(quick(torch.zeros(1, 4000)), model.feature_extractor(torch.zeros(1, 4000))) < 1e-5


def test_convolutions_that_pad_or_dilate_stay_as_they_are():
    for change in ({"padding": 1}, {"dilation": 2}, {"groups": 2}):
        model = long_family("hubert")
        front = model.feature_extractor
        front.conv_layers[2].conv = nn.Conv1d(16, 16, 3, stride=2, **change)
        replace_convolutions(model)
        assert model.feature_extractor is front


@pytest.mark.parametrize("name", FAMILIES)
def test_convolutions_of_a_padded_batch_give_what_each_waveform_alone_does(name):
    """As on a GPU: Hugging Face's group norm takes the mean of a padded row over its padding too."""
    model, clips = long_family(name), [tone(8.0), 0.2 + tone(0.4, 1), tone(0.03, 2)]
    encoder = Wav2Vec2Encoder(model, {}, name)
    assert not encoder.quick().together  # on a CPU
    encoder.together = True
    found = encoder.encode(clips, [0, 2])
    expected = [reference_hidden(model, clip) for clip in clips]
    for one, other in zip(found, expected, strict=True):
        assert [len(one[i]) for i in (0, 2)] == [len(other[i]) for i in (0, 2)]
        assert max(largest_difference(one[i], other[i]) for i in (0, 2)) < 1e-5


def test_gelus_of_quick_encoders_do_not_go_through_onednn():
    """Its GELU took 1.2 MB for every length of an utterance, up to 1,024 of them."""
    for encoder in (Wav2Vec2Encoder(long_family("wavlm"), {}, "x"), load_text("tiny")):
        assert any(isinstance(each, GELUActivation) for each in encoder.modules())
        quick = encoder.quick()
        assert not any(isinstance(each, GELUActivation) for each in quick.modules())
        assert any(isinstance(each, FastGELU) for each in quick.modules())
    for shape in ((5, 3), (1, 5, 3), (2, 5, 3), (1, 1), (0, 3)):
        x = 4 * torch.randn(shape)
        assert torch.allclose(FastGELU()(x), nn.functional.gelu(x), atol=1e-6) and FastGELU()(x).is_contiguous()


def test_a_quick_text_encoder_gives_the_same_features():
    encoder = load_text("tiny")
    one, other = (each.encode(["Oh no, not again!", "Well."], "all") for each in (encoder, encoder.quick()))
    assert max(largest_difference(x, y) for x, y in zip(one, other, strict=True)) < 1e-5


def test_a_quick_encoder_leaves_the_one_that_it_was_made_of_as_it_was():
    encoder = Wav2Vec2Encoder(long_family("wavlm"), {}, "x")
    encoder.quick().quick()
    assert isinstance(encoder.model.encoder.pos_conv_embed.conv, nn.Conv1d)


def test_quick_twins_hold_no_second_copy_of_the_weights():
    encoder = Wav2Vec2Encoder(long_family("hubert"), {}, "x")
    first = encoder.quick()
    own = {x.data_ptr() for x in (*encoder.parameters(), *first.buffers())}
    assert {x.data_ptr() for x in (*first.quick().parameters(), *first.quick().buffers())} <= own


def test_short_or_striding_convolutions_stay_as_they_are():
    positions = nn.Module()
    for conv in (nn.Conv1d(4, 4, 16, padding=8), nn.Conv1d(4, 4, 128, stride=2), nn.Conv1d(4, 4, 128, dilation=2)):
        positions.conv = conv
        replace_positional_convolution(positions)
        assert positions.conv is conv


def test_a_quick_video_encoder_gives_the_library_s_features():
    encoder = EfficientNetEncoder(tiny.video_model(), tiny.video_preprocessor(), "tiny")
    frames = (torch.rand(7, *encoder.size, 3, generator=torch.Generator().manual_seed(0)) * 255).byte()
    with torch.inference_mode():
        expected = encoder.model(pixel_values=encoder.pixel_values(frames).contiguous()).pooler_output
    assert largest_difference(encoder.quick().encode(frames.numpy()), expected) < 1e-5


def test_every_batch_norm_of_an_efficientnet_is_folded():
    model = transformers.EfficientNetModel(tiny.video_config()).eval()
    fold_norms(model)
    assert not [each for each in model.modules() if isinstance(each, nn.BatchNorm2d)]


# ------------------------------------------------------------------ the switch


@pytest.fixture
def two_threads():
    """A pretended number was taken for the one to go back to, and later tests of the process computed otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_one_switch_turns_every_fast_path_off(trained, made, tmp_path, monkeypatch, two_threads):
    """`--plain`: nothing that is faster is made or used, by extraction, prediction or training."""
    used = []
    watched = {
        "wavfusion.fast.encoders.FourierConv.forward": "convolution",
        "wavfusion.fast.encoders.WindowConvs.forward": "windows",
        "wavfusion.encoders.video.fold_norms": "norms",
        "wavfusion.fast.elementwise.noise": "masks",
        "wavfusion.fast.attention.attend": "attention",
        "wavfusion.fast.margin.sorted_hinge_sums": "triplets",
        "wavfusion.features.encode.ChunkEncoder.encode_ahead": "ahead",
        "wavfusion.prediction.windows.threads": "threads",  # bound before the next is replaced
        "wavfusion.features.encode.threads": "threads",
        "wavfusion.media.decoder.TrackReader._is_needed": "pictures",
    }
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    for name, word in watched.items():
        monkeypatch.setattr(name, lambda *_, word=word, **__: used.append(word))
    monkeypatch.setattr("wavfusion.fast.margin.CUBE", 2)
    file, out = made.root / made.data.part("test")[0].video.path, tmp_path / "run"
    shared = ["--plain", "--device", "cpu"]
    assert main(["extract", str(made.manifest), "--store", str(tmp_path / "s"), "--preset", "tiny", *shared]) == 0
    assert main(["predict", "--model", str(trained), str(file), *shared]) == 0
    corpus = ["--manifest", str(made.manifest), "--store", str(made.store)]
    setting = ["--config", "paper", "--train.epochs", "1", "--train.batch_size", "8"]
    assert main(["train", *setting, *corpus, "--out", str(out), *shared]) == 0
    assert used == [] and "fast: false" in (out / "experiment.yaml").read_text()


@pytest.mark.parametrize("verb", ["extract", "predict", "train"])
def test_without_the_switch_the_fast_paths_are_used(trained, made, tmp_path, monkeypatch, two_threads, verb):
    """The test above would pass, did its names watch nothing."""
    watched = {
        "extract": [
            "wavfusion.features.encode.ChunkEncoder.encode_ahead",
            "wavfusion.features.encode.threads",
            "wavfusion.media.decoder.TrackReader._is_needed",
        ],
        "predict": [
            "wavfusion.fast.encoders.FourierConv.forward",
            "wavfusion.fast.encoders.WindowConvs.forward",
            "wavfusion.prediction.windows.threads",
            "wavfusion.media.decoder.TrackReader._is_needed",
        ],
        "train": [
            "wavfusion.fast.elementwise.noise",
            "wavfusion.fast.attention.attend",
            "wavfusion.fast.margin.sorted_hinge_sums",
        ],
    }

    class UsedError(Exception):
        pass

    def raises(*_, **__):
        raise UsedError

    monkeypatch.setattr("wavfusion.fast.margin.CUBE", 2)
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    file, corpus = (
        made.root / made.data.part("test")[0].video.path,
        ["--manifest", str(made.manifest), "--store", str(made.store)],
    )
    ask = {
        "extract": ["extract", str(made.manifest), "--store", str(tmp_path / "s"), "--preset", "tiny"],
        "predict": ["predict", "--model", str(trained), str(file)],
        "train": ["train", "--config", "paper", "--train.epochs", "1", *corpus, "--out", str(tmp_path / "run")],
    }
    for name in watched[verb]:
        with monkeypatch.context() as patched, pytest.raises(UsedError):
            patched.setattr(name, raises)
            main([*ask[verb], "--device", "cpu", "--debug"])
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
