"""Speaker diarization: embeddings of short windows, clustered (extra `[speakers]`).

The network ships in the wheel of Resemblyzer. Its package is never imported: only the weights are read.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from wavfusion.errors import ConfigError
from wavfusion.media import SAMPLE_RATE
from wavfusion.speech.activity import Span
from wavfusion.transcripts import Segment

SIZE, BANDS, LAYERS = 256, 40, 3  # of Resemblyzer's network: width, mel bands, LSTM layers
FRAME, STEP = 400, 160  # samples of a spectrum and between two: 25 and 10 ms
LOUDNESS = 10 ** (-30 / 20)  # root mean square to which quieter audio is raised
BATCH = 256  # windows embedded at once
HOP = 0.1  # seconds between two windows
LONG, SHORT = 1.6, 0.6  # seconds of a window: the network's own, to cluster voices, and one to locate the changes
SWITCH = 0.1  # cosine by which another voice must be nearer, over a turn, to count as a change of speaker
MAX_VOICES = 8  # where the number is not given
# Cluster centres with a higher cosine are one person: parts of one person's speech reach 0.86 to 0.90 on RAVDESS and a
# narration, a man and a woman 0.59, two similar voices of a conversation 0.88.
SAME_VOICE = 0.8
STRETCH = 60.0  # seconds decoded at once


class Voice(nn.Module):
    """Speaker encoder: an LSTM over mel spectra whose last state embeds the voice (Wan et al., ICASSP 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(BANDS, SIZE, LAYERS, batch_first=True)
        self.linear = nn.Linear(SIZE, SIZE)

    def forward(self, mels: Float[Tensor, "B T 40"]) -> Float[Tensor, "B 256"]:
        """Embed windows as vectors of length 1."""
        _, (hidden, _) = self.lstm(mels)
        return nn.functional.normalize(torch.relu(self.linear(hidden[-1])), dim=1)


@cache
def load_voice_encoder() -> Voice:
    """Load the network; only tensors are unpickled."""
    spec = find_spec("resemblyzer")
    if spec is None or spec.origin is None:
        raise ConfigError("expected resemblyzer, found it not installed: pip install 'wavfusion[speakers]'")
    file = Path(spec.origin).parent / "pretrained.pt"
    state = torch.load(file, map_location="cpu", weights_only=True)["model_state"]
    voice = Voice()
    voice.load_state_dict({name: state[name] for name in voice.state_dict()})
    return voice.eval()


def mels(samples: Float32[np.ndarray, " N"]) -> Float32[Tensor, "T 40"]:
    """Compute power mel spectra every 10 ms, as librosa does for Resemblyzer."""
    from transformers.audio_utils import mel_filter_bank

    loud = float(np.sqrt(np.mean(np.square(samples)))) if len(samples) else 0.0
    x = torch.from_numpy(samples * max(1.0, LOUDNESS / max(loud, 1e-9)))
    window = torch.hann_window(FRAME)
    spectrum = torch.stft(x, FRAME, STEP, window=window, center=True, pad_mode="constant", return_complex=True)
    bank = mel_filter_bank(FRAME // 2 + 1, BANDS, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
    return spectrum.abs().square().T @ torch.from_numpy(bank).float()


def turns(
    decode: Callable[[float, float], Float32[np.ndarray, " n"]], spans: Sequence[Span], count: int | None = None
) -> list[Segment]:
    """Divide spans of speech, in order, where the speaker changes; `decode` returns the samples between two times.

    K-means on windows of 1.6 s gives the voices; the cheapest path through windows of 0.6 s, at a price for every
    change (Viterbi), gives the turns of `speaker 1`, `speaker 2`, ... in order of appearance. Similar voices are
    separated only where the number of speakers is given; else there are as many as differ clearly, up to MAX_VOICES.
    """
    network = load_voice_encoder()
    centres = [np.arange(span.start + HOP / 2, span.end, HOP) for span in spans]
    centres = [each if len(each) else np.array([(s.start + s.end) / 2]) for each, s in zip(centres, spans, strict=True)]
    if not centres:
        return []
    long, short = _voices(network, decode, np.concatenate(centres))
    labels = _cluster(long, count)
    voices = np.stack([_unit(short[labels == number].sum(0)) for number in np.unique(labels)])
    path = cheapest_path(1 - short @ voices.T, SWITCH)
    names = {voice: f"speaker {number}" for number, voice in enumerate(dict.fromkeys(path.tolist()), start=1)}
    found, first = list[Segment](), 0
    for span, at in zip(spans, centres, strict=True):
        speaker = [names[voice] for voice in path[first : first + len(at)].tolist()]
        changes = [i for i in range(1, len(at)) if speaker[i] != speaker[i - 1]]
        bounds = [float(span.start), *(float(at[i] + at[i - 1]) / 2 for i in changes), float(span.end)]
        found += [
            Segment(start, end, speaker[i]) for (start, end), i in zip(pairwise(bounds), (0, *changes), strict=True)
        ]
        first += len(at)
    return found


def speaker_of(span: Span, turns: Sequence[Segment]) -> str | None:
    """Return who speaks most of a span; None where nobody does."""
    seconds: dict[str | None, float] = defaultdict(float)
    for turn in turns:
        shared = min(span.end, turn.end) - max(span.start, turn.start)
        if shared > 0:
            seconds[turn.speaker] += shared
    return max(seconds, key=lambda speaker: seconds[speaker]) if seconds else None


def cheapest_path(costs: Float[np.ndarray, "T K"], price: float) -> Int64[np.ndarray, " T"]:
    """Choose one of K at every step so that the costs plus a price for every change are least (Viterbi)."""
    total, previous = costs[0].copy(), np.zeros(costs.shape, np.int64)
    for step in range(1, len(costs)):
        best = int(total.argmin())
        stays = total <= total[best] + price
        previous[step] = np.where(stays, np.arange(len(total)), best)
        total = costs[step] + np.where(stays, total, total[best] + price)
    path = [int(total.argmin())]
    for step in range(len(costs) - 1, 0, -1):
        path.append(int(previous[step, path[-1]]))
    return np.array(path[::-1])


@torch.inference_mode()
def _voices(
    network: Voice, decode: Callable[[float, float], Float32[np.ndarray, " n"]], times: Float[np.ndarray, " T"]
) -> tuple[Float32[np.ndarray, "T 256"], Float32[np.ndarray, "T 256"]]:
    """Embed long and short windows around times, one minute of audio after the other."""
    long, short = list[Tensor](), list[Tensor]()
    for number in np.unique(times // STRETCH):
        here = times[times // STRETCH == number]
        start = max(0.0, float(here[0]) - LONG)
        spectra = mels(decode(start, float(here[-1]) + LONG))
        long += _embed(network, spectra, here - start, LONG)
        short += _embed(network, spectra, here - start, SHORT)
    return torch.cat(long).numpy(), torch.cat(short).numpy()


def _embed(
    network: Voice, spectra: Float32[Tensor, "N 40"], times: Float[np.ndarray, " T"], seconds: float
) -> Iterator[Float[Tensor, "B 256"]]:
    width = min(round(seconds * SAMPLE_RATE / STEP), len(spectra))
    firsts = [min(max(0, round(t * SAMPLE_RATE / STEP) - width // 2), len(spectra) - width) for t in times]
    for i in range(0, len(firsts), BATCH):
        yield network(torch.stack([spectra[first : first + width] for first in firsts[i : i + BATCH]]))


def _cluster(voices: Float32[np.ndarray, "T 256"], count: int | None) -> Int64[np.ndarray, " T"]:
    """Label every window with its voice."""
    from sklearn.cluster import KMeans

    found = np.zeros(len(voices), np.int64)
    for number in [min(count, len(voices))] if count is not None else range(2, min(MAX_VOICES, len(voices)) + 1):
        fitted = KMeans(number, n_init=10, random_state=0).fit(voices)
        centres = np.stack([_unit(centre) for centre in fitted.cluster_centers_])
        cosines = (centres @ centres.T)[np.triu_indices(number, 1)]
        if count is None and cosines.max() > SAME_VOICE:
            break
        found = np.unique(fitted.labels_, return_inverse=True)[1].astype(np.int64)
    return found


def _unit(x: np.ndarray) -> np.ndarray:
    return x / max(float(np.linalg.norm(x)), 1e-9)
