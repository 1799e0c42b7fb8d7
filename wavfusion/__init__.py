"""WavFusion: from a recording of people talking to the emotion of every utterance."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wavfusion.version import __version__

ROOMS = ("corpora", "encoders", "manifest", "media", "metrics", "model", "transcripts")  # imported when first used
__all__ = ["EmotionRecognizer", "Prediction", "__version__"]

if TYPE_CHECKING:
    from wavfusion.prediction.recognizer import EmotionRecognizer, Prediction


def __getattr__(name: str) -> Any:
    if name in {"EmotionRecognizer", "Prediction"}:
        from wavfusion.prediction import recognizer

        return getattr(recognizer, name)
    if name in ROOMS:
        return import_module(f"wavfusion.{name}")
    raise AttributeError(f"module 'wavfusion' has no attribute {name!r}")
