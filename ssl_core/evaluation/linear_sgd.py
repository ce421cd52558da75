"""The linear probe of the papers: SGD on crops and flips, a grid of settings in one pass (DINOv2, Sec. 7 and B.3).

Settings are learning rates × the last 1 or 4 blocks × the class token alone, or beside the mean of the patch tokens.
"""

from collections.abc import Mapping
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssl_core.evaluation.frozen import TrainedProbes
from ssl_core.networks.blocks import Blocks
from ssl_core.networks.layers import Layers, Want
from ssl_core.schema.evaluation import LinearSgdConfig

MOMENTUM = 0.9
RATES_ARE_FOR = 256  # images a batch
DEVIATION = 0.01  # of first weights


class Setting(NamedTuple):
    """What a probe sees of the layers, and how fast it learns.

    Attributes:
        blocks: how many last layers' pooled features it sees.
        patches: whether it sees the mean of the last one's patch tokens too.
    """

    rate: float
    blocks: int
    patches: bool


class LinearSgd(TrainedProbes[LinearSgdConfig]):
    def measure(self, layer: int) -> dict[str, float]:
        found = self.figures(layer)
        rate = self.settings(layer)[self.chosen[layer]].rate
        return {
            "linear_sgd": found["accuracy"],
            "linear_sgd_per_class": found["per_class"],
            "linear_sgd_rate": rate,
        }

    def settings(self, layer: int) -> list[Setting]:
        """Of an early layer, fewer blocks; where the mean of the patches is what is pooled, it is not seen twice."""
        blocks = sorted({min(count, layer + 1) for count in self.config.blocks})
        return [Setting(*x) for x in product(self.config.rates, blocks, (False, True) if self._has_token else (False,))]

    @property
    def _has_token(self) -> bool:
        inside = self.context.encoder.inside
        return isinstance(inside, Blocks) and inside.pool == "token"

    def want(self) -> Want:
        pooled = {below for layer in self.layers for below in self._joined(layer - 1)}
        return Want(tuple(sorted(pooled)), tuple(self.layers) if self._has_token else ())

    def of_layer(self, found: Layers, layer: int) -> Tensor:
        """The pooled features of the layers that may be joined, the last first, then the mean of its patch tokens."""
        parts = [found.pooled[below].float() for below in self._joined(layer)]
        if self._has_token:
            parts.append(found.patches[layer + 1].float().mean(dim=1))
        return torch.cat(parts, dim=1)

    def _joined(self, layer: int) -> range:
        """Layers, from 1, downwards from one that is counted from 0."""
        return range(layer + 1, max(layer + 1 - max(self.config.blocks), 0), -1)

    def probe(self, layer: int, number: int) -> nn.Module:
        setting, widths = self.settings(layer)[number], self.context.encoder.widths
        seen = sum(widths[below - 1] for below in self._joined(layer)[: setting.blocks])
        return LinearHead(seen, widths[layer] if setting.patches else 0, self.classes)

    def optimizer(self, probes: Mapping[int, Mapping[int, nn.Module]]) -> torch.optim.Optimizer:
        """Rates are those of the batch that is asked for: few images, in smaller ones, make few steps."""
        scale = self.config.batch / RATES_ARE_FOR
        groups = [
            {"params": list(probe.parameters()), "lr": self.settings(layer)[number].rate * scale}
            for layer, of_layer in probes.items()
            for number, probe in of_layer.items()
        ]
        return torch.optim.SGD(groups, momentum=MOMENTUM)


class LinearHead(nn.Module):
    """A linear classifier of the first and the last columns of a feature.

    Args:
        first, last: how many columns it sees.
    """

    def __init__(self, first: int, last: int, classes: int):
        super().__init__()
        self.first, self.last = first, last
        self.linear = nn.Linear(first + last, classes)
        nn.init.normal_(self.linear.weight, std=DEVIATION)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, columns) → logits (B, classes)."""
        return self.linear(torch.cat([x[:, : self.first], x[:, x.shape[1] - self.last :]], dim=1))
