"""The waveform of a recording as a page draws it: few enough numbers for any length."""

import math

import numpy as np
from jaxtyping import Float32

from wavfusion.media import SAMPLE_RATE

MOST = 4000  # peaks of a recording, more than a screen has columns
SHORTEST = 0.01  # seconds of a peak
FULL = 99  # of a peak as it is written, for a sample at full scale


class WaveformPeaks:
    """Peaks: the largest absolute sample of each of many equal stretches; 0 where nothing was decoded."""

    def __init__(self, length: float) -> None:
        self.seconds = max(SHORTEST, length / MOST)  # of a stretch
        self._peaks = np.zeros(max(1, math.ceil(length / self.seconds - 1e-6)), np.float32)

    def add(self, start: float, samples: Float32[np.ndarray, " N"]) -> None:
        """Add samples at 16 kHz that begin at a second of the recording."""
        places = ((start + np.arange(len(samples)) / SAMPLE_RATE) / self.seconds).astype(int)
        at, first = np.unique(places.clip(0, len(self._peaks) - 1), return_index=True)
        if len(at):
            self._peaks[at] = np.maximum(self._peaks[at], np.maximum.reduceat(np.abs(samples), first))

    def peaks(self) -> list[int]:
        """Return the peaks from 0 to `FULL`."""
        found: list[int] = (FULL * self._peaks.clip(0, 1)).round().astype(int).tolist()
        return found
