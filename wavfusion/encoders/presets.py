"""Presets: three encoders and how they are run, shipped or from a YAML file (docs/howto/add_encoder.md)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from wavfusion.errors import ConfigError, nearest
from wavfusion.files import Constraint, NonEmpty, read_yaml, validated

Precision = Literal["fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
LearningRate = Annotated[float, Constraint("a learning rate, 0 or more", lambda value: value >= 0)]


@dataclass(frozen=True)
class Preset:
    """Three encoders (hub ids, local folders or `tiny`) and how they are run."""

    audio: NonEmpty
    text: NonEmpty
    video: NonEmpty
    frame_rate: Annotated[float, Constraint("frames per second, above 0 to 100", lambda value: 0 < value <= 100)] = 5.0
    pretrained_rate: LearningRate = 3e-5  # of the tensors that a checkpoint filled
    new_rate: LearningRate = 1e-4  # of everything else
    # `bf16`: matrix multiplications in bfloat16 in the audio and text encoders, faster on GPUs and newer CPUs (video
    # features would suffer). Such features have keys of their own.
    precision: Precision = "fp32"


PRESETS = {
    "tiny": Preset("tiny", "tiny", "tiny", pretrained_rate=3e-3, new_rate=3e-3),
    "base": Preset("facebook/wav2vec2-base", "FacebookAI/roberta-base", "google/efficientnet-b0"),
}


def read_preset(name: str) -> Preset:
    """Return a shipped preset, or read one from a YAML file with the fields of `Preset`; else raises ConfigError."""
    if name in PRESETS:
        return PRESETS[name]
    path = Path(name)
    if not path.is_file():
        raise ConfigError(f"preset {name!r}: expected a file or a shipped name; {nearest(name, PRESETS)}")
    return validated(Preset, read_yaml(path), path)
