"""Which settings matter, as bars."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchestrator.sweeps.findings import Findings
from orchestrator.sweeps.importance import Importance


def draw_importance(found: Findings) -> Figure | None:
    """A panel for the keys that all trials have, and one for each condition."""
    if not found.importances:
        return None
    heights = [len(importance.shares) for importance in found.importances]
    size = (6, 0.8 * len(heights) + 0.35 * sum(heights) + 0.4)
    figure, axes = plt.subplots(
        len(heights), 1, figsize=size, layout="constrained", squeeze=False, height_ratios=heights
    )
    for axis, importance in zip(axes[:, 0], found.importances, strict=True):
        _draw_bars(axis, importance, found.metric)
    return figure


def _draw_bars(axis: Axes, importance: Importance, metric: str) -> None:
    keys = list(importance.shares)[::-1]
    axis.barh(keys, [importance.shares[key] for key in keys], color="tab:blue")
    for place, key in enumerate(keys):
        axis.text(importance.shares[key], place, f" {importance.shares[key]:.0%}", va="center", fontsize=8)
    among = f", where {importance.among}" if importance.among else ""
    about = f"fANOVA, {importance.trials} trials, epoch {importance.epoch}{among}"
    axis.set_title(f"share of the variance of {metric} ({about})", fontsize=8)
    axis.set_xlim(0, 1.1)
    axis.spines[["top", "right"]].set_visible(False)
