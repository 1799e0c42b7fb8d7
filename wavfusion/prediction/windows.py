"""A recording cut into windows of at most 15 s, decoded and encoded (sections III-A and III-B of the paper)."""

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from wavfusion import media
from wavfusion.encoders.bundle import Encoders
from wavfusion.encoders.stack import stack_layers
from wavfusion.encoders.text import normalized
from wavfusion.encoders.video import FRAMES_AT_ONCE
from wavfusion.errors import ConfigError, MediaError
from wavfusion.features.clips import windows
from wavfusion.features.dataset import Sample, SampleOrigin, window_text
from wavfusion.features.encode import threads
from wavfusion.features.store import fits_half
from wavfusion.media import SAMPLE_RATE
from wavfusion.media.faces import FaceCoverage, detect_faces
from wavfusion.model.config import AUDIO_STEP, MODALITIES, WavFusionConfig
from wavfusion.prediction.coverage import LeftOut, Times
from wavfusion.prediction.waveform import WaveformPeaks
from wavfusion.speech.loudness import Loudness
from wavfusion.speech.segmentation import RecordingAudio, require_choice
from wavfusion.transcripts import Segment

log = logging.getLogger(__name__)

CONTEXT = 1.0  # seconds of audio that the encoder is given at least, where the recording has them
LONGEST = 100 * 3600.0  # seconds; longer timestamps come from damaged files
SIDES = ("left", "right")  # channels that have a speaker of their own, in a stereo call
RATES = (1_000, 1_000_000)  # Hz; outside it somebody gave kHz, or a number of samples
Encoded = Tensor | MediaError | OSError | None


@dataclass(frozen=True)
class RecordingSource:
    """A recording to label, and what is measured of it meanwhile."""

    file: str  # its path as it was given; empty for an array
    tracks: Mapping[str, float]  # the seconds at which its audio and video tracks end
    audios: Sequence[RecordingAudio] = ()  # its audio; several where each track or channel has its own speaker
    errors: dict[str, list[str]] = field(default_factory=dict)  # by modality, why parts of it could not be decoded
    damaged: Counter[str] = field(default_factory=Counter)  # by modality, packets that were passed over
    labelled: list[Times] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    # Of each stretch that was decoded, with the number of its track or channel.
    loudness: dict[tuple[Times, int], Loudness] = field(default_factory=dict)
    faces: FaceCoverage = field(default_factory=FaceCoverage)
    distances: list[float] = field(default_factory=list)  # of its utterances from the training data

    @property
    def length(self) -> float:
        """Seconds of the longest track."""
        return max(self.tracks.values(), default=0.0)

    @cached_property
    def waveform(self) -> WaveformPeaks:
        """The peaks of what was decoded of its audio."""
        return WaveformPeaks(self.length)


class RecordingWindow(NamedTuple):
    """A window of an utterance; None stands for a track or text that it has not."""

    utterance: int  # number of its segment
    start: float  # in the recording
    seconds: float
    share: tuple[float, float]  # its part of the utterance, from 0 to 1, by which text is divided
    audio: Times | None
    video: Times | None
    text: str | None  # of the whole utterance
    speaker: int = 0  # number of the track or channel, where each has its own speaker


def open_source(
    source: str | Path | np.ndarray,
    sample_rate: int | None,
    track: int | str | None = None,
    channel: str | None = None,
) -> RecordingSource:
    """Probe an audio or video file, or resample an array of samples in [-1, 1], (N,) or (channels, N), to 16 kHz.

    Of several audio tracks or channels, `track` (a number from 1, `mix` or `each`) and `channel` (`left`, `right`,
    `centre`, `mix` or `each`) choose; with `each`, each has its own speaker.

    Raises:
        MediaError: the file is missing, no recording, has absurd timestamps, or not that track.
        ConfigError: an array without its rate, or an argument of another type.
    """
    require_choice(track, channel)
    if isinstance(source, np.ndarray):
        if track is not None:
            raise ConfigError(f"expected track= with a file only, found {track!r} with an array")
        return _open_array(source, sample_rate, channel)
    if not isinstance(source, (str, os.PathLike)):
        raise ConfigError(f"expected the name of a file or a float array, found {type(source).__name__}")
    if sample_rate is not None:
        raise ConfigError(f"expected sample_rate= with an array only, found it with {str(source)!r}")
    file = str(source)
    number: Any = "mix" if track == "each" else track
    ends = {name: end for name, end in media.probe(file, number)._asdict().items() if end is not None}
    opened = RecordingSource(file, ends, _audios(file, track, channel) if "audio" in ends else ())
    if opened.length > LONGEST:
        found = f"found timestamps up to {opened.length / 3600:.0f}"
        raise MediaError(f"{file!r}: expected a recording of at most {LONGEST / 3600:g} hours, {found}")
    return opened


def _audios(file: str, track: int | str | None, channel: str | None) -> list[RecordingAudio]:
    """The chosen audio of a file; says what of it is not used."""
    tracks, policy = media.audio_tracks(file), "mix" if channel in (None, "each") else channel
    default = next(each for each in tracks if each.default)
    usable = [each for each in tracks if each.decodable]
    if track == "each" and len(usable) > 1:
        return [RecordingAudio(file, None, each.number, policy, each.name) for each in usable]
    if track is None and len(tracks) > 1:
        others = [_described(each) for each in tracks if not each.default]
        log.warning(
            "%s: %d audio tracks; %s is used, not %s; choose with --track N, mix or each",
            *(file, len(tracks), _described(default), ", ".join(others)),
        )
    chosen: Any = None if track == "each" else track
    used = tracks[chosen - 1] if isinstance(chosen, int) else default
    if channel == "each" and used.channels >= 2:
        return [RecordingAudio(file, None, chosen, side, side) for side in SIDES]
    if channel == "each" or track == "each":
        what = "track" if track == "each" else "channel"
        log.warning("%s: a single audio %s, so its speakers have none of their own", file, what)
    return [RecordingAudio(file, None, chosen, policy)]


def _described(track: media.AudioTrack) -> str:
    name = "" if track.name == f"track {track.number}" else f" ({track.name})"
    return f"track {track.number}{name}" + ("" if track.decodable else ", which cannot be decoded")


def _open_array(samples: np.ndarray, sample_rate: int | None, channel: str | None) -> RecordingSource:
    """The chosen channels of an array."""
    mono = samples.ndim == 1 or len(samples) < 2
    sides = [] if mono else [side for side in SIDES if channel in (side, "each")]
    parts = [samples[SIDES.index(side)] for side in sides] or [samples]
    speakers = sides if channel == "each" and sides else [None for _ in parts]
    audios = [
        RecordingAudio("", _resampled(part, sample_rate), speaker=speaker)
        for part, speaker in zip(parts, speakers, strict=True)
    ]
    return RecordingSource("", {"audio": len(audios[0].decode(0.0, LONGEST)) / SAMPLE_RATE}, audios)


def _resampled(samples: np.ndarray, sample_rate: int | None) -> Float32[np.ndarray, " N"]:
    """Average the channels of an array and resample it to 16 kHz."""
    import soxr

    low, high = RATES
    if not isinstance(sample_rate, Real) or not low <= sample_rate <= high:
        raise ConfigError(f"expected sample_rate= from {low} to {high} Hz with an array, found {sample_rate!r}")
    samples = np.asarray(samples)  # a np.matrix keeps two axes whatever is done to it
    if samples.size == 0:
        raise ConfigError("expected samples, found an empty array")
    shaped = samples.ndim == 1 or (samples.ndim == 2 and samples.shape[0] <= samples.shape[1])
    if not shaped or not np.issubdtype(samples.dtype, np.floating):
        raise ConfigError(f"expected float samples (N,) or (channels, N), found {samples.dtype} {samples.shape}")
    samples = samples.astype(np.result_type(samples.dtype, np.float32), copy=False)  # half precision ends at 65,504
    if not (np.abs(samples) <= media.LOUDEST).all():
        raise ConfigError(f"expected samples in [-1, 1], found NaN, infinity or more than {media.LOUDEST:g}")
    mono = samples.mean(0, dtype=np.float32) if samples.ndim == 2 else samples.astype(np.float32)
    resampled: np.ndarray = soxr.resample(mono, sample_rate, SAMPLE_RATE, quality="VHQ")
    # soxr returns nothing for less than half a sample; a single sample is still a recording.
    return resampled if len(resampled) else np.zeros(1, np.float32)


def cut_windows(
    utterances: Sequence[tuple[Segment, int]], source: RecordingSource, modalities: Sequence[str]
) -> list[RecordingWindow]:
    """Cut utterances, each with the number of its audio, into windows of at most 15 s.

    Tracks that the model does not use count for the windows too, as in `evaluate`.
    """
    found = []
    for number, (segment, speaker) in enumerate(utterances):
        start = segment.start
        spans = {name: (start, max(start, min(end, segment.end))) for name, end in source.tracks.items()}
        duration = max((end - start for _, end in spans.values()), default=0.0)
        text = segment.text if "text" in modalities and normalized(segment.text or "") else None
        for window in windows(duration):
            times = {
                name: _times(span, source.tracks[name], *window) for name, span in spans.items() if name in modalities
            }
            share = (window.start / duration, window.end / duration) if duration > 0 else (0.0, 1.0)
            recording_window = RecordingWindow(
                utterance=number,
                start=start + window.start,
                seconds=window.end - window.start,
                share=share,
                audio=times.get("audio"),
                video=times.get("video"),
                text=text,
                speaker=speaker,
            )
            found.append(recording_window)
    return found


def _times(span: Times, length: float, start: float, end: float) -> Times | None:
    """Return the times of an utterance's window within a track; None where the track is over before it."""
    times = round(span[0] + start, 4), round(min(span[0] + end, span[1]), 4)
    return times if times[0] < times[1] or (start == 0 and (span[0] < length or span[0] == 0)) else None


class RecordingDecoder(ExitStack):
    """Decode stretches of one recording, in order; a context manager, which keeps its video open where it is `fast`.

    With `context`, short stretches of audio are widened by what surrounds them.
    """

    def __init__(self, source: RecordingSource, encoders: Encoders, context: bool, fast: bool) -> None:
        super().__init__()
        self.source, self.encoders, self.fast = source, encoders, fast
        self.length = source.length if context else 0.0
        self._video: media.VideoReader | None = None
        encoder, rate = encoders.video, encoders.preset.frame_rate
        if fast and "video" in source.tracks and encoder is not None and encoders.view == "frame":
            reader = media.VideoReader(source.file, rate, encoder.target, interpolation=encoder.interpolation)
            self._video = self.enter_context(reader)

    def audio(self, times: Times, speaker: int = 0) -> tuple[Float32[np.ndarray, " N"], float]:
        """Decode a stretch of audio to 16 kHz, widened to `CONTEXT` seconds where it is shorter, or raise a MediaError.

        Returns the samples, and the seconds that were added before the stretch. `speaker` is the number of the track or
        channel where each has its own.
        """
        start, end = _widened(times, self.length)
        samples, bad = self.source.audios[speaker].decode_counted(start, end)
        if len(samples) == 0 and self.source.file:
            raise MediaError(f"{self.source.file!r}: no sample between {start:g} and {end:g} s")
        self.source.damaged["audio"] += bad
        self.source.loudness[times, speaker] = loudness = Loudness()
        loudness.add(samples)
        self.source.waveform.add(start, samples)
        return samples, times[0] - start

    def frames(self, times: Times, seconds: float) -> UInt8[np.ndarray, "Tv H W 3"]:
        """Decode a stretch of video to the encoder's size and rate, or raise a MediaError; `seconds`: of the window."""
        encoder, file, rate = self.encoders.video, self.source.file, self.encoders.preset.frame_rate
        assert encoder is not None
        if self._video is not None:
            frames = self._video.frames(*times)
        else:
            regions, share = detect_faces(file, rate, *times) if self.encoders.view == "face" else (None, None)
            frames = media.decode_frames(
                file,
                rate,
                encoder.target,
                *times,
                interpolation=encoder.interpolation,
                regions=regions,
                thorough=not self.fast,
            )
            if share is not None:
                self.source.faces.add(seconds, share)
        self.source.damaged["video"] += frames.bad_packets
        return frames.pixels


def _widened(times: Times, length: float) -> Times:
    """Widen a short stretch of a recording of some length (0 = not at all), as audio encoders do badly on less."""
    start, end = times
    missing = CONTEXT - (end - start)
    if missing <= 0 or length <= 0:
        return times
    first = max(0.0, min(start - missing / 2, length - CONTEXT))
    return first, max(end, min(length, first + CONTEXT))


class WindowEncoder:
    """Encode windows to the model's inputs; one batch at a time, whatever the number of threads that call it.

    Where it is `fast`, audio and video are encoded side by side on a CPU.
    """

    def __init__(self, encoders: Encoders, config: WavFusionConfig, precision: str, fast: bool) -> None:
        self.encoders, self.config, self.precision, self.fast = encoders, config, precision, fast
        self._lock = threading.Lock()

    def autocast(self) -> torch.autocast:
        """Compute matrix multiplications in the chosen precision."""
        return torch.autocast(self.encoders.kind, torch.bfloat16, enabled=self.precision == "bf16")

    def encode(self, windows: Sequence[RecordingWindow], decoder: RecordingDecoder) -> list[Sample]:
        """Decode and encode windows, rounded to half precision as in the store."""
        both = any(each.audio for each in windows) and any(each.video for each in windows)
        tasks = (self._audio,), (self._text, self._video)  # of each of two threads

        def run(encoders: Sequence[Callable[[RecordingWindow, RecordingDecoder], Tensor | None]]) -> list[Encoded]:
            return [_encoded(partial(encode, window, decoder)) for encode in encoders for window in windows]

        with self._lock:  # threads changes the number of threads of the whole process
            if both and self._on_cores():
                # Each takes half of the cores: fewer cores on one matrix multiplication waste less of each.
                with threads(2) as pool:
                    encoded, others = pool.map(run, tasks)
            else:
                encoded, others = map(run, tasks)
        samples = []
        for number, window in enumerate(windows):
            features = [encoded[number], *others[number :: len(windows)]]
            failed = [
                (name, str(each))
                for name, each in zip(MODALITIES, features, strict=True)
                if isinstance(each, Exception)
            ]
            for name, error in failed:
                decoder.source.errors.setdefault(name, []).append(error)
            times = window.start, window.start + window.seconds
            if any(isinstance(each, Tensor) for each in features):
                decoder.source.labelled.append(times)
            else:
                reason = "not decodable" if failed else f"without {' or '.join(self.config.modalities)}"
                decoder.source.left_out.append(LeftOut(*times, reason))
            origin = SampleOrigin(str(window.utterance), None, None, None, window.seconds)
            audio, text, video = (each if isinstance(each, Tensor) else None for each in features)
            samples.append(Sample(origin, audio=audio, text=text, video=video))
        return samples

    def _on_cores(self) -> bool:
        return self.fast and self.encoders.kind == "cpu" and torch.get_num_threads() > 1

    def _audio(self, window: RecordingWindow, decoder: RecordingDecoder) -> Tensor | None:
        if window.audio is None or self.encoders.audio is None:
            return None
        samples, lead = decoder.audio(window.audio, window.speaker)
        layers = self.config.input_layers
        with self.autocast():
            outputs = self.encoders.audio.encode([samples], layers)[0]
        encoded: Tensor = stack_layers([outputs[layer] for layer in layers])
        if decoder.length == 0:
            return encoded
        start, end = window.audio
        first = min(round(lead / AUDIO_STEP), encoded.shape[-2] - 1)
        return encoded[..., first : max(first + 1, first + round((end - start) / AUDIO_STEP)), :]

    def _text(self, window: RecordingWindow, _: RecordingDecoder) -> Tensor | None:
        """Encode the text of the whole utterance, and take the window's share of its tokens."""
        if window.text is None or self.encoders.text is None:
            return None
        with self.autocast():
            encoded = self.encoders.text.encode([window.text], "all" if self.config.num_text_layers > 1 else "last")[0]
        return window_text(encoded, window.share)

    def _video(self, window: RecordingWindow, decoder: RecordingDecoder) -> Tensor | None:
        encoder = self.encoders.video
        if window.video is None or encoder is None:
            return None
        frames = decoder.frames(window.video, window.seconds)
        if not self._on_cores():
            return encoder.encode_resized(frames)
        # Each core takes some of the frames, which wastes less than all cores on the same ones.
        some = FRAMES_AT_ONCE["cpu"]
        with threads(torch.get_num_threads()) as pool:
            return torch.cat(list(pool.map(encoder.encode_resized, np.split(frames, range(some, len(frames), some)))))


def _encoded(encode: Callable[[], Tensor | None]) -> Encoded:
    """Encode to half precision, or return why a part cannot be decoded."""
    try:
        features = encode()
        if features is not None and not fits_half(features):
            raise MediaError("expected samples in [-1, 1], found some so large that their features overflow")
        return None if features is None else features.half()
    except (MediaError, OSError) as error:
        return error
