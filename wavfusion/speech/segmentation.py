"""Utterances of a recording: spans of speech, divided where the speaker changes, or given segments."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, cast

import numpy as np
from jaxtyping import Float32

from wavfusion import media
from wavfusion.errors import ConfigError, MediaError
from wavfusion.features.clips import WINDOW, windows
from wavfusion.speech import activity, speakers
from wavfusion.speech.activity import Span, SpeechActivity
from wavfusion.transcripts import Segment

log = logging.getLogger(__name__)

Speakers = int | Literal["auto"] | None  # how many people speak; None = speakers are not identified
MAX_SPEAKERS = 20


@dataclass(frozen=True)
class RecordingAudio:
    """The audio of a recording: of a file, or samples at 16 kHz."""

    file: str
    samples: Float32[np.ndarray, " N"] | None = None

    def detect_speech(self) -> SpeechActivity:
        """Detect speech in the whole recording."""
        if self.samples is None:
            return activity.detect_speech(self.file)
        return activity.detect_speech_in_samples(self.samples)

    def decode_or_silence(self, start: float, end: float) -> Float32[np.ndarray, " n"]:
        """Decode the samples between two times; zeros where there are none, as where only the video continues."""
        try:
            return self.decode(start, end)
        except MediaError:
            return np.zeros(round((end - start) * media.SAMPLE_RATE), np.float32)

    def decode(self, start: float, end: float) -> Float32[np.ndarray, " n"]:
        """Decode the samples between two times; a MediaError where there are none."""
        if self.samples is None:
            return media.decode_audio(self.file, start, end).samples
        return self.samples[round(start * media.SAMPLE_RATE) : round(end * media.SAMPLE_RATE)]

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
    words = (transcript or "").split()
    seconds = [span.end - span.start for span, _ in spans]
    edges = [round(len(words) * sum(seconds[:i]) / sum(seconds)) for i in range(len(seconds) + 1)]
    texts = [" ".join(words[first:last]) or None for first, last in pairwise(edges)]
    if words:
        log.warning("%s: the transcript has no times; its words are divided in proportion to length", name)
    return [Segment(*span, speaker, text) for (span, speaker), text in zip(spans, texts, strict=True)]


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
