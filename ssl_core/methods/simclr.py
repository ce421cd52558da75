"""SimCLR (Chen et al., 2020): the other view against all views of all other images, no teacher."""

from torch import Tensor

from ssl_core.methods.framework import Framework
from ssl_core.objectives.losses import info_nce


class SimCLR(Framework):
    ema_teacher = False
    predictor = False
    gathers_targets = True
    joint_views = True
    sum_directions = False  # the mean over all 2N rows

    def loss(self, q_LBD: Tensor, other_MD: Tensor, same_MD: Tensor, first_row: int) -> Tensor:
        return info_nce(q_LBD, other_MD, first_row, self.config.temperature, same_MD)
