"""Windows decoded for the encoders: mono samples, and frames of the video encoder's size."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, UInt8

from wavfusion import media
from wavfusion.encoders.bundle import Encoders
from wavfusion.errors import MediaError
from wavfusion.features.clips import ABSENT, Clip, ClipPart, Media
from wavfusion.features.store import Store
from wavfusion.media import faces


@dataclass
class Decoded:
    """The decoded media of one clip.

    Attributes:
        errors: by modality, why it could not be decoded.
        bad_packets: damaged packets that were skipped.
        face: with view `face`, the share of frames in which the speaker's face was found.
    """

    clip: Clip
    samples: Float32[np.ndarray, " N"] | None = None
    frames: UInt8[np.ndarray, "Tv H W 3"] | None = None
    errors: dict[str, str] = field(default_factory=dict)
    bad_packets: int = 0
    face: float | None = None

    @property
    def seconds(self) -> float:
        """Length of the audio."""
        return 0.0 if self.samples is None else len(self.samples) / media.SAMPLE_RATE


def decode(clip: Clip, store: Store, known: Media, encoders: Encoders, thorough: bool = False) -> Decoded:
    """Decode those modalities of a clip whose features are not stored yet.

    Args:
        clip: as it was planned.
        store: what it holds is not decoded again.
        known: the corpus's files.
        encoders: for which the video is resized.
        thorough: see `media.decode_frames`.
    """
    decoded = Decoded(clip)
    for modality, part in (("audio", clip.audio), ("video", clip.video)):
        if part is None or not store.missing(part.keys.values()):
            continue
        medium = known[part.path]
        if medium.reason is not None or getattr(medium, modality) is None:
            decoded.errors[modality] = medium.reason or ABSENT
            continue
        try:
            if modality == "audio":
                _decode_audio(decoded, part, known)
            else:
                _decode_video(decoded, part, known, encoders, thorough)
            known.require_unchanged(part.path)
        except (MediaError, OSError) as error:
            setattr(decoded, "samples" if modality == "audio" else "frames", None)
            decoded.errors[modality] = str(error)
    return decoded


def _decode_audio(decoded: Decoded, part: ClipPart, known: Media) -> None:
    path = known.locate(part.path)
    audio = media.decode_audio(path, part.start, part.end, part.setting)
    if len(audio.samples) == 0:
        raise MediaError(f"{str(path)!r}: no sample between {part.start:g} and {part.end:g} s")
    decoded.samples = audio.samples
    decoded.bad_packets += audio.bad_packets


def _decode_video(decoded: Decoded, part: ClipPart, known: Media, encoders: Encoders, thorough: bool) -> None:
    assert encoders.video is not None
    path, rate, span = known.locate(part.path), encoders.preset.frame_rate, (part.start, part.end)
    regions = None
    if encoders.view == "face":
        regions, decoded.face = faces.detect_faces(path, rate, *span, part.setting)
    frames = media.decode_frames(
        path, rate, encoders.video.size, *span, part.setting, encoders.video.interpolation, regions, thorough
    )
    decoded.frames = frames.pixels
    decoded.bad_packets += frames.bad_packets
