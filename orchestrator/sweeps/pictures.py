"""Pictures of a sweep: its metric over each setting and over pairs, by epoch and by seed, and what matters."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from orchestrator.sweeps.importance import Importance, comparable
from orchestrator.sweeps.published import CURVES
from orchestrator.sweeps.space import Dimension, SweepConfig, cell, describe, label, short
from orchestrator.sweeps.trials import Score, Trial, pareto_front
from ssl_core.evaluation.metrics import is_share
from ssl_core.pictures.run import save_figure

SHOWN = 10  # settings whose curves have a colour
MOST_PAIRS = 3  # heat maps
BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8}  # what makes text on lines readable


class SweepPictures:
    """Draws what the trials of a sweep give.

    Args:
        scores: their settings, the best first.

    Attributes:
        keys: those of the space that had more than one value.
    """

    def __init__(
        self,
        config: SweepConfig,
        trials: Sequence[Trial],
        scores: Sequence[Score],
        importances: Sequence[Importance],
    ):
        self.config, self.trials, self.scores, self.importances = config, trials, scores, importances
        self.metric, self.mode = config.metric[0], config.mode[0]
        self.keys = [key for key in config.space if len({str(t.settings.get(key, "—")) for t in trials}) > 1]

    def draw(self, folder: Path) -> dict[str, Path]:
        """Title → PNG file of every picture that the trials give."""
        drawn: dict[str, tuple[str, Callable[[], Figure | None]]] = {
            "slices": (f"{self.metric} over each setting", self._slices),
            "importance": ("Which settings matter", self._importance),
            "curves": (f"{self.metric} by epoch", self._curves),
            "repeats": ("The best settings with their seeds", self._repeats),
            "parallel": ("All settings at once", self._parallel),
            "pairs": (f"{self.metric} over pairs of settings", self._pairs),
            "pareto": (" against ".join(self.config.metric), self._pareto),
        }
        found = {}
        for name, (title, draw) in drawn.items():
            figure = draw()
            if figure is not None:
                found[title] = save_figure(figure, folder / f"{name}.png")
        return found

    def _scaled(self, value: float) -> float:
        return 100 * value if is_share(self.metric) else value

    @property
    def _unit(self) -> str:
        return f"{self.metric} (%)" if is_share(self.metric) else self.metric

    def _measured(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.value(self.metric) is not None]

    def _of_slice(self, key: str) -> list[Trial]:
        """Trials that say something about one key: all that have it; of an ablation, those that vary it alone."""
        there = [trial for trial in self._measured() if key in trial.settings]
        if self.config.searcher.name != "ablation":
            return there
        base = {other: label(dimension.args[0]) for other, dimension in self.config.space.items() if other != key}
        return [t for t in there if all(label(v) == base[k] for k, v in t.settings.items() if k != key)]

    def _slices(self) -> Figure | None:
        keys = [key for key in self.keys if len(self._of_slice(key)) > 1]
        if not keys:
            return None
        columns = min(3, len(keys))
        rows = -(-len(keys) // columns)
        figure, axes = plt.subplots(
            rows, columns, figsize=(4.2 * columns, 3.4 * rows), layout="constrained", squeeze=False
        )
        for axis in axes.flat[len(keys) :]:
            axis.axis("off")
        for axis, key in zip(axes.flat, keys, strict=False):
            self._slice(axis, key, self.config.space[key])
        return figure

    def _slice(self, axis: Axes, key: str, dimension: Dimension) -> None:
        """One panel: every trial a dot (hollow: stopped early), the mean of each value of a list, the paper's curve."""
        trials = self._of_slice(key)
        place, ticks = _scale(dimension, [label(trial.settings[key]) for trial in trials])
        for whole in (True, False):
            shown = [t for t in trials if (t.status == "FINISHED") == whole]
            axis.plot(
                [place(label(t.settings[key])) for t in shown],
                [self._scaled(t.value(self.metric)) for t in shown],
                "o",
                color="tab:blue",
                alpha=0.6,
                markersize=4,
                fillstyle="full" if whole else "none",
            )
        if dimension.values is not None:
            whole = [trial for trial in trials if trial.status == "FINISHED"] or trials
            means = []
            for value in sorted({label(t.settings[key]) for t in whole}, key=place):
                own = [self._scaled(t.value(self.metric)) for t in whole if label(t.settings[key]) == value]
                means.append((place(value), float(np.mean(own))))
            axis.plot(*zip(*means, strict=True), "_-", color="tab:blue", linewidth=1, markersize=14)
        if dimension.logarithmic:
            axis.set_xscale("log")
        if ticks:
            axis.set_xticks([place(tick) for tick in ticks], [cell(tick) for tick in ticks])
        axis.set(xlabel=key, ylabel=self._unit)
        axis.spines[["top"]].set_visible(False)
        self._published(axis, key, place, ticks)

    def _published(self, axis: Axes, key: str, place: Callable[[Any], float], ticks: list) -> None:
        known = CURVES.get(key)
        if known is None or not self.metric.startswith("knn"):
            axis.spines[["right"]].set_visible(False)
            return
        low = 0 if self.config.space[key].logarithmic else float("-inf")
        points = {v: y for v, y in known.values.items() if (v in ticks if ticks else v > low)}
        if len(points) < 2:
            return
        twin = axis.twinx()
        order = sorted(points, key=place)
        twin.plot(
            [place(v) for v in order], [points[v] for v in order], "s--", color="tab:orange", markersize=4, linewidth=1
        )
        twin.set_ylabel("paper, ImageNet k-NN (%)", color="tab:orange", fontsize=8)
        twin.tick_params(axis="y", colors="tab:orange", labelsize=8)
        twin.spines[["top"]].set_visible(False)

    def _importance(self) -> Figure | None:
        if not self.importances:
            return None
        heights = [len(importance.shares) for importance in self.importances]
        figure, axes = plt.subplots(
            len(heights), 1, figsize=(6, 0.8 * len(heights) + 0.35 * sum(heights) + 0.4), layout="constrained",
            squeeze=False, height_ratios=heights,
        )  # fmt: skip
        for axis, importance in zip(axes[:, 0], self.importances, strict=True):
            self._bars(axis, importance)
        return figure

    def _bars(self, axis: Axes, importance: Importance) -> None:
        keys = list(importance.shares)[::-1]
        axis.barh(keys, [importance.shares[key] for key in keys], color="tab:blue")
        for place, key in enumerate(keys):
            axis.text(importance.shares[key], place, f" {importance.shares[key]:.0%}", va="center", fontsize=8)
        among = f", where {importance.among}" if importance.among else ""
        about = f"fANOVA, {importance.trials} trials, epoch {importance.epoch}{among}"
        axis.set_title(f"share of the variance of {self.metric} ({about})", fontsize=8)
        axis.set_xlim(0, 1.1)
        axis.spines[["top", "right"]].set_visible(False)

    def _curves(self) -> Figure | None:
        shown = self._measured()
        if not shown:
            return None
        figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
        best = {trial.id: place for place, score in enumerate(self.scores[:SHOWN]) for trial in score.trials}
        named: set[int] = set()
        for trial in sorted(shown, key=lambda t: best.get(t.id, SHOWN), reverse=True):
            points = [(r["epoch"], self._scaled(r[self.metric])) for r in trial.records if self.metric in r]
            place = best.get(trial.id)
            if place is None:
                axis.plot(*zip(*points, strict=True), color="0.85", linewidth=0.8)
                continue
            text = None if place in named else f"{place + 1}: {describe(self.scores[place].settings)}"
            named.add(place)
            axis.plot(*zip(*points, strict=True), marker=".", color=plt.cm.tab10(place), label=text)
        handles, labels = axis.get_legend_handles_labels()
        axis.legend(
            handles[::-1], labels[::-1], frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5)
        )
        axis.set(xlabel="epoch", ylabel=self._unit)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.spines[["top", "right"]].set_visible(False)
        return figure

    def _repeats(self) -> Figure | None:
        if self.config.repeats < 2 or not self.scores:
            return None
        shown = self.scores[: 2 * SHOWN][::-1]
        figure, axis = plt.subplots(figsize=(8, 0.9 + 0.3 * len(shown)), layout="constrained")
        for place, score in enumerate(shown):
            axis.plot(
                [self._scaled(v) for v in score.values], [place] * len(score.values), "o", color="0.7", markersize=4
            )
            half = score.half_width
            axis.errorbar(
                self._scaled(score.mean), place, xerr=None if half is None else self._scaled(half), fmt="|",
                color="tab:blue", capsize=3, markersize=10,
            )  # fmt: skip
        axis.set_yticks(range(len(shown)), [describe(score.settings) for score in shown], fontsize=7)
        axis.set(xlabel=f"{self._unit}: seeds, mean, 95 % interval")
        axis.spines[["top", "right"]].set_visible(False)
        return figure

    def _parallel(self) -> Figure | None:
        """A line a trial across an axis for every setting, the colour its metric."""
        shown = sorted(self._measured(), key=lambda t: t.value(self.metric), reverse=self.mode == "min")
        if len(self.keys) < 2 or len(shown) < 3:
            return None
        figure, axis = plt.subplots(figsize=(2.2 * (len(self.keys) + 1), 4), layout="constrained")
        values = np.array([self._scaled(t.value(self.metric)) for t in shown])
        norm = plt.Normalize(values.min(), values.max())
        columns = [self._column(axis, number, key, shown) for number, key in enumerate(self.keys)]
        columns.append(norm(values))
        for number, value in enumerate(values):
            line = [column[number] for column in columns]
            axis.plot(range(len(line)), line, color=plt.cm.viridis(norm(value)), alpha=0.8, linewidth=1.2)
        last = len(self.keys)
        for height in (0.0, 0.5, 1.0):
            text = f"{values.min() + height * np.ptp(values):.3g}"
            axis.text(last + 0.03, height, text, fontsize=7, va="center")
        for number in range(last + 1):
            axis.axvline(number, color="0.6", linewidth=0.8, zorder=0)
        axis.set_xticks(range(last + 1), [*map(short, self.keys), self._unit])
        axis.set_yticks([])
        axis.set(ylim=(-0.05, 1.05), xlim=(-0.1, last + 0.35))
        axis.spines[["top", "right", "left", "bottom"]].set_visible(False)
        return figure

    def _column(self, axis: Axes, number: int, key: str, trials: Sequence[Trial]) -> list[float]:
        """Heights in [0, 1] of every trial on a key's axis, NaN where it has none; labels the axis."""
        dimension = self.config.space[key]
        there = [label(trial.settings[key]) for trial in trials if key in trial.settings]
        place, ticks = _scale(dimension, there)
        scale = np.log if dimension.logarithmic else float
        heights = [scale(place(value)) for value in there]
        low, high = min(heights), max(heights)

        def height(value: Any) -> float:
            return 0.5 if high == low else (scale(place(value)) - low) / (high - low)

        for tick in ticks or sorted({min(there), max(there)}):
            axis.text(number + 0.03, height(tick), cell(tick), fontsize=7, va="center", bbox=BEHIND)
        return [height(label(t.settings[key])) if key in t.settings else np.nan for t in trials]

    def _pairs(self) -> Figure | None:
        """Heat maps of the metric's mean over pairs of the settings that matter most."""
        if self.config.searcher.name == "ablation" or not self.importances:
            return None  # no two are varied together, or there is too little to say
        ranked = [key for importance in self.importances for key in importance.shares]
        pairs = list(itertools.combinations(list(dict.fromkeys(ranked))[:3], 2))[:MOST_PAIRS]
        if not pairs:
            return None
        figure, axes = plt.subplots(1, len(pairs), figsize=(4.4 * len(pairs), 3.6), layout="constrained", squeeze=False)
        for axis, (across, down) in zip(axes[0], pairs, strict=True):
            self._heat_map(axis, across, down)
        return figure

    def _heat_map(self, axis: Axes, across: str, down: str) -> None:
        _, at_epoch = comparable(self.trials, self.metric)
        trials = [t for t in self.trials if t.id in at_epoch and across in t.settings and down in t.settings]
        x_of, x_names = _bins(self.config.space[across], [label(t.settings[across]) for t in trials])
        y_of, y_names = _bins(self.config.space[down], [label(t.settings[down]) for t in trials])
        sums, counts = np.zeros((2, len(y_names), len(x_names)))
        for trial in trials:
            cell_at = y_of(label(trial.settings[down])), x_of(label(trial.settings[across]))
            sums[cell_at] += self._scaled(at_epoch[trial.id])
            counts[cell_at] += 1
        means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
        picture = axis.imshow(means, origin="lower", aspect="auto", cmap="viridis")
        for place, mean in np.ndenumerate(means):
            if np.isfinite(mean):
                light = mean > (np.nanmin(means) + np.nanmax(means)) / 2
                text = f"{mean:.3g}\n({counts[place]:.0f})"
                axis.text(place[1], place[0], text, ha="center", va="center", fontsize=7, color="k" if light else "w")
        axis.set_xticks(range(len(x_names)), x_names, fontsize=7)
        axis.set_yticks(range(len(y_names)), y_names, fontsize=7)
        axis.set(xlabel=short(across), ylabel=short(down))
        plt.colorbar(picture, ax=axis, label=self._unit)

    def _pareto(self) -> Figure | None:
        if len(self.config.metric) < 2 or not self.scores:
            return None
        front = pareto_front(self.scores, self.config.metric, self.config.mode)
        figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
        for score in self.scores:
            x, y = (float(np.mean([t.value(metric) for t in score.trials])) for metric in self.config.metric)
            axis.plot(x, y, "o", color="tab:orange" if score in front else "0.7")
            if score in front:
                axis.annotate(describe(score.settings), (x, y), fontsize=6, xytext=(4, 4), textcoords="offset points")
        axis.set(xlabel=self.config.metric[0], ylabel=self.config.metric[1], title="orange: beaten by none in both")
        axis.spines[["top", "right"]].set_visible(False)
        return figure


def _scale(dimension: Dimension, seen: Sequence[Any]) -> tuple[Callable[[Any], float], list[Any]]:
    """Where a value stands on an axis, and the values to mark; none for a range of numbers."""
    if dimension.values is None:
        return float, []
    values = [label(value) for value in dimension.values]
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        order = sorted(values)
        return lambda value: float(order.index(value)) if value in order else float("nan"), order
    return lambda value: float(values.index(value)) if value in values else float("nan"), values


def _bins(dimension: Dimension, seen: Sequence[Any]) -> tuple[Callable[[Any], int], list[str]]:
    """In which of a few columns a value belongs, and their names."""
    if dimension.values is not None:
        place, ticks = _scale(dimension, seen)
        return lambda value: int(place(value)), [cell(tick) for tick in ticks]
    transform = np.log if dimension.logarithmic else np.asarray
    low, high = (float(transform(v)) for v in (min(seen), max(seen)))
    edges = np.linspace(low, high, 5)
    shown = np.exp(edges) if dimension.logarithmic else edges
    names = [f"{a:.2g}–{b:.2g}" for a, b in itertools.pairwise(shown)]
    return lambda value: int(np.clip(np.searchsorted(edges, transform(value), "right") - 1, 0, 3)), names
