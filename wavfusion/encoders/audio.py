"""The audio encoder of a name: `tiny`, a local folder or a hub id, of one of the known families (eq. 7)."""

from typing import Any

from wavfusion.encoders import tiny, wav2vec2, whisper
from wavfusion.encoders.checkpoint import load_model, load_preprocessor
from wavfusion.encoders.stack import AudioEncoder

# What a configuration leaves to training is off while an encoder is frozen.
FROZEN: dict[str, Any] = {"layerdrop": 0.0, "encoder_layerdrop": 0.0, "apply_spec_augment": False}
# The decoder's layers, which nothing uses, take neither time nor memory.
NO_DECODER: dict[str, Any] = {"decoder_layers": 0}
SETTINGS = {**dict.fromkeys(wav2vec2.FAMILY, FROZEN), **dict.fromkeys(whisper.FAMILY, FROZEN | NO_DECODER)}


def load_audio(name: str) -> AudioEncoder:
    """Load an audio encoder.

    Raises:
        ConfigError: it cannot be read, is of another family, or lacks tensors.
    """
    if name == "tiny":
        return wav2vec2.Wav2Vec2Encoder(tiny.audio_model(), tiny.audio_preprocessor(), name)
    model = load_model(name, SETTINGS)
    family = whisper.WhisperEncoder if model.config.model_type in whisper.FAMILY else wav2vec2.Wav2Vec2Encoder
    return family(model, load_preprocessor(name), name)
