"""The teacher: a network that no gradient reaches, which follows the student or stays as it was given."""

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from ssl_core.networks.encoder import Encoder


class Teacher(nn.Module):
    """An encoder, and a copy of what each objective wants to be taught with.

    Attributes:
        encoder: the network.
        heads: copies of `Objective.taught`, by the objective's name.
        follows: it moves towards the student; otherwise it is frozen.

    Args:
        student: whose copy it is.
        heads: modules of the student's side, by objective.
        frozen: another network to be taught by, which never changes.
    """

    def __init__(self, student: Encoder, heads: Mapping[str, nn.Module], frozen: Encoder | None = None):
        super().__init__()
        self.follows = frozen is None
        self.encoder = copy.deepcopy(frozen or student).requires_grad_(False)
        self.heads = nn.ModuleDict({name: copy.deepcopy(head).requires_grad_(False) for name, head in heads.items()})

    def prepare(self) -> None:
        """Before it looks: batch norm learns its statistics, but nothing in a teacher is dropped at random.

        Said at every step, for an evaluation in between may have changed the mode.
        """
        for module in self.modules():
            module.training = self.follows and isinstance(module, nn.modules.batchnorm._BatchNorm)

    @torch.no_grad()
    def follow(self, student: Encoder, heads: Mapping[str, nn.Module], momentum: float) -> None:
        """θ ← m θ + (1 − m) θ' for all that the student trains; batch-norm buffers are the teacher's own."""
        pairs = [(self.encoder, student), *((self.heads[name], head) for name, head in heads.items())]
        moved = list(_trained(pairs))
        torch._foreach_lerp_([old for old, _ in moved], [new for _, new in moved], 1.0 - momentum)


def _trained(pairs: Iterable[tuple[nn.Module, nn.Module]]) -> Iterable[tuple[nn.Parameter, nn.Parameter]]:
    for teacher, student in pairs:
        for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
            if new.requires_grad:
                yield old, new
