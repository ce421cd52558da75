"""SimSiam (Chen and He, 2021): predict the own other view, whose gradient is stopped; no teacher, no negatives."""

from collections.abc import Sequence

from torch import Tensor

from ssl_core.methods.framework import Framework
from ssl_core.networks.heads import LayerMLP
from ssl_core.objectives.losses import negative_cosine
from ssl_core.schema.objectives import SimSiamConfig


class SimSiam(Framework):
    ema_teacher = False
    stop_gradient = True
    predictor = True
    sum_directions = False

    def __init__(self, config: SimSiamConfig, epochs: int = 1):
        super().__init__(config, epochs)
        self.projector_layers = config.projector_layers
        self.constant_predictor_lr = config.constant_predictor_lr

    def make_predictor(self, widths: Sequence[int]) -> LayerMLP:
        """A bottleneck whose output has a bias and no norm (Sec. 3; facebookresearch/simsiam)."""
        c = self.config
        return LayerMLP(widths, c.bottleneck_dim, c.output_dim, 2, output_norm=False, output_bias=True)

    def loss(self, q_LBD: Tensor, other_MD: Tensor, same_MD: Tensor, first_row: int) -> Tensor:
        return negative_cosine(q_LBD, other_MD)
