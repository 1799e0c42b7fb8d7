"""The audio encoder inside the training step: frozen (`live`) or trained with everything else (`scratch`)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wavfusion.encoders.stack import AudioEncoder, stack_layers
from wavfusion.model.wavfusion import WavFusion, WavFusionOutput


class LiveWavFusion(nn.Module):
    """WavFusion behind its audio encoder, which learns, too, on request: takes waveforms instead of audio features."""

    def __init__(self, encoder: AudioEncoder, fusion: WavFusion, learn: bool) -> None:
        super().__init__()
        self.encoder, self.fusion, self.learn = encoder, fusion, learn
        encoder.requires_grad_(learn)
        if learn:
            fusion.requires_grad_(True)

    def forward(
        self,
        waveforms: Sequence[Tensor | None] | None = None,
        audio: Tensor | None = None,
        audio_mask: Tensor | None = None,
        **inputs: Tensor | None,
    ) -> WavFusionOutput:
        """Encode the waveforms, then classify; without any waveform, `audio` and `audio_mask` are used instead."""
        hidden, mask = self._encode(waveforms or [])
        if hidden is None:
            hidden, mask = audio, audio_mask
        return self.fusion(hidden, mask, **inputs)

    def _encode(self, waveforms: Sequence[Tensor | None]) -> tuple[Tensor | None, Tensor | None]:
        present = [i for i, waveform in enumerate(waveforms) if waveform is not None]
        if not present:
            return None, None
        layers = self.fusion.config.input_layers
        with torch.set_grad_enabled(self.learn and torch.is_grad_enabled()):
            outputs, real = self.encoder.hidden([x for x in waveforms if x is not None], layers)
        encoded = stack_layers([outputs[layer] for layer in layers])
        hidden = encoded.new_zeros(len(waveforms), *encoded.shape[1:])
        mask = real.new_zeros(len(waveforms), real.shape[1])
        rows = torch.tensor(present, device=real.device)
        return hidden.index_copy(0, rows, encoded), mask.index_copy(0, rows, real)

    def train(self, mode: bool = True) -> "LiveWavFusion":
        """Set the training mode; a frozen encoder stays in eval mode."""
        super().train(mode)
        if not self.learn:
            self.encoder.eval()
        return self
