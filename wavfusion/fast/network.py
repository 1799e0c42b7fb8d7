"""One call that makes a model fast, and one that undoes it; weights and their names stay as they are."""

from collections.abc import Mapping
from typing import TypeVar

from torch import nn

from wavfusion.fast.attention import FastAttention, FastCrossModalAttention, FastSelfAttention
from wavfusion.fast.dropout import FastDropout
from wavfusion.fast.gelu import FastGELU
from wavfusion.fast.layers import FastDeepLayer, FastSelfAttentionLayer, FastWavFusion
from wavfusion.fast.margin import SortedMarginLoss
from wavfusion.model.attention import Attention, SelfAttention
from wavfusion.model.fusion import CrossModalAttention, DeepLayer, SelfAttentionLayer
from wavfusion.model.losses import MarginLoss
from wavfusion.model.wavfusion import WavFusion

Network = TypeVar("Network", bound=nn.Module)

FASTER: dict[type[nn.Module], type[nn.Module]] = {
    nn.Dropout: FastDropout,
    nn.GELU: FastGELU,
    Attention: FastAttention,
    SelfAttention: FastSelfAttention,
    CrossModalAttention: FastCrossModalAttention,
    SelfAttentionLayer: FastSelfAttentionLayer,
    DeepLayer: FastDeepLayer,
    WavFusion: FastWavFusion,
    MarginLoss: SortedMarginLoss,
}


def swap_classes(network: Network, classes: Mapping[type[nn.Module], type[nn.Module]]) -> Network:
    """Replace the class of every module that is exactly of one of some classes, in place."""
    for module in network.modules():
        module.__class__ = classes.get(type(module), type(module))
    return network


def accelerate(network: Network) -> Network:
    """Give every module its faster class, in place: the same attributes, parameters and hooks, another `forward`."""
    return swap_classes(network, FASTER)


def restore(network: Network) -> Network:
    """Undo `accelerate`, in place."""
    return swap_classes(network, {fast: plain for plain, fast in FASTER.items()})
