"""What is asked of a pass through an encoder, and what it answers: layers, by number from 1; what it is not to see."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Want:
    """What somebody asks of a pass: layers, from 1, ascending.

    Attributes:
        pooled: of which layers one vector an image.
        patches: of which layers a vector a patch.
    """

    pooled: tuple[int, ...] = ()
    patches: tuple[int, ...] = ()

    def __or__(self, other: "Want") -> "Want":
        """What both ask for."""
        return Want(
            tuple(sorted({*self.pooled, *other.pooled})),
            tuple(sorted({*self.patches, *other.patches})),
        )

    @property
    def layers(self) -> list[int]:
        """All of them, ascending."""
        return sorted({*self.pooled, *self.patches})


@dataclass(frozen=True)
class Layers:
    """Features of some layers, by layer.

    Attributes:
        pooled: (N, D_l) each.
        patches: (N, P_l, D_l) each, row by row.
    """

    pooled: dict[int, Tensor]
    patches: dict[int, Tensor]


@dataclass(frozen=True)
class Hide:
    """What a pass does not see of its images.

    Attributes:
        seen: (N, V) numbers of the patches that the network gets alone (MAE, I-JEPA).
        where: (N, P) bool: patches in whose place it gets `token` (iBOT, SimMIM, data2vec).
        token: (D,) as the patch embedding gives them.
    """

    seen: Tensor | None = None
    where: Tensor | None = None
    token: Tensor | None = None

    @staticmethod
    def drop(seen: Tensor) -> "Hide":
        return Hide(seen=seen)

    @staticmethod
    def replace(token: Tensor, where: Tensor) -> "Hide":
        return Hide(where=where, token=token)

    def replaced(self, x: Tensor) -> Tensor:
        """Embedded patches (N, …, D) with the token in place of those that are hidden so."""
        if self.where is None or self.token is None:
            return x
        return torch.where(self.where.view(*x.shape[:-1], 1), self.token.to(x.dtype), x)

    def dropped(self, x: Tensor, prefix: int) -> Tensor:
        """Of tokens (N, T + P, D), the first T = `prefix` and those of the patches that are seen."""
        if self.seen is None:
            return x
        patches = x[:, prefix:].gather(1, self.seen[:, :, None].expand(-1, -1, x.shape[-1]))
        return torch.cat([x[:, :prefix], patches], dim=1)
