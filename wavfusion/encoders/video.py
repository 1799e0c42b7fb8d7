"""The video encoder (eq. 1): an EfficientNet, one globally averaged vector a frame."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from wavfusion.encoders import tiny
from wavfusion.encoders.checkpoint import FrozenEncoder, load_model, load_preprocessor, save_checkpoint, send
from wavfusion.errors import ConfigError
from wavfusion.fast.encoders import fold_norms

FRAMES_AT_ONCE = {"cpu": 2, "cuda": 64}  # on a CPU what its caches hold
FAMILY = ("efficientnet",)
# PIL's resampling codes, as preprocessor_config.json holds them.
_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


class VideoEncoder(FrozenEncoder):
    """An EfficientNet, and how its frames are resized (height and width in pixels) and normalised."""

    def __init__(self, model: Any, preprocessing: dict[str, Any], name: str) -> None:
        self.preprocessing = _frame_preprocessing(preprocessing, int(model.config.image_size))
        super().__init__(model, name, int(model.config.hidden_dim), self.preprocessing)
        self.size: tuple[int, int] = (self.preprocessing["height"], self.preprocessing["width"])
        self.interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = self.preprocessing["interpolation"]

    @torch.inference_mode()
    def encode(self, frames: UInt8[np.ndarray, "Tv H W 3"]) -> Float[Tensor, "Tv E"]:
        """Encode RGB frames that already have `size` pixels (`media.decode_frames` resizes with `interpolation`).

        Always in fp32: bfloat16 here changes predictions ten times as much as in all other parts together.
        """
        chunks = torch.split(send(torch.from_numpy(frames), self.device), FRAMES_AT_ONCE[self.device.type])
        with torch.autocast(self.device.type, enabled=False):
            return torch.cat([self.model(pixel_values=self.pixel_values(x)).pooler_output for x in chunks]).cpu()

    def pixel_values(self, frames: UInt8[Tensor, "Tv H W 3"]) -> Float[Tensor, "Tv 3 H W"]:
        """Scale and normalise as the checkpoint's own processor does."""
        steps = self.preprocessing
        mean, std = (torch.tensor(steps[name], device=frames.device, dtype=torch.float64) for name in ("mean", "std"))
        # Hugging Face's EfficientNet divides by the deviation twice where `include_top` is set.
        spread = std.square() if steps["include_top"] else std
        factor, shift = steps["scale"] / spread, -(steps["offset"] + mean) / spread
        # Decoded frames are channels-last in memory already.
        return frames.float().mul_(factor.float()).add_(shift.float()).permute(0, 3, 1, 2)

    def quick(self) -> "VideoEncoder":
        """A twin that shares most tensors and encodes the same faster."""
        twin = self.twin()
        fold_norms(twin.model)
        twin.model.to(memory_format=torch.channels_last)
        return twin

    def save(self, folder: Path) -> None:
        """Write the encoder in the hub's file format, for `load_video`."""
        steps = self.preprocessing
        codes = {name: code for code, name in _RESAMPLING.items()}
        values = {
            "size": {"height": steps["height"], "width": steps["width"]},
            "resample": codes[steps["interpolation"]],
            "rescale_factor": steps["scale"],
            "rescale_offset": steps["offset"] == 1.0,
            "image_mean": steps["mean"],
            "image_std": steps["std"],
            "include_top": steps["include_top"],
        }
        save_checkpoint(self.model, folder, {**tiny.video_preprocessor(), **values})


def load_video(name: str) -> VideoEncoder:
    """Load a video encoder: `tiny`, a local folder or a hub id.

    Raises:
        ConfigError: it cannot be read, is of another family, or lacks tensors.
    """
    if name == "tiny":
        return VideoEncoder(tiny.video_model(), tiny.video_preprocessor(), name)
    return VideoEncoder(load_model(name, FAMILY), load_preprocessor(name), name)


def _frame_preprocessing(values: dict[str, Any], image_size: int) -> dict[str, Any]:
    size = values.get("size", image_size)
    sides = size if isinstance(size, dict) else {"shortest_edge": size}
    if values.get("do_center_crop", False) or not values.get("do_normalize", True):
        raise ConfigError("video encoder: expected do_center_crop false and do_normalize true, found otherwise")
    height, width = (int(sides.get(side) or sides.get("shortest_edge") or image_size) for side in ("height", "width"))
    return {
        "height": height,
        "width": width,
        "interpolation": _RESAMPLING.get(int(values.get("resample", 3)), "bicubic"),
        "resizer": "swscale 1",
        "scale": float(values.get("rescale_factor", 1 / 255)) if values.get("do_rescale", True) else 1.0,
        "offset": 1.0 if values.get("rescale_offset", False) else 0.0,
        "mean": [float(x) for x in values.get("image_mean", [0.485, 0.456, 0.406])],
        "std": [float(x) for x in values.get("image_std", [0.47853944, 0.4732864, 0.47434163])],
        "include_top": bool(values.get("include_top", True)),
    }
