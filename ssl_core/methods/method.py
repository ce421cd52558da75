"""What the training loop asks of a method, and the answers that most give."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssl_core.networks.encoder import Backbone


@dataclass
class StepOutput:
    """What a step's forward pass gives.

    Attributes:
        loss: a scalar.
        parts: its parts by metric name: tensors without gradient, or floats.
        index_features: what stands for each image in the neighbour search: (B, `Method.index_dim`), float32,
            without gradient; None where nothing is searched.
    """

    loss: Tensor
    parts: dict[str, Tensor | float]
    index_features: Tensor | None = None


def move_teachers(pairs: Iterable[tuple[nn.Module, nn.Module]], momentum: float) -> None:
    """θ ← m θ + (1 − m) θ' for each (teacher, student); what the student does not train stays."""
    moved = [
        (old, new)
        for teacher, student in pairs
        for old, new in zip(teacher.parameters(), student.parameters(), strict=True)
        if new.requires_grad
    ]
    torch._foreach_lerp_([old for old, _ in moved], [new for _, new in moved], 1.0 - momentum)


class Method(nn.Module):
    """A module whose forward pass is one training step's loss.

    Attributes:
        backbone: the network that is trained.
    """

    backbone: Backbone

    @property
    def encoder(self) -> Backbone:
        """The backbone that is evaluated and exported."""
        return self.backbone

    @property
    def index_dim(self) -> int:
        """Width of `StepOutput.index_features`."""
        return self.backbone.widths[-1]

    def forward(self, views: Tensor, progress: float, local_views: Tensor | None = None) -> StepOutput:
        """One training step's loss.

        Args:
            views: (V, B, C, H, W), normalised; this rank's images.
            progress: steps done of all steps, in [0, 1].
            local_views: (M, B, C, h, w), normalised; smaller crops, which predict and are not predicted.
        """
        raise NotImplementedError

    def begin_step(self, seed: int) -> None:
        """Said before each forward pass: a seed for what is random about all ranks' images together."""

    def layer_features(self, images: Tensor) -> list[Tensor]:
        """Features of every layer of the encoder for `images` (B, C, H, W): a list of (B, widths[l])."""
        return self.encoder(images, range(1, self.encoder.depth + 1))

    def constant_lr_parameters(self) -> list[nn.Parameter]:
        """Parameters whose learning rate stays at its peak."""
        return []

    def drop_frozen_gradients(self, progress: float) -> None:
        """Forget the gradients of what is frozen at this progress: between backward and step."""

    def update_teacher(self, progress: float) -> float | None:
        """Move the EMA teacher towards the student; the momentum used, or None where there is no teacher."""
        return None
