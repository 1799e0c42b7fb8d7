import numpy as np
import pytest

from wavfusion import media
from wavfusion.errors import ConfigError
from wavfusion.features import augment as changes
from wavfusion.features.augment import KINDS, augment

RATE = media.SAMPLE_RATE
ALL = list(KINDS)


def voice(seconds: float = 1.5) -> np.ndarray:
    """A hum whose pitch rises, so that no shift of it looks like another."""
    times = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * (120 * times + 40 * times**2 / seconds)
    hum = sum(np.sin(k * phase) / k for k in range(1, 16))
    return (0.2 * hum * (1.2 + np.sin(2 * np.pi * 3 * times))).astype(np.float32)


def power(samples: np.ndarray) -> float:
    return float(np.mean(np.square(samples, dtype=np.float64)))


def decibels(ratio: float) -> float:
    return float(10 * np.log10(ratio))


def random() -> np.random.Generator:
    return np.random.default_rng(0)


# ---------------------------------------------------------------------- single changes


@pytest.mark.parametrize("colour", ["white", "pink", "babble"])
@pytest.mark.parametrize("snr_db", [0.0, 12.5, 30.0])
def test_noise_has_the_ratio_that_was_asked_for(colour: str, snr_db: float) -> None:
    clean = voice()
    noisy = changes.add_noise(clean, snr_db, random(), colour)
    assert decibels(power(clean) / power(noisy - clean)) == pytest.approx(snr_db, abs=0.1)


def octaves(noise: np.ndarray) -> list[float]:
    """Power in the octaves above 250, 1000 and 4000 Hz, in dB."""
    spectrum, hertz = np.abs(np.fft.rfft(noise)) ** 2, np.fft.rfftfreq(len(noise), 1 / RATE)
    return [decibels(spectrum[(hertz >= low) & (hertz < 2 * low)].sum()) for low in (250, 1000, 4000)]


@pytest.mark.parametrize(("colour", "slope"), [("white", 6.0), ("pink", 0.0)])
def test_noise_has_its_colour(colour: str, slope: float) -> None:
    """Over two octaves white noise gains 6 dB an octave band, and pink noise nothing."""
    low, middle, high = octaves(changes.NOISES[colour](8 * RATE, random()))
    assert [middle - low, high - middle] == pytest.approx([slope, slope], abs=0.6)


def test_babble_changes_its_level_as_talkers_do_and_lies_where_speech_does() -> None:
    babble, white = (changes.NOISES[colour](8 * RATE, random()) for colour in ("babble", "white"))
    levels = [decibels(1.0) + 10 * np.log10((x.reshape(-1, RATE // 20) ** 2).mean(1)) for x in (babble, white)]
    assert levels[0].std() > 4 * levels[1].std() and octaves(babble)[0] > octaves(babble)[2] + 10


def test_silence_gets_no_noise() -> None:
    assert not changes.add_noise(np.zeros(RATE, np.float32), 10.0, random()).any()


@pytest.mark.parametrize("samples", [voice(), random().normal(0, 0.1, RATE).astype(np.float32)], ids=["hum", "noise"])
def test_a_telephone_leaves_nothing_outside_of_its_band(samples: np.ndarray) -> None:
    called = changes.telephone(samples)
    spectrum, hertz = np.abs(np.fft.rfft(called)) ** 2, np.fft.rfftfreq(len(called), 1 / RATE)
    inside = (hertz >= 300) & (hertz <= 3400)
    assert len(called) == len(samples) and decibels(spectrum[~inside].sum() / spectrum[inside].sum()) < -40


def test_a_telephone_keeps_what_lies_in_its_band() -> None:
    tone = (0.3 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)).astype(np.float32)
    assert decibels(power(changes.telephone(tone) - tone) / power(tone)) < -30  # 8 bits of mu-law


@pytest.mark.parametrize("rt60", [0.2, 0.5, 0.8])
def test_a_room_decays_by_60_db_in_its_time(rt60: float) -> None:
    """Schroeder's backward integral of what an impulse becomes, fitted from -5 to -25 dB below the first reflection."""
    impulse = np.zeros(2 * RATE, np.float32)
    impulse[0] = 1.0
    tail = changes.reverberate(impulse, rt60, random()).astype(np.float64)[round(0.003 * RATE) :]
    decay = np.cumsum(tail[::-1] ** 2)[::-1]
    level = 10 * np.log10(decay[decay > 0] / decay[0])
    fitted = np.flatnonzero((level <= -5) & (level >= -25))
    slope = np.polyfit(fitted / RATE, level[fitted], 1)[0]
    assert -60 / slope == pytest.approx(rt60, rel=0.1)


def test_a_room_keeps_onset_level_and_length() -> None:
    silent = round(0.3 * RATE)
    samples = np.concatenate([np.zeros(silent, np.float32), voice()])
    wet = changes.reverberate(samples, 0.6, random())
    onsets = [int(np.flatnonzero(np.abs(x) > 0.05 * np.abs(x).max())[0]) for x in (samples, wet)]
    assert abs(onsets[0] - onsets[1]) <= 0.005 * RATE and not np.abs(wet[: silent - 1]).max() > 1e-6
    assert len(wet) == len(samples) and power(wet) == pytest.approx(power(samples), rel=1e-4)


@pytest.mark.parametrize("factor", [0.95, 1.0, 1.03, 1.05])
def test_speed_changes_length_and_pitch_by_its_factor(factor: float) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE).astype(np.float32)
    faster = changes.change_speed(tone, factor)
    peak = np.abs(np.fft.rfft(faster * np.hanning(len(faster)), 8 * RATE)).argmax() / 8
    assert len(faster) == round(len(tone) / factor) and peak == pytest.approx(440 * factor, abs=0.25)


def test_speed_of_1_changes_nothing() -> None:
    assert np.abs(changes.change_speed(voice(), 1.0) - voice()).max() < 1e-6


@pytest.mark.parametrize(("gain_db", "expected"), [(6.0206, [0.2, -1.0]), (-20.0, [0.01, -0.08])])
def test_gain_is_clipped_at_full_scale(gain_db: float, expected: list[float]) -> None:
    louder = changes.change_gain(np.array([0.1, -0.8], np.float32), gain_db)
    assert louder.tolist() == pytest.approx(expected, abs=1e-5)


def test_ends_are_cut_by_their_shares() -> None:
    assert changes.cut_ends(np.arange(100, dtype=np.float32), 0.03, 0.07).tolist() == list(range(3, 93))


def test_gaps_are_silent_and_no_more_than_their_share() -> None:
    cut = changes.silence_gaps(np.ones(3 * RATE, np.float32), 0.1, random())
    assert 0.05 < (cut == 0).mean() <= 0.1001 and set(cut.tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("name", "bit_rate"), [(name, rate) for name, codec in changes.CODECS.items() for rate in codec.bit_rates]
)
def test_a_codec_keeps_length_and_times(name: str, bit_rate: int) -> None:
    samples = voice()
    decoded = changes.through_codec(samples, name, bit_rate)
    size = 1 << (2 * len(samples)).bit_length()
    shared = np.fft.irfft(np.fft.rfft(decoded, size) * np.conj(np.fft.rfft(samples, size)), size)
    lag = (int(shared.argmax()) + size // 2) % size - size // 2
    assert len(decoded) == len(samples) and abs(lag) <= 16 and np.abs(decoded - samples).max() > 1e-4


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("samples", [voice(0.2)[:1], voice(0.2)[:7], np.zeros(100, np.float32)], ids=len)
def test_every_change_takes_the_shortest_audio_and_silence(kind: str, samples: np.ndarray) -> None:
    changed = augment(samples, [kind], ["x", 1])
    assert len(changed) >= 1 and np.isfinite(changed).all() and changed.dtype == np.float32


# ---------------------------------------------------------------------- variants of an utterance


def test_identity_alone_decides_a_variant() -> None:
    one, same, other = (augment(voice(), ALL, ["x", number]) for number in (1, 1, 2))
    assert np.array_equal(one, same) and not (len(one) == len(other) and np.array_equal(one, other))


def test_a_variant_is_never_the_utterance_itself() -> None:
    """Where chance takes none of the changes, one is made all the same."""
    assert not any(np.array_equal(augment(voice(0.2), ["gain"], [number]), voice(0.2)) for number in range(20))


def test_audio_on_another_scale_is_brought_to_full_scale_first() -> None:
    """Files of floats hold values of up to 2 ** 31, of which clipping would leave a square wave."""
    loud, usual = (
        augment(voice(0.2) / np.abs(voice(0.2)).max() * scale, ["telephone"], ["x"]) for scale in (30_000, 1)
    )
    assert np.allclose(loud, usual, atol=0.02)


def test_kinds_have_one_order() -> None:
    assert changes.read_kinds(["gain", "cut", "gain"]) == ["cut", "gain"]


@pytest.mark.parametrize(("names", "message"), [(["nois"], "found 'nois'.*noise"), ([], "expected some of cut, speed")])
def test_unknown_kinds_and_none_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        changes.read_kinds(names)
