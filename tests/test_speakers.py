"""Speaker diarization, on real conversations and against direct computations."""

import itertools
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wavfusion import media
from wavfusion.errors import ConfigError
from wavfusion.speech import activity, segmentation, speakers
from wavfusion.speech.activity import Span
from wavfusion.speech.segmentation import RecordingAudio
from wavfusion.transcripts import Segment

DATA = Path(__file__).parents[2] / "shared" / "data"
CHANGES = [7.33, 8.34, 9.97, 10.8, 14.59, 17.98, 21.6, 28.18]  # seconds, of conversation/sample.wav
real = pytest.mark.skipif(not DATA.is_dir(), reason="the real recordings are not there")
installed = pytest.mark.skipif(find_spec("resemblyzer") is None, reason="the extra [speakers] is not installed")


def test_mel_spectra_are_librosas() -> None:
    librosa = pytest.importorskip("librosa")
    x = np.random.default_rng(0).normal(size=20_001).astype(np.float32) * 0.3
    expected = librosa.feature.melspectrogram(y=x, sr=16_000, n_fft=400, hop_length=160, n_mels=40).T
    assert np.abs(speakers.mels(x).numpy() - expected).max() < 1e-5 * expected.max()


def test_quiet_audio_is_raised_and_loud_audio_left() -> None:
    x = np.random.default_rng(0).normal(size=16_000).astype(np.float32)
    quiet, loud = 1e-4 * x, 0.5 * x
    target = np.float32(speakers.LOUDNESS / np.sqrt(np.mean(x**2)))
    assert np.allclose(speakers.mels(quiet), speakers.mels(target * x), rtol=1e-3)
    assert np.allclose(speakers.mels(loud), 0.25 * speakers.mels(x), rtol=1e-3)


@given(arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 3)), elements=st.floats(0, 2)), st.floats(0, 1))
def test_the_path_is_the_cheapest_of_all(costs: np.ndarray, price: float) -> None:
    def total(path: Any) -> float:
        own = sum(costs[step, who] for step, who in enumerate(path))
        return float(own + price * sum(a != b for a, b in itertools.pairwise(path)))

    every = itertools.product(range(costs.shape[1]), repeat=len(costs))
    assert total(speakers.cheapest_path(costs, price)) == pytest.approx(min(map(total, every)), abs=1e-9)


def test_who_speaks_most_of_a_span_is_its_speaker() -> None:
    said = [Segment(*row) for row in ((0.0, 1.0, "a"), (1.0, 1.6, "b"), (2.0, 2.5, "a"), (2.5, 3.2, "b"))]
    spans = [Span(0.2, 1.5), Span(0.5, 3.2), Span(1.7, 1.9)]
    assert [speakers.speaker_of(span, said) for span in spans] == ["a", "b", None]


@installed
def test_where_nobody_speaks_there_is_no_turn() -> None:
    assert speakers.turns(lambda start, end: np.zeros(0, np.float32), [], 2) == []


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speakers, "find_spec", lambda name: None)
    speakers.load_voice_encoder.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'wavfusion\[speakers\]'"):
        speakers.load_voice_encoder()


@pytest.mark.parametrize("count", [2, "auto"])
def test_speakers_of_a_short_recording_are_not_told_apart_with_a_warning(
    count: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """`--speakers N` did nothing for a recording of up to 15 s, silently."""
    whole = segmentation.segment_recording(None, "a.wav", 9.0, "well", count, False)
    assert whole == [Segment(0.0, 9.0, None, "well")]
    (warning,) = caplog.messages
    assert warning.startswith("a.wav: 9.0 s are one utterance (up to 15 s), whose speakers are not told apart; give")


@pytest.mark.parametrize("count", [0, -1, 21, True, "many", 1.5])
def test_an_invalid_number_of_speakers_is_refused(count: Any) -> None:
    with pytest.raises(ConfigError, match="expected auto or a number from 1 to 20"):
        segmentation.require_count(count)


@real
@installed
def test_the_conversation_changes_where_its_annotation_says() -> None:
    path = DATA / "conversation" / "sample.wav"
    sound = RecordingAudio(str(path))
    said = sound.turns(sound.detect_speech().spans, 2)
    edges = np.array([edge for turn in said for edge in (turn.start, turn.end)])
    assert sum(np.abs(edges - change).min() <= 0.5 for change in CHANGES) >= 7
    rows = [line.split() for line in path.with_suffix(".rttm").read_text().splitlines()]
    truth = [(float(row[3]), float(row[3]) + float(row[4]), row[7]) for row in rows]
    shares = []
    for pair in itertools.permutations(["speaker90", "speaker91"]):
        names = dict(zip(("speaker 1", "speaker 2"), pair, strict=True))
        right = []
        for t in np.arange(0, 30, 0.01):
            who = {name for start, end, name in truth if start <= t < end}
            mine = {names[turn.speaker] for turn in said if turn.start <= t < turn.end}
            right += [bool(who & mine)] if who else []
        shares.append(np.mean(right))
    assert max(shares) >= 0.85


@real
@installed
def test_a_man_and_a_woman_are_found_to_be_two() -> None:
    files = [sorted((DATA / "ravdess" / "speech").rglob(f"*-{who}.wav"))[:4] for who in ("01", "02")]
    parts = [media.decode_audio(path).samples for pair in zip(*files, strict=True) for path in pair]
    sound, at, expected = RecordingAudio("", np.concatenate(parts)), 0.0, []
    for number, part in enumerate(parts):
        expected.append(Span(at, at + len(part) / media.SAMPLE_RATE))
        at = expected[number].end
    said = sound.turns(sound.detect_speech().spans, "auto")
    assert [speakers.speaker_of(span, said) for span in expected] == ["speaker 1", "speaker 2"] * 4


@real
@installed
@pytest.mark.parametrize("name", ["misc/nasa_13013.mp4"])
def test_one_voice_is_found_to_be_one(name: str) -> None:
    sound = RecordingAudio(str(DATA / name))
    assert {turn.speaker for turn in sound.turns(sound.detect_speech().spans, "auto")} == {"speaker 1"}


@real
@installed
def test_utterances_are_divided_where_the_speaker_changes_and_segments_get_names() -> None:
    sound = RecordingAudio(str(DATA / "conversation" / "sample.wav"))
    whole = segmentation.segment_recording(sound, sound.file, 30.0, None, 2, False)
    assert {each.speaker for each in whole} == {"speaker 1", "speaker 2"}
    assert all(0 < each.end - each.start <= activity.LONGEST for each in whole)
    given_ = [Segment(10.9, 14.0, None, "a"), Segment(22.0, 27.0, None, "b"), Segment(8.4, 9.8, "Ann", "c")]
    found = [each.speaker for each in segmentation.name_speakers(given_, sound, 2)]
    assert found[2] == "Ann" and None not in found and found[0] != found[1]


@real
@installed
def test_long_given_segments_are_not_divided_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Of two people in one long cue the one who speaks more was named for both, silently."""
    sound = RecordingAudio(str(DATA / "conversation" / "sample.wav"))
    given_ = [Segment(0.0, 14.0), Segment(14.0, 28.0, "Ann"), Segment(28.0, 30.0)]
    assert len(segmentation.name_speakers(given_, sound, 2)) == 3
    (said,) = caplog.messages
    assert "sample.wav: 1 of the given segments are longer than 12 s" in said
