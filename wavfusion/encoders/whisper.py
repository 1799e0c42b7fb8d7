"""The encoder half of Whisper (Radford et al. 2023): log-mel spectrogram, two convolutions, pre-norm layers.

Hugging Face's class takes 30 s of padded audio, however short the clip. Here a clip has its own length and the first
positions, with `PADDING` of silence behind it; a clip of 30 s gives what Hugging Face's class gives.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from wavfusion.encoders.checkpoint import save_checkpoint
from wavfusion.encoders.stack import AudioEncoder
from wavfusion.errors import ConfigError
from wavfusion.fast.elementwise import FastGELU
from wavfusion.media import SAMPLE_RATE

FAMILY = ("whisper",)
STEP = 320  # samples: two frames of the spectrogram, which the second convolution joins
WINDOW, HOP = 400, 160  # samples of the spectrogram
PADDING = 25  # steps of silence behind a clip
# Hugging Face's names of a layer's parts, and those of a wav2vec 2.0 layer.
NAMES = {
    "self_attn_layer_norm": "layer_norm",
    "self_attn": "attention",
    "fc1": "feed_forward.intermediate_dense",
    "fc2": "feed_forward.output_dense",
}


class WhisperEncoder(AudioEncoder):
    """A Whisper of any size; its first step is centred on the first sample."""

    mel_filters: Tensor
    window: Tensor

    def __init__(self, model: Any, preprocessing: Mapping[str, Any], name: str) -> None:
        found = {key: preprocessing.get(key, value) for key, value in (("n_fft", WINDOW), ("hop_length", HOP))}
        if found != {"n_fft": WINDOW, "hop_length": HOP}:
            raise ConfigError(
                f"audio encoder {name!r}: expected windows of {WINDOW} samples every {HOP}, found {found}"
            )
        model.decoder = None  # half of the tensors, of which no feature depends
        bins = int(model.config.num_mel_bins)
        activation = model.config.activation_function
        super().__init__(model, preprocessing, name, {"mel_bins": bins, "padding": PADDING, "activation": activation})
        self.max_steps = int(self.config.max_source_positions)
        filters = transformers.WhisperFeatureExtractor(feature_size=bins).mel_filters
        self.register_buffer("mel_filters", torch.from_numpy(filters.T).float(), persistent=False)
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        self.gelu: nn.Module = nn.GELU()

    def front(
        self, waveforms: Sequence[Float[Tensor, " _"]]
    ) -> tuple[Float[Tensor, "B T D"], Bool[Tensor, "B T"], Bool[Tensor, "B T"]]:
        """Return the convolutions' output with positions; raises ConfigError for a clip beyond the last position.

        A clip's steps are whole pairs of frames, so that zeros behind a shorter clip of a batch are what its
        convolutions pad with when it is alone.
        """
        real = torch.tensor([-(-len(each) // STEP) for each in waveforms], device=self.device)
        if (longest := int(real.max())) > self.max_steps:
            limit, found = self.max_steps * STEP / SAMPLE_RATE, longest * STEP / SAMPLE_RATE
            raise ConfigError(f"audio encoder {self.name!r}: expected at most {limit:g} s at once, found {found:g} s")
        lengths = (real + PADDING).clamp(max=self.max_steps)
        mels = [self.log_mel(each, int(steps)) for each, steps in zip(waveforms, lengths, strict=True)]
        encoder = self.model.encoder
        x = self.gelu(encoder.conv1(pad_sequence(mels, batch_first=True).transpose(1, 2)))
        x = self.gelu(encoder.conv2(x)).transpose(1, 2)
        steps = torch.arange(x.shape[1], device=x.device)
        x = x + encoder.embed_positions.weight[: x.shape[1]]
        return x, steps < lengths[:, None], steps < real[:, None]

    def log_mel(self, waveform: Float[Tensor, " _"], steps: int) -> Float[Tensor, "_ bins"]:
        """Return Whisper's spectrogram, two frames a step, of a waveform with silence behind it."""
        with torch.autocast(waveform.device.type, enabled=False):
            padded = F.pad(waveform, (0, steps * STEP - len(waveform)))
            spectrum = torch.stft(padded, WINDOW, HOP, window=self.window, return_complex=True)[:, :-1]
            mel = (self.mel_filters @ spectrum.abs().square()).clamp(min=1e-10).log10()
            return ((torch.maximum(mel, mel.max() - 8.0) + 4.0) / 4.0).T

    def run(self, x: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"], depth: int) -> None:
        """Run the first `depth` layers."""
        allowed = None if bool(mask.all()) else mask[:, None, None, :]
        for layer in self.model.encoder.layers[:depth]:
            output = layer(x, allowed)
            x = output[0] if isinstance(output, tuple) else output

    def sizes(self) -> dict[str, Any]:
        """Return the sizes of a `WavFusionConfig`."""
        return {
            "num_heads": self.config.encoder_attention_heads,
            "intermediate_size": self.config.encoder_ffn_dim,
            "layer_norm_eps": self.model.encoder.layer_norm.eps,
            "pre_norm": True,
            "audio_centre": 0.0,
        }

    def transformer(self) -> dict[str, Tensor]:
        """Return the tensors under wav2vec 2.0's names; keys get a bias of 0, which no softmax over keys can see."""
        tensors: dict[str, Tensor] = {}
        for key, x in self.model.encoder.state_dict().items():
            for theirs, ours in NAMES.items():
                key = key.replace(f".{theirs}.", f".{ours}.")
            tensors[key] = x
            if key.endswith("k_proj.weight"):
                tensors[key.replace("weight", "bias")] = x.new_zeros(len(x))
        return tensors

    def randomize(self) -> None:
        """Give the encoder the random weights from which its library starts training."""
        super().randomize()
        self.model.decoder = None

    def quick(self) -> "WhisperEncoder":
        """The twin of all encoders; on a CPU the stem's GELU is faster, too."""
        twin = super().quick()
        if self.device.type == "cpu":
            twin.gelu = FastGELU()
        return twin

    def save(self, folder: Path) -> None:
        """Write the encoder in the hub's file format, without the decoder, for `load_audio`."""
        processor = transformers.WhisperFeatureExtractor(feature_size=int(self.config.num_mel_bins)).to_dict()
        processor.pop("mel_filters", None)
        save_checkpoint(self.model, folder, processor)
