"""What the axes of a sweep's pictures say: the metric's unit, and where the values of a setting stand."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.sweeps.findings import Findings
from orchestrator.sweeps.space import Dimension, cell, label
from orchestrator.sweeps.trials import Trial
from ssl_core.evaluation.metrics import is_share


def scaled(found: Findings, value: float) -> float:
    """The metric as pictures show it: shares in %."""
    return 100 * value if is_share(found.metric) else value


def value_of(found: Findings, trial: Trial) -> float:
    """A trial's metric, as pictures show it; NaN where it was not measured."""
    value = trial.value(found.metric)
    return float("nan") if value is None else scaled(found, value)


def unit(found: Findings) -> str:
    return f"{found.metric} (%)" if is_share(found.metric) else found.metric


@dataclass(frozen=True)
class Scale:
    """Where the values of a setting stand on an axis.

    Attributes:
        place: a value's `label` → where; NaN for a value that is not in the list.
        ticks: the values of a list, to be marked; none of a range.
    """

    place: Callable[[Any], float]
    ticks: list[Any]


def scale_of(dimension: Dimension) -> Scale:
    """A range of numbers as it is, numbers of a list in their order, other values in the order of the list."""
    if dimension.values is None:
        return Scale(float, [])
    ticks: list[Any] = [label(value) for value in dimension.values]
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in ticks):
        ticks.sort()
    return Scale(lambda value: float(ticks.index(value)) if value in ticks else float("nan"), ticks)


def bins(dimension: Dimension, seen: Sequence[Any]) -> tuple[Callable[[Any], int], list[str]]:
    """In which of a few columns a value belongs, and their names."""
    if dimension.values is not None:
        scale = scale_of(dimension)
        return lambda value: int(scale.place(value)), [cell(tick) for tick in scale.ticks]
    transform = np.log if dimension.logarithmic else np.asarray
    low, high = (float(transform(v)) for v in (min(seen), max(seen)))
    edges = np.linspace(low, high, 5)
    named = np.exp(edges) if dimension.logarithmic else edges
    names = [f"{a:.2g}–{b:.2g}" for a, b in itertools.pairwise(named)]
    return lambda value: int(np.clip(np.searchsorted(edges, transform(value), "right") - 1, 0, 3)), names
