"""Graphs of turns, dense: angular weights between the turns and modalities, and layers of graph networks."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

SLOPE = 0.99999  # keeps the slope of arccos finite at 1 (224)
Nodes = Float[Tensor, "B V D"]
Edges = Float[Tensor, "B V V"]


def angular_weight(cosine: Float[Tensor, "*_"]) -> Float[Tensor, "*_"]:
    """1 - arccos(cosine) / pi: 1 for one direction, 0 for opposite ones (Skianis et al. 2018; MMGCN)."""
    return 1 - torch.arccos(SLOPE * cosine) / math.pi


def angular_graph(x: Float[Tensor, "B M N D"], real: Bool[Tensor, "B M N"]) -> Float[Tensor, "B M*N M*N"]:
    """Normalised adjacency D^-1/2 A D^-1/2 of one node a modality and turn, the modalities one after the other.

    Two turns are joined in the same modality, two modalities in the same turn, by the angular weight. A node that is
    not real is joined to itself alone.
    """
    unit = x / x.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    nodes = unit.flatten(1, 2)
    count, turns = nodes.shape[1], x.shape[2]
    number = torch.arange(count, device=x.device)
    modality, turn = number // turns, number % turns
    joined = (modality[:, None] == modality[None, :]) | (turn[:, None] == turn[None, :])
    known = real.flatten(1)
    joined = joined & known[:, :, None] & known[:, None, :]
    own = torch.eye(count, device=x.device, dtype=x.dtype)
    weights = angular_weight(nodes @ nodes.transpose(1, 2)) * joined + own * ~known[:, :, None]
    scale = weights.sum(-1).rsqrt()
    return scale[:, :, None] * weights * scale[:, None, :]


class GCNIILayer(nn.Module):
    """Layer l of GCNII (Chen et al. 2020), variant of MMGCN: the first features beside the neighbours', no residual.

    relu(theta [A h, h0] W + (1 - theta) ((1 - alpha) A h + alpha h0)) with theta = ln(lambda / l + 1)
    """

    def __init__(self, width: int, depth: int, alpha: float = 0.1, lamda: float = 0.5) -> None:
        super().__init__()
        self.theta, self.alpha = math.log(lamda / depth + 1), alpha
        self.weight = nn.Parameter(torch.empty(2 * width, width).uniform_(-(width**-0.5), width**-0.5))

    def forward(self, h: Nodes, first: Nodes, adjacency: Edges) -> Nodes:
        """Mix the nodes `h` with their neighbours and with the `first` features."""
        spread = adjacency @ h
        kept = (1 - self.alpha) * spread + self.alpha * first
        return F.relu(self.theta * (torch.cat([spread, first], dim=-1) @ self.weight) + (1 - self.theta) * kept)


class RelationalConvolution(nn.Module):
    """Relational graph convolution (Schlichtkrull et al. 2018): a weight a type of edge, the mean over its sources."""

    def __init__(self, width: int, size: int, relations: int) -> None:
        super().__init__()
        self.own = nn.Linear(width, size)
        self.weight = nn.Parameter(torch.empty(relations, width, size))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x: Float[Tensor, "B N D"], edges: Bool[Tensor, "B R N N"]) -> Float[Tensor, "B N E"]:
        """Average the sources of each type; `edges` are [target, source]."""
        shares = edges.to(x.dtype) / edges.sum(-1, keepdim=True).clamp(min=1)
        return self.own(x) + torch.einsum("brij,bjd,rde->bie", shares, x, self.weight)


class GraphAttention(nn.Module):
    """Attention of one head to the sources of a turn beside a map of its own (Shi et al. 2021, eq. 3 and 5)."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.own = (nn.Linear(width, size) for _ in range(4))

    def forward(self, x: Float[Tensor, "B N D"], edges: Bool[Tensor, "B N N"]) -> Float[Tensor, "B N E"]:
        """Attend to the sources; `edges` are [target, source], of which every target has one."""
        attended = F.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x), attn_mask=edges)
        return self.own(x) + attended
