"""The other view by its direction alone, without negatives: BYOL and SimSiam."""

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from ssl_core.networks.heads import LayerMLP
from ssl_core.objectives.base import Step
from ssl_core.objectives.losses import cosine_distance, negative_cosine
from ssl_core.objectives.views import ViewPrediction
from ssl_core.schema.objectives import BYOLConfig, SimSiamConfig


class BYOL(ViewPrediction[BYOLConfig]):
    """BYOL (Grill et al., 2020): predict the EMA teacher's other view; no norm on outputs."""

    teacher = True
    has_predictor = True
    sum_directions = True

    def make_projector(self, widths: Sequence[int], hidden_dim: int, depth: int) -> LayerMLP:
        return LayerMLP(widths, hidden_dim, self.config.output_dim, depth, output_norm=False)

    def make_predictor(self, widths: Sequence[int]) -> LayerMLP:
        return LayerMLP(widths, self.config.hidden_dim, self.config.output_dim, 2, output_norm=False)

    def keys(self, projections: Tensor, targets: Tensor | None, step: Step) -> Tensor:
        assert targets is not None
        return targets

    def direction(self, q_LBD: Tensor, other_MD: Tensor, same_MD: Tensor) -> Tensor:
        return cosine_distance(q_LBD, other_MD)


class SimSiam(ViewPrediction[SimSiamConfig]):
    """SimSiam (Chen and He, 2021): predict the own other view, whose gradient is stopped; no teacher."""

    has_predictor = True

    @property
    def projector_layers(self) -> int:
        return self.config.projector_layers

    def make_predictor(self, widths: Sequence[int]) -> LayerMLP:
        """A bottleneck whose output has a bias and no norm (Sec. 3; facebookresearch/simsiam)."""
        c = self.config
        return LayerMLP(widths, c.bottleneck_dim, c.output_dim, 2, output_norm=False, output_bias=True)

    def keys(self, projections: Tensor, targets: Tensor | None, step: Step) -> Tensor:
        return projections.detach()

    def direction(self, q_LBD: Tensor, other_MD: Tensor, same_MD: Tensor) -> Tensor:
        return negative_cosine(q_LBD, other_MD)

    def constant_lr(self) -> Iterable[nn.Parameter]:
        """The predictors', if it says so."""
        if self.config.constant_predictor_lr:
            for heads in self.all_heads:
                if heads.predictor is not None:
                    yield from heads.predictor.parameters()
