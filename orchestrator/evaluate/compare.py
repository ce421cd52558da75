"""Two encoders side by side: where they differ, and whether that is more than which images happened to be asked."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from orchestrator.evaluate.plan import Plan
from orchestrator.evaluate.record import Evaluation, context_of
from orchestrator.paths import RUNS
from orchestrator.runs.display import say
from ssl_core.errors import InputError
from ssl_core.evaluation.cka import cka_matrix
from ssl_core.evaluation.metrics import by_layer, known, layers_of
from ssl_core.files import write_atomically
from ssl_core.pictures.evaluation import draw_comparison
from ssl_core.pictures.layers import cka_picture
from ssl_core.pictures.run import save_figure
from ssl_core.use.subject import own_device

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOOKED_AT = 1024  # images that CKA is measured on, at most
CONFIDENT = 1.96  # deviations of a mean, for 95 %


@dataclass(frozen=True)
class Difference:
    """What a layer of the second encoder has more of than one of the first.

    Attributes:
        metric: by its name.
        layers: of the first and the second, from 1.
        values: of both.
        half: of the 95 % interval of the difference, over the images that both were asked about; None where an
            evaluator does not say how each image fared.
    """

    metric: str
    layers: tuple[int, int]
    values: tuple[float, float]
    half: float | None

    @property
    def gain(self) -> float:
        return self.values[1] - self.values[0]

    @property
    def is_clear(self) -> bool:
        """Whether other images of the kind would very likely say the same."""
        return self.half is not None and abs(self.gain) > self.half


def check(plans: Sequence[Plan]) -> None:
    """Whether two encoders are asked about the same images.

    Raises:
        InputError: they are not, and a difference would say nothing.
    """
    if plans[0].subject.digest == plans[1].subject.digest:
        raise InputError(f"{plans[0].what} and {plans[1].what} are the same weights: there is nothing to compare")
    first, second = (plan.config.data for plan in plans)
    for key in ("train", "val", "split", "labels", "name_column", "label_column", "label_above", "limit"):
        was, now = getattr(first, key), getattr(second, key)
        if was != now:
            raise InputError(
                f"data.{key}: {plans[0].what} has {was}, {plans[1].what} has {now}; say which both are measured on: "
                f"data.{key}=…"
            )


def compare(first: Evaluation, second: Evaluation, output: Path | None, console: Console) -> list[Difference]:
    """Say where the second differs from the first: a table, a picture and a file in the folder of the comparison."""
    found = differences(first, second)
    names = [f"{one.plan.subject.name} ({one.plan.subject.digest[:6]})" for one in (first, second)]
    folder = (
        output
        or RUNS
        / "evaluations"
        / "-vs-".join(f"{one.plan.subject.name}-{one.plan.subject.digest[:6]}" for one in (first, second))
    ).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"of": names, "differences": [asdict(one) for one in found]}, indent=2)
    write_atomically(folder / "differences.json", lambda file: file.write(text.encode()))
    picture = draw_comparison(first.metrics, second.metrics, names, folder / "differences.png")
    alike = save_figure(_alike(first, second, names), folder / "cka.png")
    console.print(_table(found, names))
    if first.plan.subject.encoder.depth != second.plan.subject.encoder.depth:
        console.print("of encoders that differ in depth: the last layers, and the best ones", highlight=False)
    clear = sum(one.is_clear for one in found)
    asked = sum(one.half is not None for one in found)
    say(console, "{clear} of {asked} differences are larger than their 95 % interval", clear=clear, asked=asked)
    say(console, "pictures {picture}, and how alike their layers are (CKA): {alike}", picture=picture, alike=alike)
    return found


def _alike(first: Evaluation, second: Evaluation, names: Sequence[str]) -> "Figure":
    """CKA of every layer of the first with every layer of the second, on the same images."""
    features = []
    for evaluation in (first, second):
        context = context_of(evaluation.plan, own_device(), lambda *_: None)
        split = context.images.measured
        _, found = context.features(split, LOOKED_AT)
        features.append([found[layer] for layer in sorted(found)])
    rows, columns = ([str(layer) for layer in range(1, len(found) + 1)] for found in features)
    title = f"CKA of layers: {names[0]} (up), {names[1]} (across)"
    return cka_picture(cka_matrix(features[0], features[1]).numpy(), rows, columns, title)


def differences(first: Evaluation, second: Evaluation) -> list[Difference]:
    """Of every metric that both have: layer by layer where they are as deep, else of the last and of the best ones."""
    one, two = first.metrics, second.metrics
    found = []
    for name, metric in by_layer(one).items():
        values = layers_of(one, name), layers_of(two, name)
        if not values[1]:
            continue
        same = first.plan.subject.encoder.depth == second.plan.subject.encoder.depth
        if same:
            pairs = [(layer, layer) for layer in values[0] if layer in values[1]]
        else:
            best = max if metric.higher else min
            pairs = [tuple(max(part) for part in values)]  # type: ignore[list-item]  # of two
            if metric.higher is not None:
                pairs.append(tuple(best(part, key=part.__getitem__) for part in values))  # type: ignore[arg-type]
        for layers in dict.fromkeys(pairs):
            measured = values[0][layers[0]], values[1][layers[1]]
            found.append(Difference(name, layers, measured, _half(first, second, name, layers)))
    return found


def _half(first: Evaluation, second: Evaluation, name: str, layers: tuple[int, int]) -> float | None:
    """Half of the interval of a paired difference of means over images."""
    outcomes = []
    for evaluation, layer in zip((first, second), layers, strict=True):
        config = next((c for c in evaluation.plan.config.evaluation if c.named(c.metrics[0].name) == name), None)
        there = {} if config is None else evaluation.results.outcomes(config)
        outcomes.append(there.get(layer - 1))
    if outcomes[0] is None or outcomes[1] is None or len(outcomes[0]) != len(outcomes[1]) or len(outcomes[0]) < 2:
        return None
    by_image = outcomes[1].astype(np.float64) - outcomes[0].astype(np.float64)
    return float(CONFIDENT * by_image.std(ddof=1) / len(by_image) ** 0.5)


def _table(found: Sequence[Difference], names: Sequence[str]) -> Table:
    table = Table(title=f"{names[1]} against {names[0]}", title_justify="left", box=None, header_style="bold")
    for title in ("metric", "layer", *names, "difference"):
        table.add_column(title, justify="left" if title == "metric" else "right")
    for one in found:
        metric = known(f"{one.metric}/last")
        layer = str(one.layers[0]) if one.layers[0] == one.layers[1] else f"{one.layers[0]}, {one.layers[1]}"
        gain = ("+" if one.gain > 0 else "") + metric.form.format(one.gain)
        half = "" if one.half is None else f" ± {metric.form.format(one.half)}"
        better = metric.higher is not None and one.is_clear
        colour = "" if not better else "green" if (one.gain > 0) == metric.higher else "red"
        cells = [metric.title, layer, *(metric.form.format(value) for value in one.values)]
        table.add_row(*cells, f"[{colour}]{gain}{half}[/{colour}]" if colour else f"{gain}{half}")
    return table
