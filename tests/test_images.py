"""Image models of the hub as video encoders, by random checkpoints in its file format."""

import json

import numpy as np
import pytest
import torch
import transformers
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from tests.test_encoders import SMALL, largest_difference, random_model
from wavfusion.cli.app import main
from wavfusion.encoders import load_audio, load_text, load_video
from wavfusion.encoders.video import EfficientNetEncoder
from wavfusion.errors import ConfigError
from wavfusion.media import VideoReader, decode_frames, write_video

pytest_plugins = ("corpus_fixture",)

IMAGES = {**SMALL, "image_size": 64, "patch_size": 16}
STEPS = {
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "resample": 3,
    "image_mean": [0.48, 0.46, 0.41],
    "image_std": [0.27, 0.26, 0.28],
}
CROP = {"do_center_crop": True, "crop_size": {"height": 64, "width": 64}}
FIXED = {"size": {"height": 64, "width": 64}}
OLD = {"do_center_crop": True, "size": 64, "crop_size": 64, "feature_extractor_type": "CLIPFeatureExtractor"}
NAFLEX = {**STEPS, "patch_size": 16, "max_num_patches": 16, "image_processor_type": "Siglip2ImageProcessor"}
CLIP = {**STEPS, **CROP, "size": {"shortest_edge": 64}, "image_processor_type": "CLIPImageProcessor"}


def clip():
    vision = {**IMAGES, "hidden_act": "quick_gelu"}
    return random_model(transformers.CLIPModel, transformers.CLIPConfig(text_config=SMALL, vision_config=vision))


def siglip():
    return random_model(
        transformers.SiglipModel, transformers.SiglipConfig(text_config=SMALL, vision_config={**IMAGES})
    )


def siglip2():
    vision = {**SMALL, "patch_size": 16, "num_patches": 16}
    return random_model(transformers.Siglip2Model, transformers.Siglip2Config(text_config=SMALL, vision_config=vision))


def vit(kind=transformers.ViTModel, **settings):
    return random_model(kind, transformers.ViTConfig(**IMAGES, **settings))


def convnext(kind=transformers.ConvNextModel):
    sizes = {"hidden_sizes": [8, 8, 16, 32], "depths": [1, 1, 2, 1], "layer_scale_init_value": 0.1}
    return random_model(kind, transformers.ConvNextConfig(**sizes))


def dinov2():
    return random_model(transformers.Dinov2Model, transformers.Dinov2Config(**{**IMAGES, "patch_size": 8}))


def swin():
    sizes = {"image_size": 64, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
    return random_model(transformers.SwinModel, transformers.SwinConfig(**sizes))


def resnet():
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    return random_model(transformers.ResNetModel, transformers.ResNetConfig(**sizes))


# A model as the hub has it, its preprocessor_config.json, and the model that reads the same pixels in the library.
FAMILIES = {
    "CLIP, text and images": (clip, CLIP, lambda model: model.vision_model),
    "CLIP, with the old names of its processor": (
        clip,
        {**STEPS, **OLD},
        lambda model: model.vision_model,
    ),
    "SigLIP, text and images": (
        siglip,
        {**STEPS, **FIXED, "image_processor_type": "SiglipImageProcessor"},
        lambda model: model.vision_model,
    ),
    "SigLIP 2 of any proportions": (
        siglip2,
        NAFLEX,
        lambda model: model.vision_model,
    ),
    "DINOv2": (
        dinov2,
        {**STEPS, **CROP, "size": {"shortest_edge": 72}, "image_processor_type": "BitImageProcessor"},
        lambda model: model,
    ),
    "ViT": (vit, {**STEPS, **FIXED, "image_processor_type": "ViTImageProcessor"}, lambda model: model),
    "ConvNeXt": (
        convnext,
        {**STEPS, "size": {"shortest_edge": 64}, "crop_pct": 0.875, "image_processor_type": "ConvNextImageProcessor"},
        lambda model: model,
    ),
    "ConvNeXt, a classifier": (
        lambda: convnext(transformers.ConvNextForImageClassification),
        {**STEPS, "size": {"shortest_edge": 384}, "image_processor_type": "ConvNextImageProcessor"},
        lambda model: model.convnext,
    ),
    "Swin": (swin, {**STEPS, **FIXED, "image_processor_type": "ViTImageProcessor"}, lambda model: model),
    "ResNet": (
        resnet,
        {**STEPS, "size": {"shortest_edge": 64}, "crop_pct": 0.875, "image_processor_type": "ConvNextImageProcessor"},
        lambda model: model,
    ),
}


def save(folder, model, processor):
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


@pytest.fixture
def saved(tmp_path):
    """Write a family's checkpoint; returns its folder and the library's own model."""

    def write(name):
        make, processor, part = FAMILIES[name]
        model = make()
        save(tmp_path, model, processor)
        return tmp_path, part(model)

    return write


def pictures(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def library(folder, model, frames):
    """What Hugging Face's image processor and model give."""
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    with torch.no_grad():
        return model(**processor([*frames], return_tensors="pt", input_data_format="channels_last"))


@pytest.mark.parametrize("shape", [(90, 120), (120, 90), (64, 64), (30, 50)])
@pytest.mark.parametrize("name", FAMILIES)
def test_frames_of_any_size_give_the_library_s_pooled_output(saved, name, shape):
    folder, model = saved(name)
    encoder, frames = load_video(str(folder)), pictures(5, *shape)
    expected = library(folder, model, frames).pooler_output.flatten(1)
    assert expected.std(0).max() > 1e-3 and encoder.width == expected.shape[1]
    assert largest_difference(encoder.encode(frames), expected) < 1e-5
    assert largest_difference(encoder.encode(frames[4:]), expected[4:]) < 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_a_quick_image_encoder_gives_the_same_vectors(saved, name):
    encoder, frames = load_video(str(saved(name)[0])), pictures(3, 70, 90)
    assert largest_difference(encoder.quick().encode(frames), encoder.encode(frames)) < 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_image_encoder_gives_the_same_and_has_the_same_fingerprint(saved, tmp_path, name):
    encoder, frames = load_video(str(saved(name)[0])), pictures(2, 70, 90)
    encoder.save(tmp_path / "copy")
    again = load_video(str(tmp_path / "copy"))
    assert again.fingerprint == encoder.fingerprint and torch.equal(again.encode(frames), encoder.encode(frames))


@pytest.mark.parametrize("name", ["CLIP, text and images", "SigLIP, text and images", "SigLIP 2 of any proportions"])
def test_of_a_model_of_text_and_images_the_image_half_alone_is_loaded(saved, name):
    folder, vision = saved(name)
    encoder = load_video(str(folder))
    assert {key for key, _ in encoder.model.named_parameters()} == {key for key, _ in vision.named_parameters()}


def test_the_image_half_has_the_fingerprint_of_the_whole_from_which_it_was_taken(saved, tmp_path):
    folder, vision = saved("CLIP, text and images")
    save(tmp_path / "vision", vision, CLIP)
    assert load_video(str(tmp_path / "vision")).fingerprint == load_video(str(folder)).fingerprint


def test_without_a_trained_pooler_a_frame_s_vector_is_its_class_token(tmp_path):
    """A classifier's checkpoint has no pooler: the library's own model draws one at random, other at each loading."""
    whole = vit(transformers.ViTForImageClassification)
    save(tmp_path, whole, FAMILIES["ViT"][1])
    encoder, frames = load_video(str(tmp_path)), pictures(3, 70, 90)
    expected = library(tmp_path, whole.vit, frames).last_hidden_state[:, 0]
    assert largest_difference(encoder.encode(frames), expected) < 1e-5
    assert load_video(str(tmp_path)).fingerprint == encoder.fingerprint


def test_without_pooler_and_class_token_it_is_the_mean_over_the_patches(tmp_path):
    vision = {**IMAGES, "vision_use_head": False}
    config = transformers.SiglipConfig(text_config=SMALL, vision_config=vision)
    save(tmp_path, random_model(transformers.SiglipModel, config), FAMILIES["SigLIP, text and images"][1])
    model = transformers.SiglipVisionModel.from_pretrained(tmp_path)
    encoder, frames = load_video(str(tmp_path)), pictures(3, 70, 90)
    expected = library(tmp_path, model, frames).last_hidden_state.mean(1)
    assert largest_difference(encoder.encode(frames), expected) < 1e-5


def test_efficientnet_too_takes_frames_of_any_size(tmp_path):
    load_video("tiny").save(tmp_path)
    encoder, frames = load_video(str(tmp_path)), pictures(3, 90, 120)
    expected = library(tmp_path, encoder.model, frames).pooler_output
    assert isinstance(encoder, EfficientNetEncoder)
    assert largest_difference(encoder.encode(frames), expected) < 1e-5


# ---------------------------------------------------------------------- fingerprints


@pytest.mark.parametrize(
    "change",
    [
        {"image_mean": [0.48, 0.46, 0.42]},
        {"image_mean": [0.41, 0.46, 0.48]},
        {"image_std": [0.27, 0.26, 0.29]},
        {"rescale_factor": 1 / 127.5},
        {"do_normalize": False},
        {"resample": 2},
        {"size": {"shortest_edge": 72}},
        {"size": {"height": 64, "width": 64}},
    ],
)
def test_one_changed_step_of_the_processor_changes_the_fingerprint(saved, change):
    folder, _ = saved("CLIP, text and images")
    before = load_video(str(folder)).fingerprint
    (folder / "preprocessor_config.json").write_text(json.dumps({**CLIP, **change}))
    assert load_video(str(folder)).fingerprint != before


def test_the_pooler_of_an_image_model_is_part_of_its_fingerprint(tmp_path):
    """Features depend on it, as they do not on the pooler of a text encoder."""
    model = vit()
    save(tmp_path, model, FAMILIES["ViT"][1])
    before = load_video(str(tmp_path)).fingerprint
    with torch.no_grad():
        model.pooler.dense.weight[0, 0] += 0.1
    save(tmp_path, model, FAMILIES["ViT"][1])
    assert load_video(str(tmp_path)).fingerprint != before


# ---------------------------------------------------------------------- from a file


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write_video(path, np.repeat(pictures(10, 9, 12), 10, 1).repeat(10, 2), 10.0)
    return path


@pytest.mark.parametrize("name", FAMILIES)
def test_decoded_frames_are_resized_as_the_library_resizes_those_of_the_file(saved, film, name):
    folder, model = saved(name)
    encoder = load_video(str(folder))
    whole = decode_frames(film, 5, (90, 120)).pixels  # the frames as they are in the file
    expected = library(folder, model, whole).pooler_output.flatten(1)
    alone = decode_frames(film, 5, encoder.target).pixels
    with VideoReader(film, 5, encoder.target) as reader:
        assert np.array_equal(reader.frames(0, 1).pixels, alone)
    assert len(alone) == 5 and largest_difference(encoder.encode_resized(alone), expected) < 1e-5


def test_a_crop_and_the_squares_around_faces_are_cut_out_before_the_resize(saved, film):
    folder, model = saved("CLIP, text and images")
    encoder, crop = load_video(str(folder)), (20, 10, 100, 90)
    regions = [(0.25, 0.0, 0.75, 0.5), (0.0, 0.5, 0.5, 1.0)]
    whole = decode_frames(film, 5, (90, 120)).pixels[:, 10:90, 20:100]
    faces = [whole[0, :40, 20:60], *whole[1:, 40:, :40]]
    found = decode_frames(film, 5, encoder.target, crop=crop, regions=regions).pixels
    assert largest_difference(encoder.encode_resized(found), library(folder, model, faces).pooler_output) < 1e-5


# ---------------------------------------------------------------------- refused


def test_a_text_encoder_is_refused_as_video_encoder(tmp_path):
    load_text("tiny").save(tmp_path)
    with pytest.raises(ConfigError, match="expected a model of images, as .*, found one of type 'roberta'"):
        load_video(str(tmp_path))


def test_an_audio_encoder_is_refused_as_video_encoder(tmp_path):
    load_audio("tiny").save(tmp_path)
    with pytest.raises(ConfigError, match="expected a model of images, .* which takes input_values"):
        load_video(str(tmp_path))


def test_an_image_model_is_refused_as_text_and_audio_encoder(saved):
    folder, _ = saved("CLIP, text and images")
    with pytest.raises(ConfigError, match=r"^[^\n]*expected a bidirectional text encoder[^\n]*'clip'[^\n]*$"):
        load_text(str(folder))
    with pytest.raises(ConfigError, match=r"^[^\n]*expected one of wav2vec2, [^\n]*, found 'clip'; [^\n]*$"):
        load_audio(str(folder))


def test_an_image_model_without_its_processor_is_refused(tmp_path):
    vit().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"^[^\n]*image processor[^\n]*$"):
        load_video(str(tmp_path))


def test_a_processor_that_leaves_other_sizes_than_the_model_takes_is_refused(tmp_path):
    save(tmp_path, vit(), {**STEPS, "size": {"height": 80, "width": 80}, "image_processor_type": "ViTImageProcessor"})
    with pytest.raises(ConfigError, match=r"^[^\n]*80[^\n]*64[^\n]*$"):
        load_video(str(tmp_path))


@pytest.mark.parametrize("name", ["CLIP, text and images", "ConvNeXt", "SigLIP 2 of any proportions"])
def test_an_image_model_that_lacks_a_tensor_is_refused(tmp_path, name):
    make, processor, part = FAMILIES[name]
    model = make()
    lost = next(key for key, _ in reversed([*part(model).named_parameters()]) if key.endswith("weight"))
    tensors = {key: x for key, x in model.state_dict().items() if key not in (lost, f"vision_model.{lost}")}
    model.save_pretrained(tmp_path, state_dict=tensors)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    with pytest.raises(ConfigError, match=rf"^[^\n]*1 are missing, first '{lost}'$"):
        load_video(str(tmp_path))


def test_a_tensor_of_another_shape_is_named_with_both_shapes(tmp_path):
    make, processor, _ = FAMILIES["CLIP, text and images"]
    model = make()
    tensors = {**model.state_dict(), "vision_model.encoder.layers.1.mlp.fc1.bias": torch.zeros(50)}
    model.save_pretrained(tmp_path, state_dict=tensors)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    found = r"1 have others, first 'encoder.layers.1.mlp.fc1.bias': expected \(48,\), found \(50,\)$"
    with pytest.raises(ConfigError, match=found):
        load_video(str(tmp_path))


# ---------------------------------------------------------------------- from a corpus to a label


@pytest.mark.slow
def test_a_preset_with_clip_goes_from_extraction_to_a_label(made, tmp_path, saved, capsys):
    folder, _ = saved("CLIP, text and images")
    (tmp_path / "clip.yaml").write_text(f"{{audio: tiny, text: tiny, video: {folder}}}")
    preset, store, out = str(tmp_path / "clip.yaml"), str(tmp_path / "store"), str(tmp_path / "run")
    assert main(["extract", str(made.manifest), "--store", store, "--preset", preset]) == 0
    corpus = ["--manifest", str(made.manifest), "--store", store]
    assert main(["train", "--config", "paper", *corpus, "--train.epochs", "1", "--out", out]) == 0
    file = made.root / made.data.part("test")[0].video.path
    capsys.readouterr()
    assert main(["predict", "--model", out, str(file), "--transcript", "oh", "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["modalities"] == ["audio", "text", "video"] and row["contribution"]["video"] != 0
