"""Sound and pictures: exact in time, honest about what is absent, silent or broken."""

import hashlib
import os
import random
import resource
import struct
import tracemalloc
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wavfusion import media
from wavfusion.errors import MediaError
from wavfusion.media import video
from wavfusion.media.decoder import TrackReader

SHARED = Path(__file__).parents[2] / "shared" / "data"
SECONDS = 12
PRIMING = 1024 / 44_100  # AAC's first packet, which transport streams cannot mark as to be left out
FRAME_RATE = 25


def noise(rate: int, seconds: float = SECONDS) -> np.ndarray:
    """Sound whose every moment is unlike any other, below 8 kHz for the most part."""
    white = np.random.default_rng(rate).standard_normal(round(rate * seconds))
    return (0.1 * np.convolve(white, np.ones(9) / 3, "same")).astype(np.float32)


def sine(rate: int, frequency: float, seconds: float = 2.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def numbered(count: int, size: int = 64) -> Iterator[np.ndarray]:
    """Pictures that show their own number as 16 black or white squares."""
    side = size // 4
    for number in range(count):
        bits = np.array([255 * (number >> bit & 1) for bit in range(16)], np.uint8).reshape(4, 4)
        yield np.repeat(bits.repeat(side, 0).repeat(side, 1)[..., None], 3, axis=2)


def numbers(frames: media.Frames) -> list[int]:
    """What `numbered` pictures of 32 x 32 pixels show."""
    bits = frames.pixels[:, 4::8, 4::8, 0].reshape(-1, 16) > 128
    return [int(row @ (1 << np.arange(16))) for row in bits]


def lag(found: np.ndarray, expected: np.ndarray) -> int:
    """By how many samples `found` comes too late."""
    size = len(found) + len(expected)
    match = np.fft.irfft(np.fft.rfft(found, size) * np.conj(np.fft.rfft(expected, size)), size)
    best = int(np.argmax(match))
    return best - size if best > size // 2 else best


def pcm(samples: np.ndarray) -> bytes:
    return np.round(samples * 32767).astype("<i2").tobytes()


def raw_wav(
    path: Path, data: bytes, rate: int = 16_000, code: int = 1, bits: int = 16, claim: int | None = None
) -> Path:
    """A mono wav whose header can lie: code 1 = integer, 3 = float; claim = size of the data by the header."""
    claim = len(data) if claim is None else claim
    form = struct.pack("<IHHIIHH", 16, code, 1, rate, min(rate * bits // 8, 2**32 - 1), bits // 8, bits)
    head = b"RIFF" + struct.pack("<I", min(36 + claim, 2**32 - 1)) + b"WAVEfmt " + form
    path.write_bytes(head + b"data" + struct.pack("<I", claim) + data)
    return path


def rotten(source: Path, path: Path) -> Path:
    """A copy with one byte in 500 replaced, head and tail spared."""
    draw = random.Random(3)
    data = bytearray(source.read_bytes())
    for place in range(300, len(data) * 3 // 4):
        if draw.random() < 0.002:
            data[place] = draw.randrange(256)
    path.write_bytes(data)
    return path


def without_content(source: Path, path: Path) -> Path:
    """A copy of an mp4 whose packets are random bytes."""
    data = bytearray(source.read_bytes())
    place = data.find(b"mdat")
    size = struct.unpack(">I", data[place - 4 : place])[0] - 8
    data[place + 4 : place + 4 + size] = random.Random(5).randbytes(size)
    path.write_bytes(data)
    return path


def remuxed(source: Path, path: Path, audio_delay: float = 0.0, dropped: tuple[float, float] = (0.0, 0.0)) -> Path:
    """The same packets in another container, the sound later by a delay or without a stretch of it."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.dts is None:
                continue
            if packet.stream.type == "audio":
                if dropped[0] <= packet.pts * packet.time_base < dropped[1]:
                    continue
                packet.pts += round(audio_delay / packet.time_base)
                packet.dts += round(audio_delay / packet.time_base)
            packet.stream = streams[packet.stream_index]
            new.mux(packet)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of every kind, 12 s each: noise of 44.1 kHz (Opus: 48 kHz) and numbered pictures."""
    folder = tmp_path_factory.mktemp("media")
    for suffix in ("wav", "mp3", "m4a", "flac"):
        media.write_audio(folder / f"sound.{suffix}", noise(44_100), 44_100)
    media.write_audio(folder / "sound.ogg", noise(48_000), 48_000)
    for suffix in ("mp4", "mkv", "avi"):
        pictures = numbered(SECONDS * FRAME_RATE)
        media.write_video(folder / f"film.{suffix}", pictures, FRAME_RATE, noise(44_100), 44_100)
    media.write_video(folder / "mute.mp4", numbered(50), FRAME_RATE)
    remuxed(folder / "film.mp4", folder / "film.ts")
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: media.decode_audio(path).samples for path in folder.iterdir() if path.stem != "mute"}


# Sound: rates, gain, channels


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_a_tone_of_any_rate_becomes_the_exact_tone_at_16_khz(tmp_path: Path, rate: int) -> None:
    media.write_audio(tmp_path / "tone.wav", sine(rate, 1_000), rate)
    samples = media.decode_audio(tmp_path / "tone.wav").samples
    middle = slice(800, -800)  # the tone's sudden start and end ring
    np.testing.assert_allclose(samples[middle], sine(16_000, 1_000)[middle], atol=4e-5)  # 16 bits: 1.5e-5


def test_a_tone_above_half_the_rate_vanishes(tmp_path: Path) -> None:
    media.write_audio(tmp_path / "tone.wav", sine(48_000, 8_300), 48_000)
    assert np.abs(media.decode_audio(tmp_path / "tone.wav").samples[800:-800]).max() < 3e-5


@pytest.mark.parametrize("suffix", ["wav", "mp4"])
def test_identical_stereo_keeps_its_gain(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"stereo.{suffix}"
    stereo = np.tile(sine(48_000, 440), (2, 1))
    if suffix == "wav":
        media.write_audio(path, stereo, 48_000)
    else:
        media.write_video(path, numbered(50), 25, stereo, 48_000)
    level = np.sqrt(np.mean(media.decode_audio(path).samples[1_000:-1_000] ** 2))
    assert level == pytest.approx(0.5 / np.sqrt(2), rel=0.01)


@pytest.mark.parametrize("suffix", ["wav", "mp4"])
@pytest.mark.parametrize(("channel", "gain"), [("mix", 0.34), ("left", 0.1), ("right", 0.2), ("centre", 0.3)])
def test_surround_sound_is_mixed_by_the_named_policy(tmp_path: Path, suffix: str, channel: str, gain: float) -> None:
    """FL FR FC LFE and two at the back with these gains: the mix leaves the low-frequency channel's 0.4 out."""
    path = tmp_path / f"surround.{suffix}"
    surround = np.outer(np.float32([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), sine(48_000, 90))
    if suffix == "wav":
        media.write_audio(path, surround, 48_000)
    else:
        media.write_video(path, numbered(50), 25, surround, 48_000)
    level = np.sqrt(np.mean(media.decode_audio(path, channel=channel).samples[1_000:-2_000] ** 2))
    assert level == pytest.approx(gain * 0.5 / np.sqrt(2), rel=0.02)


@pytest.mark.parametrize(("channel", "expected"), [("mix", 0.3), ("centre", 0.3), ("left", 0.2), ("right", 0.4)])
def test_stereo_without_a_centre_falls_back_to_the_mix(tmp_path: Path, channel: str, expected: float) -> None:
    media.write_audio(tmp_path / "a.wav", np.float32([[0.2] * 999, [0.4] * 999]), 16_000)
    np.testing.assert_allclose(media.decode_audio(tmp_path / "a.wav", channel=channel).samples, expected, atol=2e-5)


@pytest.mark.parametrize("channel", ["mix", "left", "right", "centre"])
def test_a_mono_file_is_the_same_under_every_policy(tmp_path: Path, channel: str) -> None:
    media.write_audio(tmp_path / "a.wav", sine(16_000, 440), 16_000)
    samples = media.decode_audio(tmp_path / "a.wav", channel=channel).samples
    np.testing.assert_allclose(samples, sine(16_000, 440), atol=2e-5)


def test_an_unknown_policy_is_refused_with_the_nearest() -> None:
    with pytest.raises(MediaError, match="did you mean 'centre'"):
        media.decode_audio("a.wav", channel="center")


@pytest.mark.parametrize(
    ("code", "bits", "dtype", "scale"), [(1, 8, "u1", 127), (1, 32, "<i4", 2**31 - 1), (3, 64, "<f8", 1)]
)
def test_every_sample_format_has_full_scale_one(tmp_path: Path, code: int, bits: int, dtype: str, scale: int) -> None:
    values = sine(16_000, 440).astype(np.float64) * scale + (128 if bits == 8 else 0)
    raw_wav(tmp_path / "a.wav", values.astype(dtype).tobytes(), code=code, bits=bits)
    samples = media.decode_audio(tmp_path / "a.wav").samples
    np.testing.assert_allclose(samples, sine(16_000, 440), atol=0.02 if bits == 8 else 1e-6)


# Sound: stretches


@pytest.mark.parametrize("name", ["sound.wav", "sound.mp3", "sound.flac", "sound.ogg", "film.avi"])
@settings(max_examples=15, deadline=None)
@given(start=st.floats(0, SECONDS - 0.1), length=st.floats(1e-4, SECONDS))
def test_a_stretch_is_that_slice_of_the_whole(
    folder: Path, whole: dict[str, np.ndarray], name: str, start: float, length: float
) -> None:
    end = start + length
    found = media.decode_audio(folder / name, start, end).samples
    low = round(start * 16_000)
    np.testing.assert_allclose(found, whole[name][low : max(low + 1, round(end * 16_000))], atol=1e-6)


@pytest.mark.parametrize("name", ["sound.m4a", "film.mp4", "film.mkv", "film.ts"])
@pytest.mark.parametrize("start", [2.5, 7.7231])
def test_a_stretch_of_aac_is_that_slice_but_for_its_drawn_noise(
    folder: Path, whole: dict[str, np.ndarray], name: str, start: float
) -> None:
    """AAC fills bands with noise that a decoder draws, and Matroska's times are whole milliseconds."""
    found = media.decode_audio(folder / name, start, start + 2).samples
    assert abs(lag(found, whole[name][round(start * 16_000) :][: len(found)])) <= (16 if name.endswith("mkv") else 0)


@pytest.mark.parametrize(
    "name", ["sound.mp3", "sound.m4a", "sound.flac", "film.mp4", "film.mkv", "film.avi", "film.ts"]
)
def test_no_codec_shifts_the_sound(folder: Path, tmp_path: Path, whole: dict[str, np.ndarray], name: str) -> None:
    late = round(PRIMING * 16_000) if name == "film.ts" else 0
    assert lag(whole[name][:160_000], whole["sound.wav"][:160_000]) == late


def test_a_stretch_of_no_length_is_its_one_sample(folder: Path, whole: dict[str, np.ndarray]) -> None:
    assert media.decode_audio(folder / "sound.wav", 2.0, 2.0).samples == pytest.approx(
        whole["sound.wav"][32_000:32_001]
    )


def test_a_stretch_longer_than_the_file_is_cut_to_it(folder: Path) -> None:
    assert len(media.decode_audio(folder / "sound.wav", 11, 1_000).samples) == 16_000


@pytest.mark.parametrize("name", ["sound.wav", "sound.mp3", "film.mp4", "film.mkv", "film.avi"])
@pytest.mark.parametrize("start", [12.5, 500.0])
def test_a_stretch_outside_of_the_file_is_refused_with_file_and_duration(folder: Path, name: str, start: float) -> None:
    with pytest.raises(MediaError, match=rf"within the 12\.0\d+ s of audio in '.*{name}', found {start:.3f} s"):
        media.decode_audio(folder / name, start)


@pytest.mark.parametrize(("start", "end"), [(-1.0, None), (3.0, 1.0), (float("nan"), None), (0.0, float("inf"))])
def test_an_impossible_stretch_is_refused(folder: Path, start: float, end: float | None) -> None:
    with pytest.raises(MediaError, match="expected 0 <= start <= end"):
        media.decode_audio(folder / "sound.wav", start, end)


def test_a_second_out_of_hours_takes_little_memory(tmp_path: Path) -> None:
    path = raw_wav(tmp_path / "long.wav", b"", rate=48_000, claim=48_000 * 2 * 3600 * 3)
    os.truncate(path, 44 + 48_000 * 2 * 3600 * 3)  # three hours of zeros that take no room on disk
    tracemalloc.start()
    samples = media.decode_audio(path, 9_000, 9_001).samples
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(samples), peak < 3_000_000) == (16_000, True)


# One clock


def test_sound_that_starts_after_the_pictures_is_led_in_by_silence(folder: Path, tmp_path: Path) -> None:
    late = media.decode_audio(remuxed(folder / "film.avi", tmp_path / "late.mkv", audio_delay=0.5), 0, 4).samples
    soon = media.decode_audio(folder / "film.avi", 0, 3.5).samples
    assert (np.abs(late[:7_800]).max() < 1e-6, np.abs(late[8_200:-200] - soon[200:-200]).max() < 1e-6) == (True, True)


@pytest.mark.parametrize("start", [0.0, 5.0])
def test_a_file_whose_times_do_not_start_at_0_is_shifted_to_0(folder: Path, start: float) -> None:
    """Transport streams start at 1.4 s or so."""
    found = numbers(media.decode_frames(folder / "film.ts", 5, (32, 32), start + PRIMING, start + PRIMING + 1))
    assert found == [int(start * FRAME_RATE) + number for number in (2, 7, 12, 17, 22)]


def test_the_sound_of_shifted_times_stays_with_its_pictures(folder: Path, whole: dict[str, np.ndarray]) -> None:
    later = media.decode_audio(folder / "film.ts", 6 + PRIMING, 8 + PRIMING).samples
    assert abs(lag(later, whole["film.mp4"][6 * 16_000 : 8 * 16_000])) <= 1


def test_sound_after_lost_packets_stays_in_its_place(
    folder: Path, tmp_path: Path, whole: dict[str, np.ndarray]
) -> None:
    holed = media.decode_audio(remuxed(folder / "film.avi", tmp_path / "holed.mkv", dropped=(1.0, 1.5))).samples
    off = lag(holed[32_000:], whole["film.avi"][32_000:])
    assert (abs(off) <= 8, np.abs(holed[16_800:23_200]).max() < 1e-6) == (True, True)


# Pictures


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.avi", "film.ts"])
@settings(max_examples=8, deadline=None)
@given(start=st.floats(0, SECONDS - 1), length=st.floats(0.5, 4), frame_rate=st.sampled_from([1.0, 5.0, 12.0, 29.97]))
def test_the_picture_that_is_on_at_each_time_is_taken(
    folder: Path, name: str, start: float, length: float, frame_rate: float
) -> None:
    end = min(start + length, SECONDS)
    found = numbers(media.decode_frames(folder / name, frame_rate, (32, 32), start, end, interpolation="bilinear"))
    asked = start + (np.arange(200) + 0.5) / frame_rate
    asked = asked[asked < end] if asked[0] < end else np.array([end])
    if name == "film.ts":
        asked -= PRIMING
    # A time may fall on the change of two pictures but for Matroska's rounding to 1 ms.
    low, high = (np.clip(np.floor((asked + shift) * FRAME_RATE), 0, None) for shift in (-0.0011, 0.0011))
    assert len(found) == len(asked) and all((low <= found) & (found <= high))


def test_frames_of_29_97_per_second_do_not_drift(tmp_path: Path) -> None:
    rate = Fraction(30_000, 1_001)
    media.write_video(tmp_path / "ntsc.avi", numbered(3_600), rate)
    found = numbers(media.decode_frames(tmp_path / "ntsc.avi", 1, (32, 32)))
    assert found == [int((k + Fraction(1, 2)) * rate) for k in range(120)]


def test_a_variable_frame_rate_is_followed(tmp_path: Path) -> None:
    shown_at = [0, 40, 80, 1_000, 1_040, 3_000, 3_010, 3_020, 4_000]
    with av.open(str(tmp_path / "variable.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1_000)
        for time, pixels in zip(shown_at, numbered(len(shown_at)), strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    found = numbers(media.decode_frames(tmp_path / "variable.mkv", 2, (32, 32), 0, 4))
    assert found == [2, 2, 4, 4, 4, 4, 7, 7]  # on at 0.25, 0.75, ... 3.75 s


@pytest.mark.parametrize("start", [0.0, 5.01, 11.999])
def test_a_very_short_stretch_gets_its_one_picture(folder: Path, start: float) -> None:
    assert numbers(media.decode_frames(folder / "film.mp4", 5, (32, 32), start, start + 0.001)) == [int(start * 25)]


def test_a_file_of_one_picture_is_decoded(tmp_path: Path) -> None:
    media.write_video(tmp_path / "one.mp4", numbered(1), 25)
    assert media.decode_frames(tmp_path / "one.mp4", 5, (32, 32)).pixels.shape == (1, 32, 32, 3)


def test_pictures_outside_of_the_file_are_refused(folder: Path) -> None:
    with pytest.raises(MediaError, match=r"within the 12\.000 s of video in '.*film.mp4', found 12\.500 s"):
        media.decode_frames(folder / "film.mp4", 5, (32, 32), 12.5)


def test_a_crop_is_cut_out_before_the_resize(tmp_path: Path) -> None:
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:32, 48:] = 200, 100, 50
    media.write_video(tmp_path / "a.mp4", [picture], 25)
    cut = media.decode_frames(tmp_path / "a.mp4", 5, (16, 16), crop=[52, 4, 92, 28]).pixels
    assert np.abs(cut.astype(int) - [200, 100, 50]).max() < 12


def test_a_crop_of_the_whole_picture_changes_nothing(folder: Path) -> None:
    plain, cropped = (
        media.decode_frames(folder / "mute.mp4", 5, (24, 40), crop=crop).pixels for crop in (None, [0, 0, 64, 64])
    )
    np.testing.assert_array_equal(plain, cropped)


def test_each_picture_has_its_part(tmp_path: Path) -> None:
    """A bright square wanders from left to right and is followed; the last part holds for what comes after."""
    pictures = np.zeros((4, 32, 128, 3), np.uint8)
    for i, picture in enumerate(pictures):
        picture[:, 32 * i : 32 * i + 32] = 255
    media.write_video(tmp_path / "a.mp4", pictures, 5)
    parts = [(i / 4, 0.0, (i + 1) / 4, 1.0) for i in range(3)]
    found = media.decode_frames(tmp_path / "a.mp4", 5, (16, 16), regions=parts).pixels
    np.testing.assert_allclose(found[:, 4:12, 4:12].mean((1, 2, 3)), [255, 255, 255, 0], atol=2)


def test_a_part_is_one_of_the_crop(tmp_path: Path) -> None:
    pictures = np.zeros((1, 64, 64, 3), np.uint8)
    pictures[:, 32:48, 48:] = 255
    media.write_video(tmp_path / "a.mp4", pictures, 5)
    part = (0.5, 0.0, 1.0, 0.5)
    found = media.decode_frames(tmp_path / "a.mp4", 5, (16, 16), crop=[32, 32, 64, 64], regions=[part]).pixels
    assert found[:, 4:12, 4:12].mean() == pytest.approx(255, abs=2)


@given(side=st.integers(1, 5000), edges=st.tuples(st.floats(-0.1, 1.1), st.floats(-0.1, 1.1)))
def test_a_part_has_a_pixel_within_the_crop(side: int, edges: tuple[float, float]) -> None:
    first, last = video._part_of_side(7, 7 + side, sorted(edges))
    assert 7 <= first < last <= 7 + side


@pytest.mark.parametrize(("longest", "shape"), [(64, (64, 64, 3)), (1000, (64, 64, 3)), (20, (20, 20, 3))])
def test_streamed_pictures_are_those_at_the_same_times(folder: Path, longest: int, shape: tuple[int, ...]) -> None:
    streamed = [*media.stream_frames(folder / "mute.mp4", 7, longest, 0.4, 1.5)]
    at_once = media.decode_frames(folder / "mute.mp4", 7, shape[:2], 0.4, 1.5, interpolation="bilinear").pixels
    np.testing.assert_array_equal(np.stack(streamed), at_once)


def test_streamed_pictures_keep_their_proportions(tmp_path: Path) -> None:
    media.write_video(tmp_path / "a.mp4", np.zeros((2, 48, 128, 3), np.uint8), 5)
    assert [x.shape for x in media.stream_frames(tmp_path / "a.mp4", 5, 64)] == [(24, 64, 3)] * 2


def test_a_picture_that_stays_is_converted_once(folder: Path) -> None:
    streamed = [*media.stream_frames(folder / "mute.mp4", 4 * FRAME_RATE, 64, 0.0, 0.2)]
    assert len(streamed) == 20 and len({id(x) for x in streamed}) == 5


def test_a_stream_outside_of_the_file_is_refused(folder: Path) -> None:
    with pytest.raises(MediaError, match="expected a start within"):
        next(media.stream_frames(folder / "mute.mp4", 5, 64, 99.0))


@pytest.mark.parametrize("crop", [[0, 0, 65, 64], [-1, 0, 64, 64], [10, 0, 10, 64], [0, 50, 64, 40]])
def test_a_crop_outside_of_the_picture_is_refused(folder: Path, crop: list[int]) -> None:
    with pytest.raises(MediaError, match=r"inside of \[0, 0, 64, 64\], found"):
        media.decode_frames(folder / "mute.mp4", 5, (32, 32), crop=crop)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_every_interpolation_keeps_an_even_grey(tmp_path: Path, interpolation: str) -> None:
    media.write_video(tmp_path / "grey.mp4", [np.full((64, 96, 3), 128, np.uint8)] * 5, 25)
    pixels = media.decode_frames(tmp_path / "grey.mp4", 5, (30, 50), interpolation=interpolation).pixels
    assert np.abs(pixels.astype(int) - 128).max() <= 2


def test_an_unknown_interpolation_is_refused_with_the_nearest(folder: Path) -> None:
    with pytest.raises(MediaError, match="did you mean 'bilinear'"):
        media.decode_frames(folder / "mute.mp4", 5, (32, 32), interpolation="biliner")


@pytest.mark.parametrize(
    ("frame_rate", "size"), [(0.0, (32, 32)), (5.0, (0, 32)), (float("nan"), (32, 32)), (5.0, (32,))]
)
def test_an_impossible_rate_or_size_is_refused(folder: Path, frame_rate: float, size: tuple[int, ...]) -> None:
    with pytest.raises(MediaError, match="expected a positive frame rate, height and width"):
        media.decode_frames(folder / "mute.mp4", frame_rate, size)


# Absent, silent, undecodable


def test_probe_says_which_tracks_there_are_and_when_they_end(folder: Path) -> None:
    found = {name: media.probe(folder / name) for name in ("sound.mp3", "film.avi", "mute.mp4")}
    assert found == {"sound.mp3": (pytest.approx(12, abs=0.01), None), "film.avi": (12, 12), "mute.mp4": (None, 2)}


def test_an_absent_track_of_sound_is_said(folder: Path) -> None:
    with pytest.raises(MediaError, match=r"expected a track of audio in '.*mute.mp4', found only video"):
        media.decode_audio(folder / "mute.mp4")


def test_an_absent_track_of_pictures_is_said(folder: Path) -> None:
    with pytest.raises(MediaError, match=r"expected a track of video in '.*sound.mp3', found only audio"):
        media.decode_frames(folder / "sound.mp3", 5, (32, 32))


def test_a_silent_track_is_zeros(tmp_path: Path) -> None:
    media.write_video(tmp_path / "silent.mp4", numbered(25), 25, np.zeros(16_000, np.float32), 16_000)
    assert not media.decode_audio(tmp_path / "silent.mp4", 0, 1).samples.any()


@pytest.mark.parametrize("kind", ["audio", "video"])
def test_an_undecodable_track_is_neither_absent_nor_silent(folder: Path, tmp_path: Path, kind: str) -> None:
    path = without_content(folder / "film.mp4", tmp_path / "trash.mp4")
    with pytest.raises(
        MediaError, match=rf"expected decodable {kind} in '.*trash.mp4', found that none of its \d+ packets"
    ):
        media.decode_audio(path) if kind == "audio" else media.decode_frames(path, 5, (32, 32))


def test_cover_art_is_no_video(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (200, 0, 0)).save(tmp_path / "cover.jpg")
    with av.open(str(tmp_path / "song.mp3"), "w") as song, av.open(str(tmp_path / "cover.jpg")) as cover:
        sound = song.add_stream("libmp3lame", rate=44_100, layout="mono")
        art = song.add_stream_from_template(cover.streams.video[0])
        art.disposition = Disposition.attached_pic.value
        frame = av.AudioFrame.from_ndarray(sine(44_100, 440)[None], "fltp", "mono")
        frame.sample_rate, frame.pts = 44_100, 0
        song.mux(sound.encode(frame))
        song.mux(sound.encode(None))
        packet = next(cover.demux(video=0))
        packet.stream = art
        song.mux(packet)
    assert media.probe(tmp_path / "song.mp3").video is None


# Broken files and hostile names


def test_packets_that_cannot_be_decoded_are_counted_and_the_rest_is_kept(folder: Path, tmp_path: Path) -> None:
    sound = media.decode_audio(rotten(folder / "sound.m4a", tmp_path / "rotten.m4a"))
    assert (sound.bad_packets > 10, abs(len(sound.samples) - 12 * 16_000) < 1_000) == (True, True)


def test_a_rotten_flac_is_not_taken_for_sound(folder: Path, tmp_path: Path) -> None:
    """Without a look at its checksums the decoder returns noise at full scale."""
    sound = media.decode_audio(rotten(folder / "sound.flac", tmp_path / "rotten.flac"))
    assert (sound.bad_packets > 10, np.abs(sound.samples).max() < 0.9) == (True, True)


def test_only_the_bad_packets_of_the_stretch_are_counted(folder: Path, tmp_path: Path) -> None:
    rotten(folder / "sound.m4a", tmp_path / "rotten.m4a")  # its last quarter is whole
    assert media.decode_audio(tmp_path / "rotten.m4a", 10, 11).bad_packets == 0


def test_pictures_from_damaged_packets_are_counted(folder: Path, tmp_path: Path) -> None:
    frames = media.decode_frames(rotten(folder / "film.avi", tmp_path / "rotten.avi"), 5, (32, 32))
    assert (frames.bad_packets > 0, len(frames.pixels) > 50) == (True, True)


def test_samples_that_are_no_numbers_become_0_and_are_counted(tmp_path: Path) -> None:
    samples = sine(16_000, 440)
    samples[5_000], samples[20_000] = np.nan, np.inf
    sound = media.decode_audio(raw_wav(tmp_path / "a.wav", samples.tobytes(), code=3, bits=32))
    samples[[5_000, 20_000]] = 0
    assert (sound.bad_packets, np.array_equal(sound.samples, samples)) == (2, True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_samples_beyond_every_scale_are_damage_and_not_silence(tmp_path: Path, dtype: type) -> None:
    """Divided by their own deviation, which overflows, 1e30 became the zeros of silence."""
    samples = sine(16_000, 440).astype(dtype)
    samples[5_000], samples[20_000] = 1e30, -np.finfo(dtype).max
    sound = media.decode_audio(raw_wav(tmp_path / "a.wav", samples.tobytes(), code=3, bits=8 * samples.itemsize))
    samples[[5_000, 20_000]] = 0
    assert (sound.bad_packets, np.array_equal(sound.samples, samples.astype(np.float32))) == (2, True)


def test_floats_on_the_scale_of_integers_are_sound(tmp_path: Path) -> None:
    samples = 32_768 * sine(16_000, 440)
    sound = media.decode_audio(raw_wav(tmp_path / "a.wav", samples.tobytes(), code=3, bits=32))
    assert (sound.bad_packets, np.array_equal(sound.samples, samples)) == (0, True)


@pytest.mark.parametrize("value", [np.nan, 1e30])
def test_a_track_without_any_number_is_undecodable(tmp_path: Path, value: float) -> None:
    raw_wav(tmp_path / "a.wav", np.full(16_000, value, np.float32).tobytes(), code=3, bits=32)
    with pytest.raises(MediaError, match="expected decodable audio"):
        media.decode_audio(tmp_path / "a.wav")


@pytest.mark.parametrize(
    "name", ["sound.wav", "sound.mp3", "sound.flac", "sound.ogg", "film.avi", "film.mkv", "film.ts"]
)
def test_a_truncated_file_gives_what_is_there_and_says_how_long_it_is(folder: Path, tmp_path: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) * 6 // 10])
    length = len(media.decode_audio(tmp_path / name).samples) / 16_000
    assert (5 < length < 9, media.probe(tmp_path / name).audio) == (True, pytest.approx(length, abs=0.15))


@pytest.mark.parametrize("claim", [0xFFFFFFFF, 0xFFFFFFF0, 0x7FFFFFFF])
def test_a_header_that_claims_gigabytes_is_not_believed(tmp_path: Path, claim: int) -> None:
    path = raw_wav(tmp_path / "a.wav", pcm(sine(16_000, 440)), claim=claim)
    assert (media.probe(path).audio, len(media.decode_audio(path).samples)) == (2.0, 32_000)


def test_timestamps_hours_apart_are_not_filled(folder: Path, tmp_path: Path) -> None:
    path = remuxed(folder / "film.mp4", tmp_path / "late.mkv", audio_delay=40_000)
    with pytest.raises(MediaError, match="expected true timestamps in '.*late.mkv', found a hole"):
        media.decode_audio(path)


def test_what_comes_after_a_hole_of_hours_is_decoded_as_without_it(folder: Path, tmp_path: Path) -> None:
    """A stretch after a hole of more than an hour was refused, since the hole was filled from its beginning on."""
    path = remuxed(folder / "film.mp4", tmp_path / "late.mkv", audio_delay=40_000)
    later, plain = media.decode_audio(path, 40_002.0, 40_004.0), media.decode_audio(folder / "film.mp4", 2.0, 4.0)
    assert abs(lag(later.samples, plain.samples)) <= 16
    assert not media.decode_audio(path, 20_000.0, 20_060.0).samples.any()


def test_a_sound_of_one_sample_is_decoded(tmp_path: Path) -> None:
    assert len(media.decode_audio(raw_wav(tmp_path / "a.wav", pcm(np.float32([0.5])), rate=44_100)).samples) == 1


def broken(folder: Path, kind: str) -> Path:
    """A path of which nothing can be decoded."""
    path = folder / kind
    if kind == "folder.mp4":
        path.mkdir()
    elif kind == "dangling.wav":
        path.symlink_to(folder / "nowhere")
    elif kind == "pipe.wav":
        os.mkfifo(path)
    elif kind in {"still.png", "still.jpg"}:
        Image.new("RGB", (64, 64)).save(path)
    elif kind == "no_rate.wav":
        raw_wav(path, pcm(sine(16_000, 440)), rate=0)
    elif kind == "slow.wav":
        raw_wav(path, pcm(sine(16_000, 440)), rate=1)
    elif kind == "header.wav":
        raw_wav(path, b"")
    elif kind != "missing.wav":
        path.write_bytes(BROKEN[kind])
    return path


BROKEN = {
    "empty.wav": b"",
    "text.mp4": b"this is a text\n" * 50,
    "notes.txt": b"this is a text\n" * 50,
    "titles.srt": b"1\n00:00:01,000 --> 00:00:02,000\nhello\n",
    "random.mp4": random.Random(0).randbytes(100_000),
    "random.mp3": random.Random(1).randbytes(100_000),
    "list.mp4": b"ffconcat version 1.0\nfile sound.wav\n",
    "list.m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
    "huge_box.mp4": struct.pack(">I4sQ", 1, b"moov", 2**63 - 256) + b"abcd" * 100,
    "huge_head.mp4": struct.pack(">I4s4sI4sI4s", 20, b"ftyp", b"isom", 512, b"isom", 2**32 - 16, b"moov") + bytes(500),
}
KINDS = [
    *BROKEN,
    "folder.mp4",
    "dangling.wav",
    "pipe.wav",
    "still.png",
    "still.jpg",
    "no_rate.wav",
    "slow.wav",
    "header.wav",
]


@pytest.mark.parametrize("kind", [*KINDS, "missing.wav"])
def test_a_broken_file_gets_its_one_line(tmp_path: Path, kind: str) -> None:
    with pytest.raises(
        MediaError, match=rf"\Aexpected [^\n]*{kind}[^\n]*found [^\n]+\Z|\Aexpected [^\n]+found [^\n]+{kind}'\Z"
    ):
        media.decode_audio(broken(tmp_path, kind))


def test_a_picture_of_a_giant_size_is_not_given_the_memory(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.gif")
    data = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(data[:6] + struct.pack("<HH", 10_000, 10_000) + data[10:])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MediaError, match="expected decodable video"):
        media.decode_frames(tmp_path / "a.gif", 5, (32, 32))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


NAMES = [
    "with space.wav",
    'it\'s "quoted".wav',
    "grüße 🙂.wav",
    "new\nline.wav",
    "file:a.wav",
    "http:a.wav",
    "-i.wav",
    "%d.wav",
]


@pytest.mark.parametrize("name", [*NAMES, "deep/../up.wav"])
def test_a_hostile_name_is_only_a_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "deep").mkdir()
    media.write_audio(tmp_path / name, sine(16_000, 440), 16_000)
    assert len(media.decode_audio(tmp_path / name).samples) == 32_000


def test_a_newline_in_a_name_does_not_break_the_message(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"\A[^\n]*'[^\n]*new\\nline\.wav'[^\n]*\Z"):
        media.probe(tmp_path / "new\nline.wav")


def test_nothing_reaches_the_terminal(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    media.decode_frames(rotten(folder / "film.avi", tmp_path / "rotten.avi"), 5, (32, 32))
    media.decode_audio(rotten(folder / "sound.mp3", tmp_path / "rotten.mp3"))
    media.write_video(tmp_path / "a.mp4", numbered(5), 25)
    assert capfd.readouterr() == ("", "")


# Hashing and writing


def test_the_hash_is_of_the_bytes_alone(tmp_path: Path) -> None:
    data = random.Random(0).randbytes(3_000_000)
    (tmp_path / "a.wav").write_bytes(data)
    assert media.content_hash(tmp_path / "a.wav") == hashlib.sha256(data).hexdigest()


def test_the_hash_of_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="expected a file to read at '.*no.wav', found none: No such file"):
        media.content_hash(tmp_path / "no.wav")


@pytest.mark.parametrize("suffix", ["mp4", "avi", "mkv"])
def test_equal_pictures_and_sound_give_equal_bytes(tmp_path: Path, suffix: str) -> None:
    for name in ("a", "b"):
        media.write_video(tmp_path / f"{name}.{suffix}", numbered(50), 25, noise(16_000, 2), 16_000)
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_an_avi_is_tagged_as_divx(folder: Path) -> None:
    with av.open(str(folder / "film.avi")) as container:
        assert container.streams.video[0].codec_context.codec_tag == "DX50"


def test_pictures_are_taken_one_at_a_time(tmp_path: Path) -> None:
    tracemalloc.start()
    media.write_video(tmp_path / "a.avi", numbered(100, size=256), 25)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 256 * 256 * 3


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="frames of one even size"):
        media.write_video(tmp_path / "a.mp4", [np.zeros((31, 31, 3), np.uint8)], 25)
    assert not (tmp_path / "a.mp4").exists()


@pytest.mark.parametrize(("name", "rate"), [("a.doc", 16_000), ("a", 16_000), ("no/a.wav", 16_000), ("a.mp3", 12_345)])
def test_what_cannot_be_written_is_refused_in_one_line(tmp_path: Path, name: str, rate: int) -> None:
    with pytest.raises(MediaError, match=r"\Aexpected [^\n]*to write [^\n]*found[^\n]*\Z"):
        media.write_audio(tmp_path / name, sine(16_000, 440), rate)


# Real recordings


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the recordings of ../shared/data")
@pytest.mark.parametrize(
    "pattern", ["ravdess/speech/*/*-01-01-01-01-0?.wav", "ravdess/video/*-01-01.mp4", "grid/l*.mpg", "*/*.mp[34]"]
)
def test_real_recordings_decode_without_a_bad_packet(pattern: str) -> None:
    found = {}
    for path in sorted(SHARED.glob(pattern)):
        tracks = media.probe(path)
        sound = media.decode_audio(path) if tracks.audio else media.DecodedAudio(np.zeros(0, np.float32), 0)
        frames = media.decode_frames(path, 1, (32, 32)).bad_packets if tracks.video else 0
        off = abs((tracks.audio or 0) - len(sound.samples) / media.SAMPLE_RATE)
        found[path.name] = sound.bad_packets == frames == 0 and off < 0.05
    assert found and all(found.values()), found


# ------------------------------------------------------------------ a film


def ramp(path: Path, seconds: float, keys: int, rate: int = 10, late: float = 0.0) -> Path:
    """Pictures that tell their number by their brightness, with a key frame every `keys` of them."""
    with av.open(str(path), "w") as made:
        stream = made.add_stream("libx264", rate=rate, options={"g": str(keys), "preset": "ultrafast", "qp": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(int(seconds * rate)):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 3 * number % 256, np.uint8), "rgb24")
            frame.pts = number + round(late * rate)
            made.mux(stream.encode(frame))
        made.mux(stream.encode())
    return path


STRETCHES = [
    (0.0, 0.7),
    (0.7, 1.1),
    (1.05, 2.0),
    (1.96, 1.96),
    (2.0, 2.5),
    (2.1, 2.5),
    (4.0, 6.5),
    (6.5, 6.55),
    (1.0, 1.5),
    (14.0, 15.0),
    (15.2, 99.0),
]


@pytest.mark.parametrize("late", [0.0, 3.0])
@pytest.mark.parametrize("keys", [4, 250])
@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
def test_a_film_gives_the_pictures_of_every_stretch_as_if_it_were_searched(tmp_path, ending, keys, late):
    path = ramp(tmp_path / f"a.{ending}", 20.0, keys, late=late)
    with media.VideoReader(path, 5, (32, 32)) as film:
        for start, end in STRETCHES:
            found, alone = film.frames(start, end), media.decode_frames(path, 5, (32, 32), start, end, thorough=True)
            np.testing.assert_array_equal(found.pixels, alone.pixels, f"{start} to {end}")


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["mp4", "mkv", "avi", "ts"]),
    st.floats(0, SECONDS - 0.5),
    st.floats(0.01, 5),
    st.sampled_from([0.7, 2, 5, 7.3, 12.5, 25, 60]),
)
def test_pictures_between_are_left_out_without_a_trace(folder, ending, start, seconds, rate):
    path, end = folder / f"film.{ending}", min(SECONDS, start + seconds)
    found, all_decoded = (
        media.decode_frames(path, rate, (32, 32), start, end, thorough=thorough) for thorough in (False, True)
    )
    np.testing.assert_array_equal(found.pixels, all_decoded.pixels)


def coded(path: Path, codec: str, shifted: float = 0.0, dts_only: bool = False, **options: str) -> Path:
    """Two hundred numbered pictures in a codec; with `dts_only` stamped in the order in which they are decoded."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25, options=options)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"

        def mux(packets: list[av.Packet]) -> None:
            for packet in packets:
                packet.pts = packet.dts if dts_only else packet.pts
                file.mux(packet)

        for number, pixels in enumerate(numbered(200)):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = number + round(25 * shifted), Fraction(1, 25)
            mux(stream.encode(frame))
        mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("av1.mp4", "libsvtav1", {"preset": "10", "svtav1-params": "lp=1:keyint=40"}),
        ("hevc.mp4", "libx265", {"x265-params": "log-level=none:bframes=4:pools=1"}),
        ("late.mkv", "libx264", {"bf": "3", "shifted": 0.5}),
        ("order.mp4", "libx264", {"bf": "3", "dts_only": True}),
        ("mpeg2.mpg", "mpeg2video", {"bf": "2"}),
        ("mpeg4.avi", "mpeg4", {"bf": "2"}),
        ("vp9.webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    ],
)
def test_pictures_between_are_left_out_without_a_trace_in_any_codec(tmp_path, name, codec, options):
    """AV1's decoder leaves out all that follows or nothing; times in the order of decoding do not tell what follows."""
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    path = coded(tmp_path / name, codec, **options)
    for rate, start, end in ((6, 0.1, 4.1), (5, 0.0, None), (12.5, 3.3, 7.0), (3, 6.0, 6.2)):
        found, all_decoded = (
            media.decode_frames(path, rate, (32, 32), start, end, thorough=each) for each in (False, True)
        )
        np.testing.assert_array_equal(found.pixels, all_decoded.pixels, f"{rate} from {start} to {end}")


def test_damage_is_made_up_for_from_the_pictures_that_were_before(tmp_path):
    """A decoder shows what was there before; what was left out could not be shown."""
    path = coded(tmp_path / "damaged.avi", "mpeg4", bf="2")
    data, draw = bytearray(path.read_bytes()), random.Random(3)
    for _ in range(8):
        place = draw.randrange(len(data) // 4, len(data) * 3 // 4)
        data[place : place + 20] = draw.randbytes(20)
    path.write_bytes(data)
    found, all_decoded = (media.decode_frames(path, 5, (32, 32), thorough=each) for each in (False, True))
    np.testing.assert_array_equal(found.pixels, all_decoded.pixels)
    assert found.bad_packets == all_decoded.bad_packets > 0


@pytest.mark.parametrize("rate", [5, 12.5, 30])
def test_a_stretch_that_is_sought_is_decoded_from_where_the_search_led(tmp_path, monkeypatch, rate):
    """At half the file's rate or less the second picture was taken for the first, and the whole file was decoded."""
    path, packets, single = ramp(tmp_path / "a.mp4", 60.0, 50, rate=25), [], TrackReader._decoded
    monkeypatch.setattr(TrackReader, "_decoded", lambda reader, packet: packets.append(1) or single(reader, packet))
    assert len(media.decode_frames(path, rate, (32, 32), 50.0, 52.0).pixels) == 2 * rate
    assert len(packets) < 25 * 8


def test_pictures_that_nobody_asks_for_are_not_decoded(folder, monkeypatch):
    decoded, single = [], TrackReader._decoded

    def counted(reader, packet):
        frames = single(reader, packet)
        decoded.extend(frames)
        return frames

    monkeypatch.setattr(TrackReader, "_decoded", counted)
    counts = []
    for thorough in (False, True):
        media.decode_frames(folder / "film.mp4", 5, (32, 32), thorough=thorough)
        counts.append(len(decoded))
        decoded.clear()
    assert SECONDS * 5 <= counts[0] < 0.8 * counts[1] and counts[1] == SECONDS * FRAME_RATE


def test_what_comes_before_a_break_in_the_file_is_decoded(folder, tmp_path):
    """Packets are looked at some ahead of what is decoded, and are not lost when the file ends within them."""
    whole, path = (folder / "film.ts").read_bytes(), tmp_path / "cut.ts"
    path.write_bytes(whole[: len(whole) // 2])
    found, all_decoded = (media.decode_frames(path, 25, (32, 32), thorough=each) for each in (False, True))
    assert numbers(found) == numbers(all_decoded) and len(found.pixels) > 100


def test_a_film_searches_no_more_than_it_must(tmp_path, monkeypatch):
    path, searched = ramp(tmp_path / "a.mp4", 20.0, 250), []
    search = media.VideoReader._seek
    monkeypatch.setattr(
        media.VideoReader, "_seek", lambda film, start, end: searched.append(start) or search(film, start, end)
    )
    with media.VideoReader(path, 5, (32, 32)) as film:
        for start in np.arange(2.0, 18.0, 1.5):
            film.frames(float(start), float(start) + 1.0)
    assert searched == [2.0]


def test_a_film_says_what_decoding_says(tmp_path):
    path = ramp(tmp_path / "a.mp4", 2.0, 4)
    with media.VideoReader(path, 5, (32, 32)) as film:
        film.frames(0.0, 1.0)
        with pytest.raises(MediaError, match="expected a start within"):
            film.frames(30.0, 31.0)
        with pytest.raises(MediaError, match="0 <= start <= end"):
            film.frames(1.0, 0.5)
        assert len(film.frames(1.0, 2.0).pixels) == 5
    with media.VideoReader(tmp_path / "none.mp4", 5, (32, 32)) as film, pytest.raises(MediaError, match="found none"):
        film.frames(0.0, 1.0)


def test_ogg_files_joined_to_one_are_heard_to_the_end_of_the_last(folder, tmp_path):
    """The length was that of one part, and a stretch in the middle was sought in whichever part has such a time."""
    media.write_audio(tmp_path / "first.ogg", noise(48_000, 3), 48_000)
    parts = [(tmp_path / "first.ogg").read_bytes(), (folder / "sound.ogg").read_bytes()]
    for joined in (parts, parts[::-1]):
        (tmp_path / "joined.ogg").write_bytes(b"".join(joined))
        whole = media.decode_audio(tmp_path / "joined.ogg").samples
        assert (len(whole), media.probe(tmp_path / "joined.ogg").audio) == (15 * 16_000, 15.0)
        for start, end in ((2.5, 3.5), (9.0, 13.0), (14.0, 15.0)):
            stretch = media.decode_audio(tmp_path / "joined.ogg", start, end).samples
            np.testing.assert_array_equal(stretch, whole[round(start * 16_000) : round(end * 16_000)])


@pytest.mark.parametrize(("turns", "matrix"), [(1, (0, 1, -1, 0)), (2, (-1, 0, 0, -1)), (3, (0, -1, 1, 0))])
def test_a_film_that_notes_a_rotation_is_upright(tmp_path, turns, matrix):
    """A phone held upright films sideways, and so were its faces seen."""
    upright = np.zeros((64, 96, 3), np.uint8)
    upright[:32, :48] = 255
    media.write_video(tmp_path / "a.mp4", [np.ascontiguousarray(np.rot90(upright, turns))] * 5, 5)
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    at = content.index(struct.pack(">5i", 1 << 16, 0, 0, 0, 1 << 16), content.index(b"tkhd"))
    content[at : at + 20] = struct.pack(">5i", a, b, 0, c, d)
    (tmp_path / "a.mp4").write_bytes(content)
    assert next(media.stream_frames(tmp_path / "a.mp4", 5, 640)).shape == (64, 96, 3)
    (pixels,) = media.decode_frames(tmp_path / "a.mp4", 5, (64, 96), 0.0, 0.2).pixels
    np.testing.assert_allclose(pixels, upright, atol=2)
    (corner,) = media.decode_frames(tmp_path / "a.mp4", 5, (16, 16), 0.0, 0.2, crop=[8, 8, 40, 24]).pixels
    assert corner.min() > 250


def test_a_damaged_film_gives_what_can_be_decoded(tmp_path):
    content = bytearray(ramp(tmp_path / "a.mkv", 20.0, 10).read_bytes())
    for place in range(2000, len(content) - 2000, 997):
        content[place] ^= 0xFF
    (tmp_path / "b.mkv").write_bytes(content)
    with media.VideoReader(tmp_path / "b.mkv", 5, (32, 32)) as film:
        for start in range(0, 16, 2):
            assert len(film.frames(float(start), start + 2.0).pixels) >= 1


def test_pictures_that_cannot_be_scaled_are_one_line(tmp_path):
    """One such file ended the labelling of a whole folder."""
    with av.open(str(tmp_path / "wide.mkv"), "w") as made:
        stream = made.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 16000, 2, "yuv420p"
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((3, 16000), np.uint8), "yuv420p")
            frame.pts = number
            made.mux(stream.encode(frame))
        made.mux(stream.encode())
    with pytest.raises(MediaError, match="frames that can be scaled in .*wide.mkv', found 16000 x 2"):
        media.decode_frames(tmp_path / "wide.mkv", 5, (224, 224))


# ---------------------------------------------------------------------- several recordings, several tracks


def joined(folder: Path, tmp_path: Path, name: str) -> tuple[Path, Path]:
    """The second of two recordings, and both end to end in one file; the first lasts 3 s."""
    source = {"film": "film.mp4", "flac": "sound.flac", "mpg": "sound.mp3"}.get(name.split(".")[-1], "sound.m4a")
    source = "film.mp4" if name.startswith("film") else source
    first, second, both = (tmp_path / f"{each}.{name.split('.')[-1]}" for each in ("first", "second", "both"))
    if source == "film.mp4":
        media.write_video(tmp_path / "short.mp4", numbered(3 * FRAME_RATE), FRAME_RATE, noise(48_000, 3), 48_000)
    else:
        media.write_audio(tmp_path / f"short{Path(source).suffix}", noise(48_000, 3)[: 3 * 44_100], 44_100)
    for file, path in ((tmp_path / f"short{Path(source).suffix}", first), (folder / source, second)):
        path.write_bytes(file.read_bytes()) if file.suffix == path.suffix else remuxed(file, path)
    both.write_bytes(first.read_bytes() + second.read_bytes())
    return second, both


@pytest.mark.parametrize(
    "name", ["sound.ts", "sound.mka", "sound.mpg", "sound.flac", "film.ts", "film.mkv", "film.flv"]
)
def test_the_second_of_two_recordings_joined_end_to_end_is_heard_on_one_clock(folder, tmp_path, name):
    """`probe` told the length of the first; the second was never labelled, or with times of the first."""
    second, both = joined(folder, tmp_path, name)
    alone, whole = media.decode_audio(second).samples, media.decode_audio(both).samples
    assert len(whole) == pytest.approx(16_000 * (3 + SECONDS), abs=16_000 * 0.1)
    assert media.probe(both).audio == pytest.approx(len(whole) / 16_000, abs=0.05)
    np.testing.assert_array_equal(whole[-len(alone) :], alone)
    begin = (len(whole) - len(alone)) / 16_000
    for start in (0.0, 2.9, 6.0):  # before the joint, across it, and behind
        stretch = media.decode_audio(both, begin + start - 2.0, begin + start).samples
        at = len(whole) - len(alone) + round((start - 2.0) * 16_000)
        assert abs(lag(stretch, whole[at : at + 32_000])) <= (16 if name.endswith(("mkv", "mka", "flv")) else 0)


def test_a_part_of_a_joined_recording_that_cannot_be_used_is_said_by_each_probe_alone(folder, tmp_path, caplog):
    """The first use of a file in a process said it, so that a second result of it had no warning."""
    _, both = joined(folder, tmp_path, "sound.flac")
    size = both.stat().st_size
    with both.open("ab") as file:
        file.write(b"fLaC\0\0\0\x22" + bytes(30))
    for _ in range(2):
        media.decode_audio(both, 1.0, 2.0)
        assert caplog.messages == []
        media.probe(both)
        assert [line.partition("; ")[2] for line in caplog.messages] == [
            f"its bytes from {size} to {size + 38} are left out"
        ]
        caplog.clear()


@pytest.mark.parametrize("ending", ["ts", "mkv", "flv"])
def test_the_pictures_of_the_second_recording_are_shown_at_its_place(folder, tmp_path, ending):
    second, both = joined(folder, tmp_path, f"film.{ending}")
    begin = media.probe(both).video - media.probe(second).video
    alone = numbers(media.decode_frames(second, 5, (32, 32), 2.0, 4.0))
    assert numbers(media.decode_frames(both, 5, (32, 32), begin + 2.0, begin + 4.0)) == pytest.approx(alone, abs=1)
    across = numbers(media.decode_frames(both, 5, (32, 32), begin - 1.0, begin + 1.0))
    assert len(across) == 10 and across[4] > 60 and across[5] < 10
    with media.VideoReader(both, 5, (32, 32)) as film:
        assert numbers(film.frames(begin + 2.0, begin + 4.0)) == pytest.approx(alone, abs=1)
    assert len([*media.stream_frames(both, 5, 64, begin - 1.0, begin + 1.0)]) == 10


def with_tracks(path: Path, *tones: float, titles: tuple[str, ...] = (), seconds: float = 2.0) -> Path:
    """A file with an audio track for each tone, each one second longer than the one before."""
    with av.open(str(path), "w") as out:
        streams = [out.add_stream("pcm_s16le", rate=16_000, layout="mono") for _ in tones]
        for stream, title in zip(streams, titles, strict=False):
            stream.metadata["title"] = title
        for number, (stream, tone) in enumerate(zip(streams, tones, strict=True)):
            samples = np.round(32767 * sine(16_000, tone, seconds + number)).astype(np.int16)
            for at in range(0, len(samples), 1600):
                frame = av.AudioFrame.from_ndarray(samples[None, at : at + 1600], "s16", "mono")
                frame.sample_rate, frame.pts, frame.time_base = 16_000, at, Fraction(1, 16_000)
                out.mux(stream.encode(frame))
    return path


def pitch(samples: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(samples[:16_000])).argmax())


def test_every_audio_track_can_be_chosen(tmp_path):
    path = with_tracks(tmp_path / "a.mka", 440, 880, titles=("Anna", "Bob"))
    assert [(each.number, each.name) for each in media.audio_tracks(path)] == [(1, "Anna"), (2, "Bob")]
    assert [pitch(media.decode_audio(path, track=track).samples) for track in (None, 1, 2)] == [440, 440, 880]
    assert [media.probe(path, track).audio for track in (1, 2, "mix")] == pytest.approx([2.0, 3.0, 3.0], abs=0.1)
    mixed = media.decode_audio(path, track="mix").samples
    one, two = (media.decode_audio(path, track=track).samples for track in (1, 2))
    np.testing.assert_allclose(mixed[:32_000], (one[:32_000] + two[:32_000]) / 2, atol=1e-4)
    np.testing.assert_allclose(mixed[32_100:], two[32_100:] / 2, atol=1e-4)
    with pytest.raises(MediaError, match="expected an audio track from 1 to 2 in .*, found 3"):
        media.decode_audio(path, track=3)


def test_a_track_that_can_be_decoded_is_taken_before_the_default_one(tmp_path):
    """An iPhone's spatial audio, which FFmpeg cannot decode, stood before the stereo track: no audio at all."""
    path = with_tracks(tmp_path / "a.mov", 440, 880)
    content = bytearray(path.read_bytes())
    first = content.find(b"sowt", content.find(b"stsd"))
    content[first : first + 4] = b"apac"
    path.write_bytes(content)
    assert pitch(media.decode_audio(path).samples) == 880
    assert [each.decodable for each in media.audio_tracks(path)] == [False, True]


def test_a_timestamp_of_hours_among_others_does_not_make_the_recording_longer(folder, tmp_path):
    """58 kB claimed eight hours, which were gone through window by window."""
    with av.open(str(folder / "film.mp4")) as old, av.open(str(tmp_path / "slow.mkv"), "w") as new:
        stream, count = new.add_stream_from_template(old.streams.video[0]), 0
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is not None:
                count += 1
                packet.pts += round(30_000 / packet.time_base) if count == 40 else 0
                packet.stream = stream
                new.mux(packet)
    assert media.probe(tmp_path / "slow.mkv").video == pytest.approx(SECONDS, abs=0.1)


def test_a_stream_that_appears_after_the_header_ends_nothing(tmp_path):
    """PyAV knows only the streams that FFmpeg finds at first: IndexError."""
    path = tmp_path / "a.flv"
    media.write_video(tmp_path / "a.mp4", numbered(200), FRAME_RATE, noise(44_100, 8), 44_100)
    remuxed(tmp_path / "a.mp4", path)
    content, at, seen = bytearray(path.read_bytes()), 13, 0
    while at + 15 < len(content):
        size = int.from_bytes(content[at + 1 : at + 4], "big")
        seen += content[at] == 8
        if content[at] == 8 and seen in {300, 301}:
            content[at + 11] = 0x2F  # this packet is mp3, 44.1 kHz, stereo
        at += 11 + size + 4
    path.write_bytes(content)
    assert media.probe(path).audio == pytest.approx(8.0, abs=0.1)
    assert len(media.decode_audio(path).samples) == pytest.approx(8 * 16_000, abs=1600)


@pytest.mark.parametrize(
    "failure", [IndexError("list index"), KeyError(7), RuntimeError("x"), OverflowError("int"), MemoryError()]
)
def test_whatever_the_library_raises_is_one_line_that_names_the_file(folder, monkeypatch, failure):
    def fail(*_):
        raise failure

    monkeypatch.setattr("wavfusion.media.audio._planes", fail)
    monkeypatch.setattr("wavfusion.media.container._packet_ends", fail)
    for work in (media.decode_audio, media.probe):
        with pytest.raises(
            MediaError, match=r"expected a recording that FFmpeg can read at '.*sound.wav', found one on"
        ) as e:
            work(folder / "sound.wav")
        assert "\n" not in str(e.value)
