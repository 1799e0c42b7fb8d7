"""Presets: three encoders and how they are run, shipped or from a YAML file (docs/howto/add_encoder.md)."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavfusion.errors import ConfigError, nearest
from wavfusion.files import read_yaml
from wavfusion.manifest import MODALITIES

MAX_FRAME_RATE = 100.0  # frames per second; more is no recording of people
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Preset:
    """Three encoders and how they are run.

    Attributes:
        audio, text, video: a hub id, a local folder or `tiny`.
        frame_rate: video frames per second.
        pretrained_rate: learning rate of the tensors that a checkpoint filled.
        new_rate: learning rate of everything else.
        precision: `fp32`; or `bf16` for matrix multiplications in bfloat16 in the audio and text encoders, faster on
            GPUs and newer CPUs (video features would suffer). Such features have keys of their own.
    """

    audio: str
    text: str
    video: str
    frame_rate: float = 5.0
    pretrained_rate: float = 3e-5
    new_rate: float = 1e-4
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision: found {self.precision!r}; {nearest(str(self.precision), PRECISIONS)}")
        if not 0 < self.frame_rate <= MAX_FRAME_RATE:
            raise ConfigError(f"frame_rate: expected above 0 to {MAX_FRAME_RATE} a second, found {self.frame_rate}")
        for name in ("pretrained_rate", "new_rate"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name}: expected 0 or more, found {getattr(self, name)}")


PRESETS = {
    "tiny": Preset("tiny", "tiny", "tiny", pretrained_rate=3e-3, new_rate=3e-3),
    "base": Preset("facebook/wav2vec2-base", "FacebookAI/roberta-base", "google/efficientnet-b0"),
}


def read_preset(name: str) -> Preset:
    """Return a shipped preset, or read one from a YAML file with the fields of `Preset`.

    Raises:
        ConfigError: no such preset or file, an unknown or missing field, a value of the wrong kind.
    """
    if name in PRESETS:
        return PRESETS[name]
    path = Path(name)
    if not path.is_file():
        raise ConfigError(f"preset {name!r}: expected a file or a shipped name; {nearest(name, PRESETS)}")
    values, known = read_yaml(path), Preset.__dataclass_fields__
    for key in values:
        if key not in known:
            raise ConfigError(f"{path}: {key!r} is no field of a preset; {nearest(str(key), known)}")
    try:
        return Preset(**{key: _typed(key, value) for key, value in values.items()})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: expected audio, text, video and settings beside them; {error}") from None


def _typed(key: str, value: Any) -> Any:
    if key == "precision":
        return str(value)  # checked by `Preset`
    if key not in MODALITIES:
        return float(str(value))  # YAML 1.1 reads 1e-4 as a string, and yes as a boolean
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key}: expected an encoder's name, found {value!r}")
    return value
