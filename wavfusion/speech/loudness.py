"""Audio quality: level, clipping, silence and bandwidth."""

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float32

from wavfusion.media import SAMPLE_RATE

QUIET = -50.0  # dB below full scale, root mean square of what is not silent
CLIPPED = 0.001  # share of samples at full scale
FULL = 0.999  # of full scale
SILENT = -70.0  # dB below full scale of a frame
MOSTLY = 0.8  # share of silent frames
FRAME = 512  # samples
NARROW = -60.0  # dB of the energy above 4.3 kHz relative to all: of a telephone or a recording at 8 kHz
EDGE = 4300  # Hz; the filters for 8 kHz end below


class Loudness:
    """Accumulates measurements of a recording, and warns where they differ from those of clean speech."""

    def __init__(self) -> None:
        self.samples = self.clipped = self.frames = self.silent = 0
        self.loud = self.energy = self.high = 0.0

    def add(self, samples: Float32[np.ndarray, " N"]) -> None:
        """Add a stretch at 16 kHz; a rest of less than 32 ms is ignored."""
        rows = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME).astype(np.float64)
        power = np.square(rows).mean(1)
        audible = power > 10 ** (SILENT / 10)
        self.samples, self.clipped = self.samples + len(samples), self.clipped + int((np.abs(samples) >= FULL).sum())
        self.frames, self.silent = self.frames + len(rows), self.silent + int((~audible).sum())
        spectra = np.square(np.abs(np.fft.rfft(rows[audible] * np.hanning(FRAME), axis=1)))
        self.loud += float(power[audible].sum())
        self.energy += float(spectra.sum())
        self.high += float(spectra[:, EDGE * FRAME // SAMPLE_RATE :].sum())

    @classmethod
    def sum(cls, parts: Iterable["Loudness"]) -> "Loudness":
        """Join the measurements of several stretches."""
        whole = cls()
        for part in parts:
            for name, value in vars(part).items():
                setattr(whole, name, getattr(whole, name) + value)
        return whole

    def complaints(self) -> Iterator[str]:
        """Yield one sentence for each fault, with its number."""
        if self.frames == 0:
            return
        if self.silent > MOSTLY * self.frames:
            yield f"{self.silent / self.frames:.0%} of it is silent (below {SILENT:g} dB of full scale)"
        if self.clipped > CLIPPED * self.samples:
            yield f"{self.clipped / self.samples:.1%} of its samples are clipped"
        if self.silent == self.frames:
            return
        level = 10 * np.log10(self.loud / (self.frames - self.silent))
        if level < QUIET:
            yield f"it is very quiet: {level:.0f} dB of full scale"
        high = 10 * np.log10(max(self.high, 1e-30) / max(self.energy, 1e-30))
        if high < NARROW:
            yield f"it has next to nothing above {EDGE} Hz ({high:.0f} dB), as if it came by telephone"
