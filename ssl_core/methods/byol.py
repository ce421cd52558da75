"""BYOL (Grill et al., 2020): predict the EMA teacher's other view; no negatives, no norm on outputs."""

from torch import Tensor

from ssl_core.methods.framework import Framework
from ssl_core.objectives.losses import cosine_distance


class BYOL(Framework):
    ema_teacher = True
    predictor = True
    output_norm = False
    sum_directions = True

    def loss(self, q_LBD: Tensor, other_MD: Tensor, same_MD: Tensor, first_row: int) -> Tensor:
        return cosine_distance(q_LBD, other_MD)
