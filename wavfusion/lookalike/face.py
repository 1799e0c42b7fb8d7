"""Faces of the look-alike corpus, painted in numpy; brows and mouth show the expression."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, UInt8

SIDE = 256
FRAME_RATE = 8  # frames/s; turns start on this grid, whose times are exact in binary
LEVELS = 6  # mouth openings painted for each clip
MICRO_FRAMES = 2  # frames of a micro-expression on a neutral face
SWAY = 5  # pixels that the head moves to either side

Colour: TypeAlias = tuple[float | int, ...]
Point: TypeAlias = tuple[float, float]
Canvas: TypeAlias = Float[np.ndarray, "..."]
Face: TypeAlias = UInt8[np.ndarray, "256 256 3"]

# Brow slant (inner ends up), brow lift, mouth curve (corners up).
EXPRESSIONS = {
    "pos": (0.0, 0.5, 1.0),
    "blame": (-1.0, -0.6, -0.4),
    "loss": (1.0, 0.2, -1.0),
    "plain": (0.0, 0.0, 0.0),
}


@dataclass(frozen=True)
class Identity:
    """The constant features of one person's face; lengths in half widths of the frame, colours in [0, 255]."""

    skin: Colour
    hair: Colour
    scene: Colour
    width: float
    height: float
    fringe: float
    eyes: float
    mouth: float
    spectacles: bool


def draw_identity(rng: np.random.Generator) -> Identity:
    """Draw a random person in front of a plain wall."""
    shade = rng.uniform(0.45, 1.0)
    dark = rng.uniform(20, 150)
    return Identity(
        skin=(245 * shade, 205 * shade * rng.uniform(0.85, 1), 175 * shade * rng.uniform(0.8, 1)),
        hair=(dark, dark * rng.uniform(0.5, 1), dark * rng.uniform(0.2, 0.9)),
        scene=tuple(rng.uniform(30, 220, 3).tolist()),
        width=float(rng.uniform(0.5, 0.62)),
        height=float(rng.uniform(0.7, 0.8)),
        fringe=float(rng.uniform(0.55, 0.75)),
        eyes=float(rng.uniform(0.36, 0.44)),
        mouth=float(rng.uniform(0.34, 0.44)),
        spectacles=bool(rng.random() < 0.25),
    )


def animate(
    identity: Identity, group: str, wide: bool, count: int, rng: np.random.Generator, micro: range | None = None
) -> Iterator[Face]:
    """Yield `count` frames at FRAME_RATE: the mouth moves around its opening, the head sways.

    The movement is independent of the audio: otherwise it would reveal whose face the camera shows. With `micro` the
    face is neutral but for MICRO_FRAMES consecutive frames of this range, which show the expression.
    """
    person = rng.normal(0, 0.08, 3)
    shown = _faces(identity, np.array(EXPRESSIONS[group]) + person, wide)
    rest = shown if micro is None else _faces(identity, np.array(EXPRESSIONS["plain"]) + person, wide)
    times = np.arange(count) / FRAME_RATE
    speed, phase = rng.uniform(2.0, 3.5), rng.uniform(0, 2 * np.pi)
    swing = 0.5 + 0.5 * np.sin(2 * np.pi * speed * times + phase + rng.normal(0, 0.4, count))
    sway = SWAY * np.sin(2 * np.pi * rng.uniform(0.2, 0.5, (2, 1)) * times + rng.uniform(0, 2 * np.pi, (2, 1)))
    first = 0 if micro is None else int(rng.integers(micro.start, max(micro.start + 1, micro.stop - MICRO_FRAMES + 1)))
    moment = range(first, first + MICRO_FRAMES)
    levels = (swing * (LEVELS - 1)).round().astype(int)
    for number, (level, dy, dx) in enumerate(zip(levels, *sway.round().astype(int), strict=True)):
        face = (shown if number in moment else rest)[level]
        yield face[SWAY - dy : SWAY - dy + SIDE, SWAY - dx : SWAY - dx + SIDE]


def _faces(identity: Identity, look: Canvas, wide: bool) -> list[UInt8[np.ndarray, "266 266 3"]]:
    """Paint one face at every mouth opening, with a margin to sway."""
    slant, lift, curve = look.tolist()
    bare = _paint_head(identity, slant, lift)
    low, high = (0.5, 1.0) if wide else (0.0, 0.3)
    still = [_with_mouth(bare, identity, curve, opening) for opening in np.linspace(low, high, LEVELS)]
    return [np.pad(face, ((SWAY, SWAY), (SWAY, SWAY), (0, 0)), mode="edge") for face in still]


def _paint_head(identity: Identity, slant: float, lift: float) -> Canvas:
    """Paint all but the mouth."""
    pixels = np.empty((SIDE, SIDE, 3), dtype=np.float32)
    pixels[:] = identity.scene
    width, height, hair = identity.width, identity.height, identity.hair
    _oval(pixels, 0.0, 1.1, 0.9, 0.35, tuple(0.6 * value for value in hair))
    _oval(pixels, 0.0, -0.07, width * 1.1, height * 1.05, hair)
    _oval(pixels, 0.0, 0.0, width, height, identity.skin)
    _oval(pixels, 0.0, 0.0, width, height, hair, below=-height * identity.fringe)
    shadow: Colour = tuple(0.75 * value for value in identity.skin)
    _oval(pixels, 0.0, 0.12 * height, 0.06, 0.12, shadow)
    eye_y = -0.17 * height
    brow_y = eye_y - 0.2 * height - 0.1 * height * lift
    for side in (-1.0, 1.0):
        eye_x = side * identity.eyes * width
        if identity.spectacles:
            _oval(pixels, eye_x, eye_y, 0.17, 0.14, hair)
            _oval(pixels, eye_x, eye_y, 0.15, 0.12, identity.skin)
        _oval(pixels, eye_x, eye_y, 0.1, 0.06, (250, 250, 250))
        _oval(pixels, eye_x, eye_y, 0.045, 0.055, (40, 30, 30))
        reach, rise = side * 0.2 * width, 0.09 * height * slant
        _stroke(pixels, (eye_x - reach, brow_y - rise), (eye_x + reach, brow_y + rise), 0.028, hair)
    return pixels


def _with_mouth(bare: Canvas, identity: Identity, curve: float, opening: float) -> Face:
    pixels = bare.copy()
    half, centre = identity.mouth * identity.width, 0.5 * identity.height

    def depth(x: Canvas, y: Canvas, lips: float) -> Canvas:
        bow = np.clip(1 - (x / (half + lips)) ** 2, 0, 1)
        middle = centre + 0.14 * identity.height * curve * (bow - 0.5)
        gap = (0.17 * identity.height * opening + 0.01 + lips) * np.sqrt(bow)
        return np.asarray(gap - np.abs(y - middle))

    box = (-half - 0.05, centre - 0.35, half + 0.05, centre + 0.35)
    _blend(pixels, box, lambda x, y: depth(x, y, 0.03), (175, 60, 65))
    _blend(pixels, box, lambda x, y: depth(x, y, 0.0), (60, 15, 20))
    return pixels.astype(np.uint8)


def _oval(pixels: Canvas, x: float, y: float, width: float, height: float, colour: Colour, below: float = 1.2) -> None:
    """Paint an ellipse around (x, y), only above `below`."""

    def depth(xs: Canvas, ys: Canvas) -> Canvas:
        radius = np.sqrt(((xs - x) / width) ** 2 + ((ys - y) / height) ** 2)
        return np.asarray(np.minimum((1 - radius) * min(width, height), below - ys))

    _blend(pixels, (x - width, y - height, x + width, min(y + height, below)), depth, colour)


def _stroke(pixels: Canvas, start: Point, end: Point, thickness: float, colour: Colour) -> None:
    """Paint a straight line with round ends, `thickness` to either side."""
    (x0, y0), (dx, dy) = start, (end[0] - start[0], end[1] - start[1])

    def depth(xs: Canvas, ys: Canvas) -> Canvas:
        along = np.clip(((xs - x0) * dx + (ys - y0) * dy) / (dx**2 + dy**2), 0, 1)
        return np.asarray(thickness - np.hypot(xs - x0 - along * dx, ys - y0 - along * dy))

    left, right = sorted((start[0], end[0]))
    top, bottom = sorted((start[1], end[1]))
    _blend(pixels, (left - thickness, top - thickness, right + thickness, bottom + thickness), depth, colour)


def _blend(
    pixels: Canvas, box: tuple[float, float, float, float], depth: Callable[[Canvas, Canvas], Canvas], colour: Colour
) -> None:
    """Paint where the depth is positive, with a soft edge; box = left, top, right, bottom from the middle."""
    edges = (np.array(box) + 1) * SIDE / 2 + (-2, -2, 3, 3)
    left, top, right, bottom = np.clip(edges, 0, SIDE).astype(int).tolist()
    y, x = np.mgrid[top:bottom, left:right].astype(np.float32) * (2 / SIDE) - 1
    cover = np.clip(depth(x, y) * (SIDE / 2) + 0.5, 0, 1)[..., None]
    view = pixels[top:bottom, left:right]
    view += (cover * (np.array(colour) - view)).astype(np.float32)
