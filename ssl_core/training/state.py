"""What a run within an epoch knows of it, and how that goes on elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ssl_core.training.health import Broken


@dataclass
class Running:
    """An epoch under way, on this rank.

    Attributes:
        steps: done.
        totals: sums of the steps' figures.
        seconds, waited: spent on them, and on waiting for images.
    """

    steps: int = 0
    totals: dict[str, Tensor | float] = field(default_factory=dict)
    seconds: float = 0.0
    waited: float = 0.0

    def add(self, figures: Mapping[str, Tensor | float]) -> None:
        self.steps += 1
        for name, value in figures.items():
            self.totals[name] = self.totals.get(name, 0.0) + value


def pack(running: Running, broken: set[Broken]) -> dict[str, Any]:
    """One rank's part of a state within an epoch, as plain values; `broken` it has met since the epoch began."""
    totals = {name: x.cpu() if isinstance(x, Tensor) else x for name, x in running.totals.items()}
    return {"figures": vars(running) | {"totals": totals}, "broken": [list(item) for item in broken]}


def unpack(parts: Sequence[dict[str, Any]], rank: int, world: int, device: torch.device) -> tuple[Running, set[Broken]]:
    """What stands for this rank's part: its own, or where there were other ranks before, the mean of all."""
    if len(parts) == world:
        running, owners = Running(**parts[rank]["figures"]), parts[rank : rank + 1]
    else:
        figures = [part["figures"] for part in parts]
        running, owners = Running(**figures[0]), parts
        running.totals = {name: sum(one["totals"][name] for one in figures) / len(parts) for name in running.totals}
    running.totals = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in running.totals.items()}
    return running, {(split, index) for part in owners for split, index in part["broken"]}
