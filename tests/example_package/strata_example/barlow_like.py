"""Barlow Twins (Zbontar et al., 2021) for any number of layers: each view's dimensions agree with their own alone."""

from torch import Tensor

from ssl_core import distributed
from ssl_core.networks.heads import LayerMLP
from ssl_core.networks.layers import Want
from ssl_core.objectives.base import Objective, Place, See, Seen, Step
from strata_example.schema import BarlowLikeConfig


class BarlowLike(Objective[BarlowLikeConfig]):
    def __init__(self, config: BarlowLikeConfig, place: Place):
        super().__init__(config, place)
        widths = [place.encoder.widths[layer - 1] for layer in self.layers]
        self.projector = LayerMLP(widths, config.output_dim, config.output_dim, depth=2, output_norm=True)

    def needs(self) -> list[See]:
        return [See("student", Want(pooled=tuple(self.layers)))]

    def loss(self, seen: Seen, targets: None, step: Step) -> Tensor:
        pooled = seen.of("student").pooled
        z = self.projector([pooled[layer] for layer in self.layers], groups=2)  # (L, 2·B, D), of deviation 1
        first, second = (self._of_all_ranks(view) for view in z.chunk(2, dim=1))
        correlation = first.transpose(1, 2) @ second / first.shape[1]  # (L, D, D)
        diagonal = correlation.diagonal(dim1=1, dim2=2)
        off = correlation.square().sum(dim=(1, 2)) - diagonal.square().sum(dim=1)
        return (1.0 - diagonal).square().sum(dim=1) + self.config.off_diagonal * off

    def _of_all_ranks(self, z: Tensor) -> Tensor:
        return distributed.all_gather_with_grad(z.transpose(0, 1).contiguous()).transpose(0, 1)
