"""What the axes of a sweep's pictures say: the metric's unit, where the values of a setting stand, their names."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from orchestrator.sweeps.findings import Findings
from orchestrator.sweeps.space import Dimension, cell, label
from orchestrator.sweeps.trials import Trial
from ssl_core.evaluation.metrics import is_share

HEAD, TAIL = 13, 8  # letters of a long name that are kept
LETTER = 0.62  # its width, of its size


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
        categories: whether nothing lies between two of them.
    """

    place: Callable[[Any], float]
    ticks: list[Any]
    categories: bool = False


def scale_of(dimension: Dimension) -> Scale:
    """A range of numbers as it is, numbers of a list in their order, other values in the order of the list."""
    if dimension.values is None:
        return Scale(float, [])
    ticks: list[Any] = [label(value) for value in dimension.values]
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in ticks)
    if numbers:
        ticks.sort()
    return Scale(lambda value: float(ticks.index(value)) if value in ticks else float("nan"), ticks, not numbers)


def names_of(values: Sequence[Any]) -> list[str]:
    """Values in words for an axis: long ones without their middle, if that leaves them different."""
    names = [cell(value) for value in values]
    cut = [f"{name[:HEAD]}…{name[-TAIL:]}" if len(name) > HEAD + TAIL + 1 else name for name in names]
    return cut if len(set(cut)) == len(set(names)) else names


def name_ticks(axis: Axes, names: Sequence[str], size: float) -> None:
    """Mark 0, 1, … across with names, turned where they would run into one another.

    Args:
        size: of the letters, in points.
    """
    room = 72 * axis.get_window_extent().width / axis.figure.dpi / len(names)  # points for each
    axis.set_xticks(range(len(names)), names, fontsize=size)
    if max(map(len, names)) * LETTER * size > room:
        angle = 30 if room > 2.5 * size else 90  # a line needs that much across to lie beside the next
        turned: dict[str, Any] = {"ha": "right", "va": "center" if angle == 90 else "top"}
        axis.tick_params(axis="x", rotation=angle)
        for text in axis.get_xticklabels():
            text.set(rotation_mode="anchor", fontsize=min(size, 8), **turned)


def scale_logarithmically(axis: Axes, seen: Sequence[float]) -> None:
    """Across by powers of ten; over less than two of them, marked in between too."""
    axis.set_xscale("log")
    axis.xaxis.set_minor_formatter(NullFormatter())  # its numbers run into one another
    if max(seen) < 100 * min(seen):
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.xaxis.set_major_formatter(FormatStrFormatter("%g"))


def width_beside(texts: Sequence[str], size: float) -> float:
    """Inches across of a figure whose axes have texts beside them, in letters of so many points."""
    return max(8.0, 4.5 + LETTER * size / 72 * max(map(len, texts), default=0))


def bins(dimension: Dimension, seen: Sequence[Any]) -> tuple[Callable[[Any], int], list[str]]:
    """In which of a few columns a value belongs, and their names."""
    if dimension.values is not None:
        scale = scale_of(dimension)
        return lambda value: int(scale.place(value)), names_of(scale.ticks)
    transform = np.log if dimension.logarithmic else np.asarray
    low, high = (float(transform(v)) for v in (min(seen), max(seen)))
    edges = np.linspace(low, high, 5)
    named = np.exp(edges) if dimension.logarithmic else edges
    names = [f"{a:.2g}–{b:.2g}" for a, b in itertools.pairwise(named)]
    return lambda value: int(np.clip(np.searchsorted(edges, transform(value), "right") - 1, 0, 3)), names
