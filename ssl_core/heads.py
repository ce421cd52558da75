"""Projectors and predictors: MLPs for several layers at once, nothing shared between layers.

All layers of one `LayerMLP` are computed together by batched products. Batch normalisation is over
the rows of a *group* (one view, or both at once) and of all ranks; heads are only used while
training, so there are no running statistics.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ssl_core.batch_norm import batch_moments


class LayerLinear(nn.Module):
    """A bias-free linear map for each of L layers: (L, N, in) → (L, N, out). Weights (L, in, out)."""

    def __init__(self, layers: int, in_dim: int, out_dim: int):
        super().__init__()
        bound = 1.0 / math.sqrt(in_dim)  # nn.Linear's own initialisation
        self.weight = nn.Parameter(torch.empty(layers, in_dim, out_dim).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(x, self.weight)


class WidthLinear(nn.Module):
    """The same where every layer has its own input width (the stages of a ResNet)."""

    def __init__(self, widths: Sequence[int], out_dim: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, out_dim, bias=False) for width in widths)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return torch.stack([layer(x) for layer, x in zip(self.layers, features, strict=True)])


class LayerBatchNorm(nn.Module):
    """Batch normalisation of (L, N, D) over the rows of each of `groups` equal groups, and all ranks."""

    def __init__(self, layers: int, dim: int, affine: bool, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(layers, 1, dim)) if affine else None
        self.bias = nn.Parameter(torch.zeros(layers, 1, dim)) if affine else None

    def forward(self, x: Tensor, groups: int) -> Tensor:
        layers, rows, dim = x.shape
        x = x.view(layers, groups, rows // groups, dim)
        mean, var = batch_moments(x, axes=[2])
        scale = torch.rsqrt(var + self.eps)
        if self.weight is None:
            x = (x - mean) * scale
        else:  # one multiplication and one addition over the rows
            scale = scale * self.weight[:, None]
            x = x * scale + (self.bias[:, None] - mean * scale)
        return x.view(layers, rows, dim)


class LayerMLP(nn.Module):
    """Linear, batch norm, ReLU, …, linear, for each of several layers.

    Args:
        widths: input width of every layer.
        hidden_dim, output_dim: as they say.
        depth: number of linear maps.
        output_norm: batch norm without affine behind the last (SimCLR, MoCo v3; not BYOL).
    """

    def __init__(self, widths: Sequence[int], hidden_dim: int, output_dim: int, depth: int, output_norm: bool):
        super().__init__()
        layers = len(widths)
        dims = [widths[0], *[hidden_dim] * (depth - 1), output_dim]
        same_width = len(set(widths)) == 1
        self.linears = nn.ModuleList(LayerLinear(layers, a, b) for a, b in itertools.pairwise(dims))
        if not same_width:
            self.linears[0] = WidthLinear(widths, dims[1])
        self.norms = nn.ModuleList(LayerBatchNorm(layers, dim, affine=True) for dim in dims[1:-1])
        self.output_norm = LayerBatchNorm(layers, output_dim, affine=False) if output_norm else None

    def forward(self, features: Sequence[Tensor] | Tensor, groups: int) -> Tensor:
        """A list of L features (N, widths[l]), or (L, N, D) → (L, N, output_dim)."""
        if isinstance(self.linears[0], LayerLinear) and not isinstance(features, Tensor):
            features = torch.stack(list(features))
        x = self.linears[0](features)
        for norm, linear in zip(self.norms, self.linears[1:], strict=True):
            x = linear(torch.relu(norm(x, groups)))
        return x if self.output_norm is None else self.output_norm(x, groups)


class LayerHeads(nn.Module):
    """A projector and, where the framework has one, a predictor for each of several layers."""

    def __init__(self, projector: nn.Module | None, predictor: nn.Module | None):
        super().__init__()
        self.projector, self.predictor = projector, predictor

    def project(self, features: Sequence[Tensor], groups: int) -> Tensor:
        """h_l: (L, N, output_dim); the features themselves where there is no projector (SDSSL Table 6)."""
        return torch.stack(list(features)) if self.projector is None else self.projector(features, groups)

    def predict(self, h: Tensor, groups: int) -> Tensor:
        """q_l = pred_l(h_l), or h_l: (L, N, output_dim)."""
        return h if self.predictor is None else self.predictor(h, groups)


def stacked_norm_parameters(module: nn.Module) -> set[str]:
    """Names of norm weights and biases that are matrices only because layers are stacked: no weight decay."""
    return {
        f"{name}.{parameter}"
        for name, child in module.named_modules()
        if isinstance(child, LayerBatchNorm) and child.weight is not None
        for parameter in ("weight", "bias")
    }
