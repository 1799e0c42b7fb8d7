import csv
import dataclasses
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

import wavfusion
from wavfusion import media
from wavfusion.cli.app import main
from wavfusion.encoders.video import EfficientNetEncoder
from wavfusion.errors import ConfigError, MediaError
from wavfusion.evaluation import evaluate
from wavfusion.evaluation.inference import Classifier, classify
from wavfusion.metrics.calibration import tempered
from wavfusion.prediction import timeline
from wavfusion.prediction.recognizer import EmotionRecognizer
from wavfusion.runs.folder import read_run
from wavfusion.training import train
from wavfusion.transcripts import Segment

pytest_plugins = ("corpus_fixture",)

CLASSES = ["happy", "sad", "neutral", "angry"]
FIELDS = [
    *("file", "start", "end", "speaker", "text", "emotion", "probability", "probabilities", "modalities"),
    *("contribution", "text_share", "warnings", "model", "language"),
]


@pytest.fixture(scope="module")
def recognizer(trained: Path) -> EmotionRecognizer:
    return wavfusion.EmotionRecognizer.from_pretrained(str(trained))


@pytest.fixture(scope="module")
def clip(made: Any) -> Path:
    return made.root / "clips/test00.mp4"


@pytest.fixture(scope="module")
def sound(made: Any) -> Path:
    return made.root / "clips/test05.wav"


def shell(capfd: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, list[str]]:
    """Exit status, stdout and the lines of stderr of `predict`; the first argument is the model."""
    status = main(["predict", "--model", *map(str, arguments)])
    said = capfd.readouterr()
    return status, said.out, said.err.strip().splitlines()


# ------------------------------------------------------------------ the same numbers everywhere


def test_pictures_beside_sound_and_a_film_change_no_answer(
    recognizer: EmotionRecognizer, trained: Path, clip: Path
) -> None:
    plain = EmotionRecognizer.from_pretrained(trained, fast=False)
    times = [Segment(start / 20, (start + 2) / 20, None, "well now") for start in range(0, 8, 2)]
    before = torch.get_num_threads()
    torch.set_num_threads(2)  # with one there is nothing to share out
    try:
        found = recognizer.predict(clip, segments=times)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    for one, other in zip(found, plain.predict(clip, segments=times), strict=True):
        assert one.modalities == other.modalities == ["audio", "text", "video"]
        # Features are rounded as the store rounds: what differs in the seventh digit may fall to either side.
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-4)


def test_an_answer_is_the_same_without_contributions(recognizer: EmotionRecognizer, clip: Path) -> None:
    (whole,), (bare,) = (recognizer.predict(clip, "good", contributions=asked) for asked in (True, False))
    assert whole.contribution is not None and bare == dataclasses.replace(whole, contribution=None)


def test_subsets_are_run_only_for_formats_that_show_contributions(
    capfd: pytest.CaptureFixture[str], trained: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []

    class Counted(Classifier):
        def __init__(self, model: Any, modality_sets: Any, *rest: Any) -> None:
            counts.append(len(modality_sets))
            super().__init__(model, modality_sets, *rest)

    monkeypatch.setattr("wavfusion.prediction.recognizer.Classifier", Counted)
    for kind in timeline.FORMATS:
        assert shell(capfd, trained, clip, "--transcript", "good", "--format", kind, "--device", "cpu")[0] == 0
    assert dict(zip(timeline.FORMATS, counts, strict=True)) == {
        kind: 7 if kind in timeline.EXPLAINED else 1 for kind in timeline.FORMATS
    }


def test_a_file_is_called_as_its_stored_features_are(recognizer: EmotionRecognizer, trained: Path, made: Any) -> None:
    rows = [row for row in made.data.part("test") if row.id != "long"]
    loaded = read_run(trained)
    samples = evaluate.samples_of(loaded, rows, made.data.store, made.data.media)
    names, temperature = ["audio", "text", "video"], loaded.temperature
    stored = tempered(classify(loaded.model, samples, names, loaded.prior).probabilities, temperature)
    called = [recognizer.predict(made.root / row.audio.path, row.text)[0].probabilities for row in rows]
    np.testing.assert_allclose([list(p.values()) for p in called], stored, atol=1e-5)


def test_an_array_is_called_as_its_file_is(recognizer: EmotionRecognizer, sound: Path) -> None:
    samples = media.decode_audio(sound).samples
    from_array = recognizer.predict(samples, "good", sample_rate=16_000)[0].probabilities
    assert from_array == pytest.approx(recognizer.predict(sound, "good")[0].probabilities, abs=1e-4)


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_an_array_of_another_rate_is_resampled(recognizer: EmotionRecognizer, tmp_path: Path, rate: int) -> None:
    times = np.arange(rate) / rate
    samples = (0.3 * np.sin(2 * np.pi * 400 * times)).astype(np.float32)
    media.write_audio(tmp_path / "tone.wav", samples, rate)
    from_array = recognizer.predict(samples, sample_rate=rate)[0].probabilities
    assert from_array == pytest.approx(recognizer.predict(tmp_path / "tone.wav")[0].probabilities, abs=2e-3)


def test_channels_of_an_array_are_averaged(recognizer: EmotionRecognizer, sound: Path) -> None:
    mono = media.decode_audio(sound).samples
    both = np.stack([mono * 1.5, mono * 0.5])
    assert recognizer.predict(both, sample_rate=16_000)[0].probabilities == pytest.approx(
        recognizer.predict(mono, sample_rate=16_000)[0].probabilities, abs=1e-5
    )


def test_double_precision_is_the_same(recognizer: EmotionRecognizer, sound: Path) -> None:
    samples = media.decode_audio(sound).samples
    assert recognizer.predict(samples.astype(np.float64), sample_rate=16_000)[0].probabilities == pytest.approx(
        recognizer.predict(samples, sample_rate=16_000)[0].probabilities, abs=1e-6
    )


def test_the_shell_says_what_python_says(
    recognizer: EmotionRecognizer, trained: Path, clip: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = shell(capfd, trained, clip, "--transcript", "stop shouting", "--format", "json", "--device", "cpu")
    said = recognizer.predict(str(clip), transcript="stop shouting")[0]
    assert json.loads(out)[0]["probabilities"] == pytest.approx(said.probabilities, abs=1e-6)


def test_two_threads_get_the_predictions_of_their_own_recordings(recognizer: EmotionRecognizer, made: Any) -> None:
    """Encoders keep a batch's features in their own layers, and a second thread could get the first one's."""
    clips = sorted((made.root / "clips").glob("train*.mp4"))[:8]
    alone = [recognizer.predict(clip, "good") for clip in clips]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda clip: recognizer.predict(clip, "good"), clips)) == alone


# ------------------------------------------------------------------ what it says


def test_half_precision_changes_no_probability_by_more_than_two_hundredths(
    recognizer: EmotionRecognizer, trained: Path, made: Any
) -> None:
    half = EmotionRecognizer.from_pretrained(trained, precision="bf16")
    clips = sorted((made.root / "clips").glob("test*"))[:6]
    pairs = [[each.predict(clip, "I like it.")[0].probabilities for each in (recognizer, half)] for clip in clips]
    apart = [abs(exact[name] - rounded[name]) for exact, rounded in pairs for name in CLASSES]
    assert len(clips) == 6 and 0 < max(apart) <= 0.02


@pytest.mark.parametrize("threads", [1, 2])
def test_pictures_are_seen_in_single_precision_whatever_the_cores(
    trained: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """On one core they were seen in half precision: windows are encoded when the fusion asks for them."""
    before, seen = torch.get_num_threads(), []
    pixel_values = EfficientNetEncoder.pixel_values

    def watched(self: EfficientNetEncoder, frames: torch.Tensor) -> torch.Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return pixel_values(self, frames)

    monkeypatch.setattr(EfficientNetEncoder, "pixel_values", watched)
    torch.set_num_threads(threads)
    try:
        EmotionRecognizer.from_pretrained(trained, precision="bf16").predict(clip)
    finally:
        torch.set_num_threads(before)
    assert seen and not any(seen)


@pytest.mark.parametrize("precision", ["fp16", "auto"])
def test_an_unknown_precision_names_the_valid_ones(trained: Path, precision: str) -> None:
    with pytest.raises(ConfigError, match=f"precision: found '{precision}'; .*valid: fp32, bf16"):
        EmotionRecognizer.from_pretrained(trained, precision=precision)


def test_a_known_clip_is_called_right(recognizer: EmotionRecognizer, clip: Path) -> None:
    assert recognizer.predict(clip, "stop shouting")[0].emotion == "angry"


def test_the_probability_is_that_of_the_emotion(recognizer: EmotionRecognizer, clip: Path) -> None:
    said = recognizer.predict(clip)[0]
    assert said.probability == max(said.probabilities.values()) == said.probabilities[str(said.emotion)]


def test_probabilities_stand_in_class_order(recognizer: EmotionRecognizer, clip: Path) -> None:
    assert list(recognizer.predict(clip)[0].probabilities) == CLASSES == recognizer.classes


@pytest.mark.parametrize("transcript", [None, "", "  \n"])
def test_no_transcript_is_no_text(recognizer: EmotionRecognizer, clip: Path, transcript: str | None) -> None:
    assert recognizer.predict(clip, transcript)[0].modalities == ["audio", "video"]


def test_an_array_has_no_file_and_no_video(recognizer: EmotionRecognizer) -> None:
    said = recognizer.predict(np.full(8000, 0.1, np.float32), sample_rate=16_000)[0]
    assert (said.file, said.end, said.modalities) == ("", 0.5, ["audio"])


def test_absent_modalities_are_said_in_one_line(
    trained: Path, sound: Path, clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A folder of sounds gave a warning for each."""
    other = shutil.copy(sound, tmp_path)
    _, _, err = shell(capfd, trained, sound, clip, other, "--device", "cpu")
    assert [line for line in err if "without" in line] == [f"WARNING: 2 of 3 files without video: {sound}, {other}"]


def test_text_share_is_told_where_text_met_video(recognizer: EmotionRecognizer, clip: Path) -> None:
    with_text, without = (recognizer.predict(clip, text)[0].text_share for text in ("stop shouting", None))
    assert without is None and with_text is not None and 0 < with_text < 1


@pytest.fixture(scope="module")
def forty() -> np.ndarray:
    """Forty seconds of a rising tone: no speech."""
    rng = np.random.default_rng(0)
    times = np.arange(16_000 * 40) / 16_000
    return (0.2 * np.sin(2 * np.pi * (200 + 20 * times) * times) + rng.normal(0, 0.01, len(times))).astype(np.float32)


def test_forty_seconds_of_one_utterance_are_averaged_over_windows_by_length(
    recognizer: EmotionRecognizer, forty: np.ndarray
) -> None:
    samples = forty
    whole = recognizer.predict(samples, sample_rate=16_000, segments=[Segment(0.0, 40.0)])[0]
    parts = [
        recognizer.predict(samples[start * 16_000 : end * 16_000], sample_rate=16_000)[0].probabilities
        for start, end in ((0, 15), (15, 30), (30, 40))
    ]
    temperature = recognizer.trained.temperature
    plain = [tempered(np.array(list(p.values())), 1 / temperature) for p in parts]
    expected = tempered(np.average(plain, axis=0, weights=(15, 15, 10)), temperature)
    assert whole.end == 40.0 and list(whole.probabilities.values()) == pytest.approx(list(expected), abs=1e-4)


# ------------------------------------------------------------------ longer recordings


def test_without_speech_a_long_recording_is_cut_every_fifteen_seconds(
    recognizer: EmotionRecognizer, forty: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    said = recognizer.predict(forty, sample_rate=16_000)
    assert [(each.start, each.end) for each in said] == [(0.0, 15.0), (15.0, 30.0), (30.0, 40.0)]
    assert "array: no speech found; cut every 15 s" in caplog.messages


def test_a_hole_between_timestamps_is_no_utterance(
    recognizer: EmotionRecognizer, forty: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    """Hours in which a file has nothing were labelled, 15 s at a time."""
    holed = np.concatenate([forty[:240_000], np.zeros(5 * 240_000, np.float32), forty[:240_000]])
    said = recognizer.predict(holed, sample_rate=16_000)
    assert [(each.start, each.end) for each in said] == [(0.0, 15.0), (90.0, 105.0)]
    assert "array: no speech found; cut every 15 s; 5 silent parts are left out" in caplog.messages
    silent = recognizer.predict(np.zeros(480_000, np.float32), sample_rate=16_000)
    assert [(each.start, each.end) for each in silent] == [(0.0, 15.0), (15.0, 30.0)]


def test_timestamps_beyond_a_hundred_hours_are_refused_at_once(
    recognizer: EmotionRecognizer, sound: Path, tmp_path: Path
) -> None:
    with av.open(str(sound)) as old, av.open(str(tmp_path / "lie.mkv"), "w") as new:
        stream = new.add_stream_from_template(old.streams.audio[0])
        for number, packet in enumerate(old.demux(old.streams.audio[0])):
            if packet.dts is not None:
                late = 0 if number < 3 else round(2e6 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + late, packet.dts + late, stream
                new.mux(packet)
    with pytest.raises(MediaError, match="'.*lie.mkv': expected a recording of at most 100 hours, found timestamps up"):
        recognizer.predict(tmp_path / "lie.mkv")


def test_given_segments_keep_times_speakers_and_words(recognizer: EmotionRecognizer, clip: Path) -> None:
    given = [Segment(0.1, 0.25, "Ann", "stop"), Segment(0.2, 0.5, "Bob")]
    said = recognizer.predict(clip, segments=given)
    assert [(x.start, x.end, x.speaker, x.text) for x in said] == [
        (each.start, each.end, each.speaker, each.text) for each in given
    ]
    assert [x.modalities for x in said] == [["audio", "text", "video"], ["audio", "video"]]


def test_a_segment_is_called_as_its_part_of_the_recording_is(recognizer: EmotionRecognizer, forty: np.ndarray) -> None:
    part = recognizer.predict(forty, sample_rate=16_000, segments=[Segment(20.0, 22.5)])[0]
    alone = recognizer.predict(forty[20 * 16_000 : 22 * 16_000 + 8_000], sample_rate=16_000)[0]
    assert part.probabilities == pytest.approx(alone.probabilities, abs=1e-4)


def test_a_short_segment_is_heard_with_what_is_around_it(recognizer: EmotionRecognizer, forty: np.ndarray) -> None:
    """Encoders know little of 0.1 s alone; only its own steps are judged, so sound far off changes nothing."""
    segments = [Segment(20.0, 20.1)]
    short = recognizer.predict(forty, sample_rate=16_000, segments=segments)[0]
    other = forty.copy()
    other[: 19 * 16_000] = 0
    alone = recognizer.predict(forty[20 * 16_000 : 20 * 16_000 + 1_600], sample_rate=16_000)[0]
    again = recognizer.predict(other, sample_rate=16_000, segments=segments)[0]
    assert (short.start, short.end, again.probabilities) == (20.0, 20.1, short.probabilities)
    assert short.probabilities != alone.probabilities


def test_segments_after_the_end_are_left_out_and_said(
    recognizer: EmotionRecognizer, sound: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = recognizer.predict(sound, segments=[Segment(0.0, 99.0), Segment(100.0, 101.0)])
    assert (len(said), said[0].end < 99) == (1, True)
    assert any("left out, after its end at" in message and message.endswith("1 segment") for message in caplog.messages)


def test_what_a_transcript_holds_after_the_end_is_counted(
    recognizer: EmotionRecognizer, caplog: pytest.LogCaptureFixture
) -> None:
    """A segment that ended after the recording was cut without a word; up to a tenth of a second is rounding."""
    second = np.zeros(16_000, np.float32)
    times = [Segment(0.0, 1.05), Segment(0.5, 3.0), Segment(0.6, 1.2), Segment(1.5, 2.0)]
    found = recognizer.predict(second, sample_rate=16_000, segments=times)
    assert [each.end for each in found] == [1.0, 1.0, 1.0]
    said = [message for message in caplog.messages if "its end" in message]
    assert said == [
        "array: left out, after its end at 1.00 s: 1 segment",
        "array: cut at its end at 1.00 s: 2 segments",
    ]


def test_segments_of_a_program_are_checked_where_they_enter(recognizer: EmotionRecognizer) -> None:
    """Dictionaries were an AttributeError, and `Segment(2, 1)` got an emotion."""
    second = np.zeros(16_000, np.float32)
    given = [{"start": np.float32(0.25), "end": None, "text": "hi"}]
    found = recognizer.predict(second, sample_rate=16_000, segments=given)
    assert [(each.start, each.end, each.text) for each in found] == [(0.25, 1.0, "hi")]
    assert json.loads(timeline.to_json(found))[0]["start"] == 0.25
    with pytest.raises(ConfigError, match=r"^segments\[0\]: expected a start before its end, found 2 to 1 s$"):
        recognizer.predict(second, sample_rate=16_000, segments=[Segment(2.0, 1.0)])


def test_words_that_are_lines_of_times_are_refused(recognizer: EmotionRecognizer) -> None:
    with pytest.raises(ConfigError, match="^transcript=: expected plain text, found subtitles with times"):
        recognizer.predict(np.zeros(800, np.float32), "1\n0:00:01 --> 0:00:02\nhi", sample_rate=16_000)


def test_arrays_of_half_precision_and_matrices_are_sounds(recognizer: EmotionRecognizer) -> None:
    """A `np.matrix` was a segmentation fault, float16 a RuntimeWarning of numpy."""
    tone = (0.3 * np.sin(np.arange(16_000) / 20)).astype(np.float16)
    plain = recognizer.predict(tone.astype(np.float32), sample_rate=16_000)
    for samples in (tone, tone[None].view(np.matrix), np.stack([tone, tone])):
        found = recognizer.predict(samples, sample_rate=16_000)
        assert [each.probabilities for each in found] == [each.probabilities for each in plain]


def test_an_emotion_has_a_millisecond_at_least(recognizer: EmotionRecognizer, tmp_path: Path) -> None:
    """One sample, a segment that begins with the last one, and text for a file without a sample, had 0.0 s."""
    (found,) = recognizer.predict(np.zeros(1, np.float32), sample_rate=16_000)
    assert (found.start, found.end) == (0.0, 0.001)
    with pytest.raises(MediaError, match="found all 1 after its end"):
        recognizer.predict(np.zeros(16_000, np.float32), sample_rate=16_000, segments=[Segment(0.9999, 1.5)])
    path = tmp_path / "nothing.wav"
    path.write_bytes(b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x80>\0\0\0}\0\0\2\0\x10\0data\0\0\0\0")
    with pytest.raises(MediaError, match="expected decodable audio in"):
        recognizer.predict(path, "well")


def test_words_without_times_are_shared_out_by_seconds(recognizer: EmotionRecognizer, forty: np.ndarray) -> None:
    said = recognizer.predict(forty, " ".join("abcdefgh"), sample_rate=16_000)
    assert [each.text for each in said] == ["a b c", "d e f", "g h"]


def test_the_shell_takes_times_and_writes_subtitles(
    trained: Path, clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    times = tmp_path / "a.srt"
    times.write_text("1\n00:00:00,100 --> 00:00:00,500\nstop it\n")
    arguments = ("--transcript", times, "--format", "srt", "--min-probability", "1", "--device", "cpu")
    status, out, _ = shell(capfd, trained, clip, *arguments)
    assert (status, out) == (0, "1\n00:00:00,100 --> 00:00:00,500\n<i>[?]</i>\nstop it\n")


def test_each_page_shows_the_warnings_of_its_own_recording(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, level in (("still.wav", 0.0), ("loud.wav", 1.0)):
        media.write_audio(tmp_path / name, np.full(16_000, level, np.float32), 16_000)
    files = (tmp_path / "still.wav", tmp_path / "loud.wav")
    assert shell(capfd, trained, *files, "--format", "html", "--out", tmp_path / "pages", "--device", "cpu")[0] == 0
    for name, words in (("still.wav", "100% of it is silent"), ("loud.wav", "100.0% of its samples are clipped")):
        page = (tmp_path / "pages" / f"{name}.html").read_text(encoding="utf-8")
        found = re.findall('<p class="warning">(.*?)</p>', page)
        assert all(each.startswith(f"{name}: ") for each in found) and any(words in each for each in found)


def test_subtitles_are_of_one_recording(
    trained: Path, clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copy(clip, tmp_path)
    status, _, err = shell(capfd, trained, clip, other, "--format", "eaf", "--device", "cpu")
    wish = "--format eaf: expected one FILE, which it describes, or --out with a folder for 2 of them"
    assert (status, wish in err[0]) == (2, True)


@pytest.mark.parametrize("share", ["-0.1", "1.5", "nan", "x"])
def test_a_probability_is_from_0_to_1(trained: Path, clip: Path, share: str, capfd: pytest.CaptureFixture[str]) -> None:
    status, _, err = shell(capfd, trained, clip, "--min-probability", share)
    assert (status, f"expected a number from 0 to 1, found '{share}'" in err[0]) == (2, True)


# ------------------------------------------------------------------ what cannot be used


@pytest.mark.parametrize("rate", [None, 0, -16_000, 16, 10**9])
def test_an_array_needs_its_rate_in_hertz(recognizer: EmotionRecognizer, rate: int | None) -> None:
    with pytest.raises(ConfigError, match="sample_rate="):
        recognizer.predict(np.zeros(100, np.float32), sample_rate=rate)


def test_a_file_has_a_rate_of_its_own(recognizer: EmotionRecognizer, sound: Path) -> None:
    with pytest.raises(ConfigError, match="array only"):
        recognizer.predict(sound, sample_rate=16_000)


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(0, np.float32),
        np.zeros((2, 0), np.float32),
        np.zeros((1, 2, 800), np.float32),
        np.zeros(800, np.int16),
        np.zeros((800, 2), np.float32),
        np.array([0.0, math.nan] * 400),
        np.array([0.0, math.inf] * 400),
        np.array([0.0, 1e30] * 400),
    ],
    ids=["empty", "no samples", "three axes", "integers", "samples first", "nan", "infinity", "1e30"],
)
def test_an_array_that_is_no_sound_is_refused(recognizer: EmotionRecognizer, samples: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="expected"):
        recognizer.predict(samples, sample_rate=16_000)


@pytest.mark.parametrize("rate", [16_000, 192_000])
def test_one_sample_is_a_sound(recognizer: EmotionRecognizer, rate: int) -> None:
    """Of one at 192 kHz the resampler makes nothing."""
    assert recognizer.predict(np.zeros(1, np.float32), sample_rate=rate)[0].modalities == ["audio"]


def test_a_file_of_one_sample_is_a_sound(recognizer: EmotionRecognizer, tmp_path: Path) -> None:
    """One at 192 kHz ends where it starts, to the fourth decimal, and was refused as an impossible stretch."""
    media.write_audio(tmp_path / "a.wav", np.full(1, 0.5, np.float32), 192_000)
    assert recognizer.predict(tmp_path / "a.wav")[0].modalities == ["audio"]


def test_arguments_of_another_kind_are_refused(trained: Path) -> None:
    """They came back as errors of numpy, torch and pathlib; without the run-time type check of the tests."""
    code = f"""
import numpy as np, wavfusion
from wavfusion.errors import ConfigError
load = wavfusion.EmotionRecognizer.from_pretrained
model, sound = load({str(trained)!r}), np.zeros(800, np.float32)
for call in (
    lambda: load(3),
    lambda: load(""),
    lambda: load({str(trained)!r}, device="foo"),
    lambda: model.predict([0.0, 1.0], sample_rate=16_000),
    lambda: model.predict(None),
    lambda: model.predict(sound, transcript=3, sample_rate=16_000),
    lambda: model.predict(sound, sample_rate="16000"),
    lambda: model.predict(sound),
):
    try:
        print(call())
    except ConfigError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert [line.startswith(("expected", "device")) for line in done.stdout.splitlines()] == [True] * 8, done.stderr


def test_a_file_without_what_the_model_uses_is_refused(made: Any, short: Any, sound: Path, tmp_path: Path) -> None:
    train.train(short(train__epochs=1, model__modalities="[video]"), made.data, tmp_path / "run")
    with pytest.raises(MediaError, match="expected video"):
        EmotionRecognizer.from_pretrained(tmp_path / "run").predict(sound)


def test_a_run_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="RUN folder"):
        EmotionRecognizer.from_pretrained(tmp_path / "nothing")


def test_a_hub_id_that_cannot_be_reached_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        EmotionRecognizer.from_pretrained("nobody/nothing-of-this-name")
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------ the shell


@pytest.fixture
def bad(tmp_path: Path) -> list[Path]:
    """Files that are nothing: absent, empty, text under a false name, a folder."""
    (tmp_path / "empty.wav").touch()
    (tmp_path / "words.mp4").write_text("these are words\n" * 50)
    (tmp_path / "folder.wav").mkdir()
    return [tmp_path / name for name in ("absent.wav", "empty.wav", "words.mp4", "folder.wav")]


def test_good_files_are_written_and_each_bad_one_has_its_line(
    trained: Path, clip: Path, bad: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    status, out, err = shell(capfd, trained, bad[0], clip, *bad[1:], "--format", "json", "--device", "cpu")
    assert status == 1 and [each["file"] for each in json.loads(out)] == [str(clip)]
    assert [sum(str(path) in line for line in err) for path in bad] == [1, 1, 1, 1]


def test_bad_files_alone_are_bad_input(trained: Path, bad: list[Path], capfd: pytest.CaptureFixture[str]) -> None:
    status, out, err = shell(capfd, trained, *bad, "--device", "cpu")
    assert (status, out, len(err)) == (2, "", 4)


def test_good_files_alone_exit_0(trained: Path, clip: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert shell(capfd, trained, clip, "--device", "cpu")[0] == 0


HOSTILE = [
    "with space.wav",
    'it\'s "quoted".wav',
    "emoji 🙃.wav",
    "new\nline.wav",
    "-dash.wav",
    "ünï.wav",
    "$(x) %s.wav",
]


@pytest.mark.parametrize("form", ["json", "csv"])
def test_hostile_names_come_back_as_they_were(
    trained: Path, sound: Path, tmp_path: Path, form: str, capfd: pytest.CaptureFixture[str]
) -> None:
    paths = [shutil.copy(sound, tmp_path / name) for name in HOSTILE]
    _, out, _ = shell(capfd, trained, *paths, "--format", form, "--device", "cpu")
    rows = json.loads(out) if form == "json" else list(csv.DictReader(io.StringIO(out)))
    assert [row["file"] for row in rows] == list(map(str, paths))


def test_a_name_of_a_file_stays_in_its_line_of_the_table(
    trained: Path, sound: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = Path(shutil.copy(sound, tmp_path / "new\nline.wav"))
    lines = shell(capfd, trained, path, "--device", "cpu")[1].splitlines()
    assert len(lines) == 3 and lines[0].endswith("new\\nline.wav") and lines[2].startswith("model all: trained on")


def test_a_name_that_is_no_text_comes_back_through_json(
    trained: Path, sound: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.wav")
    shutil.copy(os.fsencode(sound), path)
    _, out, _ = shell(capfd, trained, os.fsdecode(path), "--format", "json", "--device", "cpu")
    assert os.fsencode(json.loads(out)[0]["file"]) == path


def test_a_dangling_link_has_its_line(trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "link.wav").symlink_to(tmp_path / "gone.wav")
    status, _, err = shell(capfd, trained, tmp_path / "link.wav", "--device", "cpu")
    assert status == 2 and len(err) == 1 and "link.wav" in err[0]


def test_json_has_the_fields_of_the_contract(trained: Path, clip: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _, out, _ = shell(capfd, trained, clip, "--format", "json", "--transcript", "stop", "--device", "cpu")
    assert list(json.loads(out)[0]) == FIELDS


def test_csv_has_the_fields_of_the_contract(trained: Path, clip: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _, out, _ = shell(capfd, trained, clip, "--format", "csv", "--transcript", "stop", "--device", "cpu")
    simple = [name for name in FIELDS if name not in ("probabilities", "contribution", "warnings", "model", "language")]
    wide = [*(f"p_{name}" for name in CLASSES), *(f"contribution_{name}" for name in ("audio", "text", "video"))]
    assert next(csv.reader(io.StringIO(out))) == [*simple, *wide, "warnings", *timeline.MODEL_COLUMNS, "language"]


def test_csv_holds_the_numbers_of_json(trained: Path, clip: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _, as_csv, _ = shell(capfd, trained, clip, "--format", "csv", "--device", "cpu")
    _, as_json, _ = shell(capfd, trained, clip, "--format", "json", "--device", "cpu")
    row, entry = next(csv.DictReader(io.StringIO(as_csv))), json.loads(as_json)[0]
    assert {name: float(row[f"p_{name}"]) for name in CLASSES} == pytest.approx(entry["probabilities"])


def test_the_table_names_emotion_and_modalities(trained: Path, clip: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = shell(capfd, trained, clip, "--device", "cpu")[1]
    assert "angry" in out and "audio+video" in out


def test_a_transcript_can_be_a_file(
    trained: Path, clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "said.txt").write_text("Wie schön!\n", encoding="utf-8")
    _, out, _ = shell(capfd, trained, clip, "--format", "json", "--transcript", tmp_path / "said.txt")
    assert json.loads(out)[0]["text"] == "Wie schön!"


def test_a_mark_at_the_start_of_a_transcript_is_no_word(
    trained: Path, clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "said.txt").write_text("so what", encoding="utf-8-sig")
    _, out, _ = shell(capfd, trained, clip, "--format", "json", "--transcript", tmp_path / "said.txt")
    assert json.loads(out)[0]["text"] == "so what"


@pytest.mark.parametrize(
    "text", ["notes.txt", "talks/notes", "my talk.srt", "my notes.docx", "a.xyz", "subtitles/", "C:\\talk"]
)
def test_the_name_of_a_file_that_is_not_there_is_no_text(
    trained: Path, clip: Path, text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A misspelt name was taken for the words, with a warning or, with a blank in it, without."""
    status, out, err = shell(capfd, trained, clip, "--transcript", text, "--device", "cpu")
    assert (status, out, len(err)) == (2, "", 1) and f"found no file {text!r}" in err[0]


def test_what_looks_a_little_like_a_file_is_text(trained: Path, clip: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for text in ("So what... no.", "yes and/or no", "I saw it on amazon.com"):
        status, out, _ = shell(capfd, trained, clip, "--transcript", text, "--format", "json", "--device", "cpu")
        assert (status, json.loads(out)[0]["text"]) == (0, text)


def test_a_transcript_with_times_that_is_not_there_is_refused(
    trained: Path, clip: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, _, err = shell(capfd, trained, clip, "--transcript", "tt.srt", "--device", "cpu")
    assert status == 2 and len(err) == 1 and "found no file 'tt.srt'" in err[0]


def test_the_ending_of_the_results_says_their_format(trained: Path, sound: Path, tmp_path: Path) -> None:
    for name, begins in (
        ("a.csv", "file,start"),
        ("a.vtt", "WEBVTT"),
        ("a.TextGrid", "File type"),
        ("a.txt", str(sound)),
    ):
        assert main(["predict", "--model", str(trained), str(sound), "--out", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_text().startswith(begins)


def test_a_transcript_can_be_long(trained: Path, clip: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _, out, _ = shell(capfd, trained, clip, "--format", "json", "--transcript", "so what " * 200, "--device", "cpu")
    assert json.loads(out)[0]["modalities"] == ["audio", "text", "video"]


def test_a_transcript_of_other_bytes_is_refused(
    trained: Path, clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "said.txt").write_bytes(b"caf\xe9")
    status, _, err = shell(capfd, trained, clip, "--transcript", tmp_path / "said.txt")
    assert status == 2 and "UTF-8" in err[0]


def test_one_transcript_is_not_for_several_files(
    trained: Path, clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert shell(capfd, trained, clip, shutil.copy(clip, tmp_path), "--transcript", "stop")[0] == 2


def test_a_file_of_results_is_not_overwritten(
    trained: Path, clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out.json").write_text("mine")
    status, _, _ = shell(capfd, trained, clip, "--out", tmp_path / "out.json")
    assert (status, (tmp_path / "out.json").read_text()) == (2, "mine")


def test_results_go_to_a_file_instead(
    trained: Path, clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new folder" / "out.json"
    _, said, _ = shell(capfd, trained, clip, "--out", out, "--format", "json", "--device", "cpu")
    assert said == "" and len(json.loads(out.read_text())) == 1


def test_a_bad_file_is_named_once(trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Prediction put the name before a reason that began with it."""
    path = tmp_path / "nothing in it.wav"
    path.write_bytes(b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x80>\0\0\0}\0\0\2\0\x10\0data\0\0\0\0")
    _, _, err = shell(capfd, trained, path, "--device", "cpu")
    assert err == [f"wavfusion: expected decodable audio in {str(path)!r}, found a track without packets"]


# ------------------------------------------------------------------ several formats


@pytest.mark.parametrize("form", ["repeated", "braces"])
def test_several_formats_are_written_in_one_run(
    trained: Path, clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], form: str
) -> None:
    """A shell expands `--out talk.{csv,eaf,html}`: two of the names became recordings that did not exist."""
    places = [tmp_path / f"talk.{ending}" for ending in ("csv", "eaf", "HTML")]
    words = [word for place in places for word in ("--out", place)] if form == "repeated" else ["--out", *places]
    assert shell(capfd, trained, clip, *words, "--device", "cpu")[0] == 0
    table, document, page = (place.read_text() for place in places)
    assert (table[:10], document[:5], page[:15]) == ("file,start", "<?xml", "<!doctype html>")
    (row,) = csv.DictReader(io.StringIO(table))
    assert row["contribution_audio"] and row["emotion"] in document


def test_several_formats_go_into_a_folder_and_are_resumed_together(
    trained: Path, clip: Path, sound: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [clip, sound, "--format", "csv,srt", "--out", tmp_path / "all", "--device", "cpu"]
    assert shell(capfd, trained, *words)[0] == 0
    names = sorted(each.name for each in (tmp_path / "all").iterdir())
    assert names == ["predict.json", "test00.mp4.csv", "test00.mp4.srt", "test05.wav.csv", "test05.wav.srt"]
    (tmp_path / "all" / "test05.wav.csv").unlink()  # written last: without it the recording is not done
    assert shell(capfd, trained, *words)[0] == 0
    assert (tmp_path / "all" / "test05.wav.csv").read_text().startswith("file,start")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "x.xlsx"], "expected a name with the ending of a format, one without for a folder, or --format"),
        (["--out", "x.jsn"], "found '.jsn'; did you mean '.json'?"),
        (["--format", "csv,eaf"], "expected --out with a folder for them, or an --out FILE for each, found none"),
        (["--format", "csv,xml"], "--format: found 'xml'; did you mean 'html'? valid: table, json"),
        (["--out", "a.csv", "--out", "folder"], "expected one folder or only files, found a.csv, folder"),
    ],
)
def test_results_of_no_known_form_are_refused_in_one_line(
    trained: Path, clip: Path, capfd: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    """`--out x.xlsx` wrote a text table under that name, with status 0."""
    status, _, err = shell(capfd, trained, clip, *words, "--device", "cpu")
    assert (status, len(err)) == (2, 1) and message in err[0]


def test_a_transcript_among_the_recordings_is_not_taken_for_a_result(
    trained: Path, clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "talk.srt").write_text("mine")
    words = [tmp_path / "talk.srt", "--out", tmp_path / "talk.csv", "--force"]
    status, _, err = shell(capfd, trained, clip, *words)
    assert status == 2 and "a result is named by an --out of its own" in err[0]
    assert (tmp_path / "talk.srt").read_text() == "mine"
