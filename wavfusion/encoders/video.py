"""The video encoder (eq. 1): an EfficientNet, or another image model of the hub; one vector a frame."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # the short name asks for torchvision

from wavfusion.encoders import tiny
from wavfusion.encoders.checkpoint import (
    FrozenEncoder,
    load_model,
    load_preprocessor,
    loading,
    save_checkpoint,
    send,
)
from wavfusion.errors import ConfigError
from wavfusion.fast.encoders import fold_norms

FRAMES_AT_ONCE = {"cpu": 2, "cuda": 64}  # on a CPU what its caches hold
FAMILY = ("efficientnet",)
# Settings of the other image models that change how their tensors are run, beside those of `checkpoint.LAYOUT`.
LAYOUT = ("image_size", "patch_size", "num_heads", "window_size", "depths", "rope_theta", "use_mean_pooling")
# PIL's resampling codes, as preprocessor_config.json holds them.
_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


class VideoEncoder(FrozenEncoder):
    """An image model that gives one vector a frame.

    Always in fp32: bfloat16 here changes predictions ten times as much as in all other parts together.

    Attributes:
        size: height and width in pixels of a frame as the model takes it; of a square one where proportions stay.
        target: to what `media.decode_frames` resizes frames: a size, or a function.
        interpolation: of that resize, where `target` is a size.
    """

    size: tuple[int, int]
    target: Sequence[int] | Callable[[np.ndarray], np.ndarray]
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"

    def encode(self, frames: UInt8[np.ndarray, "Tv _ _ 3"]) -> Float[Tensor, "Tv E"]:
        """Encode RGB frames of any size, resized as the checkpoint's own image processor does."""
        return self.encode_resized(np.stack([self.resize(frame) for frame in frames]))

    @torch.inference_mode()
    def encode_resized(self, frames: UInt8[np.ndarray, "Tv H W 3"]) -> Float[Tensor, "Tv E"]:
        """Encode RGB frames that `media.decode_frames` has resized to `target`."""
        chunks = torch.split(torch.from_numpy(frames), FRAMES_AT_ONCE[self.device.type])
        with torch.autocast(self.device.type, enabled=False):
            return torch.cat([self.vectors(chunk) for chunk in chunks]).cpu()

    def resize(self, frame: UInt8[np.ndarray, "_ _ 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
        """Resize, and crop where the checkpoint says so, as its own image processor does."""
        raise NotImplementedError

    def vectors(self, frames: UInt8[Tensor, "Tv H W 3"]) -> Float[Tensor, "Tv E"]:
        """Return the vectors of some resized frames."""
        raise NotImplementedError


class EfficientNetEncoder(VideoEncoder):
    """An EfficientNet, and how its frames are resized (height and width in pixels) and normalised."""

    def __init__(self, model: Any, preprocessing: dict[str, Any], name: str) -> None:
        self.preprocessing = _frame_preprocessing(preprocessing, int(model.config.image_size))
        super().__init__(model, name, int(model.config.hidden_dim), self.preprocessing)
        self.size = self.target = (self.preprocessing["height"], self.preprocessing["width"])
        self.interpolation = self.preprocessing["interpolation"]

    def resize(self, frame: UInt8[np.ndarray, "_ _ 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
        """Resize as Hugging Face's processor does; `media.decode_frames` does it faster, and slightly differently."""
        resampling = Image.Resampling[self.interpolation.upper()]
        return np.asarray(Image.fromarray(frame).resize(self.size[::-1], resampling))

    def vectors(self, frames: UInt8[Tensor, "Tv H W 3"]) -> Float[Tensor, "Tv E"]:
        """Return the globally averaged vectors of some resized frames."""
        return self.model(pixel_values=self.pixel_values(send(frames, self.device))).pooler_output

    def pixel_values(self, frames: UInt8[Tensor, "Tv H W 3"]) -> Float[Tensor, "Tv 3 H W"]:
        """Scale and normalise as the checkpoint's own processor does."""
        steps = self.preprocessing
        mean, std = (torch.tensor(steps[name], device=frames.device, dtype=torch.float64) for name in ("mean", "std"))
        # Hugging Face's EfficientNet divides by the deviation twice where `include_top` is set.
        spread = std.square() if steps["include_top"] else std
        factor, shift = steps["scale"] / spread, -(steps["offset"] + mean) / spread
        # Decoded frames are channels-last in memory already.
        return frames.float().mul_(factor.float()).add_(shift.float()).permute(0, 3, 1, 2)

    def quick(self) -> "EfficientNetEncoder":
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


class ImageEncoder(VideoEncoder):
    """An image model of the hub (CLIP, SigLIP, DINOv2, ViT, ConvNeXt) behind its own image processor, the one of PIL.

    Frames are resized and cropped as they are decoded, from the pixels of the file; `vectors` does the rest.
    """

    def __init__(self, model: Any, processor: Any, name: str) -> None:
        self.processor = processor
        resized = self.resize(np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8))
        # Two pictures of one colour each: scale, shift and the order of the channels show in them.
        colours = np.array([[0, 0, 0], [255, 128, 64]], np.uint8)[:, None, None].repeat(len(resized), 1)
        normalised = self._normalised(colours.repeat(resized.shape[1], 2))["pixel_values"]
        preprocessing = {
            "resized": hashlib.sha256(resized.tobytes()).hexdigest(),
            "normalised": hashlib.sha256((1e4 * normalised).round().long().numpy().tobytes()).hexdigest(),
            "layout": {key: getattr(model.config, key, None) for key in LAYOUT},
        }
        super().__init__(model, name, pooled(model, self._normalised(resized[None])).shape[1], preprocessing)
        self.size = self.resize(np.zeros((256, 256, 3), np.uint8)).shape[:2]
        self.target = self.resize

    def resize(self, frame: UInt8[np.ndarray, "_ _ 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
        """Resize and crop as the checkpoint's own processor does."""
        steps = {"do_rescale": False, "do_normalize": False, "input_data_format": "channels_last"}
        values = self.processor([frame], **steps, return_tensors="np")
        pixels: np.ndarray = values["pixel_values"][0]
        if "spatial_shapes" not in values:
            return pixels.transpose(1, 2, 0)
        # SigLIP 2 of any proportions (NaFlex) takes patches, padded to one number.
        rows, columns = values["spatial_shapes"][0]
        side = self.processor.patch_size
        patches = pixels[: rows * columns].reshape(rows, columns, side, side, 3)
        return patches.transpose(0, 2, 1, 3, 4).reshape(rows * side, columns * side, 3)

    def vectors(self, frames: UInt8[Tensor, "Tv H W 3"]) -> Float[Tensor, "Tv E"]:
        """Return the pooled vectors of some resized frames."""
        values = self._normalised(frames.numpy())
        return pooled(self.model, {key: send(x, self.device) for key, x in values.items()})

    def _normalised(self, frames: UInt8[np.ndarray, "Tv H W 3"]) -> dict[str, Tensor]:
        """Do what the processor does behind the resize and the crop."""
        steps = {"do_resize": False, "do_center_crop": False, "input_data_format": "channels_last"}
        return dict(self.processor(list(frames), **steps, return_tensors="pt"))

    def save(self, folder: Path) -> None:
        """Write the encoder in the hub's file format, for `load_video`."""
        save_checkpoint(self.model, folder)
        self.processor.save_pretrained(folder)


@torch.inference_mode()
def pooled(model: Any, values: dict[str, Tensor]) -> Float[Tensor, "Tv E"]:
    """Run an image model; returns its pooled output or, without a pooler, its class token or the mean over places."""
    output = model(**values)
    if getattr(output, "pooler_output", None) is not None:
        return output.pooler_output.flatten(1)
    hidden = output.last_hidden_state
    if any("cls_token" in name or "class_embedding" in name for name, _ in model.named_parameters()):
        return hidden[:, 0]
    return hidden.mean(1) if hidden.ndim == 3 else hidden.flatten(2).mean(2)


def load_video(name: str) -> VideoEncoder:
    """Load a video encoder: `tiny`, a local folder or a hub id; of a model of images and text, the image half alone.

    Raises:
        ConfigError: it cannot be read, is no image model, lacks tensors, or has some of another shape.
    """
    if name == "tiny":
        return EfficientNetEncoder(tiny.video_model(), tiny.video_preprocessor(), name)
    model = load_model(name, None, part="vision_config")
    if model.config.model_type in FAMILY:
        return EfficientNetEncoder(model, load_preprocessor(name), name)
    if model.main_input_name != "pixel_values":
        raise ConfigError(
            f"encoder {name!r}: expected a model of images, as EfficientNet, CLIP, SigLIP, DINOv2, ViT and ConvNeXt "
            f"are, found one of type {model.config.model_type!r}, which takes {model.main_input_name}"
        )
    with loading(name):
        # With torchvision, which may be installed or not, pixels would differ by a grey level here and there.
        return ImageEncoder(model, AutoImageProcessor.from_pretrained(name, backend="pil"), name)


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
