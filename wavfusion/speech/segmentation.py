"""Utterances of a recording: spans of speech, divided where the speaker changes, or given segments."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, cast, get_args

import numpy as np
from jaxtyping import Float32

from wavfusion import media
from wavfusion.errors import ConfigError, MediaError, nearest
from wavfusion.features.clips import WINDOW, windows
from wavfusion.manifest import Channel
from wavfusion.speech import activity, speakers
from wavfusion.speech.activity import Span, SpeechActivity
from wavfusion.transcripts import Segment

log = logging.getLogger(__name__)

Speakers = int | Literal["auto"] | None  # how many people speak; None = speakers are not identified
MAX_SPEAKERS = 20
CHANNELS = (*get_args(Channel), "each")  # `each` = one speaker on the left and one on the right


@dataclass(frozen=True)
class RecordingAudio:
    """The audio of a recording, or of one of its tracks or channels: of a file, or samples at 16 kHz."""

    file: str
    samples: Float32[np.ndarray, " N"] | None = None
    track: media.Track = None
    channel: str = "mix"
    speaker: str | None = None  # who speaks on this track or channel, where each has its own

    def detect_speech(self) -> SpeechActivity:
        """Detect speech in the whole recording."""
        if self.samples is None:
            return activity.detect_speech(self.file, self.channel, self.track)
        return activity.detect_speech_in_samples(self.samples)

    def decode_or_silence(self, start: float, end: float) -> Float32[np.ndarray, " n"]:
        """Decode the samples between two times; zeros where there are none, as where only the video continues."""
        try:
            return self.decode(start, end)
        except MediaError:
            return np.zeros(round((end - start) * media.SAMPLE_RATE), np.float32)

    def decode(self, start: float, end: float) -> Float32[np.ndarray, " n"]:
        """Decode the samples between two times; a MediaError where there are none."""
        return self.decode_counted(start, end).samples

    def decode_counted(self, start: float, end: float) -> media.DecodedAudio:
        """Decode the samples between two times, and count damaged packets."""
        if self.samples is None:
            return media.decode_audio(self.file, start, end, self.channel, track=self.track)
        samples = self.samples[round(start * media.SAMPLE_RATE) : round(end * media.SAMPLE_RATE)]
        return media.DecodedAudio(samples, 0)

    def is_silent(self, span: Span) -> bool:
        """Tell whether a span is digital silence, as a hole between timestamps is."""
        try:
            return not self.decode(span.start, span.end).any()
        except MediaError:
            return False

    def turns(self, spans: Sequence[Span], count: Speakers) -> list[Segment]:
        """Identify speakers in spans of speech."""
        return speakers.turns(self.decode_or_silence, spans, None if count == "auto" else count)


def segment_recording(
    audio: RecordingAudio | None, file: str, length: float, transcript: str | None, count: Speakers, has_video: bool
) -> list[Segment]:
    """Divide a recording into utterances, and its transcript without times among them in proportion to their length.

    A recording of up to 15 s is one utterance. A longer one without speech, or without the extra `[vad]`, is cut every
    15 s; silent parts are left out unless they have video. `count` speakers are told apart.
    """
    name = file or "array"
    if length <= WINDOW:
        if count not in (None, 1):
            found = f"{length:.1f} s are one utterance (up to {WINDOW:g} s), whose speakers are not told apart"
            log.warning("%s: %s; give a transcript with times to divide it", name, found)
        return [Segment(0.0, length, None, transcript)]
    spans = [] if audio is None or not activity.has_activity_model() else _spoken(audio, count)
    if not spans:
        why = "no speech found" if activity.has_activity_model() else "the extra [vad] is not installed"
        every = [Span(each.start, each.end) for each in windows(length)]
        audible = [] if audio is None or has_video else [span for span in every if not audio.is_silent(span)]
        spans = [(span, None) for span in audible or every]
        silent = f"; {len(every) - len(spans)} silent parts are left out" if len(spans) < len(every) else ""
        log.warning("%s: %s; cut every %g s%s", name, why if audio else "no audio", WINDOW, silent)
    return _with_text([Segment(*span, speaker) for span, speaker in spans], transcript, name)


def _with_text(segments: Sequence[Segment], transcript: str | None, name: str) -> list[Segment]:
    """Divide a transcript without times among segments in proportion to their length."""
    if not (words := (transcript or "").split()):
        return list(segments)
    seconds = [each.end - each.start for each in segments]
    edges = [round(len(words) * sum(seconds[:i]) / sum(seconds)) for i in range(len(seconds) + 1)]
    log.warning("%s: the transcript has no times; its words are divided in proportion to length", name)
    texts = [" ".join(words[first:last]) or None for first, last in pairwise(edges)]
    return [replace(each, text=text) for each, text in zip(segments, texts, strict=True)]


def segment_each(
    audios: Sequence[RecordingAudio], file: str, length: float, transcript: str | None
) -> list[tuple[Segment, int]]:
    """Find the utterances of each of several tracks or channels; returns them in order of time, with its number.

    One that is silent has none; up to 15 s, each of the others is one utterance.
    """
    name = file or "array"
    every = [Span(each.start, each.end) for each in windows(length)]
    spans = [[] if length <= WINDOW or not activity.has_activity_model() else _spoken(each, None) for each in audios]
    if not any(spans):
        if length > WINDOW:
            why = "no speech found" if activity.has_activity_model() else "the extra [vad] is not installed"
            log.warning("%s: %s; cut every %g s", name, why, WINDOW)
        spans = [[(span, None) for span in every if not each.is_silent(span)] for each in audios]
    if silent := [each.speaker or "" for each, found in zip(audios, spans, strict=True) if not found]:
        log.warning("%s: no speech on %s", name, " and ".join(silent))
    found = [
        (Segment(*span, each.speaker), number)
        for number, (each, some) in enumerate(zip(audios, spans, strict=True))
        for span, _ in some
    ]
    found.sort(key=lambda item: (item[0].start, item[0].end))
    texts = _with_text([segment for segment, _ in found], transcript, name)
    return [(segment, number) for segment, (_, number) in zip(texts, found, strict=True)]


def assign_each(segments: Sequence[Segment], audios: Sequence[RecordingAudio]) -> list[tuple[Segment, int]]:
    """Find the track or channel of given segments: the one of its speaker's name, else the loudest meanwhile."""
    names = [each.speaker for each in audios]
    found = []
    for segment in segments:
        if segment.speaker in names:
            number = names.index(segment.speaker)
        else:
            loud = [float(np.square(each.decode_or_silence(segment.start, segment.end)).sum()) for each in audios]
            number = int(np.argmax(loud))
        found.append((replace(segment, speaker=segment.speaker or names[number]), number))
    return found


def _spoken(audio: RecordingAudio, count: Speakers) -> list[tuple[Span, str | None]]:
    spans, probability = audio.detect_speech()
    turns = [Segment(*span) for span in spans] if count is None else audio.turns(spans, count)
    return [(part, turn.speaker) for turn in turns for part in activity.cut(Span(turn.start, turn.end), probability)]


def name_speakers(segments: Sequence[Segment], audio: RecordingAudio | None, count: Speakers) -> list[Segment]:
    """Give every segment without a speaker the one who speaks most of it, with a warning for long ones."""
    if count is None or audio is None or all(each.speaker for each in segments):
        return list(segments)
    long = sum(not each.speaker and each.end - each.start > activity.LONGEST for each in segments)
    if long:
        log.warning(
            "%s: %d of the given segments are longer than %g s; each gets the speaker of most of it, since given "
            "segments are not divided where the speaker changes",
            *(audio.file or "array", long, activity.LONGEST),
        )
    spans = [Span(each.start, each.end) for each in segments]
    turns = audio.turns(sorted(spans), count)
    found = [speakers.speaker_of(span, turns) for span in spans]
    return [replace(each, speaker=each.speaker or who) for each, who in zip(segments, found, strict=True)]


def read_count(text: str | None) -> Speakers:
    """Parse a number of speakers as a user wrote it, or raise as `require_count` does."""
    count: object = int(text) if text and text.isdecimal() and len(text) < 10 else text
    require_count(count)
    return cast(Speakers, count)


def require_count(count: object) -> None:
    """Raise a ConfigError for a number of speakers that is not from 1 to 20, nor `auto`, nor None."""
    number = isinstance(count, int) and not isinstance(count, bool) and 1 <= count <= MAX_SPEAKERS
    if not (count is None or count == "auto" or number):
        raise ConfigError(f"speakers: expected auto or a number from 1 to {MAX_SPEAKERS}, found {count!r}")


def read_track(text: str | None) -> int | str | None:
    """Parse the choice of an audio track as a user wrote it, or raise as `require_choice` does."""
    track: int | str | None = int(text) if text and text.isdecimal() and len(text) < 10 else text
    require_choice(track, None)
    return track


def require_choice(track: object, channel: object) -> None:
    """Raise a ConfigError for what is no choice of tracks or channels, or where both are to be speakers."""
    number = isinstance(track, int) and not isinstance(track, bool) and track >= 1
    if not (track in (None, "mix", "each") or number):
        raise ConfigError(f"track: expected a number from 1, mix or each, found {track!r}")
    if channel not in (None, *CHANNELS):
        raise ConfigError(f"channel: found {channel!r}; {nearest(str(channel), CHANNELS)}")
    if track == channel == "each":
        raise ConfigError("expected each track or each channel to be a speaker, found track and channel both 'each'")
