"""A sweep's page: one HTML file to pass on, with the answer, the pictures and every trial."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from orchestrator.pages import as_text, render
from orchestrator.sweeps.answer import answer
from orchestrator.sweeps.display import form
from orchestrator.sweeps.findings import Findings
from orchestrator.sweeps.published import CURVES
from orchestrator.sweeps.space import cell, short

TEMPLATE = "sweep.html"


def render_page(found: Findings, pictures: dict[str, Path], counts: str, space: str, recipe: str) -> str:
    """The page's HTML.

    Args:
        pictures: title → PNG file; they become part of the page.
        counts: of its trials, in words.
        space: the sweep's YAML.
        recipe: the best settings as a recipe; empty where there are none.
    """
    keys, metrics = found.keys, found.config.metric
    return render(
        TEMPLATE,
        name=found.config.name,
        about=counts,
        answer=answer(found),
        images={title: as_text(path) for title, path in pictures.items()},
        heads=["trial", "status", *map(short, keys), "seed", "epoch", *metrics, "why it ended"],
        rows=_rows(found),
        space=space,
        recipe=recipe,
        sources=[f"{short(key)}: {CURVES[key].source}" for key in keys if key in CURVES],
    )


def _rows(found: Findings) -> Iterable[list[Any]]:
    keys = found.keys
    for trial in found.trials:
        yield [
            trial.number,
            trial.status.lower(),
            *(cell(trial.settings[key]) if key in trial.settings else "" for key in keys),
            trial.repeat,
            f"{trial.epoch}/{trial.epochs}",
            *(form(metric, trial.value(metric)) for metric in found.config.metric),
            trial.reason,
        ]
