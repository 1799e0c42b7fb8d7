"""A long recording with known utterances: found, labelled once, on time, in bounded memory.

`WAVFUSION_MINUTES=60` asks for an hour instead of ten minutes.
"""

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soxr

from wavfusion import media
from wavfusion.lookalike.voice import Espeak

pytest_plugins = ("corpus_fixture",)

MINUTES = float(os.environ.get("WAVFUSION_MINUTES", "10"))
LATE = 5.0  # seconds; the first timestamp of the recording that does not begin at 0
RATE, WIDTH, HEIGHT = 10, 640, 360  # pictures a second
WORDS = (
    "kids are talking by the door",
    "dogs are sitting by the door",
    "I never said that you should go there",
    "that is the best news of the whole week",
    "somebody has to tell him about the broken window",
    "we were waiting at the station until the evening",
)


def spoken(seconds: float) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Sound of `seconds`, and when somebody speaks in it; pauses of one to four seconds."""
    rng, espeak = np.random.default_rng(0), Espeak()
    said = []
    for words in WORDS:
        raw = soxr.resample(espeak.synthesize(words, "en-us", 165.0, 50), espeak.sample_rate, media.SAMPLE_RATE)
        said.append((0.2 * raw / np.sqrt(np.mean(raw**2))).clip(-1, 1).astype(np.float32))
    sound = (1e-4 * rng.normal(size=int(seconds * media.SAMPLE_RATE))).astype(np.float32)
    times, at = [], 1.0
    while True:
        part = said[int(rng.integers(len(said)))]
        end = at + len(part) / media.SAMPLE_RATE
        if end + 1.0 > seconds:
            return sound, times
        first = round(at * media.SAMPLE_RATE)
        sound[first : first + len(part)] += part
        times.append((first / media.SAMPLE_RATE, first / media.SAMPLE_RATE + len(part) / media.SAMPLE_RATE))
        at = end + rng.uniform(1.0, 4.0)


def pictures(seconds: float) -> Any:
    """A grey ball that swings, so that the file is no still picture."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    for number in range(int(seconds * RATE)):
        at = WIDTH / 2 + 200 * np.sin(number / 7)
        ball = 255 * ((rows - HEIGHT / 2) ** 2 + (columns - at) ** 2 < 60**2)
        yield np.repeat(ball.astype(np.uint8)[..., None], 3, 2)


def shifted(source: Path, out: Path) -> None:
    """The same recording with LATE as its first timestamp and every third picture missing: a variable frame rate."""
    with av.open(str(source)) as given, av.open(str(out), "w") as made:
        picture = made.add_stream("libx264", rate=RATE, options={"preset": "ultrafast"})
        picture.width, picture.height, picture.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        picture.codec_context.time_base = Fraction(1, 1000)
        sound = made.add_stream_from_template(given.streams.audio[0])
        heard = (packet for packet in given.demux(audio=0) if packet.dts is not None)
        packet = next(heard, None)
        for number, pixels in enumerate(pictures(60 * MINUTES)):
            while packet is not None and packet.pts * packet.time_base <= number / RATE:
                late = round(Fraction(LATE) / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + late, packet.dts + late, sound
                made.mux(packet)
                packet = next(heard, None)
            if number % 3 < 2:
                frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
                frame.pts, frame.time_base = round(1000 * (LATE + number / RATE)), Fraction(1, 1000)
                made.mux(picture.encode(frame))
        made.mux(picture.encode())


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, list[tuple[float, float]]]:
    """A recording, its sound, and when somebody speaks."""
    folder = tmp_path_factory.mktemp("long")
    sound, times = spoken(60 * MINUTES)
    media.write_video(folder / "plain.mkv", pictures(60 * MINUTES), RATE, sound, media.SAMPLE_RATE)
    shifted(folder / "plain.mkv", folder / "shifted.mkv")
    return folder, sound, times


PREDICT = """
import json, resource, sys, time
from wavfusion.cli.app import main
started = time.monotonic()
status = main(["predict", "--model", *sys.argv[1:]])
seconds, kib = time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"status": status, "seconds": seconds, "megabytes": kib / 1024}))
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["plain.mkv", "shifted.mkv"])
def test_every_utterance_of_a_long_recording_is_labelled_once_and_on_time(
    recorded: tuple[Path, np.ndarray, list[tuple[float, float]]], trained: Path, name: str
) -> None:
    folder, sound, times = recorded
    out = folder / f"{name}.json"
    ask = [str(trained), str(folder / name), "--format", "json", "--out", str(out), "--device", "cpu"]
    done = subprocess.run([sys.executable, "-c", PREDICT, *ask], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    sys.stdout.write(f"{name}, {MINUTES:g} minutes: {told}\n")
    found = json.loads(out.read_text())
    assert told["status"] == 0 and told["megabytes"] < 2500
    assert len(found) == len(times)
    off = np.array([[each["start"], each["end"]] for each in found]) - np.array(times)
    assert np.abs(off).max() <= 0.25
    assert all({"audio", "video"} <= set(each["modalities"]) for each in found)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain.mkv", "shifted.mkv"])
def test_the_clock_of_sound_and_picture_is_right_at_the_end(
    recorded: tuple[Path, np.ndarray, list[tuple[float, float]]], name: str
) -> None:
    folder, sound, times = recorded
    start, end = times[-1]
    heard = media.decode_audio(folder / name, start - 0.2, end + 0.2).samples
    known = sound[round(start * media.SAMPLE_RATE) : round(end * media.SAMPLE_RATE)]
    lag = np.correlate(heard, known, "valid").argmax() / media.SAMPLE_RATE - 0.2
    assert abs(lag) <= 0.05
    frames = media.decode_frames(folder / name, RATE, (HEIGHT // 4, WIDTH // 4), end - 1.0, end).pixels
    seen = [np.flatnonzero(frame.mean((0, 2)) > 20).mean() * 4 for frame in frames]
    at = end - 1.0 + np.arange(len(seen)) / RATE
    expected = WIDTH / 2 + 200 * np.sin(np.floor((at + 0.5 / RATE) * RATE) / 7)
    # The ball moves up to 29 pixels from a picture to the next, of which one may be missing.
    assert np.abs(np.array(seen) - expected).max() <= 60
