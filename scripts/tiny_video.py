"""Train the `tiny` preset's EfficientNet on randomly drawn faces; writes wavfusion/tiny_assets/video.safetensors.

The network learns the pose of a face (slant and lift of the brows, curve and opening of the mouth), no emotion. Its
faces are line drawings of another pen and of other people than those of the look-alike corpus. It takes about six
minutes on two cores.
"""

import argparse
import logging
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from safetensors.torch import save_file
from torch import nn
from transformers import EfficientNetModel

from wavfusion.encoders import tiny

SIDE = 112
SCALE = 2  # drawn at twice the size, for smooth edges

Colour = tuple[int, int, int]
Random = np.random.Generator
Pen = ImageDraw.ImageDraw
Place = Callable[[float, float], tuple[float, float]]  # face coordinates to pixels
logger = logging.getLogger("tiny_video")


def colour(rng: Random, low: int = 0, high: int = 256) -> Colour:
    """A random colour between two brightnesses."""
    red, green, blue = rng.integers(low, high, 3)
    return int(red), int(green), int(blue)


def draw_face(rng: Random, pose: np.ndarray) -> np.ndarray:
    """One sketched face; pose = brow slant, brow lift, mouth curve in [-1, 1], mouth opening in [0, 1]."""
    side = SIDE * SCALE
    image = Image.new("RGB", (side, side), colour(rng))
    pen = ImageDraw.Draw(image)
    for _ in range(rng.integers(0, 5)):
        x, y, w, h = rng.uniform(-0.2, 1.0, 4) * side
        pen.rectangle((x, y, x + abs(w) + 1, y + abs(h) + 1), fill=colour(rng))
    x, y = side * (0.5 + rng.uniform(-0.1, 0.1, 2))
    height = side * rng.uniform(0.3, 0.47)
    width = height * rng.uniform(0.5, 0.95)
    tilt = rng.uniform(-0.1, 0.1)

    def at(u: float, v: float) -> tuple[float, float]:
        """Face coordinates (one unit = half the width or height) to pixels, turned by the head's tilt."""
        dx, dy = u * width, v * height
        return x + dx * math.cos(tilt) - dy * math.sin(tilt), y + dx * math.sin(tilt) + dy * math.cos(tilt)

    skin = colour(rng, 90)
    ink = colour(rng, 0, 80)
    line = int(side * rng.uniform(0.008, 0.022)) + 1
    draw_head(rng, pen, at, skin, ink, line)
    slant, lift, curve, opening = (float(value) for value in pose)
    eye_v, eye_u = rng.uniform(-0.25, -0.08), rng.uniform(0.32, 0.45)
    draw_eyes(rng, pen, at, eye_u, eye_v, ink, line)
    brow_v = eye_v - rng.uniform(0.15, 0.24) - 0.09 * lift
    brow_ink = colour(rng, 0, 110)
    brow_line = int(line * rng.uniform(1.0, 2.6))
    for sign in (-1, 1):
        inner, outer = (
            at(sign * (eye_u - 0.19), brow_v - 0.09 * slant),
            at(sign * (eye_u + 0.19), brow_v + 0.09 * slant),
        )
        pen.line((inner, outer), fill=brow_ink, width=brow_line)
    draw_mouth(rng, pen, at, curve, opening, line)
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 2.5)))
    pixels = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float32)
    pixels = pixels * rng.uniform(0.75, 1.15) + rng.normal(0, rng.uniform(0, 8), pixels.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def draw_head(rng: Random, pen: Pen, at: Place, skin: Colour, ink: Colour, line: int) -> None:
    """Outline, hair as a polygon, nose, ears."""
    angles = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    square = rng.uniform(0.55, 1.1)  # the exponent of a super-ellipse
    cosine, sine = np.cos(angles), np.sin(angles)
    us, vs = np.sign(cosine) * abs(cosine) ** square, np.sign(sine) * abs(sine) ** square
    if rng.random() < 0.7:
        hair = 1 + rng.uniform(0.04, 0.3, len(angles)) * (vs < rng.uniform(-0.6, 0.6))
        pen.polygon([at(u * h, v * h) for u, v, h in zip(us, vs, hair, strict=True)], fill=colour(rng))
    pen.polygon([at(u, v) for u, v in zip(us, vs, strict=True)], fill=skin, outline=ink, width=line)
    if rng.random() < 0.6:
        fringe = rng.uniform(-0.85, -0.6)
        pen.polygon([at(u, min(v, fringe)) for u, v in zip(us, vs, strict=True)], fill=colour(rng))
    nose = rng.uniform(0.08, 0.25)
    pen.line((at(0, -0.05), at(rng.uniform(-0.1, 0.1), nose), at(-0.05, nose)), fill=ink, width=line)


def draw_eyes(rng: Random, pen: Pen, at: Place, eye_u: float, eye_v: float, ink: Colour, line: int) -> None:
    """Two eyes of one of three kinds; sometimes spectacles or a blink."""
    kind = rng.integers(0, 4)
    radius_u, radius_v = rng.uniform(0.08, 0.15), rng.uniform(0.04, 0.1)
    for sign in (-1, 1):
        centre = sign * eye_u
        ring = [
            at(centre + radius_u * math.cos(a), eye_v + radius_v * math.sin(a)) for a in np.linspace(0, 2 * math.pi, 16)
        ]
        if kind == 0:
            pen.line((at(centre - radius_u, eye_v), at(centre + radius_u, eye_v)), fill=ink, width=line)
        else:
            pen.polygon(ring, fill=(255, 255, 255) if kind > 1 else ink, outline=ink, width=line)
        if kind > 1:
            px, py = at(centre + rng.uniform(-0.03, 0.03), eye_v)
            size = line * rng.uniform(1.0, 1.8)
            pen.ellipse((px - size, py - size, px + size, py + size), fill=ink)


def draw_mouth(rng: Random, pen: Pen, at: Place, curve: float, opening: float, line: int) -> None:
    """Two lips as arcs; the gap between them is the opening."""
    half, centre = rng.uniform(0.26, 0.45), rng.uniform(0.42, 0.58)
    us = np.linspace(-half, half, 15)
    bow = 1 - (us / half) ** 2
    middle = centre + 0.13 * curve * (bow - 0.5)
    gap = 0.17 * opening * np.sqrt(bow) + 0.01
    upper = [at(u, v) for u, v in zip(us, middle - gap, strict=True)]
    lower = [at(u, v) for u, v in zip(us, middle + gap, strict=True)]
    lips = (int(rng.integers(90, 230)), int(rng.integers(10, 110)), int(rng.integers(10, 120)))
    pen.polygon(upper + lower[::-1], fill=colour(rng, 0, 90))
    for arc in (upper, lower):
        pen.line(arc, fill=lips, width=line, joint="curve")


def draw_faces(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels [count, 3, SIDE, SIDE] as bytes, and poses [count, 4] scaled to [-1, 1]."""
    rng = np.random.default_rng(seed)
    poses = rng.uniform(-1, 1, (count, 4))
    poses[:, 3] = rng.random(count)
    faces = np.stack([draw_face(rng, pose) for pose in poses])
    poses[:, 3] = 2 * poses[:, 3] - 1
    return torch.from_numpy(faces).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(poses).float()


def fresh_model() -> EfficientNetModel:
    """The shipped configuration with He-initialised convolutions; the library's own draw gives zeros only."""
    model = EfficientNetModel(tiny.video_config())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def prepared(pixels: torch.Tensor) -> torch.Tensor:
    """Bytes to the network's input, by the preset's own preprocessing values."""
    values = tiny.video_preprocessor()
    return (pixels.float() * values["rescale_factor"] - values["image_mean"][0]) / values["image_std"][0]


def train(model: EfficientNetModel, pixels: torch.Tensor, poses: torch.Tensor, epochs: int, batch: int) -> nn.Linear:
    """Regress the poses; ends by measuring the batch norms' statistics over the whole set."""
    head = nn.Linear(tiny.video_config().hidden_dim, 4)
    steps = epochs * (len(pixels) // batch)
    optimiser = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=3e-3, total_steps=steps, pct_start=0.15)
    model.train()
    for epoch in range(epochs):
        losses = []
        for rows in torch.randperm(len(pixels))[: len(pixels) // batch * batch].split(batch):
            loss = nn.functional.mse_loss(head(model(prepared(pixels[rows])).pooler_output), poses[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        logger.info("epoch %d: mean squared error %.4f", epoch + 1, sum(losses) / len(losses))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        for rows in torch.arange(len(pixels))[:4096].split(128):
            model(prepared(pixels[rows]))
    model.eval()
    return head


def main() -> None:
    """Draw, train, say the error on fresh faces, and save in half precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=int, default=12_000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=tiny.ASSETS / "video.safetensors")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(0)
    model = fresh_model()
    pixels, poses = draw_faces(arguments.faces, seed=0)
    head = train(model, pixels, poses, arguments.epochs, batch=64)
    held, truth = draw_faces(500, seed=1)
    with torch.no_grad():
        error = (head(model(prepared(held)).pooler_output) - truth).square().mean(0)
    logger.info("held-out share of variance unexplained: %s", (error / truth.var(0)).round(decimals=3).tolist())
    tensors = {name: t.half() if t.is_floating_point() else t for name, t in model.state_dict().items()}
    save_file(tensors, arguments.out)


if __name__ == "__main__":
    main()
