from pathlib import Path

import pytest

from wavfusion import corpora
from wavfusion.corpora.emotions import EMOTIONS
from wavfusion.manifest import AudioSpan, VideoSpan
from wavfusion.runs.results import clusters_of

DATA = Path(__file__).parents[1] / ".." / "shared" / "data" / "ravdess"
TRIAL = "01-06-02-01-02-11"


def prepare(root, *paths, **settings):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return corpora.prepare("ravdess", root, **settings)


def test_the_files_of_one_trial_are_one_utterance(tmp_path):
    paths = [
        f"{folder}/{code}-{TRIAL}.{end}"
        for folder, code, end in (("s", "03", "wav"), ("v", "01", "mp4"), ("v", "02", "mp4"))
    ]
    (utterance,) = prepare(tmp_path, *paths).utterances
    assert (utterance.audio, utterance.video) == (AudioSpan(paths[0]), VideoSpan(paths[1]))


def test_the_sound_of_a_trial_without_wav_comes_from_its_mp4(tmp_path):
    (utterance,) = prepare(tmp_path, f"01-{TRIAL}.mp4").utterances
    assert utterance.audio == AudioSpan(f"01-{TRIAL}.mp4")


def test_a_video_without_sound_has_no_audio(tmp_path):
    (utterance,) = prepare(tmp_path, f"02-{TRIAL}.mp4").utterances
    assert (utterance.audio, utterance.missing) == (None, ["audio"])


def test_a_trial_and_its_song_are_two_utterances(tmp_path):
    song = TRIAL.replace("01-", "02-", 1)
    found = prepare(tmp_path, *(f"{code}-{each}.mp4" for each in (TRIAL, song) for code in ("01", "02"))).utterances
    assert [(each.id, each.video.path) for each in found] == [(each, f"01-{each}.mp4") for each in (TRIAL, song)]


def test_the_name_of_a_file_says_emotion_speaker_and_words(tmp_path):
    (utterance,) = prepare(tmp_path, f"03-{TRIAL}.WAV").utterances
    assert (utterance.id, utterance.emotion, utterance.speaker, utterance.text) == (
        TRIAL,
        "fearful",
        "actor11",
        "Kids are talking by the door",
    )


def test_a_lost_modality_is_listed(tmp_path):
    assert prepare(tmp_path, f"03-{TRIAL}.wav").stripped == [(TRIAL, "video: not found below the root")]


def test_a_code_outside_the_published_ones_is_an_exclusion(tmp_path):
    prepared = prepare(tmp_path, f"03-{TRIAL}.wav", "03-01-09-01-01-01-01.wav")
    assert prepared.excluded == [("01-09-01-01-01-01", "emotion code 09 is not one of 01, 02, 03, 04, 05, 06, 07, 08")]


@pytest.mark.parametrize("actor", ["00", "25"])
def test_an_actor_outside_the_24_is_an_exclusion(tmp_path, actor):
    """`actor00` became a speaker of his own."""
    (found,) = prepare(tmp_path, f"03-01-05-01-01-01-{actor}.wav").excluded
    assert found.reason.startswith(f"actor code {actor} is not one of 01, 02")


def test_a_second_copy_of_a_file_is_not_used(tmp_path):
    prepared = prepare(tmp_path, f"copy/deep/03-{TRIAL}.wav", f"speech/03-{TRIAL}.wav")
    assert prepared.utterances[0].audio == AudioSpan(f"speech/03-{TRIAL}.wav")
    assert "1 file not used, a second copy of one name" in prepared.differences


def test_the_down_mix_is_noted_in_every_row(tmp_path):
    assert prepare(tmp_path, f"03-{TRIAL}.wav", down_mix="left").utterances[0].audio.channel == "left"


def test_a_corpus_as_published_differs_in_nothing(tmp_path):
    trials = [
        (channel, emotion, intensity, statement, repetition, actor)
        for channel in (1, 2)
        for emotion in range(1, 9 if channel == 1 else 7)
        for intensity in ((1,) if emotion == 1 else (1, 2))
        for statement in (1, 2)
        for repetition in (1, 2)
        for actor in range(1, 25)
        if (channel, actor) != (2, 18)
    ]
    prepared = prepare(tmp_path, *("-".join(f"{code:02d}" for code in (3, *trial)) + ".wav" for trial in trials))
    assert (len(prepared.utterances), prepared.differences) == (1440 + 1012, [])


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data/ravdess")
def test_real_recordings_join_wav_and_mp4_of_one_trial():
    utterances = corpora.prepare("ravdess", DATA).utterances
    joined = [each for each in utterances if each.video and each.audio.path.endswith(".wav")]
    assert (len(utterances), len(joined)) == (120, 5)
    assert {each.emotion for each in utterances} == set(EMOTIONS["ravdess"])


def test_recordings_in_other_endings_are_found(tmp_path):
    (found,) = prepare(tmp_path, f"03-{TRIAL}.FLAC", f"01-{TRIAL}.mkv").utterances
    assert (found.audio.path, found.video.path) == (f"03-{TRIAL}.FLAC", f"01-{TRIAL}.mkv")
    (found,) = prepare(tmp_path / "wav", f"01-{TRIAL}.wav").utterances
    assert (found.audio.path, found.video) == (f"01-{TRIAL}.wav", None)


def test_the_clusters_of_four_actors_are_four_speakers(tmp_path):
    """They were 240 groups of one utterance, as RAVDESS has no dialogues."""
    trials = [
        f"03-01-{emotion:02d}-{level:02d}-{sentence:02d}-{take:02d}-{actor:02d}.wav"
        for emotion in range(1, 9)
        for level in (1, 2)[: 1 + (emotion > 1)]
        for sentence in (1, 2)
        for take in (1, 2)
        for actor in range(1, 5)
    ]
    found = clusters_of(prepare(tmp_path, *trials).utterances)
    assert (len(found.names), found.unit, found.n) == (240, "speaker", 4)
