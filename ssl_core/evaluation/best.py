"""Which layer to take: the best by what was measured of all of them, with labels or without."""

from collections.abc import Mapping
from dataclasses import dataclass

from ssl_core.evaluation.metrics import known, layers_of

BY = ("linear", "attentive", "linear_sgd", "knn", "lowshot", "fewshot", "retrieval", "copies", "lidar", "rankme")
"""By which metrics, the first one that was measured of several layers; the last three need no labels."""


@dataclass(frozen=True)
class BestLayer:
    """A layer, from 1, and why it.

    Attributes:
        by: the metric.
        value: of it.
    """

    layer: int
    by: str
    value: float

    def __str__(self) -> str:
        return f"layer {self.layer}, by {self.by}: {known(f'{self.by}/last').form.format(self.value)}"


def choose(metrics: Mapping[str, float]) -> BestLayer | None:
    """The best layer of an encoder by its metrics; None where nothing of several layers was measured."""
    for name in BY:
        values = layers_of(metrics, name)
        if len(set(values.values())) > 1:
            higher = known(f"{name}/last").higher
            layer = (max if higher else min)(values, key=lambda number: values[number])
            return BestLayer(layer, name, values[layer])
    return None
