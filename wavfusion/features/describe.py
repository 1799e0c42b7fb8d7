"""What a set of encoders gives: the description that a store keeps, and the check that features carry information."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from wavfusion.encoders.audio import AudioEncoder
from wavfusion.encoders.bundle import Encoders
from wavfusion.encoders.checkpoint import FrozenEncoder
from wavfusion.errors import ConfigError
from wavfusion.features.store import FeatureSet
from wavfusion.media import SAMPLE_RATE, faces

MIN_DEVIATION = 1e-3  # standard deviation below which features carry no information (a random EfficientNet gives 0)


def describe_features(encoders: Encoders, audio_layers: Sequence[int], text_layers: Sequence[str]) -> FeatureSet:
    """Describe the features of a set of encoders; raises ConfigError for a layer that the audio encoder lacks."""
    audio = encoders.audio
    for layer in audio_layers:
        if audio is not None and not 0 <= layer <= audio.num_layers:
            raise ConfigError(f"--layers: expected 0 to {audio.num_layers} for {audio.name!r}, found {layer}")
    detector = {} if encoders.view == "frame" else {"detector": faces.detector_fingerprint()}
    return FeatureSet(
        encoders.name,
        audio=_describe_audio(audio) if audio else None,
        text=_describe(encoders.text, num_layers=encoders.text.num_layers) if encoders.text else None,
        video=_describe(encoders.video, **detector) if encoders.video else None,
        audio_layers=sorted(set(audio_layers)) if audio else [],
        text_layers=list(text_layers) if encoders.text else [],
        frame_rate=encoders.preset.frame_rate,
        pretrained_rate=encoders.preset.pretrained_rate,
        new_rate=encoders.preset.new_rate,
        view=encoders.view,
        precision=encoders.preset.precision,
    )


def _describe(encoder: FrozenEncoder, **sizes: Any) -> dict[str, Any]:
    return {"name": encoder.name, "fingerprint": encoder.fingerprint, "width": encoder.width, **sizes}


def _describe_audio(encoder: AudioEncoder) -> dict[str, Any]:
    config = encoder.config
    relative = config.model_type == "wavlm"
    return _describe(
        encoder,
        num_layers=encoder.num_layers,
        num_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        layer_norm_eps=config.layer_norm_eps,
        pre_norm=bool(config.do_stable_layer_norm),
        position_buckets=config.num_buckets if relative else 0,
        position_distance=config.max_bucket_distance if relative else 800,
    )


def require_informative(encoders: Encoders, wanted: FeatureSet) -> None:
    """Raise ConfigError if an encoder's features are constant, on noise: silence may rightly give constants."""
    noise = np.random.default_rng(0)
    tried: dict[str, list[Tensor]] = {}
    if encoders.audio is not None and wanted.audio_layers:
        samples = noise.normal(size=SAMPLE_RATE).astype(np.float32)
        tried["audio"] = list(encoders.audio.encode([samples], wanted.audio_layers)[0].values())
    if encoders.text is not None:
        tried["text"] = encoders.text.encode(["Kids are talking by the door."])
    if encoders.video is not None:
        tried["video"] = [encoders.video.encode(noise.integers(0, 256, (2, *encoders.video.size, 3), np.uint8))]
    for modality, features in tried.items():
        deviation = min(float(x.std()) for x in features)
        if not deviation >= MIN_DEVIATION:
            raise ConfigError(
                f"{modality} encoder of {encoders.name!r}: expected features that differ, found a spread of "
                f"{deviation:.1e}, below {MIN_DEVIATION}"
            )
