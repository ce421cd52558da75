"""What an evaluation shows in the terminal: progress, a table of layers, what holds for the network as a whole."""

from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ssl_core.evaluation.metrics import by_layer, find, known, layers_of, title_of

Record = Mapping[str, float]


class Steps:
    """A bar for what is being done; each thing done before is a line above it."""

    def __init__(self, console: Console):
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._console = console
        self._tasks: dict[str, int] = {}

    def __enter__(self) -> "Steps":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def tell(self, what: str, done: int, total: int) -> None:
        """So many of so many are done of something."""
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total)
            if not self._console.is_terminal and done == 0:
                self._console.print(f"measuring {what}", highlight=False, soft_wrap=True)
        self._progress.update(self._tasks[what], completed=done, total=total)  # type: ignore[arg-type]  # rich's own alias
        if done >= total and len(self._tasks) > 1:
            self._progress.update(self._tasks[what], visible=False)  # type: ignore[arg-type]


def layer_tables(metrics: Record, title: str, width: int) -> list[Table]:
    """Every layer that was measured, by metric, the best of each marked: as many tables as it takes for the width."""
    layers = layers_shown(metrics)
    rows = [[text + (" ★" if best else "  ") for text, best in cells(metrics, layer)] for layer in layers]
    tables: list[Table] = []
    room = 0
    for heading, texts in zip(headings(metrics), zip(*rows, strict=True), strict=True):
        need = max(*map(len, texts), *map(len, heading.split()))
        if need + 2 > room or not tables:
            table = Table(title=None if tables else title, title_justify="left", box=None, pad_edge=False)
            table.header_style = "bold"
            table.add_column("layer", justify="right")
            tables.append(table)
            room = width - 7
        room -= need + 2
        tables[-1].add_column(heading, justify="right", min_width=need, max_width=need)
    first = 0
    for table in tables:
        own = slice(first, first := first + len(table.columns) - 1)
        for layer, row in zip(layers, rows, strict=True):
            table.add_row(str(layer), *row[own])
    return tables


def headings(metrics: Record) -> list[str]:
    """What stands above the cells of a row, one a metric."""
    return [title_of(name) for name in by_layer(metrics)]


def layers_shown(metrics: Record) -> list[int]:
    """The layers that such a table has a row for."""
    return sorted({layer for name in by_layer(metrics) for layer in layers_of(metrics, name)})


def cells(metrics: Record, layer: int) -> list[tuple[str, bool]]:
    """What stands for a layer in such a table, by metric: the value, and whether it is the best of several."""
    found = []
    for name, metric in by_layer(metrics).items():
        values = layers_of(metrics, name)
        if layer not in values:
            found.append(("", False))
            continue
        best = metric.higher is not None and values[layer] == (max if metric.higher else min)(values.values())
        found.append((_with_interval(metrics, name, layer), best and len(values) > 1))
    return found


def _with_interval(metrics: Record, name: str, layer: int) -> str:
    value, form = metrics[f"{name}/layer_{layer:02d}"], known(f"{name}/last").form
    half = metrics.get(f"{name}_interval/layer_{layer:02d}")
    return form.format(value) if half is None else f"{form.format(value)} ± {form.format(half)}"


def whole_lines(metrics: Record) -> list[str]:
    """A line for each metric of the network as a whole."""
    found = []
    for name, value in metrics.items():
        metric = find(name)
        if metric is not None and not metric.per_layer and not metric.derived and name != "epoch":
            found.append(f"{metric.title}: {metric.form.format(value)}")
    return found


def list_evaluators(console: Console) -> None:
    """The suites, and every evaluator with what it measures."""
    from ssl_core.evaluation import suites
    from ssl_core.evaluation.metrics import kinds

    table = Table(title="suites", title_justify="left", box=None, pad_edge=False, show_header=False)
    for name, about in suites.names().items():
        table.add_row(f"[bold]{name}[/bold]", about)
    console.print(table, highlight=False)
    table = Table(title="\nevaluators", title_justify="left", box=None, pad_edge=False, show_header=False)
    for kind, section in sorted(kinds().items()):
        needs = "labels" if any(metric.needs_labels for metric in section.metrics) else ""
        about = (section.__doc__ or "").partition("\n")[0] or ", ".join(metric.title for metric in section.metrics)
        table.add_row(f"[bold]{kind}[/bold]", about, needs)
    console.print(table, highlight=False)
    console.print("\n`strata evaluate RUN --suite NAME`, or `--with EVALUATOR`; their keys: docs/keys.md")
