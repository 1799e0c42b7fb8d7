"""The three frozen encoders: audio, text or frames of one utterance in, features (time, width) out (eq. 1, 5 and 7).

Given a preset (hub ids, local folders or `tiny`), it loads the encoders and tells them apart by fingerprints; features
never depend on what else is in a batch. It may import `fast`, `media`, `model` and what lies below.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for tools that read the code; at run time the names are loaded on first use
    from wavfusion.encoders.audio import load_audio
    from wavfusion.encoders.text import load_text
    from wavfusion.encoders.video import load_video

__all__ = ["load_audio", "load_text", "load_video"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{name.removeprefix('load_')}"), name)
