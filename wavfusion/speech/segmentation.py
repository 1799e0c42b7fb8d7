"""The utterances of a recording: as they were given, or where somebody speaks, divided where the speaker changes."""

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

Speakers = int | Literal["auto"] | None  # how many speak; None = nobody is told apart


@dataclass(frozen=True)
class RecordingAudio:
    """The sound of a recording: a file's, or samples of 16 kHz."""

    file: str
    samples: Float32[np.ndarray, " N"] | None = None

    def hear(self) -> SpeechActivity:
        """Find where somebody speaks."""
        return (
            activity.detect_speech(self.file)
            if self.samples is None
            else activity.detect_speech_in_samples(self.samples)
        )

    def heard(self, start: float, end: float) -> Float32[np.ndarray, " n"]:
        """The samples between two times; silence where there are none, as where only the pictures go on."""
        try:
            return self.decode(start, end)
        except MediaError:
            return np.zeros(round((end - start) * media.SAMPLE_RATE), np.float32)

    def decode(self, start: float, end: float) -> Float32[np.ndarray, " n"]:
        """The samples between two times.

        Raises:
            MediaError: none can be decoded there.
        """
        if self.samples is None:
            return media.decode_audio(self.file, start, end).samples
        return self.samples[round(start * media.SAMPLE_RATE) : round(end * media.SAMPLE_RATE)]

    def is_still(self, span: Span) -> bool:
        """Whether there is no sound at all between two times, as in a hole between timestamps."""
        try:
            return not self.decode(span.start, span.end).any()
        except MediaError:
            return False

    def turns(self, spans: Sequence[Span], count: Speakers) -> list[speakers.SpeakerTurn]:
        """Tell speakers apart."""
        return speakers.turns(self.heard, spans, None if count == "auto" else count)


def segment_recording(
    sound: RecordingAudio | None, file: str, length: float, transcript: str | None, count: Speakers, seen: bool = False
) -> list[Segment]:
    """Find the utterances of a recording of `length` seconds; the words are shared out by seconds.

    Up to 15 s it is one utterance. Without speech, or without the extra `[vad]`, a longer one is cut every 15 s, and
    what has no sound at all is left out, unless it is `seen`.

    Raises:
        ConfigError: speakers are asked for, and the extra `[speakers]` is missing.
    """
    if length <= WINDOW:
        return [Segment(0.0, length, None, transcript)]
    spans = [] if sound is None or not activity.has_activity_model() else _spoken(sound, count)
    if not spans:
        why = "nobody speaks" if activity.has_activity_model() else "the extra [vad] is not installed"
        every = [Span(each.start, each.end) for each in windows(length)]
        heard = [] if sound is None or seen else [span for span in every if not sound.is_still(span)]
        spans = [(span, None) for span in heard or every]
        still = f"; {len(every) - len(spans)} parts without any sound are left out" if len(spans) < len(every) else ""
        log.warning("%s: %s; cut every %g s%s", file or "array", why if sound else "no sound", WINDOW, still)
    words = (transcript or "").split()
    seconds = [span.end - span.start for span, _ in spans]
    edges = [round(len(words) * sum(seconds[:i]) / sum(seconds)) for i in range(len(seconds) + 1)]
    said = [" ".join(words[first:last]) or None for first, last in pairwise(edges)]
    if words:
        log.warning("%s: the transcript has no times; its words are shared out by seconds", file or "array")
    return [Segment(*span, who, text) for (span, who), text in zip(spans, said, strict=True)]


def _spoken(sound: RecordingAudio, count: Speakers) -> list[tuple[Span, str | None]]:
    """Where somebody speaks, and who, in utterances of at most 12 s."""
    heard = sound.hear()
    if count is None:
        return [(part, None) for part in activity.utterances(heard)]
    turns = sound.turns(heard.spans, count)
    return [
        (part, _name(turn.speaker)) for turn in turns for part in activity.cut(Span(turn.start, turn.end), heard.active)
    ]


def named(segments: Sequence[Segment], sound: RecordingAudio | None, count: Speakers) -> list[Segment]:
    """Name who speaks in segments that do not say: in each the one who speaks most of it, with a warning of long ones.

    Raises:
        ConfigError: speakers are asked for, and the extra `[speakers]` is missing.
    """
    if count is None or sound is None or all(each.speaker for each in segments):
        return list(segments)
    long = sum(not each.speaker and each.end - each.start > activity.LONGEST for each in segments)
    if long:
        log.warning(
            "%s: %d of the given segments are longer than %g s; each gets the speaker of most of it, since given ones "
            "are not divided where the speaker changes",
            *(sound.file or "array", long, activity.LONGEST),
        )
    spans = [Span(each.start, each.end) for each in segments]
    turns = sound.turns(sorted(spans), count)
    found = [speakers.speaker_of(span, turns) for span in spans]
    return [
        replace(each, speaker=each.speaker or (None if who is None else _name(who)))
        for each, who in zip(segments, found, strict=True)
    ]


def read_count(text: str | None) -> Speakers:
    """Read how many speak, as somebody wrote it; None = nobody is told apart.

    Raises:
        ConfigError: not from 1 to 20, nor `auto`, nor None.
    """
    count: object = int(text) if text and text.isdecimal() and len(text) < 10 else text
    require_count(count)
    return cast(Speakers, count)


def require_count(count: object) -> None:
    """Refuse a number of speakers that is none.

    Raises:
        ConfigError: not from 1 to 20, nor `auto`, nor None.
    """
    number = isinstance(count, int) and not isinstance(count, bool) and 1 <= count <= MANY
    if not (count is None or count == "auto" or number):
        raise ConfigError(f"speakers: expected auto or a number from 1 to {MANY}, found {count!r}")


MANY = 20  # speakers that somebody may name


def _name(number: int) -> str:
    return f"speaker {number + 1}"
