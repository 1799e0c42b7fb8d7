"""Audio and video in and out of files: the only room that knows FFmpeg (through PyAV) and soxr.

Given a path and a stretch in seconds, it gives mono samples or RGB frames, when each track ends, and the speaker's
face; given samples and frames, it writes a file. It may import `manifest` and `errors`.
"""

from wavfusion.media.audio import LOUDEST, SAMPLE_RATE, DecodedAudio, decode_audio
from wavfusion.media.container import PathLike
from wavfusion.media.probing import content_hash, probe
from wavfusion.media.video import Frames, VideoReader, decode_frames, stream_frames
from wavfusion.media.writer import write_audio, write_video

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
