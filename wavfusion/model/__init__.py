"""WavFusion's network on cached features, in files that read like the paper's equations.

Axes, everywhere: `B` utterances, `Ta` audio steps (50 per s: 16,000 / 320), `Tt` sub-word tokens, `Tv` video frames,
`D` hidden width, `E` a feature's own width, `L` stored layers, `C` emotions, `M` modalities, `K` LVC codewords,
`N` waveform samples, `H W` pixels, `T` any of the three times, `R` the real steps of a batch one after the other.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "WavFusion": "wavfusion",
    "WavFusionConfig": "config",
    "WavFusionOutput": "wavfusion",
    "AGRU": "sequence",
    "LVC": "sequence",
    "AGRULVC": "sequence",
    "CrossModalAttention": "fusion",
    "Gate": "fusion",
    "DeepLayer": "fusion",
    "SelfAttentionLayer": "fusion",
    "SharedEncoder": "losses",
    "margin_loss": "losses",
    "task_loss": "losses",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"wavfusion.model.{_HOME[name]}"), name)
    raise AttributeError(f"module 'wavfusion.model' has no attribute {name!r}")
