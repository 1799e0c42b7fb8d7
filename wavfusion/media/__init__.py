"""Audio and video in and out of files: the only room that knows FFmpeg (through PyAV) and soxr.

Given a path and a stretch in seconds, it gives mono samples or RGB frames, when each track ends, and the speaker's
face; given samples and frames, it writes a file. It may import `manifest` and `errors`. Names are loaded on first use,
as training on stored features needs neither library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for tools that read the code
    from wavfusion.media.audio import LOUDEST, DecodedAudio, decode_audio
    from wavfusion.media.container import PathLike, content_hash, probe
    from wavfusion.media.video import Frames, VideoReader, decode_frames, stream_frames
    from wavfusion.media.writer import write_audio, write_video

SAMPLE_RATE = 16_000  # Hz, of wav2vec 2.0 and its kin

__all__ = [
    "LOUDEST",
    "SAMPLE_RATE",
    "DecodedAudio",
    "Frames",
    "PathLike",
    "VideoReader",
    "content_hash",
    "decode_audio",
    "decode_frames",
    "probe",
    "stream_frames",
    "write_audio",
    "write_video",
]


def __getattr__(name: str) -> Any:
    for file in ("container", "audio", "video", "writer") if name in __all__ else ():
        if hasattr(module := import_module(f"{__name__}.{file}"), name):
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
