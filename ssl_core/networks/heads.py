"""Projectors, predictors and prototypes: MLPs for several layers at once, nothing shared between layers.

All layers of one `LayerMLP` are computed together by batched products. Batch normalisation is over
the rows of a *group* (one view, or all at once) and of all ranks; heads are only used while
training, so there are no running statistics.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_core.networks.batch_norm import batch_moments


class LayerLinear(nn.Module):
    """A linear map for each of L layers: (L, N, in) → (L, N, out). Weights (L, in, out), biases (L, 1, out)."""

    def __init__(self, layers: int, in_dim: int, out_dim: int, bias: bool = False):
        super().__init__()
        bound = 1.0 / math.sqrt(in_dim)  # nn.Linear's own initialisation
        self.weight = nn.Parameter(torch.empty(layers, in_dim, out_dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(layers, 1, out_dim).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(x, self.weight) if self.bias is None else torch.baddbmm(self.bias, x, self.weight)


class WidthLinear(nn.Module):
    """The same where every layer has its own input width (the stages of a ResNet)."""

    def __init__(self, widths: Sequence[int], out_dim: int, bias: bool = False):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, out_dim, bias=bias) for width in widths)

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
        if self.weight is None or self.bias is None:
            x = (x - mean) * scale
        else:  # one multiplication and one addition over the rows
            scale = scale * self.weight[:, None]
            x = x * scale + (self.bias[:, None] - mean * scale)
        return x.view(layers, rows, dim)


class LayerMLP(nn.Module):
    """Linear, batch norm, activation, …, linear, for each of several layers.

    Args:
        widths: input width of every layer.
        hidden_dim, output_dim: as they say.
        depth: number of linear maps.
        output_norm: batch norm without affine behind the last (SimCLR, MoCo v3; not BYOL).
        hidden_norm: batch norm behind the others.
        hidden_bias, output_bias: biases of the others and of the last.
    """

    def __init__(
        self,
        widths: Sequence[int],
        hidden_dim: int,
        output_dim: int,
        depth: int,
        output_norm: bool,
        *,
        hidden_norm: bool = True,
        activation: Callable[[Tensor], Tensor] = torch.relu,
        hidden_bias: bool = False,
        output_bias: bool = False,
    ):
        super().__init__()
        layers = len(widths)
        dims = [widths[0], *[hidden_dim] * (depth - 1), output_dim]
        same_width = len(set(widths)) == 1
        biases = [*[hidden_bias] * (depth - 1), output_bias]
        self.linears = nn.ModuleList(
            LayerLinear(layers, a, b, bias) for (a, b), bias in zip(itertools.pairwise(dims), biases, strict=True)
        )
        if not same_width:
            self.linears[0] = WidthLinear(widths, dims[1], biases[0])
        self.norms = nn.ModuleList(LayerBatchNorm(layers, dim, affine=True) for dim in dims[1:-1] if hidden_norm)
        self.activation = activation
        self.output_norm = LayerBatchNorm(layers, output_dim, affine=False) if output_norm else None

    def forward(self, features: Sequence[Tensor] | Tensor, groups: int) -> Tensor:
        """A list of L features (N, widths[l]), or (L, N, D) → (L, N, output_dim)."""
        if isinstance(self.linears[0], LayerLinear) and not isinstance(features, Tensor):
            features = torch.stack(list(features))
        x = self.linears[0](features)
        for number, linear in enumerate(self.linears[1:]):
            if self.norms:
                x = self.norms[number](x, groups)
            x = linear(self.activation(x))
        return x if self.output_norm is None else self.output_norm(x, groups)


class Prototypes(nn.Module):
    """Cosines to K learned directions for each of L layers: (L, N, D) → (L, N, K). Weights (L, D, K).

    The published weight-normalised linear map with its gain fixed to 1 (DINO's `norm_last_layer`).
    """

    def __init__(self, layers: int, in_dim: int, prototypes: int):
        super().__init__()
        bound = 1.0 / math.sqrt(in_dim)
        self.weight = nn.Parameter(torch.empty(layers, in_dim, prototypes).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(F.normalize(x, dim=-1), F.normalize(self.weight, dim=1))


class PrototypeHead(nn.Module):
    """DINO's head (Caron et al., 2021, Sec. 3.1): an MLP with GELU, L2 normalisation, prototypes.

    Args:
        widths: input width of every layer.
        hidden_dim, bottleneck_dim, prototypes: widths inside, before the normalisation, and of the output.
        depth: number of linear maps before the normalisation.
        hidden_norm: batch norm behind all of them but the last.
    """

    def __init__(
        self,
        widths: Sequence[int],
        hidden_dim: int,
        bottleneck_dim: int,
        prototypes: int,
        depth: int,
        hidden_norm: bool,
    ):
        super().__init__()
        self.mlp = LayerMLP(
            widths,
            hidden_dim,
            bottleneck_dim,
            depth,
            output_norm=False,
            hidden_norm=hidden_norm,
            activation=F.gelu,
            hidden_bias=True,
            output_bias=True,
        )
        for module in self.mlp.modules():
            if isinstance(module, (LayerLinear, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.prototypes = Prototypes(len(widths), bottleneck_dim, prototypes)

    def forward(self, features: Sequence[Tensor] | Tensor, groups: int) -> Tensor:
        """A list of L features (N, widths[l]) → (L, N, prototypes)."""
        return self.prototypes(self.mlp(features, groups))


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


def stacked_vectors(module: nn.Module) -> set[str]:
    """Names of norm weights and biases that are matrices only because layers are stacked: no weight decay."""
    names = {LayerBatchNorm: ("weight", "bias"), LayerLinear: ("bias",)}
    return {
        f"{name}.{parameter}"
        for name, child in module.named_modules()
        for parameter in names.get(type(child), ())
        if getattr(child, parameter) is not None
    }


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.saved_tensors[0], None


def scale_for_predictor(h_LND: Tensor, weights_L: Tensor, beta: float) -> Tensor:
    """`h` unchanged, with the gradient into layer l scaled by a_l / (a_l + β): see `ssl_core.methods.hidden`.

    Args:
        h_LND: what the predictors take.
        weights_L: a_l, without unit.
    """
    total = weights_L + beta
    scale = torch.where(total > 0, weights_L / total.clamp(min=torch.finfo(total.dtype).tiny), 1.0)
    return _ScaleGradient.apply(h_LND, scale.view(-1, 1, 1).to(h_LND.dtype))
