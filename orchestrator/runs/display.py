"""What a run shows in the terminal: a live table of epochs, and tables at the end."""

import re
import time
from collections.abc import Mapping, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from ssl_core.evaluation.metrics import by_layer, known, layers_of
from ssl_core.schema.metric import Metric

NAME = re.compile(r"\{\w+\}")
SHOWN = 12  # epochs in the live table
COLUMNS = (
    *("epoch", "loss", "loss/last", "loss/hidden", "loss/predictor", "alpha", "knn/last", "knn/best", "linear/last"),
    *("rankme/last", "positives/bootstrap_ratio", "positives/same_class", "images_per_second"),
)
"""Metrics of an epoch that are shown, where it logs them."""

Record = Mapping[str, float]


def duration(seconds: float) -> str:
    """90 → 1:30."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def say(console: Console, sentence: str, **names: object) -> None:
    """Print a sentence whose style is ours, and in which paths and other people's words stand as they are.

    Args:
        sentence: with rich's markup, and `{name}` for each of `names`.
    """
    ours = Text.from_markup(sentence, emoji=False)
    said = Text()
    for number, piece in enumerate(ours.divide([end for found in NAME.finditer(ours.plain) for end in found.span()])):
        is_name = number % 2 == 1  # of what they divide, every other piece is one
        said += Text(str(names[piece.plain[1:-1]]), piece.get_style_at_offset(console, 0)) if is_name else piece
    console.print(said, highlight=False, soft_wrap=True)


def warn(console: Console, message: object) -> None:
    """Say what is wrong without ending anything."""
    say(console, "[yellow]warning:[/yellow] {message}", message=message)


class RunDisplay:
    """A table with a row an epoch, and below it the epoch under way and the time left.

    In a terminal the table is redrawn in place; elsewhere each epoch is a line of its own.
    """

    def __init__(self, console: Console, epochs: int):
        self.console, self.epochs = console, epochs
        self.columns = [(_heading(name), name, known(name).form) for name in COLUMNS]
        self.records: list[Record] = []
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.fields[note]}"), console=console
        )
        self._task = self._progress.add_task("starting Ray and the workers", total=None, note="")
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._render)
        self._started = time.monotonic()
        self._epochs_timed = 0

    def __enter__(self) -> "RunDisplay":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self._progress.update(self._task, visible=False)
            self._live.stop()

    def start(self, history: Sequence[Record]) -> None:
        """Training starts, perhaps from a checkpoint with a history."""
        self.records = list(history)
        self._progress.update(self._task, description="epoch 1" if not history else "going on", total=None)
        self._started = time.monotonic()

    def step(self, epoch: int, step: int, steps: int, images_per_second: float) -> None:
        done = self._epochs_timed + step / steps
        left = ""
        if done > 0.02:
            remaining = self.epochs - (epoch - 1) - step / steps
            left = f"{duration((time.monotonic() - self._started) / done * remaining)} left"
        self._progress.update(
            self._task,
            description=f"epoch {epoch}/{self.epochs}",
            completed=step,
            total=steps,
            note=f"{images_per_second:.0f} images/s  {left}",
        )

    def epoch(self, record: Record) -> None:
        self.records.append(record)
        if record["epoch"] == 0:
            self._started = time.monotonic()  # what came before was start-up
        else:
            self._epochs_timed += 1
        if not self.console.is_terminal:
            line = "  ".join(f"{t} {f.format(record[m])}" for t, m, f in self.columns if m in record)
            self.console.print(line, soft_wrap=True, highlight=False)

    def _render(self) -> Group:
        return Group(self._table(), self._progress)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        logged = set().union(*self.records)
        columns = [(title, name, form) for title, name, form in self.columns if name in logged]
        for title, _, _ in columns:
            table.add_column(title, justify="right")
        for record in self.records[-SHOWN:]:
            table.add_row(*(form.format(record[name]) if name in record else "" for _, name, form in columns))
        return table


def _heading(name: str) -> str:
    """The title of a metric's column."""
    metric = known(name)
    return f"{_short(name, metric)} {name.rpartition('/')[2]}" if metric.per_layer else metric.title


def _short(name: str, metric: Metric) -> str:
    """`k-NN`, or `cars: k-NN` for an evaluator with a name of its own."""
    own, dot, _ = name.rpartition("/")[0].partition(".") if "/" in name else name.partition(".")
    return (f"{own}: " if dot else "") + metric.title.removesuffix(" accuracy")


def layer_table(before: Record, after: Record, start: str = "random initialisation") -> Table:
    """Every layer before training and after: accuracies where they were measured, and the label-free signals.

    Args:
        start: what it was before.
    """
    table = Table(title=f"quality by layer, {start} → trained", title_justify="left", box=None)
    table.add_column("layer", justify="right")
    shown = {name: metric for name, metric in by_layer(after).items() if name in by_layer(before)}
    for name, metric in shown.items():
        table.add_column(_short(name, metric), justify="right")
    for layer in sorted({layer for name in shown for layer in layers_of(after, name)}):
        cells = []
        for name, metric in shown.items():
            old, new = layers_of(before, name), layers_of(after, name)
            if layer not in old or layer not in new:
                cells.append("")
                continue
            mark = (" ★" if new[layer] == max(new.values()) else "  ") if metric.is_share else ""
            cells.append(f"{metric.form.format(old[layer])} → {metric.form.format(new[layer])}{mark}")
        table.add_row(str(layer), *cells)
    return table
