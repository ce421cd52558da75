"""A trained encoder as those see it who look at it, embed with it or hand it on."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from ssl_core.networks.encoder import Encoder
from ssl_core.networks.layers import Layers, Want
from ssl_core.schema.run import RunConfig


def own_device() -> torch.device:
    """Where this process looks at images: on its GPU, where it has one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Subject:
    """A trained encoder, and what its images are made of.

    Attributes:
        name: for people, and for files that are about it.
        encoder: in evaluation mode.
        config: which backbone, at which size, on which data: the run's, or what was given with weights of no run.
        folder: of its run; None for weights of no run.
        epoch: after which the weights were taken; None where nobody knows.
        norms: final norms of hidden layers that have one of their own, by layer.
        remarks: what may not be meant.
    """

    name: str
    encoder: Encoder
    config: RunConfig
    folder: Path | None = None
    epoch: int | None = None
    norms: Mapping[int, nn.Module] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def to(self, device: torch.device) -> None:
        """Move its weights."""
        for module in (self.encoder, *self.norms.values()):
            module.to(device)

    def look(self, images: Tensor, want: Want) -> Layers:
        """What is wanted of its layers, for normalised images (N, C, H, W), without gradient."""
        with torch.no_grad():
            return self.encoder(images, want, norms=self.norms)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of its weights: two that have the same are one encoder."""
        found = hashlib.sha256()
        for module in (self.encoder.model, *(norm for _, norm in sorted(self.norms.items()))):
            for name, tensor in sorted(module.state_dict().items()):
                found.update(name.encode())
                found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return found.hexdigest()
