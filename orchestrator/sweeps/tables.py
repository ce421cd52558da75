"""The tables at a sweep's end: its best settings, or what each value of an ablation does."""

import math

from rich.table import Table

from orchestrator.sweeps.answer import form_mean
from orchestrator.sweeps.display import form
from orchestrator.sweeps.findings import Findings
from orchestrator.sweeps.published import CURVES
from orchestrator.sweeps.space import cell, describe, label, short
from orchestrator.sweeps.trials import Score, difference
from ssl_core.evaluation.metrics import is_share

SHOWN = 10  # settings


def best_table(found: Findings) -> Table:
    """The best settings."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", justify="right")
    for title in (*map(short, found.keys), *found.config.metric, "epoch"):
        table.add_column(title, justify="right")
    for place, score in enumerate(found.scores[:SHOWN], 1):
        others = [_mean_of(score, m) for m in found.config.metric[1:]]
        table.add_row(
            str(place),
            *(cell(score.settings[key]) if key in score.settings else "" for key in found.keys),
            form_mean(found.metric, score),
            *others,
            f"{min(t.epoch for t in score.trials)}/{score.trials[0].epochs}",
        )
    return table


def ablation_table(found: Findings) -> Table:
    """Every value of every setting against the first one, the others at theirs; and what the papers report."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("setting", "value", found.metric, "against the first, 95 %", "paper"):
        table.add_column(title, justify="left" if title == "setting" else "right")
    config, scores = found.config, {describe(score.settings): score for score in found.scores}
    first = {key: dimension.args[0] for key, dimension in config.space.items()}
    base = scores.get(describe(config.active(first)))
    for key, dimension in config.space.items():
        known = CURVES[key].values if key in CURVES else {}
        for number, value in enumerate(dimension.args):
            score = scores.get(describe(config.active(first | {key: value})))
            if score is None:
                continue
            against = _against(found.metric, score, base) if number and base is not None else ""
            paper = f"{known[label(value)]:.1f}" if label(value) in known else ""
            table.add_row("" if number else short(key), cell(value), form_mean(found.metric, score), against, paper)
    return table


def _mean_of(score: Score, metric: str) -> str:
    """Empty where it was not measured."""
    mean = score.mean_of(metric)
    return "" if math.isnan(mean) else form(metric, mean)


def _against(metric: str, score: Score, base: Score) -> str:
    """The difference from `base`, paired by seed."""
    mean, half = difference(score, base)
    if is_share(metric):
        return f"{100 * mean:+.1f}" + (f" ± {100 * half:.1f}" if half is not None else "")
    return f"{mean:+.2g}" + (f" ± {half:.2g}" if half is not None else "")
