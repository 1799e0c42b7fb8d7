"""WavFusion's network on cached features, in files that read like the paper's equations.

Axes, everywhere: `B` utterances, `Ta` audio steps (50 per s: 16,000 / 320), `Tt` sub-word tokens, `Tv` video frames,
`D` hidden width, `E` a feature's own width, `L` stored layers, `C` emotions, `M` modalities, `K` LVC codewords,
`N` waveform samples, `H W` pixels, `T` any of the three times, `R` the real steps of a batch one after the other.
"""

from importlib import import_module
from typing import Any

_FILES = {
    "config": ["WavFusionConfig"],
    "wavfusion": ["WavFusion", "WavFusionOutput"],
    "sequence": ["AGRU", "LVC", "AGRULVC"],
    "fusion": ["CrossModalAttention", "Gate", "DeepLayer", "SelfAttentionLayer"],
    "losses": ["SharedEncoder", "margin_loss", "task_loss"],
}
_HOME = {name: file for file, names in _FILES.items() for name in names}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"wavfusion.model.{_HOME[name]}"), name)
    raise AttributeError(f"module 'wavfusion.model' has no attribute {name!r}")
