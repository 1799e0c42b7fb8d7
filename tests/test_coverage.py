"""What was labelled and what was left out, with its reason, are the whole recording."""

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wavfusion
from wavfusion import media
from wavfusion.cli.app import main
from wavfusion.errors import ConfigError, MediaError
from wavfusion.prediction.coverage import PAUSE, UNTRANSCRIBED, LeftOut, account, gaps, summary
from wavfusion.prediction.recognizer import EmotionRecognizer, RecordingPredictions
from wavfusion.prediction.windows import open_source
from wavfusion.speech.segmentation import RecordingAudio, assign_each, segment_each
from wavfusion.transcripts import Segment

pytest_plugins = ("corpus_fixture",)

SHARED = Path(__file__).parents[2] / "shared" / "data"
RATE = 16_000


@pytest.fixture(scope="module")
def recognizer(trained: Path) -> EmotionRecognizer:
    return wavfusion.EmotionRecognizer.from_pretrained(str(trained))


def tone(seconds: float, pitch: float = 200.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * pitch * np.arange(round(RATE * seconds)) / RATE)).astype(np.float32)


def is_whole(said: RecordingPredictions, length: float) -> bool:
    spans = sorted([(each.start, each.end) for each in said] + [(start, end) for start, end, _ in said.left_out])
    reached = 0.0
    for start, end in spans:
        if start > reached + 0.002:
            return False
        reached = max(reached, end)
    return bool(abs(reached - length) < 0.002)


# ------------------------------------------------------------------ the account

spans = st.lists(st.tuples(st.floats(0, 50), st.floats(0, 50)).map(lambda pair: (min(pair), max(pair))), max_size=20)


@given(labelled=spans, failed=spans)
def test_gaps_and_what_failed_are_the_rest_of_the_recording(labelled, failed):
    planned = [*labelled, *failed]
    left_out = [*gaps(planned, 50.0, PAUSE), *(LeftOut(*span, "not decodable") for span in failed)]
    found = account(50.0, labelled, left_out)
    assert all(one.end <= other.start for one, other in pairwise(found))
    free = sum(each.end - each.start for each in gaps(labelled, 50.0, ""))
    assert sum(each.end - each.start for each in found) == pytest.approx(free, abs=0.1)


def test_a_stretch_that_nobody_accounts_for_is_an_error():
    with pytest.raises(AssertionError, match=r"2\.000 to 3\.000 s were neither labelled nor left out"):
        account(4.0, [(0.0, 2.0)], [LeftOut(3.0, 4.0, PAUSE)])


def test_a_line_says_how_much_was_left_out_and_why_unless_it_was_pauses_alone():
    assert summary(60.0, [LeftOut(3.0, 9.0, PAUSE)]) is None
    assert summary(60.0, [LeftOut(0.0, 40.0, PAUSE)]) == "40.0 of 60.0 s are left out: 40.0 s no speech"
    both = [LeftOut(3.0, 9.0, PAUSE), LeftOut(10.0, 25.0, "not decodable")]
    assert summary(60.0, both) == "21.0 of 60.0 s are left out: 6.0 s no speech, 15.0 s not decodable"


def test_what_a_transcript_does_not_hold_is_left_out_and_said(recognizer, caplog):
    said = recognizer.predict(tone(20.0), sample_rate=RATE, segments=[Segment(2.0, 6.0), Segment(5.0, 19.0)])
    assert said.left_out == [(0.0, 2.0, UNTRANSCRIBED), (19.0, 20.0, UNTRANSCRIBED)]
    assert "array: 3.0 of 20.0 s are left out: 3.0 s not in the transcript" in caplog.messages


@pytest.mark.parametrize("alone", [True, False])
def test_the_page_of_the_shell_shows_what_was_left_out(trained, tmp_path, alone):
    media.write_audio(tmp_path / "a.wav", tone(20.0), RATE)
    (tmp_path / "a.srt").write_text("1\n00:00:02,000 --> 00:00:19,000\nwell\n")
    out = tmp_path / ("a.html" if alone else "pages")
    options = ["--transcript", tmp_path / "a.srt", "--out", out, "--format", "html"]
    assert main(["predict", *map(str, [tmp_path / "a.wav", "--model", trained, *options])]) == 0
    page = (out if alone else out / "a.wav.html").read_text()
    (data,) = re.findall(r'<script type="application/json" id="recording">(.*?)</script>', page)
    spans = [(each["start"], each["end"], each["reason"]) for each in json.loads(data)["leftOut"]]
    assert spans == [(0.0, 2.0, UNTRANSCRIBED), (19.0, 20.0, UNTRANSCRIBED)]


def test_utterances_after_the_pictures_have_ended_get_one_warning(recognizer, tmp_path, caplog):
    """Each had a warning of its own, that the start lies outside of the video."""
    pictures = [np.full((64, 64, 3), 90, np.uint8)] * 10
    media.write_video(tmp_path / "a.mp4", pictures, 5, tone(12.0), RATE)
    times = [Segment(float(at), at + 1.0) for at in range(12)]
    said = recognizer.predict(tmp_path / "a.mp4", segments=times)
    assert [each.modalities for each in said] == [["audio", "video"]] * 2 + [["audio"]] * 10
    ended = [line for line in caplog.messages if "video" in line]
    assert ended == [f"{tmp_path / 'a.mp4'}: its video ends at 2.00 s; without it: 10 utterances"]
    assert is_whole(said, media.probe(tmp_path / "a.mp4").audio)


def test_what_cannot_be_decoded_is_left_out_and_counted_once(recognizer, tmp_path, caplog, monkeypatch):
    """Each of 1,900 stretches that failed had a warning of its own."""
    decode = media.decode_audio

    def broken(path, start, *rest, **options):
        if 20.0 <= start < 40.0:
            raise MediaError(f"expected decodable audio in {str(path)!r} at {start}, found none")
        return decode(path, start, *rest, **options)

    media.write_audio(tmp_path / "a.wav", tone(60.0), RATE)
    monkeypatch.setattr(media, "decode_audio", broken)
    said = recognizer.predict(tmp_path / "a.wav", segments=[Segment(float(at), at + 5.0) for at in range(0, 60, 5)])
    assert said.left_out == [(20.0, 40.0, "not decodable")] and is_whole(said, 60.0) and len(said) == 8
    assert [line for line in caplog.messages if "left out" in line] == [
        f"expected decodable audio in '{tmp_path / 'a.wav'}' at 20.0, found none; left out, like 3 other stretches",
        f"{tmp_path / 'a.wav'}: 20.0 of 60.0 s are left out: 20.0 s not decodable",
    ]


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the recordings of ../shared/data")
def test_every_real_recording_is_labelled_or_left_out_as_a_whole(recognizer):
    count = 0
    for path in sorted(each for each in SHARED.rglob("*") if each.suffix in media.endings() and each.name[0] != "."):
        try:
            said = recognizer.predict(path, contributions=False)
        except MediaError:
            continue
        assert is_whole(said, open_source(path, None).length), path
        count += 1
    assert count > 100


# ------------------------------------------------------------------ tracks and channels


def call(tmp_path: Path, seconds: float = 4.0) -> Path:
    """A stereo call: somebody on the left, somebody else on the right."""
    media.write_audio(tmp_path / "call.wav", np.stack([tone(seconds, 180.0), tone(seconds, 310.0)]), RATE)
    return tmp_path / "call.wav"


def test_each_channel_of_a_call_is_a_speaker(recognizer, tmp_path):
    """A stereo call was mixed to mono, and both persons were labelled as one."""
    path = call(tmp_path)
    said = recognizer.predict(path, channel="each")
    assert [(each.start, each.end, each.speaker) for each in said] == [(0.0, 4.0, "left"), (0.0, 4.0, "right")]
    for each in said:
        (alone,) = recognizer.predict(path, channel=each.speaker)
        assert list(alone.probabilities.values()) == pytest.approx(list(each.probabilities.values()), abs=1e-6)
        assert alone.speaker is None
    assert said[0].probabilities != said[1].probabilities


def test_the_shell_chooses_channels_and_tracks(trained, tmp_path, capfd):
    """`predict` had neither option: a call was one speaker, and a second microphone was never heard."""
    from test_media import with_tracks

    tracks = with_tracks(tmp_path / "two.mka", 440, 880, titles=("Anna", "Bob"))
    found = {}
    for file, *choice in ((call(tmp_path), "--channel", "each"), (tracks, "--track", "each"), (tracks, "--track", "2")):
        assert main(["predict", str(file), "--model", str(trained), "--format", "json", *choice]) == 0
        found[choice[1], file.suffix] = json.loads(capfd.readouterr().out)
    assert [each["speaker"] for each in found["each", ".wav"]] == ["left", "right"]
    assert [each["speaker"] for each in found["each", ".mka"]] == ["Anna", "Bob"]
    (second,) = found["2", ".mka"]
    assert second["speaker"] is None
    assert second["probabilities"] == pytest.approx(found["each", ".mka"][1]["probabilities"], abs=1e-6)
    assert (
        main(["embed", str(tracks), "--model", str(trained), "--track", "each", "--out", str(tmp_path / "v.npz")]) == 0
    )
    assert capfd.readouterr().out.startswith(f"{tmp_path / 'v.npz'}: 2 utterances")


def test_each_channel_of_an_array_is_a_speaker(recognizer, tmp_path):
    both = np.stack([tone(4.0, 180.0), tone(4.0, 310.0)])
    said = recognizer.predict(both, sample_rate=RATE, channel="each")
    from_file = recognizer.predict(call(tmp_path), channel="each")
    assert [each.speaker for each in said] == ["left", "right"]
    for one, other in zip(said, from_file, strict=True):
        assert list(one.probabilities.values()) == pytest.approx(list(other.probabilities.values()), abs=1e-3)


def test_segments_go_to_the_channel_of_their_speaker_or_to_the_loudest():
    left, right = tone(4.0), tone(4.0)
    left[2 * RATE :] = 0
    right[: 2 * RATE] = 0
    audios = [RecordingAudio("", left, speaker="left"), RecordingAudio("", right, speaker="right")]
    given_ = [Segment(0.0, 2.0), Segment(2.0, 4.0, None, "well"), Segment(0.0, 2.0, "right"), Segment(2.0, 4.0, "Bob")]
    found = [(each.speaker, number) for each, number in assign_each(given_, audios)]
    assert found == [("left", 0), ("right", 1), ("right", 1), ("Bob", 1)]


def test_a_channel_without_a_sound_has_no_utterance_and_that_is_said(caplog):
    audios = [
        RecordingAudio("", tone(4.0), speaker="left"),
        RecordingAudio("", np.zeros(64_000, "f4"), speaker="right"),
    ]
    assert segment_each(audios, "", 4.0, "oh no") == [(Segment(0.0, 4.0, "left", "oh no"), 0)]
    assert caplog.messages[0] == "array: no speech on right"


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the recordings of ../shared/data")
def test_the_speech_of_each_channel_is_found_by_itself_and_merged_in_order():
    samples = media.decode_audio(SHARED / "conversation" / "sample.wav").samples
    left, right = samples.copy(), samples.copy()
    left[15 * RATE :] = 0
    right[: 15 * RATE] = 0
    audios = [RecordingAudio("", left, speaker="left"), RecordingAudio("", right, speaker="right")]
    found = segment_each(audios, "", 30.0, None)
    assert {number for _, number in found} == {0, 1}
    assert all(each.end < 15.2 if number == 0 else each.start > 14.8 for each, number in found)
    assert [each.start for each, _ in found] == sorted(each.start for each, _ in found)
    assert all(each.speaker == ("left", "right")[number] for each, number in found)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"channel": "lef"}, "channel: found 'lef'; did you mean 'left'"),
        ({"track": 0}, "track: expected a number from 1, mix or each, found 0"),
        ({"track": "every"}, "track: expected a number from 1, mix or each, found 'every'"),
        ({"track": "each", "channel": "each"}, "both 'each'"),
        ({"channel": "each", "speakers": 2}, "expected no speakers= where each track or channel is a speaker"),
    ],
)
def test_a_wrong_choice_of_audio_is_one_line(recognizer, tmp_path, wrong, message):
    with pytest.raises(ConfigError, match=message):
        recognizer.predict(call(tmp_path), **wrong)


def test_tracks_that_are_not_used_are_named(tmp_path, caplog):
    from test_media import with_tracks

    path = with_tracks(tmp_path / "two.mka", 440, 880, titles=("Anna", "Bob"))
    assert [audio.track for audio in open_source(path, None).audios] == [None]
    expected = "2 audio tracks; track 1 (Anna) is used, not track 2 (Bob); choose with --track N, mix or each"
    assert caplog.messages == [f"{path}: {expected}"]
    caplog.clear()
    each = open_source(path, None, "each")
    assert [(audio.track, audio.speaker) for audio in each.audios] == [(1, "Anna"), (2, "Bob")]
    assert each.length == pytest.approx(3.0, abs=0.1) and caplog.messages == []
