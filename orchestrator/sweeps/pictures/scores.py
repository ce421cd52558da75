"""The best settings: their curves, their seeds, and how they do in two metrics."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from orchestrator.sweeps.findings import Findings
from orchestrator.sweeps.pictures.axes import scaled, unit, width_beside
from orchestrator.sweeps.space import describe
from orchestrator.sweeps.trials import pareto_front

COLOURED = 10  # settings whose curves have a colour
ROWS = 20  # settings whose seeds are shown


def draw_curves(found: Findings) -> Figure | None:
    """The metric of every trial by epoch, the best settings in colour."""
    trials = found.measured
    if not trials:
        return None
    best = {trial.id: place for place, score in enumerate(found.scores[:COLOURED]) for trial in score.trials}
    names = [f"{place}: {describe(score.settings)}" for place, score in enumerate(found.scores[:COLOURED], 1)]
    figure, axis = plt.subplots(figsize=(width_beside(names, 7), 4), layout="constrained")
    named: set[int] = set()
    for trial in sorted(trials, key=lambda t: best.get(t.id, COLOURED), reverse=True):
        points = [(r["epoch"], scaled(found, r[found.metric])) for r in trial.records if found.metric in r]
        place = best.get(trial.id)
        if place is None:
            axis.plot(*zip(*points, strict=True), color="0.85", linewidth=0.8)
            continue
        text = None if place in named else names[place]
        named.add(place)
        axis.plot(*zip(*points, strict=True), marker=".", color=plt.cm.tab10(place), label=text)
    handles, labels = axis.get_legend_handles_labels()
    axis.legend(handles[::-1], labels[::-1], frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axis.set(xlabel="epoch", ylabel=unit(found))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def draw_repeats(found: Findings) -> Figure | None:
    """The best settings' seeds, their mean and its interval."""
    if found.config.repeats < 2 or not found.scores:
        return None
    scores = found.scores[:ROWS][::-1]
    names = [describe(score.settings) for score in scores]
    size = (width_beside(names, 7), 0.9 + 0.3 * len(scores))
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    for place, score in enumerate(scores):
        seeds = [scaled(found, value) for value in score.values]
        axis.plot(seeds, [place] * len(seeds), "o", color="0.7", markersize=4)
        half = None if score.half_width is None else scaled(found, score.half_width)
        mean = scaled(found, score.mean)
        axis.errorbar(mean, place, xerr=half, fmt="|", color="tab:blue", capsize=3, markersize=10)
    axis.set_yticks(range(len(scores)), names, fontsize=7)
    axis.set(xlabel=f"{unit(found)}: seeds, mean, 95 % interval")
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def draw_pareto(found: Findings) -> Figure | None:
    """Settings by two metrics, named where no other one beats them in both."""
    metrics = found.config.metric
    if len(metrics) < 2 or not found.scores:
        return None
    front = pareto_front(found.scores, metrics, found.config.mode)
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for score in found.scores:
        x, y = (score.mean_of(metric) for metric in metrics)
        axis.plot(x, y, "o", color="tab:orange" if score in front else "0.7")
        if score in front:
            axis.annotate(describe(score.settings), (x, y), fontsize=6, xytext=(4, 4), textcoords="offset points")
    axis.set(xlabel=metrics[0], ylabel=metrics[1], title="orange: beaten by none in both")
    axis.spines[["top", "right"]].set_visible(False)
    return figure
