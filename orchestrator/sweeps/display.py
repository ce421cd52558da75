"""What a sweep shows in the terminal while it runs: a table of trials, the best so far, the time left."""

import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.runs.display import duration
from orchestrator.sweeps.plan import Plan, epochs_of
from orchestrator.sweeps.space import cell, describe, short
from orchestrator.sweeps.trials import Score, Trial, ranking
from ssl_core.evaluation.metrics import is_share

ROWS = 16  # trials in the live table
STYLES = {"FINISHED": "green", "RUNNING": "bold", "FAILED": "red", "COLLAPSED": "yellow", "STOPPED": "dim"}


class SweepDisplay:
    """A table of trials that is redrawn in place; where there is no terminal, a line for each trial that ends."""

    def __init__(self, console: Console, plan: Plan):
        self.console, self.plan = console, plan
        self.config = plan.sweep.config
        self.trials: Sequence[Trial] = ()
        self._began = time.monotonic()
        self._epochs_before: int | None = None
        self._live = Live(console=console, refresh_per_second=2, get_renderable=self._render)

    def __enter__(self) -> "SweepDisplay":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def update(self, trials: Sequence[Trial], changed: Trial) -> None:
        """Show `trials`; one has `changed`."""
        self.trials = list(trials)
        if self._epochs_before is None:  # what was done before a resume says nothing about speed
            self._epochs_before = sum(trial.epoch for trial in trials)
        if changed.ended and not self.console.is_terminal:
            self.console.print(self._line(changed), highlight=False, markup=False, soft_wrap=True)

    def _line(self, trial: Trial) -> str:
        seed = f"  seed {trial.repeat}" if self.config.repeats > 1 else ""
        values = "  ".join(f"{m} {form(m, trial.value(m))}" for m in self.config.metric if trial.value(m) is not None)
        note = trial.reason or f"epoch {trial.epoch}"
        best = self._best()
        lead = f"  best {form(self.config.metric[0], best.mean)}" if best else ""
        ended = sum(t.ended for t in self.trials)
        place = f"[{ended}/{self.plan.runs}] trial {trial.number} {trial.status}"
        return f"{place}  {describe(trial.settings)}{seed}  {values}  ({note}){lead}"

    def _best(self) -> Score | None:
        scores = ranking(self.trials, self.config.metric[0], self.config.mode[0])
        return scores[0] if scores else None

    def _render(self) -> Group:
        scores = ranking(self.trials, self.config.metric[0], self.config.mode[0])
        order = {trial.id: place for place, score in enumerate(scores) for trial in score.trials}
        shown = sorted(self.trials, key=lambda t: (t.ended, order.get(t.id, len(order)), t.number))[:ROWS]
        best = {trial.id for score in scores[:1] for trial in score.trials}
        return Group(trial_table(shown, self.config.metric, self.config.repeats > 1, best), self._summary())

    def _summary(self) -> Text:
        counts = Counter(trial.status.lower() for trial in self.trials)
        waiting = self.plan.runs - len(self.trials)
        parts = [f"{number} {status}" for status, number in counts.items()]
        if waiting:
            parts.append(f"{waiting} to come")
        best = self._best()
        if best:
            parts.append(f"best {self.config.metric[0]} {form(self.config.metric[0], best.mean)}")
        parts.append(f"{duration(time.monotonic() - self._began)} so far")
        if (left := self._left()) is not None:
            parts.append(f"about {duration(left)} left")
        return Text(" · ".join(parts) if self.trials else "starting Ray and the first trials")

    def _left(self) -> float | None:
        """Seconds, from the epochs done and how many a trial has had so far."""
        done = sum(trial.epoch for trial in self.trials)
        now = done - (self._epochs_before or 0)
        if not now:
            return None
        ended = [trial.epoch for trial in self.trials if trial.ended]
        each = sum(ended) / len(ended) if ended else self.plan.config.optim.epochs
        running = sum(max(0.0, each - trial.epoch) for trial in self.trials if not trial.ended)
        to_come = min(running + each * (self.plan.runs - len(self.trials)), epochs_of(self.plan)[1] - done)
        return to_come * (time.monotonic() - self._began) / now


def trial_table(trials: Sequence[Trial], metrics: Sequence[str], seeds: bool, best: set[str]) -> Table:
    """Trials with the settings that vary; the best ones have a star."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.settings))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("trial", justify="right")
    table.add_column("status")
    for key in keys:
        table.add_column(short(key), justify="right")
    if seeds:
        table.add_column("seed", justify="right")
    table.add_column("epoch", justify="right")
    for metric in metrics:
        table.add_column(metric, justify="right")
    table.add_column("", max_width=60, no_wrap=True, overflow="ellipsis")
    for trial in trials:
        values = [form(metric, trial.value(metric)) for metric in metrics]
        star = " ★" if trial.id in best else "  "
        table.add_row(
            str(trial.number),
            trial.status.lower(),
            *(cell(trial.settings[key]) if key in trial.settings else "" for key in keys),
            *([str(trial.repeat)] if seeds else []),
            f"{trial.epoch}/{trial.epochs}",
            *(f"{value}{star}" for value in values),
            Text(trial.reason),
            style=STYLES.get(trial.status, ""),
        )
    return table


def form(metric: str, value: float | None) -> str:
    """A metric's value: accuracies in per cent."""
    if value is None:
        return ""
    return f"{value:.1%}" if is_share(metric) else f"{value:.4g}"
