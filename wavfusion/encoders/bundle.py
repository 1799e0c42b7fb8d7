"""The loaded encoders of a preset, one for each modality."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from wavfusion.encoders.audio import load_audio
from wavfusion.encoders.presets import Preset
from wavfusion.encoders.stack import AudioEncoder
from wavfusion.encoders.text import TextEncoder, load_text
from wavfusion.encoders.video import VideoEncoder, load_video
from wavfusion.manifest import MODALITIES

LOADERS: dict[str, Callable[[str], Any]] = {"audio": load_audio, "text": load_text, "video": load_video}


@dataclass(frozen=True)
class Encoders:
    """The loaded encoders of a preset; None for a modality that is not needed."""

    name: str
    preset: Preset
    audio: AudioEncoder | None = None
    text: TextEncoder | None = None
    video: VideoEncoder | None = None
    view: str = "frame"  # what the video encoder is given: the whole frame, or `face`, the speaker's face

    @property
    def loaded(self) -> dict[str, Any]:
        """The encoders that are loaded, by modality."""
        return {name: getattr(self, name) for name in MODALITIES if getattr(self, name) is not None}

    @property
    def device(self) -> str:
        """Where they compute, as torch names it."""
        return next((str(each.device) for each in self.loaded.values()), "cpu")

    @property
    def kind(self) -> str:
        """The kind of that device: `cpu` or `cuda`."""
        return self.device.partition(":")[0]

    def quick(self) -> "Encoders":
        """Twins that share the tensors and encode the same faster; each thread needs its own."""
        return replace(self, **{name: encoder.quick() for name, encoder in self.loaded.items()})

    def to(self, device: str) -> "Encoders":
        """Move the encoders to a device."""
        for encoder in self.loaded.values():
            encoder.to(device)
        return self


def load_encoders(name: str, preset: Preset, modalities: Iterable[str] = MODALITIES, view: str = "frame") -> Encoders:
    """Load the encoders of a preset for the modalities that are needed; raises ConfigError where one cannot be loaded.

    View `face` needs the extra `[face]`; it is appended to the name, so that one store can hold both views.
    """
    if view != "frame":
        from wavfusion.media import faces  # FFmpeg is not needed to train on stored features

        faces.require_installed()
        name = f"{name}-{view}"
    loaded = {each: load_encoder(each, getattr(preset, each), preset.precision) for each in modalities}
    return Encoders(name, preset, **loaded, view=view)


def load_encoder(modality: str, name: str, precision: str = "fp32") -> Any:
    """Load the encoder of one modality, as `LOADERS` do, for a preset's precision, which is part of its fingerprint."""
    encoder = LOADERS[modality](name)
    if precision != "fp32" and modality != "video":
        encoder.precision = precision
        encoder.fingerprint = hashlib.sha256(f"{encoder.fingerprint} {precision}".encode()).hexdigest()[:32]
    return encoder
