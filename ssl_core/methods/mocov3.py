"""MoCo v3 (Chen, Xie and He, 2021): predict the EMA teacher's other view among those of all other images."""

from torch import Tensor

from ssl_core.methods.framework import Framework
from ssl_core.objectives.losses import info_nce


class MoCoV3(Framework):
    ema_teacher = True
    predictor = True
    gathers_targets = True
    sum_directions = True

    def loss(self, q_LBD: Tensor, other_MD: Tensor, same_MD: Tensor, first_row: int) -> Tensor:
        temperature = self.config.temperature
        return 2.0 * temperature * info_nce(q_LBD, other_MD, first_row, temperature)
