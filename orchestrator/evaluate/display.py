"""What an evaluation shows in the terminal: progress, a table of layers, what holds for the network as a whole."""

from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ssl_core.evaluation.metrics import by_layer, find, known, layers_of

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
    shown = {name: _heading(name, metric.title) for name, metric in by_layer(metrics).items()}
    layers = sorted({layer for name in shown for layer in layers_of(metrics, name)})
    columns = {name: [_cell(metrics, name, layer) for layer in layers] for name in shown}
    tables: list[Table] = []
    room = 0
    for name, texts in columns.items():
        need = 2 + max(*map(len, texts), *map(len, shown[name].split()))
        if need > room or not tables:
            table = Table(title=None if tables else title, title_justify="left", box=None, pad_edge=False)
            table.header_style = "bold"
            table.add_column("layer", justify="right")
            tables.append(table)
            room = width - 7
        room -= need
        tables[-1].add_column(shown[name], justify="right", min_width=need - 2, max_width=need - 2)
    names = iter(columns)
    for table in tables:
        own = [next(names) for _ in table.columns[1:]]
        for place, layer in enumerate(layers):
            table.add_row(str(layer), *(columns[name][place] for name in own))
    return tables


def _heading(name: str, title: str) -> str:
    return (f"{name.partition('.')[0]}: " if "." in name else "") + title


def _cell(metrics: Record, name: str, layer: int) -> str:
    found = dict(zip(by_layer(metrics), cells(metrics, layer), strict=True))
    text, best = found[name]
    return text + (" ★" if best else "  ")


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
