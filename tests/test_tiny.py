import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from wavfusion.encoders import tiny


def digest(model: torch.nn.Module, name: str) -> str:
    return hashlib.sha256(model.state_dict()[name].numpy().tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("make", [tiny.audio_model, tiny.text_model])
def test_weights_do_not_depend_on_the_library_s_generator(make):
    torch.manual_seed(1)
    first = make().state_dict()
    torch.manual_seed(2)
    assert all(torch.equal(first[name], tensor) for name, tensor in make().state_dict().items())


def test_another_seed_draws_other_weights():
    name = "encoder.layers.0.attention.q_proj.weight"
    assert digest(tiny.audio_model(1), name) != digest(tiny.audio_model(2), name)


def test_drawn_weights_are_the_same_bytes_on_every_machine():
    drawn = digest(tiny.audio_model(), "encoder.layers.0.attention.q_proj.weight")
    assert drawn == "8fd104039ef8fd3f"


def test_drawn_values_have_the_asked_spread():
    assert tiny._uniform("any", (400, 400), 0.02, 0).std().item() == pytest.approx(0.02, rel=0.01)


def test_weight_norm_leaves_the_positional_convolution_as_drawn():
    convolution = tiny.audio_model().encoder.pos_conv_embed.conv
    drawn = convolution.parametrizations.weight.original1
    assert torch.allclose(convolution.weight, drawn, rtol=0.15)


def test_a_second_of_sound_has_49_steps_of_width_64():
    with torch.no_grad():
        assert tiny.audio_model()(torch.randn(1, 16_000)).last_hidden_state.shape == (1, 49, 64)


def test_layer_nine_keeps_the_frames_apart():
    """With transformer weights of 1/sqrt(fan-in) the spread over time fell to 0.12 and cues were lost."""
    time = torch.arange(32_000) / 16_000
    sound = torch.sin(2 * torch.pi * (100 + 60 * time) * time) * (torch.sin(9 * time) > 0)
    with torch.no_grad():
        layers = tiny.audio_model()(sound[None], output_hidden_states=True).hidden_states
    assert layers[9][0].std(dim=0).mean() > 0.6


def test_the_tokenizer_gives_any_text_back():
    text = "Well, it’s hopeless on the phone — naïve 你好 🙂"
    assert tiny.tokenizer().decode(tiny.tokenizer()(text).input_ids, skip_special_tokens=True) == text


def test_the_tokenizer_is_the_same_after_saving_and_loading(tmp_path: Path):
    tiny.tokenizer().save_pretrained(tmp_path)
    text = "You know, that was heartbreaking in the kitchen."
    assert AutoTokenizer.from_pretrained(tmp_path)(text).input_ids == tiny.tokenizer()(text).input_ids


def test_the_text_model_knows_every_token():
    assert tiny.text_model().config.vocab_size == len(tiny.tokenizer())


def test_different_pictures_have_different_vectors():
    """A random EfficientNet gives exact zeros."""
    pictures = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 3, 112, 112)).astype(np.float32))
    with torch.no_grad():
        vectors = tiny.video_model()(pictures).pooler_output
    assert vectors.shape == (4, 320) and vectors.std(dim=0).mean() > 1e-2


def test_shipped_files_stay_below_a_megabyte():
    assert sum(path.stat().st_size for path in tiny.ASSETS.iterdir()) < 1_000_000
