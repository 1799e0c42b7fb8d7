"""Presets: three encoders and how they are run, shipped or from a YAML file (docs/howto/add_encoder.md)."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from wavfusion.errors import ConfigError, nearest
from wavfusion.files import Constraint, NonEmpty, read_yaml, validated

Precision = Literal["fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
LAYERS = re.compile(r" *([0-9]{1,3}) *\+ *([1-9][0-9]{0,2}) *")
SHARE = 4  # one in so many layers is deep, as 3 of the paper's 12
LearningRate = Annotated[float, Constraint("a learning rate, 0 or more", lambda value: value >= 0)]


@dataclass(frozen=True)
class Preset:
    """Three encoders and how they are run; the defaults are the paper's.

    Attributes:
        audio, text, video: a hub id, a local folder or `tiny`; loaded only where the modality is used.
        layers: of the audio encoder, unfused + deep, such as `9 + 3`: from which layer a model starts, and how many
            fuse and learn where its experiment does not say; layers above them are not used. None = see `used_layers`.
        frame_rate: video frames per second.
        pretrained_rate: learning rate of the tensors that a checkpoint filled.
        new_rate: learning rate of everything else.
        precision: `fp32`; or `bf16` for matrix multiplications in bfloat16 in the audio and text encoders, faster on
            GPUs and newer CPUs (video features would suffer). Such features have keys of their own.
    """

    audio: NonEmpty = "facebook/wav2vec2-base"
    text: NonEmpty = "FacebookAI/roberta-base"
    video: NonEmpty = "google/efficientnet-b0"
    layers: Annotated[str, Constraint("unfused + deep layers, such as 9 + 3", LAYERS.fullmatch)] | None = None
    frame_rate: Annotated[float, Constraint("frames per second, above 0 to 100", lambda value: 0 < value <= 100)] = 5.0
    pretrained_rate: LearningRate = 3e-5
    new_rate: LearningRate = 1e-4
    precision: Precision = "fp32"

    def used_layers(self, depth: int) -> tuple[int, int]:
        """Tell how many layers of an audio encoder a model has, from the lowest, and how many of them are deep.

        Unless stated, all `depth`, and a quarter of them, rounded up.

        Raises:
            ConfigError: `layers` are more than `depth`.
        """
        deep = -(-depth // SHARE)
        if self.layers is None:
            return depth, deep
        unfused, stated = (int(part) for part in self.layers.split("+"))
        if unfused + stated > depth:
            raise ConfigError(
                f"layers: expected at most the {depth} of audio encoder {self.audio!r}, such as {depth - deep} + "
                f"{deep}, found {self.layers}, which are {unfused + stated}"
            )
        return unfused + stated, stated


PRESETS = {
    "base": Preset(),
    "tiny": Preset("tiny", "tiny", "tiny", pretrained_rate=3e-3, new_rate=3e-3),
    "whisper": Preset("openai/whisper-base"),
    "light": Preset("openai/whisper-base", "sentence-transformers/all-MiniLM-L6-v2"),
}


def read_preset(name: str) -> Preset:
    """Return a shipped preset, or read one from a YAML file with the fields of `Preset`; else raises ConfigError."""
    if name in PRESETS:
        return PRESETS[name]
    path = Path(name)
    if not path.is_file():
        raise ConfigError(f"preset {name!r}: expected a file or a shipped name; {nearest(name, PRESETS)}")
    if path.stem in PRESETS:  # a store would hold both under one name
        raise ConfigError(f"preset {name!r}: expected a file of another name than the shipped preset {path.stem!r}")
    return validated(Preset, read_yaml(path), path)
