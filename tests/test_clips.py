import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavfusion import media as media_files
from wavfusion.errors import CorpusError
from wavfusion.features.clips import Media, Medium, Window, examine, plan_windows, windows
from wavfusion.features.store import FeatureSet, Store, read_feature_sets
from wavfusion.manifest import AudioSpan, Utterance, VideoSpan

WANTED = FeatureSet(
    "tiny",
    frame_rate=5.0,
    pretrained_rate=1e-4,
    new_rate=1e-4,
    audio={"fingerprint": "fa"},
    text={"fingerprint": "ft"},
    video={"fingerprint": "fv"},
    audio_layers=[9],
    text_layers=["last"],
)
KNOWN = {"x.wav": Medium("hash", 4.0, None), "y.wav": Medium("hash", 4.0, None), "v.mp4": Medium("film", 4.0, 5.0)}


def utterance(**values):
    return Utterance("u", "table", **values)


def heard(start=None, end=None, channel="mix", path="x.wav", known=KNOWN, wanted=WANTED):
    return plan_windows(utterance(audio=AudioSpan(path, start, end, channel)), known, wanted)


def seen(start=None, end=None, crop=None, wanted=WANTED):
    return plan_windows(utterance(video=VideoSpan("v.mp4", start, end, crop)), KNOWN, wanted)[0]


# ---------------------------------------------------------------------- windows


@given(st.floats(0, 10_000, allow_nan=False))
def test_windows_cover_an_utterance_once(duration):
    found = windows(duration)
    assert found[0].start == 0 and found[-1].end == duration
    assert all(one.end == other.start for one, other in zip(found, found[1:], strict=False))


@given(st.floats(0, 10_000, allow_nan=False))
def test_no_window_is_longer_than_fifteen_seconds(duration):
    assert max(window.end - window.start for window in windows(duration)) <= 15.0 + 1e-9


@given(st.floats(15.001, 10_000, allow_nan=False))
def test_no_window_of_a_long_utterance_is_a_short_tail(duration):
    assert min(window.end - window.start for window in windows(duration)) >= 1.0


def test_a_tail_below_a_second_is_shared_with_the_window_before():
    assert windows(30.5) == [Window(0, 15), Window(15, 22.75), Window(22.75, 30.5)]


def test_fifteen_seconds_are_one_window():
    assert windows(15.0) == [Window(0, 15)]


# ---------------------------------------------------------------------- keys


KEYED = {
    "content": st.sampled_from(["h1", "h2"]),
    "start": st.sampled_from([0.0, 0.5]),
    "end": st.sampled_from([2.0, 3.5]),
    "channel": st.sampled_from(["mix", "left", "right", "centre"]),
    "layer": st.sampled_from([8, 9]),
    "fingerprint": st.sampled_from(["f1", "f2"]),
}


def audio_key(content, start, end, channel, layer, fingerprint, name):
    wanted = dataclasses.replace(WANTED, audio={"fingerprint": fingerprint}, audio_layers=[layer])
    (clip,) = heard(start, end, channel, name, {name: Medium(content, 4.0, None)}, wanted)
    return clip.audio.keys[layer]


@given(st.fixed_dictionaries(KEYED), st.fixed_dictionaries(KEYED), st.text(min_size=1), st.text(min_size=1))
def test_an_audio_key_changes_exactly_when_its_inputs_do(one, other, name, renamed):
    same = audio_key(**one, name=name) == audio_key(**other, name=renamed)
    assert same == (one == other)


SHOWN = {
    "content": st.sampled_from(["h1", "h2"]),
    "start": st.sampled_from([0.0, 0.5]),
    "end": st.sampled_from([2.0, 3.5]),
    "crop": st.sampled_from([None, [0, 0, 8, 8], [0, 0, 8, 16]]),
    "rate": st.sampled_from([5.0, 10.0]),
    "fingerprint": st.sampled_from(["f1", "f2"]),
}


def video_key(content, start, end, crop, rate, fingerprint, name):
    wanted = dataclasses.replace(WANTED, video={"fingerprint": fingerprint}, frame_rate=rate)
    spans = utterance(video=VideoSpan(name, start, end, crop))
    return plan_windows(spans, {name: Medium(content, None, 4.0)}, wanted)[0].video.keys["frames"]


@given(st.fixed_dictionaries(SHOWN), st.fixed_dictionaries(SHOWN), st.text(min_size=1), st.text(min_size=1))
def test_a_video_key_changes_exactly_when_its_inputs_do(one, other, name, renamed):
    same = video_key(**one, name=name) == video_key(**other, name=renamed)
    assert same == (one == other)


def test_a_text_key_changes_with_the_words_and_not_with_their_typography():
    said = [
        plan_windows(utterance(text=x), {}, WANTED)[0].text.keys["last"] for x in ("It’s  me", "It's me", "It's you")
    ]
    assert said[0] == said[1] != said[2]


def test_layers_have_keys_of_their_own():
    wanted = dataclasses.replace(WANTED, audio_layers=[8, 9, 10])
    assert len(set(heard(wanted=wanted)[0].audio.keys.values())) == 3


def test_sound_and_picture_of_one_file_have_keys_of_their_own():
    clip = plan_windows(utterance(audio=AudioSpan("v.mp4"), video=VideoSpan("v.mp4")), KNOWN, WANTED)[0]
    assert len({key for part in clip.parts.values() for key in part.keys.values()}) == 2


# ---------------------------------------------------------------------- plans


def test_a_span_is_clipped_to_its_file():
    (clip,) = heard(1.0, 9.0)
    assert (clip.audio.start, clip.audio.end, clip.window) == (1.0, 4.0, Window(0.0, 3.0))


def test_a_whole_file_reaches_to_its_end():
    assert (seen().video.start, seen().video.end) == (0.0, 5.0)


def test_a_span_behind_its_file_is_empty():
    (clip,) = heard(5.0, 9.0)
    assert (clip.audio.start, clip.audio.end) == (5.0, 5.0)


def test_a_crop_and_a_channel_are_handed_to_the_decoder():
    assert (seen(crop=[0, 0, 8, 8]).video.setting, heard(channel="left")[0].audio.setting) == ([0, 0, 8, 8], "left")


def test_a_long_utterance_shares_its_transcript_by_time():
    known = {"x.wav": Medium("h", 20.0, None)}
    clips = plan_windows(utterance(audio=AudioSpan("x.wav"), text="a b c"), known, WANTED)
    assert [clip.share for clip in clips] == [(0.0, 0.75), (0.75, 1.0)]
    assert clips[0].text == clips[1].text


def test_sound_that_is_over_before_a_window_is_absent_there():
    known = {"x.wav": Medium("h", 12.0, None), "v.mp4": Medium("f", None, 20.0)}
    clips = plan_windows(utterance(audio=AudioSpan("x.wav"), video=VideoSpan("v.mp4")), known, WANTED)
    assert [clip.audio is None for clip in clips] == [False, True]


def test_a_rest_of_sound_below_a_tenth_of_a_millisecond_is_absent():
    """It was planned as a stretch without a length, which no file can give."""
    known = {"x.wav": Medium("h", 15.00001, None), "v.mp4": Medium("f", None, 20.0)}
    clips = plan_windows(utterance(audio=AudioSpan("x.wav"), video=VideoSpan("v.mp4")), known, WANTED)
    assert clips[1].audio is None


@pytest.mark.parametrize("text", [None, "", "  \n"])
def test_no_words_are_no_text(text):
    assert plan_windows(utterance(audio=AudioSpan("x.wav"), text=text), KNOWN, WANTED)[0].text is None


def test_a_modality_known_to_be_missing_is_not_looked_for():
    row = utterance(audio=AudioSpan("gone.wav"), video=VideoSpan("gone.mp4"), text="Hi", missing=["audio", "video"])
    (clip,) = plan_windows(row, {}, WANTED)
    assert (clip.audio, clip.video) == (None, None) and clip.text


def test_a_modality_that_nobody_wants_is_left_out():
    clip = seen(wanted=dataclasses.replace(WANTED, video=None))
    assert clip.parts == {}


# ---------------------------------------------------------------------- what is known of files


@pytest.fixture
def corpus(tmp_path):
    root = tmp_path / "corpus"
    root.mkdir()
    media_files.write_audio(root / "x.wav", np.sin(np.arange(8000) / 9).astype("f4"), 16_000)
    return root


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", create=True)


def known_of(store, root, identity="here"):
    return Media(store, root, identity, note=True)


def change(path):
    """Other bytes under the old size and times."""
    old = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))


def test_a_file_is_hashed_and_measured(store, corpus):
    found = known_of(store, corpus)["x.wav"]
    assert found == Medium(media_files.content_hash(corpus / "x.wav"), 0.5, None)


def test_an_unchanged_file_is_not_read_again(store, corpus):
    before = known_of(store, corpus)["x.wav"]
    lines = (store.folder / "media.jsonl").read_bytes()
    # What a second reading would find is not what the notes say.
    noted = json.loads(lines) | {"content": "noted"}
    (store.folder / "media.jsonl").write_text(json.dumps(noted) + "\n")
    assert known_of(store, corpus)["x.wav"] == before._replace(content="noted")


def test_a_changed_file_of_the_same_size_and_time_is_read_again(store, corpus):
    before = known_of(store, corpus)["x.wav"]
    change(corpus / "x.wav")
    assert known_of(store, corpus)["x.wav"].content != before.content


def test_who_only_reads_a_store_writes_nothing_into_it(store, corpus):
    """`train` and `evaluate` noted every changed file in the store that they were given."""
    found = Media(store, corpus, "here")["x.wav"]
    assert found.audio == 0.5 and [path.name for path in store.folder.iterdir()] == ["shards"]


def test_a_file_carried_elsewhere_keeps_its_content(store, corpus, tmp_path):
    before = known_of(store, corpus)["x.wav"]
    shutil.copytree(corpus, tmp_path / "moved")
    assert known_of(store, tmp_path / "moved")["x.wav"] == before


def test_where_the_corpus_is_gone_what_was_known_of_it_holds(store, corpus):
    before = known_of(store, corpus)["x.wav"]
    shutil.rmtree(corpus)
    assert known_of(store, corpus)["x.wav"] == before


def test_where_only_the_file_is_gone_it_is_absent(store, corpus):
    known_of(store, corpus)["x.wav"]
    (corpus / "x.wav").unlink()
    found = known_of(store, corpus)["x.wav"]
    assert (found.audio, found.video) == (None, None) and "No such file" in found.reason


def test_corpora_with_the_same_file_names_are_told_apart(store, corpus, tmp_path):
    (tmp_path / "other").mkdir()
    media_files.write_audio(tmp_path / "other" / "x.wav", np.zeros(1600, "f4"), 16_000)
    one, other = known_of(store, corpus)["x.wav"], known_of(store, tmp_path / "other", "there")["x.wav"]
    shutil.rmtree(corpus)
    assert known_of(store, corpus)["x.wav"] == one != other


def test_a_media_line_cut_short_is_passed_over(store, corpus):
    before = known_of(store, corpus)["x.wav"]
    file = store.folder / "media.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    assert known_of(store, corpus)["x.wav"] == before
    assert len(file.read_text().splitlines()) == 2


def test_a_media_line_without_its_fields_is_passed_over(store, corpus):
    (store.folder / "media.jsonl").write_text('{"root": "here", "path": "x.wav"}\n')
    assert known_of(store, corpus)["x.wav"].audio == 0.5


def test_a_pipe_is_not_waited_for(store, corpus):
    os.mkfifo(corpus / "pipe.wav")
    assert "pipe or device" in known_of(store, corpus)["pipe.wav"].reason


@pytest.mark.parametrize("name", ["gone.wav", "a" * 300, "\ud83d.wav", "folder", "dangling.wav"])
def test_a_name_that_leads_to_no_file_has_a_reason(store, corpus, name):
    (corpus / "folder").mkdir()
    (corpus / "dangling.wav").symlink_to("nowhere")
    assert known_of(store, corpus)[name].reason


def test_a_file_that_is_no_recording_has_a_content_and_a_reason(tmp_path):
    (tmp_path / "x.wav").write_text("no sound")
    found = examine(tmp_path / "x.wav")
    assert len(found.content) == 64 and "x.wav" in found.reason


# ---------------------------------------------------------------------- encoders.json


def test_a_store_without_encoders_says_to_extract(store):
    with pytest.raises(CorpusError, match="run extract"):
        read_feature_sets(store)


def test_a_pipe_in_place_of_the_notes_is_not_waited_for(store, corpus):
    for name in ("media.jsonl", "encoders.json"):
        os.mkfifo(store.folder / name)
    for read in (lambda: known_of(store, corpus), lambda: read_feature_sets(store)):
        with pytest.raises(CorpusError, match="pipe or device"):
            read()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"tiny": 1}', b'{"tiny": {"wrong": 1}}', b"\xff"])
def test_damaged_notes_on_encoders_say_to_extract(store, content):
    (store.folder / "encoders.json").write_bytes(content)
    with pytest.raises(CorpusError, match="run extract"):
        read_feature_sets(store)
