"""Waveforms as other microphones, rooms and lines would have recorded them: augmentation before encoding.

Each change is a function of its own with a given strength, on mono samples at SAMPLE_RATE in [-1, 1]; `augment` draws
some of them for a variant of an utterance. Noise and rooms are generated, so nothing has to be fetched.

    from wavfusion import media
    from wavfusion.features.augment import add_noise, telephone

    samples = media.decode_audio("clip.wav").samples
    called = telephone(add_noise(samples, snr_db=10, rng=np.random.default_rng(0), colour="babble"))
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Float32

from wavfusion import media
from wavfusion.errors import ConfigError, nearest
from wavfusion.media import SAMPLE_RATE

Mono: TypeAlias = Float32[np.ndarray, " N"]
Changed: TypeAlias = Float32[np.ndarray, " M"]  # of another length


class Kind(NamedTuple):
    """How often a change is part of a variant, and the range that its strength is drawn from."""

    probability: float
    low: float = 0.0
    high: float = 0.0


# In the order in which they are applied: the speaker, the room, the recorder, the line.
KINDS = {
    "cut": Kind(0.3, 0.0, 0.1),  # share of the utterance, off both ends together
    "speed": Kind(0.5, 0.95, 1.05),  # factor
    "room": Kind(0.4, 0.2, 0.8),  # RT60 in seconds
    "noise": Kind(0.6, 0.0, 30.0),  # SNR in dB
    "gain": Kind(0.5, -20.0, 6.0),  # dB
    "codec": Kind(0.3),
    "telephone": Kind(0.2),
    "gaps": Kind(0.2, 0.01, 0.1),  # share of the utterance
}
LAYOUT = "1"  # raise it where a change or a draw gives other samples: stored variants are then made again
DIRECT_DB = (0.0, 10.0)  # of a room: energy of the direct sound over that of the reflections

_FIRST_REFLECTION = 0.0025  # seconds after the direct sound: a detour of 0.9 m
_PAD = SAMPLE_RATE // 10  # samples of silence after what is filtered, so that its end does not reach into its start
_TALKERS = 6  # of babble
_BAND, _EDGE = (300.0, 3400.0), 40.0  # Hz: of a telephone line, and how wide its slopes are, which lie inside it
_GAP = 0.2  # seconds, at most: a burst of lost packets


class Codec(NamedTuple):
    """A lossy format: the ending of its files, its sample rate, and the bits a second that it is used with."""

    suffix: str
    sample_rate: int
    bit_rates: tuple[int, ...]
    delay: int = 0  # samples at SAMPLE_RATE by which its decoder is late, where its files do not say so


CODECS = {  # what PyAV's wheels encode; GSM is not among them
    "mp3": Codec(".mp3", SAMPLE_RATE, (16_000, 24_000, 32_000, 64_000)),
    "aac": Codec(".m4a", SAMPLE_RATE, (16_000, 24_000, 48_000)),
    "opus": Codec(".ogg", SAMPLE_RATE, (8_000, 12_000, 16_000, 24_000)),
    "amr": Codec(".amr", 8_000, (4_750, 7_950, 12_200), delay=80),  # AMR-NB, of mobile phones: it looks 5 ms ahead
}


# ---------------------------------------------------------------------- variants


def read_kinds(names: Iterable[str]) -> list[str]:
    """Return a choice of KINDS in their order; raises ConfigError for another name, or none."""
    chosen = set(names)
    for name in sorted(chosen - KINDS.keys()):
        raise ConfigError(f"augment: found {name!r}; {nearest(name, KINDS)}")
    if not chosen:
        raise ConfigError(f"augment: expected some of {', '.join(KINDS)}, found none")
    return [kind for kind in KINDS if kind in chosen]


def recipe_fingerprint(kinds: Sequence[str]) -> str:
    """Hash what decides the variants that are drawn from some kinds."""
    recipe = [LAYOUT, [[kind, *KINDS[kind]] for kind in kinds]]
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:32]


def augment(samples: Mono, kinds: Sequence[str], identity: Sequence[Any]) -> Changed:
    """Make a variant of an utterance: each of some kinds by its probability, or one of them where none is drawn.

    Args:
        samples: what exceeds [-1, 1], as files of floats may, is scaled into it first.
        kinds: some of KINDS, in their order.
        identity: what names the variant, as JSON; it alone decides the draws.
    """
    digest = hashlib.sha256(json.dumps(identity).encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:16]))
    changed = samples / np.float32(max(1.0, np.abs(samples).max(initial=0.0)))
    chosen = [kind for kind in kinds if rng.random() < KINDS[kind].probability]
    for kind in chosen or [kinds[int(rng.integers(len(kinds)))]]:
        changed = _change(changed, kind, rng)
    return changed


def _change(samples: Mono, kind: str, rng: np.random.Generator) -> Changed:
    strength = rng.uniform(KINDS[kind].low, KINDS[kind].high)
    match kind:
        case "cut":
            start = rng.uniform(0.0, strength)
            return cut_ends(samples, start, strength - start)
        case "speed":
            return change_speed(samples, strength)
        case "room":
            return reverberate(samples, strength, rng, rng.uniform(*DIRECT_DB))
        case "noise":
            return add_noise(samples, strength, rng, [*NOISES][rng.integers(len(NOISES))])
        case "gain":
            return change_gain(samples, strength)
        case "codec":
            name = [*CODECS][rng.integers(len(CODECS))]
            rates = CODECS[name].bit_rates
            return through_codec(samples, name, rates[rng.integers(len(rates))])
        case "telephone":
            return telephone(samples)
        case _:
            return silence_gaps(samples, strength, rng)


# ---------------------------------------------------------------------- single changes


def cut_ends(samples: Mono, start: float, end: float) -> Changed:
    """Cut shares of the utterance off its start and end; at least one sample is left."""
    first = min(round(start * len(samples)), len(samples) - 1)
    return samples[first : max(first + 1, len(samples) - round(end * len(samples)))]


def change_speed(samples: Mono, factor: float) -> Changed:
    """Play faster (above 1) or slower: the length becomes 1 / factor of itself, and pitch rises by the factor."""
    count = len(samples)
    shorter = max(1, round(count / factor))
    # The spectrum of a whole number of periods, so silence at both ends; it is cut off again by the same factor.
    pad = round(_PAD * count / shorter), _PAD
    spectrum = np.fft.rfft(np.pad(samples.astype(np.float64), pad[0]))
    total = shorter + 2 * pad[1]
    stretched = np.fft.irfft(spectrum, total) * total / (count + 2 * pad[0])
    return stretched[pad[1] : pad[1] + shorter].astype(np.float32)


def reverberate(samples: Mono, rt60: float, rng: np.random.Generator, direct_db: float = 5.0) -> Mono:
    """Add the reflections of a generated room, at the level and with the times of the direct sound.

    Args:
        samples: reflections after their end are cut off.
        rt60: seconds in which the reflections fall by 60 dB.
        rng: draws the reflections.
        direct_db: energy of the direct sound over that of the reflections.
    """
    response = room_response(rt60, rng, direct_db)
    size = _fft_size(len(samples) + len(response) - 1)
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size), size)[: len(samples)]
    level = _rms(wet)
    return (wet * (_rms(samples) / level if level > 0 else 1.0)).astype(np.float32)


def room_response(rt60: float, rng: np.random.Generator, direct_db: float = 5.0) -> Float[np.ndarray, " n"]:
    """Generate a room's response to an impulse: the direct sound, then noise that decays exponentially."""
    times = np.arange(max(2, round(rt60 * SAMPLE_RATE))) / SAMPLE_RATE
    response = rng.standard_normal(len(times)) * 10 ** (-3 * times / rt60)
    response[times < _FIRST_REFLECTION] = 0.0
    energy = float((response**2).sum())
    response *= np.sqrt(10 ** (-direct_db / 10) / energy) if energy > 0 else 0.0
    response[0] = 1.0
    return response


def add_noise(samples: Mono, snr_db: float, rng: np.random.Generator, colour: str = "white") -> Mono:
    """Add noise at a ratio of the mean powers of the whole utterance; silence stays as it is.

    `colour`: `white`; `pink` (power falls as 1 / frequency); `babble`, a sum of noises with the long-term spectrum of
    speech, each with slow changes of level as talkers have.
    """
    # A second at least: less has no pink noise in it.
    noise = NOISES[colour](max(len(samples), SAMPLE_RATE), rng)[: len(samples)]
    return (samples + noise * (_rms(samples) / _rms(noise) * 10 ** (-snr_db / 20))).astype(np.float32)


def _white(count: int, rng: np.random.Generator) -> Float[np.ndarray, " N"]:
    return rng.standard_normal(count)


def _pink(count: int, rng: np.random.Generator) -> Float[np.ndarray, " N"]:
    return _filtered(_white(count, rng), lambda hertz: np.maximum(hertz, 20.0) ** -0.5)


def _babble(count: int, rng: np.random.Generator) -> Float[np.ndarray, " N"]:
    """Noise of talkers: flat to 500 Hz, then 9 dB an octave down, at levels that change up to 4 times a second."""
    babble = np.zeros(count)
    for _ in range(_TALKERS):
        voice = _filtered(_white(count, rng), lambda hertz: (hertz >= 80.0) / (1.0 + (hertz / 500.0) ** 1.5))
        babble += voice * np.abs(_filtered(_white(count, rng), lambda hertz: hertz < 4.0))
    return babble


NOISES = {"white": _white, "pink": _pink, "babble": _babble}


def change_gain(samples: Mono, gain_db: float) -> Mono:
    """Make louder or softer; what exceeds full scale is clipped, as a recorder clips it."""
    return np.clip(samples * 10 ** (gain_db / 20), -1.0, 1.0).astype(np.float32)


def through_codec(samples: Mono, name: str, bit_rate: int) -> Mono:
    """Encode and decode in a lossy format, one of CODECS; times stay.

    Raises:
        MediaError: FFmpeg lacks the codec, or the codec refuses the bit rate.
    """
    codec = CODECS[name]
    padded = np.pad(samples, (0, codec.delay + max(0, _PAD - len(samples))))  # a codec takes whole frames
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"line{codec.suffix}"
        narrow = _band_passed(padded)[::2] if codec.sample_rate < SAMPLE_RATE else padded
        media.write_audio(path, np.clip(narrow, -1.0, 1.0).astype(np.float32), codec.sample_rate, bit_rate)
        decoded = media.decode_audio(path).samples[codec.delay :][: len(samples)]
    return np.pad(decoded, (0, len(samples) - len(decoded)))


def telephone(samples: Mono) -> Mono:
    """Send through an analogue telephone line: 300 to 3400 Hz, 8000 samples a second in 8 bits of mu-law (G.711)."""
    sent = np.clip(_band_passed(samples)[::2], -1.0, 1.0)
    steps = np.round(127 * np.sign(sent) * np.log1p(255 * np.abs(sent)) / np.log(256))
    received = np.zeros(len(samples))
    received[::2] = 2 * np.sign(steps) * (256 ** (np.abs(steps) / 127) - 1) / 255
    return _band_passed(received).astype(np.float32)


def silence_gaps(samples: Mono, share: float, rng: np.random.Generator) -> Mono:
    """Replace a share of the utterance by silence, in gaps of up to 0.2 s, as a line loses packets."""
    changed, left = samples.copy(), round(share * len(samples))
    while left > 0:
        length = min(left, int(rng.integers(1, round(_GAP * SAMPLE_RATE), endpoint=True)))
        start = int(rng.integers(0, len(samples) - length, endpoint=True))
        changed[start : start + length] = 0.0
        left -= length
    return changed


def _rms(samples: Float[np.ndarray, " N"]) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def _filtered(samples: Float[np.ndarray, " N"], gain: Callable[[Any], Any]) -> Float[np.ndarray, " N"]:
    """Weigh the frequencies of samples; times stay. `gain` takes all frequencies in Hz."""
    size = _fft_size(len(samples) + _PAD)
    spectrum = np.fft.rfft(samples, size) * gain(np.fft.rfftfreq(size, 1 / SAMPLE_RATE))
    return np.fft.irfft(spectrum, size)[: len(samples)]


def _fft_size(count: int) -> int:
    """The next power of two, as lengths with large prime factors take many times longer."""
    return 1 << (count - 1).bit_length()


def _band_passed(samples: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Keep the band of a telephone line, with raised-cosine slopes."""
    low, high = _BAND

    def gain(hertz: Float[np.ndarray, " F"]) -> Float[np.ndarray, " F"]:
        inside = np.clip(np.minimum(hertz - low, high - hertz) / _EDGE, 0.0, 1.0)
        return 0.5 - 0.5 * np.cos(np.pi * inside)

    return _filtered(samples, gain)
