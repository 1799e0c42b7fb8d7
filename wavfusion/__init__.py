"""WavFusion: from a recording of people talking to the emotion of every utterance."""

from typing import TYPE_CHECKING, Any

from wavfusion.version import __version__

__all__ = ["EmotionRecognizer", "Prediction", "__version__"]

if TYPE_CHECKING:
    from wavfusion.prediction.recognizer import EmotionRecognizer, Prediction


def __getattr__(name: str) -> Any:
    if name in {"EmotionRecognizer", "Prediction"}:
        from wavfusion.prediction import recognizer

        return getattr(recognizer, name)
    raise AttributeError(f"module 'wavfusion' has no attribute {name!r}")
