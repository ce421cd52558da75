"""What a step is given: images of one rank, as loaders make them and objectives see them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Masks:
    """Patches by number, row by row.

    Attributes:
        context: (B, V) what the student sees, ascending; in random order as a loader gives them.
        targets: (B, T, P) what it predicts from that, block by block.
    """

    context: Tensor
    targets: Tensor

    def even(self, seen: int) -> "Masks":
        """The first `seen` patches of every context, in ascending order."""
        return Masks(self.context[:, :seen].sort(dim=1).values, self.targets)

    def rows(self, start: int, stop: int) -> "Masks":
        """Those of some images."""
        return Masks(self.context[start:stop], self.targets[start:stop])

    def where(self, patches: int) -> Tensor:
        """(B, patches) bool: what is a target."""
        hidden = torch.zeros(len(self.targets), patches, dtype=torch.bool, device=self.targets.device)
        return hidden.scatter_(1, self.targets.flatten(1), True)

    def to(self, device: torch.device | str) -> "Masks":
        return Masks(self.context.to(device, non_blocking=True), self.targets.to(device, non_blocking=True))

    def pin_memory(self) -> "Masks":
        return Masks(self.context.pin_memory(), self.targets.pin_memory())


@dataclass(frozen=True)
class Batch:
    """Images of one step in one worker.

    Attributes:
        ids: (B,) index of each image in its source.
        views: kind of view → (V, B, C, H, W): `global`, and with multi-crop `local`; uint8 from a loader, normalised
            for a method. The first global view is always of the image itself.
        masks: of the first global view, for each objective that hides patches, by its name.
        broken: indices that could not be decoded; others stand in for them.
        partners: (B,) index of the image that the second global view is of; None: each image's own.
    """

    ids: Tensor
    views: Mapping[str, Tensor]
    masks: Mapping[str, Masks] = field(default_factory=dict)
    broken: list[int] = field(default_factory=list)
    partners: Tensor | None = None

    def to(self, device: torch.device | str) -> "Batch":
        """Views and masks on a device; ids stay where they are counted."""
        return replace(
            self,
            views={kind: x.to(device, non_blocking=True) for kind, x in self.views.items()},
            masks={name: masks.to(device) for name, masks in self.masks.items()},
        )

    def pin_memory(self) -> "Batch":
        """What a loader with `pin_memory` calls, so that copying to a GPU does not wait."""
        return replace(
            self,
            views={kind: x.pin_memory() for kind, x in self.views.items()},
            masks={name: masks.pin_memory() for name, masks in self.masks.items()},
        )
