"""Voices of the look-alike corpus: espeak-ng at an exact pitch and rate, then timbre, tension, a sigh and noise.

espeak-ng repeats its samples only in a fresh process that speaks the same things in the same order.
"""

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import soxr
from jaxtyping import Float32
from scipy.signal import butter, lfilter

from wavfusion.errors import ConfigError
from wavfusion.lookalike.world import PlantedClip
from wavfusion.media import SAMPLE_RATE

VOICES = tuple(f"en-us{variant}" for variant in ("", "+m2", "+m3", "+m4", "+m5", "+m6", "+m7", "+m8"))

_RATE, _PITCH, _RANGE = 1, 3, 4  # espeak-ng's numbers of parameters
_PITCHES = (5, 20, 40, 60, 80, 99)
_PROBE = "Well, he was near the window all day."

TILT = 0.88  # zero of a tense voice, pole of a lax one
PITCH = 104.0  # Hz at arousal 0
WORDS_PER_MINUTE = 230.0
STEP = 1.35  # pitch and rate from one level of arousal to the next
SIGH = 0.35  # seconds after the last word, sighed through or silent


@dataclass(frozen=True)
class Timbre:
    """The voice of one speaker: a voice of espeak-ng and a resonance (Hz, gain of the peak)."""

    voice: str
    resonance: float
    gain: float


def draw_timbre(rng: np.random.Generator) -> Timbre:
    """Draw a random speaker."""
    resonance = float(400 * 8 ** rng.random())
    return Timbre(str(rng.choice(VOICES)), resonance, float(rng.uniform(0.3, 1.2)))


class Espeak:
    """The espeak-ng library of the `[demo]` extra, loaded into this process."""

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise ConfigError("expected espeak-ng's voices, found none: pip install 'wavfusion[demo]'") from error
        self._library: Any = ctypes.CDLL(espeakng_loader.get_library_path())
        self._pieces: list[bytes] = []
        receiver = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        # Kept, as the library holds only its address.
        self._receiver = receiver(self._receive)
        self.sample_rate: int = self._library.espeak_Initialize(2, 0, espeakng_loader.get_data_path().encode(), 0)
        self._library.espeak_SetSynthCallback(self._receiver)

    def _receive(self, samples: int | None, count: int, events: int | None) -> int:
        if samples and count > 0:
            self._pieces.append(ctypes.string_at(samples, 2 * count))
        return 0

    def synthesize(self, text: str, voice: str, rate: float, pitch: int, span: int = 10) -> Float32[np.ndarray, " N"]:
        """Return samples at `sample_rate`; rate in words/min, pitch and its span on espeak-ng's scale of 0 to 99."""
        self._pieces.clear()
        self._library.espeak_SetVoiceByName(voice.encode())
        for number, value in ((_RATE, rate), (_PITCH, pitch), (_RANGE, span)):
            self._library.espeak_SetParameter(number, round(value), 0)
        encoded = text.encode()
        self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 0, 0, 1, None, None)
        samples = np.frombuffer(b"".join(self._pieces), dtype=np.int16).astype(np.float32) / 32768
        loud = np.flatnonzero(np.abs(samples) > 0.01)
        return samples[loud[0] : loud[-1] + 1]


def measure_pitch() -> dict[str, list[float]]:
    """Measure each voice's fundamental frequency in Hz at `_PITCHES`; to be run in a fresh process."""
    espeak = Espeak()
    return {
        voice: [_fundamental(espeak.synthesize(_PROBE, voice, 180.0, pitch), espeak.sample_rate) for pitch in _PITCHES]
        for voice in VOICES
    }


def speak(
    espeak: Espeak,
    pitches: dict[str, list[float]],
    text: str,
    timbre: Timbre,
    clip: PlantedClip,
    offset: float,
    rng: np.random.Generator,
) -> Float32[np.ndarray, " N"]:
    """Synthesize a text at SAMPLE_RATE with a clip's arousal (and the speaker's offset), tension, sigh and noise."""
    level = clip.arousal + offset
    wanted = PITCH * STEP**level
    curve = pitches[timbre.voice]
    pitch = round(float(np.interp(wanted, curve, _PITCHES)))
    # Between and beyond the voice's own pitches the audio is resampled, and the rate corrected.
    stretch = wanted / float(np.interp(pitch, _PITCHES, curve))
    rate = float(np.clip(WORDS_PER_MINUTE * STEP**level / stretch, 90, 440))
    raw = espeak.synthesize(text, timbre.voice, rate, pitch, int(rng.integers(3, 12)))
    voiced = np.asarray(soxr.resample(raw, espeak.sample_rate * stretch, SAMPLE_RATE), dtype=np.float64)
    # One zero lifts the treble of a tense voice, one pole dampens that of a lax one.
    zeros, poles = ([1.0, -TILT], [1.0]) if clip.tense else ([1.0], [1.0, -TILT])
    voiced = lfilter(zeros, poles, _resonant(voiced, timbre))
    voiced /= np.sqrt(np.mean(voiced**2))
    lead = int(SAMPLE_RATE * rng.uniform(0.03, 0.08))
    samples = np.concatenate([np.zeros(lead), voiced, _sigh(rng) if clip.sigh else np.zeros(int(SAMPLE_RATE * SIGH))])
    noise = rng.normal(size=len(samples))
    samples += (0.7 if clip.noisy else 0.01) * lfilter([1.0], [1.0, -0.6], noise) * 0.8
    # Loudness is no cue: it is drawn, and normalization removes it.
    samples *= rng.uniform(0.05, 0.1)
    return np.clip(samples, -1, 1).astype(np.float32)


def _fundamental(samples: Float32[np.ndarray, " N"], sample_rate: int) -> float:
    """Estimate the pitch: the median over voiced frames of 80 ms of the autocorrelation's peak, 45 to 260 Hz."""
    width = int(0.08 * sample_rate)
    shortest, longest = sample_rate // 260, sample_rate // 45
    found = []
    for start in range(0, len(samples) - width, width // 4):
        spectrum = np.abs(np.fft.rfft(samples[start : start + width] * np.hanning(width), 2 * width)) ** 2
        correlation = np.fft.irfft(spectrum)
        lag = shortest + int(correlation[shortest:longest].argmax())
        if correlation[lag] > 0.4 * correlation[0]:
            found.append(sample_rate / lag)
    return float(np.median(found))


def _resonant(samples: np.ndarray, timbre: Timbre) -> np.ndarray:
    """Add a two-pole resonance, whose peak is `gain` times the input."""
    radius, angle = 0.93, 2 * np.pi * timbre.resonance / SAMPLE_RATE
    poles = [1.0, -2 * radius * np.cos(angle), radius**2]
    peak = abs(np.polyval(poles, np.exp(1j * angle)))
    return np.asarray(samples + lfilter([timbre.gain * peak], poles, samples))


def _sigh(rng: np.random.Generator) -> np.ndarray:
    """Synthesize a breath of SIGH seconds, about half as loud as the voice."""
    count = int(SAMPLE_RATE * SIGH)
    numerator, denominator = butter(2, [500, 3000], btype="bandpass", fs=SAMPLE_RATE)
    breath = lfilter(numerator, denominator, rng.normal(size=count))
    shape = np.sin(np.pi * np.linspace(0, 1, count) ** 0.7)
    return np.asarray(0.8 * shape * breath / breath.std())
