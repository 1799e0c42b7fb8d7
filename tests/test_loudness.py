"""Audio quality: level, clipping, silence, bandwidth."""

from pathlib import Path

import numpy as np
import pytest
import soxr

from wavfusion import media
from wavfusion.speech.loudness import Loudness

DATA = Path(__file__).parents[2] / "shared" / "data"


def complaints(*stretches: np.ndarray) -> list[str]:
    quality = Loudness()
    for each in stretches:
        quality.add(each.astype(np.float32))
    return list(quality.complaints())


def noise(level: float, seconds: float = 2.0) -> np.ndarray:
    """White noise of a level in dB of full scale."""
    return np.random.default_rng(0).normal(size=int(seconds * 16_000)) * 10 ** (level / 20)


def test_clean_audio_has_no_complaint() -> None:
    assert complaints(noise(-25)) == complaints() == complaints(np.zeros(100)) == []


@pytest.mark.parametrize(
    ("samples", "complaint"),
    [
        (noise(-62), "it is very quiet: -62 dB of full scale"),
        (np.clip(noise(-3), -1, 1), "of its samples are clipped"),
        (np.concatenate([noise(-25, 0.5), np.zeros(64_000)]), "89% of it is silent (below -70 dB of full scale)"),
        (np.zeros(32_000), "100% of it is silent"),
        (soxr.resample(soxr.resample(noise(-25), 16_000, 8_000), 8_000, 16_000), "as if it came by telephone"),
    ],
)
def test_each_fault_is_named_with_its_number(samples: np.ndarray, complaint: str) -> None:
    found = complaints(samples)
    assert len(found) == 1 and complaint in found[0]


def test_stretches_add_up_to_the_whole() -> None:
    whole = np.clip(noise(-3, 4.096), -1, 1)
    assert complaints(whole) == complaints(whole[:32_768], whole[32_768:])


@pytest.mark.skipif(not DATA.is_dir(), reason="the real recordings are not there")
def test_real_recordings_are_judged_as_they_are() -> None:
    """The conversation came by telephone: its spectrum falls by 43 dB at 4 kHz; a studio's and an old film's do not."""
    names = ("conversation/sample.wav", "ravdess/video/01-01-01-01-01-01-01.mp4", "grid/bbaf2n.mpg")
    found = [complaints(media.decode_audio(DATA / name).samples) for name in names]
    assert [len(each) for each in found] == [1, 0, 0] and "as if it came by telephone" in found[0][0]
