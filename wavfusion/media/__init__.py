"""Audio and video in and out of files: the only room that knows FFmpeg (through PyAV) and soxr.

Given a path and a stretch in seconds, it gives mono samples or RGB frames, when each track ends, and the speaker's
face; given samples and frames, it writes a file. It may import `manifest` and `errors`. Names are loaded on first use,
as training on stored features needs neither library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for tools that read the code
    from wavfusion.media.audio import LOUDEST, DecodedAudio, decode_audio
    from wavfusion.media.container import AudioTrack, PathLike, Track, audio_tracks, content_hash, endings
    from wavfusion.media.joined import probe
    from wavfusion.media.video import Frames, VideoReader, decode_frames, stream_frames
    from wavfusion.media.writer import write_audio, write_video

SAMPLE_RATE = 16_000  # Hz, of wav2vec 2.0 and its kin

_FILES = {
    "audio": ("LOUDEST", "DecodedAudio", "decode_audio"),
    "container": ("AudioTrack", "PathLike", "Track", "audio_tracks", "content_hash", "endings"),
    "joined": ("probe",),
    "video": ("Frames", "VideoReader", "decode_frames", "stream_frames"),
    "writer": ("write_audio", "write_video"),
}
__all__ = [
    "LOUDEST",
    "SAMPLE_RATE",
    "AudioTrack",
    "DecodedAudio",
    "Frames",
    "PathLike",
    "Track",
    "VideoReader",
    "audio_tracks",
    "content_hash",
    "decode_audio",
    "decode_frames",
    "endings",
    "probe",
    "stream_frames",
    "write_audio",
    "write_video",
]


def __getattr__(name: str) -> Any:
    for file, names in _FILES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{file}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
