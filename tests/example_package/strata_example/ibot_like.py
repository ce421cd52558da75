"""iBOT's patch half (Zhou et al., 2022): masked patches learn what the teacher, which sees them, makes of them."""

import torch
from torch import Tensor, nn

from ssl_core import distributed, schedules
from ssl_core.batch import Batch
from ssl_core.networks.heads import PrototypeHead
from ssl_core.networks.layers import Hide, Want
from ssl_core.objectives.base import Objective, Place, See, Seen, Step
from ssl_core.objectives.losses import soft_cross_entropy
from strata_example.schema import IBOTLikeConfig


class IBOTLike(Objective[IBOTLikeConfig]):
    teacher = True
    evaluates_teacher = True

    def __init__(self, config: IBOTLikeConfig, place: Place):
        super().__init__(config, place)
        encoder = place.encoder
        config.mask.check(encoder.grid, f"{place.key}.mask")
        self.depth, self.patches = encoder.depth, encoder.grid[0] * encoder.grid[1]
        self.head = PrototypeHead(encoder.widths[-1:], 32, 16, config.output_dim, depth=2, hidden_norm=False)
        self.mask_token = nn.Parameter(torch.zeros(encoder.widths[0]))
        self.register_buffer("center", torch.zeros(config.output_dim))

    def needs(self) -> list[See]:
        want = Want(patches=(self.depth,))
        return [See("student", want, first=True, hidden=True), See("teacher", want, first=True)]

    def hide(self, batch: Batch) -> Hide:
        return Hide.replace(self.mask_token, self._masked(batch))

    def targets(self, seen: Seen, step: Step) -> Tensor:
        """The teacher's scores of the masked patches: (M, K)."""
        return seen.head([self._tokens(seen, "teacher")], 1)[0].float()

    def loss(self, seen: Seen, targets: Tensor, step: Step) -> Tensor:
        scores = self.head([self._tokens(seen, "student")], 1)
        return soft_cross_entropy(scores / 0.1, torch.softmax((targets - self.center) / 0.04, dim=-1))

    def after_step(self, seen: Seen, targets: Tensor, step: Step) -> None:
        self.center.lerp_(distributed.mean_over_ranks(targets.mean(dim=0)), 0.1)

    def momentum(self, progress: float) -> float:
        return schedules.cosine(progress, self.config.momentum, 1.0)

    @property
    def taught(self) -> nn.Module:
        return self.head

    def _masked(self, batch: Batch) -> Tensor:
        return batch.masks[self.config.name].where(self.patches)

    def _tokens(self, seen: Seen, network: str) -> Tensor:
        return seen.of(network).patches[self.depth][self._masked(seen.batch)]
