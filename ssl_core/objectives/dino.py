"""DINO (Caron et al., 2021): the student's distribution over prototypes follows the EMA teacher's.

    loss = H(softmax((t − c) / τ_t), softmax(q / τ_s)),   c ← m c + (1 − m) mean(t)   (Eqs. 1 and 4)

The centre c keeps one prototype from taking all images, the low temperature τ_t keeps the teacher from
giving all prototypes the same share.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ssl_core import distributed, schedules
from ssl_core.networks.heads import PrototypeHead
from ssl_core.objectives.base import Place, Seen, Step
from ssl_core.objectives.losses import soft_cross_entropy
from ssl_core.objectives.views import ViewPrediction
from ssl_core.schema.objectives import DINOConfig


class DINO(ViewPrediction[DINOConfig]):
    teacher = True
    evaluates_teacher = True
    joint = True

    def __init__(self, config: DINOConfig, place: Place):
        super().__init__(config, place)
        self.center: Tensor
        self.register_buffer("center", torch.zeros(config.output_dim))

    def make_projector(self, widths: Sequence[int], hidden_dim: int, depth: int) -> PrototypeHead:
        c = self.config
        return PrototypeHead(widths, hidden_dim, c.bottleneck_dim, c.output_dim, depth, c.head_norm)

    def teacher_temperature(self, progress: float) -> float:
        c, epoch = self.config, schedules.epoch_at(progress, self.epochs)
        return schedules.linear_by_epoch(
            epoch, c.warmup_teacher_epochs, c.warmup_teacher_temperature, c.teacher_temperature
        )

    def keys(self, projections: Tensor, targets: Tensor | None, step: Step) -> Tensor:
        """The teacher's probabilities, with the centre of the steps before."""
        assert targets is not None
        return torch.softmax((targets.float() - self.center) / self.teacher_temperature(step.progress), dim=-1)

    def direction(self, q_LBD: Tensor, other_MD: Tensor, same_MD: Tensor) -> Tensor:
        return soft_cross_entropy(q_LBD.float() / self.config.temperature, other_MD)

    def after_step(self, seen: Seen, targets: Tensor | None, step: Step) -> None:
        assert targets is not None
        mean = distributed.mean_over_ranks(targets.float().mean(dim=(0, 1)))
        self.center.lerp_(mean, 1.0 - self.config.center_momentum)

    def frozen(self, progress: float) -> Iterable[nn.Parameter]:
        """The prototypes, in the first epochs."""
        if schedules.epoch_at(progress, self.epochs) < self.config.freeze_last_layer:
            for heads in self.all_heads:
                assert isinstance(heads.projector, PrototypeHead)
                yield heads.projector.prototypes.weight
