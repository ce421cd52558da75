"""SwAV (Caron et al., 2020): every view predicts the other's assignment to prototypes, made even by Sinkhorn."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ssl_core import distributed
from ssl_core.networks.heads import PrototypeHead
from ssl_core.objectives.base import Step
from ssl_core.objectives.losses import soft_cross_entropy
from ssl_core.objectives.views import ViewPrediction
from strata_example.schema import SwAVLikeConfig


class SwAVLike(ViewPrediction[SwAVLikeConfig]):
    joint = True

    def make_projector(self, widths: Sequence[int], hidden_dim: int, depth: int) -> PrototypeHead:
        return PrototypeHead(widths, hidden_dim, 16, self.config.output_dim, depth, hidden_norm=True)

    def keys(self, projections: Tensor, targets: Tensor | None, step: Step) -> Tensor:
        return torch.stack([sinkhorn(view) for view in projections.detach()])

    def direction(self, q_LBD: Tensor, other_MD: Tensor, same_MD: Tensor) -> Tensor:
        return soft_cross_entropy(q_LBD / self.config.temperature, other_MD)


def sinkhorn(scores_BK: Tensor, epsilon: float = 0.05, rounds: int = 3) -> Tensor:
    """Assignments (B, K) of this rank's rows, every prototype used alike over all ranks' rows."""
    rows, rank = len(scores_BK), distributed.rank()
    q = torch.exp(distributed.all_gather(scores_BK.float()) / epsilon)
    for _ in range(rounds):
        q = q / q.sum(dim=0, keepdim=True)
        q = q / q.sum(dim=1, keepdim=True)
    return q[rank * rows : (rank + 1) * rows]
