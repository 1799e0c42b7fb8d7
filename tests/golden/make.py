"""Make the golden files anew: `python tests/golden/make.py`, with the reason in the commit.

Weights and inputs are stored beside the logits, so the numbers depend on no library's random initialisation.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from wavfusion.model import WavFusion, WavFusionConfig

HERE = Path(__file__).parent
SIZES = {
    "classes": ["happy", "sad", "neutral", "angry"],
    "hidden_size": 8,
    "num_heads": 2,
    "intermediate_size": 12,
    "num_layers": 3,
    "fusion_layers": 1,
    "trainable_layers": 2,
    "margin_audio_layer": 2,
    "text_size": 8,
    "video_size": 6,
    "video_width": 4,
    "margin": {"size": 4},
}
VARIANTS = {
    "paper": {},
    "recommended": {
        "fusion_layers": 2,
        "margin_audio_layer": 1,
        "time_positions": True,
        "bidirectional": True,
        "lvc_pool": "mean",
        "text_layers": "weighted",
        "num_text_layers": 2,
        "margin": {"size": 4, "reduction": "anchor"},
    },
    "wavlm": {"keep_self_attn": True, "pre_norm": True, "position_buckets": 8, "position_distance": 16, "lvc": False},
}
AUDIO_STEPS, TOKENS, FRAMES = [34, 9, 0, 20], [5, 0, 3, 2], [4, 6, 2, 0]


def draw_model(config: WavFusionConfig, random: torch.Generator) -> WavFusion:
    """A model in which every tensor, running moments too, is off its starting value."""
    model = WavFusion(config).eval()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=random)
            centre = 1.0 if tensor.dim() == 1 and ("norm" in name and "bias" not in name) else 0.0
            tensor.copy_((centre + 0.3 * noise).abs() + 0.1 if "running_var" in name else centre + 0.3 * noise)
    return model


def draw_inputs(config: WavFusionConfig, random: torch.Generator) -> dict[str, torch.Tensor]:
    """Four samples of unequal lengths; three of them lack a modality each."""
    inputs: dict[str, torch.Tensor] = {}
    widths = {"audio": config.hidden_size, "text": config.text_size, "video": config.video_size}
    for (name, width), steps in zip(widths.items(), (AUDIO_STEPS, TOKENS, FRAMES), strict=True):
        stored = (config.num_text_layers,) if name == "text" and config.num_text_layers > 1 else ()
        inputs[name] = torch.randn(len(steps), *stored, max(steps), width, generator=random)
        inputs[f"{name}_mask"] = torch.arange(max(steps)) < torch.tensor(steps)[:, None]
    return inputs | {"labels": torch.tensor([0, 1, 1, 3])}


def main() -> None:
    """Write one file a variant."""
    for seed, (name, switches) in enumerate(VARIANTS.items()):
        config = WavFusionConfig.from_json({**SIZES, **switches})
        random = torch.Generator().manual_seed(seed)
        model, inputs = draw_model(config, random), draw_inputs(config, random)
        with torch.no_grad():
            output = model(**inputs)
        tensors = {f"weights.{key}": tensor for key, tensor in model.state_dict().items()}
        tensors |= {f"inputs.{key}": tensor for key, tensor in inputs.items()}
        tensors |= {f"losses.{key}": tensor for key, tensor in output.losses.items()}
        tensors["logits"] = output.logits
        save_file(tensors, HERE / f"{name}.safetensors", {"config": json.dumps(config.to_json())})


if __name__ == "__main__":
    main()
