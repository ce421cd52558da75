"""The other view among those of other images: SimCLR and MoCo v3."""

from collections.abc import Sequence

from torch import Tensor

from ssl_core import distributed
from ssl_core.networks.heads import LayerMLP
from ssl_core.objectives.base import Step
from ssl_core.objectives.losses import info_nce
from ssl_core.objectives.views import ViewPrediction
from ssl_core.schema.objectives import MoCoV3Config, SimCLRConfig


class SimCLR(ViewPrediction[SimCLRConfig]):
    """SimCLR (Chen et al., 2020): against all views of all other images, of all ranks; no teacher.

    The loss is the mean over all 2N rows; a gradient flows through the keys too.
    """

    joint = True

    def keys(self, projections: Tensor, targets: Tensor | None, step: Step) -> Tensor:
        return _of_all_ranks(projections)

    def direction(self, q_LBD: Tensor, other_MD: Tensor, same_MD: Tensor) -> Tensor:
        return info_nce(q_LBD, other_MD, _first_row(q_LBD), self.config.temperature, same_MD)


class MoCoV3(ViewPrediction[MoCoV3Config]):
    """MoCo v3 (Chen, Xie and He, 2021): predict the EMA teacher's other view among those of all other images."""

    teacher = True
    has_predictor = True
    sum_directions = True

    def make_predictor(self, widths: Sequence[int]) -> LayerMLP:
        return LayerMLP(widths, self.config.hidden_dim, self.config.output_dim, 2, output_norm=True)

    def keys(self, projections: Tensor, targets: Tensor | None, step: Step) -> Tensor:
        assert targets is not None
        return _of_all_ranks(targets)

    def direction(self, q_LBD: Tensor, other_MD: Tensor, same_MD: Tensor) -> Tensor:
        temperature = self.config.temperature
        return 2.0 * temperature * info_nce(q_LBD, other_MD, _first_row(q_LBD), temperature)


def _of_all_ranks(x: Tensor) -> Tensor:
    """(2, B, D) → (2, W·B, D); a gradient flows back where there is one."""
    gather = distributed.all_gather_with_grad if x.requires_grad else distributed.all_gather
    return gather(x.transpose(0, 1).contiguous()).transpose(0, 1)  # gathers along the images


def _first_row(q_LBD: Tensor) -> int:
    """Where this rank's images begin among those of all ranks."""
    return distributed.rank() * q_LBD.shape[1]
