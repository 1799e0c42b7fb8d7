"""The baseline of `bench`: Hugging Face's classes as their pages show them, and PyAV.

It shares weights with ours and nothing else. What it does is pinned in docs/measurements/performance.md: a change here
changes what every ratio means.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from wavfusion.encoders.bundle import Encoders
from wavfusion.encoders.video import EfficientNetEncoder
from wavfusion.encoders.whisper import STEP, WhisperEncoder

CHUNKS = (1, 8, 16)  # frames at once that are tried for the video encoder, in both memory formats
SAMPLE_RATE = 16_000


class BaselineEncoders:
    """The three frozen encoders, run whole under `no_grad`: audio up to a layer, text, video in the best chunks."""

    def __init__(self, encoders: Encoders, layer: int, device: str) -> None:
        assert encoders.audio is not None and encoders.text is not None
        assert isinstance(encoders.video, EfficientNetEncoder)
        self.audio, self.text = encoders.audio.model.to(device), encoders.text.model.to(device)
        self.audio.encoder.layers, self.frame_rate = self.audio.encoder.layers[:layer], encoders.preset.frame_rate
        self.tokenizer, self.video, self.device = encoders.text.tokenizer, encoders.video.to(device), device
        self.is_whisper = isinstance(encoders.audio, WhisperEncoder)
        if self.is_whisper:
            self.audio.encoder.layer_norm = nn.Identity()  # behind all layers, of which some are left out
            self.extractor: Any = WhisperFeatureExtractor(feature_size=self.audio.config.num_mel_bins)
        else:
            self.extractor = Wav2Vec2FeatureExtractor(do_normalize=encoders.audio.do_normalize)
        self.chunk, self.channels_last = CHUNKS[0], False

    @torch.no_grad()
    def encode_audio(self, waveforms: Sequence[Float32[np.ndarray, " _"]]) -> list[Float[Tensor, "Ta D"]]:
        """Encode a padded batch of waveforms, which Whisper's class wants as 30 s each."""
        if self.is_whisper:
            inputs = self.extractor(list(waveforms), sampling_rate=SAMPLE_RATE, return_tensors="pt")
            hidden = self.audio.encoder(inputs.input_features.to(self.device)).last_hidden_state
            return [x[: -(-len(waveform) // STEP)] for x, waveform in zip(hidden, waveforms, strict=True)]
        inputs = self.extractor(list(waveforms), sampling_rate=SAMPLE_RATE, padding=True, return_tensors="pt")
        hidden = self.audio(inputs.input_values.to(self.device)).last_hidden_state
        lengths = self.audio._get_feat_extract_output_lengths(torch.tensor([len(x) for x in waveforms]))
        return [x[:length] for x, length in zip(hidden, lengths.tolist(), strict=True)]

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> list[Float[Tensor, "Tt E"]]:
        """Encode a padded batch of sentences."""
        inputs = self.tokenizer(list(texts), padding=True, return_tensors="pt").to(self.device)
        hidden = self.text(**inputs).last_hidden_state
        return [x[mask.bool()] for x, mask in zip(hidden, inputs["attention_mask"], strict=True)]

    @torch.no_grad()
    def encode_video(self, frames: UInt8[np.ndarray, "Tv H W 3"]) -> Float[Tensor, "Tv E"]:
        """Encode frames of the encoder's size, some at a time."""
        values = self.video.pixel_values(torch.from_numpy(frames)).contiguous().to(self.device)
        if self.channels_last:
            values = values.contiguous(memory_format=torch.channels_last)
        return torch.cat([self.video.model(pixel_values=x).pooler_output for x in torch.split(values, self.chunk)])

    def tune(self, frames: UInt8[np.ndarray, "Tv H W 3"], seconds: Any) -> None:
        """Take the fastest of all chunks and memory formats; `seconds` times a call."""
        choices = [(chunk, last) for chunk in CHUNKS for last in (False, True)]
        found = {}
        for self.chunk, self.channels_last in choices:
            self._lay_out()
            found[self.chunk, self.channels_last] = min(seconds(lambda: self.encode_video(frames)) for _ in range(2))
        self.chunk, self.channels_last = min(choices, key=lambda choice: found[choice])
        self._lay_out()

    def _lay_out(self) -> None:
        self.video.model.to(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)

    def features(
        self,
        waveforms: Sequence[Float32[np.ndarray, " _"]],
        texts: Sequence[str],
        frames: Sequence[UInt8[np.ndarray, "_ H W 3"]],
    ) -> dict[str, Tensor | None]:
        """Inputs of the fusion model for a batch: padded features and masks; no video where there are no frames."""
        parts = {"audio": self.encode_audio(waveforms), "text": self.encode_text(texts)}
        if frames:
            parts["video"] = list(torch.split(self.encode_video(np.concatenate(frames)), [len(x) for x in frames]))
        inputs: dict[str, Tensor | None] = {"video": None, "video_mask": None}
        for name, rows in parts.items():
            x = pad_sequence(rows, batch_first=True)
            lengths = torch.tensor([len(row) for row in rows], device=x.device)
            inputs |= {name: x, f"{name}_mask": torch.arange(x.shape[1], device=x.device) < lengths[:, None]}
        return inputs


def decode_waveform(path: Path) -> Float32[np.ndarray, " N"]:
    """Decode a whole file to 16 kHz mono by FFmpeg's own resampler."""
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=SAMPLE_RATE)
    with av.open(str(path)) as container:
        parts = [part.to_ndarray()[0] for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        parts += [part.to_ndarray()[0] for part in resampler.resample(None)]
    return np.concatenate(parts).astype(np.float32)


def decode_video_frames(path: Path, frame_rate: float, size: tuple[int, int]) -> UInt8[np.ndarray, "Tv H W 3"]:
    """Decode every frame of a file, keep those shown at (k + 0.5) / frame_rate seconds, resize them with Pillow."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        shown = [(float(frame.pts * stream.time_base), frame.to_image()) for frame in container.decode(stream)]
        end = shown[-1][0] + 1 / float(stream.average_rate)
    moments = np.arange(0.5 / frame_rate, end, 1 / frame_rate)
    last = np.searchsorted([start for start, _ in shown], moments, side="right") - 1
    height, width = size
    return np.stack([np.asarray(shown[i][1].resize((width, height), Image.Resampling.BICUBIC)) for i in last.tolist()])
