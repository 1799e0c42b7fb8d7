"""The three encoders of the `tiny` preset: small models of the real classes, offline and the same everywhere.

The audio and text weights are drawn from a seed and the parameter's name with integer arithmetic only, so they depend
on no library's initialisation, generator or rounding. Their configurations state every value that the features depend
on, since a default of the library may change. The video encoder is trained by ``scripts/tiny_video.py`` and
the tokenizer by ``scripts/tiny_text.py``; both ship in ``tiny_assets/``.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

ASSETS = Path(__file__).parents[1] / "tiny_assets"
SEED = 4
LINEAR_SD = 0.02  # Hugging Face's own scale: 1/sqrt(fan-in) would let attention average the frames away
# Twice the gain of a rectifier: loud enough for GELU to bend, so that means over time tell pitch and rate.
CONVOLUTION_GAIN = 2.0 * math.sqrt(2.0)
# 1/sqrt(fan-in): 128 taps, 4 channels a group. With half of it, Hugging Face's scale, features tell the rate of speech
# less well.
POSITION_SD = 1.0 / math.sqrt(128 * 4)


def audio_model(seed: int = SEED) -> "transformers.Wav2Vec2Model":
    """A wav2vec 2.0 of twelve layers of width 64 with random weights, in eval mode; 50 steps per second."""
    config = transformers.Wav2Vec2Config(
        vocab_size=32,
        hidden_size=64,
        num_hidden_layers=12,
        num_attention_heads=4,
        intermediate_size=256,
        hidden_act="gelu",
        layer_norm_eps=1e-5,
        feat_extract_norm="group",
        feat_extract_activation="gelu",
        conv_dim=[64] * 7,
        conv_stride=[5, 2, 2, 2, 2, 2, 2],
        conv_kernel=[10, 3, 3, 3, 3, 2, 2],
        conv_bias=False,
        num_feat_extract_layers=7,
        num_conv_pos_embeddings=128,
        num_conv_pos_embedding_groups=16,
        do_stable_layer_norm=False,
        hidden_dropout=0.1,
        attention_dropout=0.1,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        feat_quantizer_dropout=0.0,
        final_dropout=0.0,
        layerdrop=0.0,
        apply_spec_augment=False,
        mask_time_prob=0.0,
        mask_feature_prob=0.0,
        add_adapter=False,
        initializer_range=LINEAR_SD,
    )
    return _drawn(transformers.Wav2Vec2Model(config), seed)


def text_model(seed: int = SEED) -> "transformers.RobertaModel":
    """A RoBERTa of twelve layers of width 64 with random weights, for `tokenizer`, in eval mode."""
    config = transformers.RobertaConfig(
        vocab_size=len(_vocabulary()),
        hidden_size=64,
        num_hidden_layers=12,
        num_attention_heads=4,
        intermediate_size=256,
        hidden_act="gelu",
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        initializer_range=LINEAR_SD,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    return _drawn(transformers.RobertaModel(config), seed)


def tokenizer() -> "transformers.RobertaTokenizer":
    """The byte-level BPE of 600 merges that ships with the package."""
    lines = (ASSETS / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    merges = [tuple(line.split(" ")) for line in lines]
    return transformers.RobertaTokenizer(vocab=_vocabulary(), merges=merges, model_max_length=512)


def video_config() -> "transformers.EfficientNetConfig":
    """An EfficientNet of a quarter of B0's width and a third of its depth: 320 values a frame of 112 x 112 pixels."""
    return transformers.EfficientNetConfig(
        num_channels=3,
        image_size=112,
        width_coefficient=0.25,
        depth_coefficient=0.35,
        depth_divisor=8,
        kernel_sizes=[3, 3, 5, 3, 5, 5, 3],
        in_channels=[32, 16, 24, 40, 80, 112, 192],
        out_channels=[16, 24, 40, 80, 112, 192, 320],
        depthwise_padding=[],
        strides=[1, 2, 2, 2, 1, 2, 1],
        num_block_repeats=[1, 2, 2, 3, 3, 4, 1],
        expand_ratios=[1, 6, 6, 6, 6, 6, 6],
        squeeze_expansion_ratio=0.25,
        hidden_act="swish",
        hidden_dim=320,
        pooling_type="mean",
        batch_norm_eps=1e-3,
        batch_norm_momentum=0.99,
        dropout_rate=0.0,
        drop_connect_rate=0.0,
    )


def video_model() -> "transformers.EfficientNetModel":
    """The small EfficientNet that ``scripts/tiny_video.py`` trained on drawn faces, in eval mode."""
    model = transformers.EfficientNetModel(video_config())
    weights = load_file(ASSETS / "video.safetensors")
    # Half precision on disk halves the package; the strict load checks that no tensor is missing.
    model.load_state_dict({name: x.float() if x.is_floating_point() else x for name, x in weights.items()}, strict=True)
    return model.eval()


def audio_preprocessor() -> dict[str, Any]:
    """The values of wav2vec2-base's preprocessor_config.json."""
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "do_normalize": True,
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
        "sampling_rate": 16_000,
    }


def video_preprocessor() -> dict[str, Any]:
    """The values of a preprocessor_config.json with which the video encoder was trained."""
    return {
        "image_processor_type": "EfficientNetImageProcessor",
        "do_resize": True,
        "size": {"height": 112, "width": 112},
        "resample": 3,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "rescale_offset": False,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25],
        "include_top": False,
    }


def _vocabulary() -> dict[str, int]:
    vocabulary: dict[str, int] = json.loads((ASSETS / "vocab.json").read_text(encoding="utf-8"))
    return vocabulary


def _uniform(name: str, shape: tuple[int, ...], sd: float, seed: int) -> Float[Tensor, "..."]:
    """Zero-mean uniform values of one standard deviation: exact multiples of 2**-24, so equal on every machine."""
    key = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:16], "little")
    raw = np.random.Philox(key=key).random_raw(math.prod(shape))
    unit = (raw >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24) - np.float32(0.5)
    return torch.from_numpy((unit * np.float32(sd * math.sqrt(12.0))).reshape(shape))


def _drawn(model: Any, seed: int) -> Any:
    """Overwrite every parameter by its own draw; norms become the identity and biases zero."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_draw(name, tuple(parameter.shape), seed))
        for module in model.modules():
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0.0
    return model.eval()


def _draw(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    if name.endswith("bias"):
        return torch.zeros(shape)
    if name.endswith("weight.original0"):
        # The magnitude of weight norm that makes the positional convolution's weight equal to its direction tensor.
        return torch.full(shape, POSITION_SD * math.sqrt(64 * 4))
    if name.endswith("weight.original1"):
        return _uniform(name, shape, POSITION_SD, seed)
    if len(shape) == 3:
        return _uniform(name, shape, CONVOLUTION_GAIN / math.sqrt(shape[1] * shape[2]), seed)
    if len(shape) == 1:
        return torch.ones(shape)
    return _uniform(name, shape, LINEAR_SD, seed)
