"""A sweep's page: one HTML file to pass on, with the answer, the pictures and every trial."""

import base64
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2

from orchestrator.sweeps.answer import answer
from orchestrator.sweeps.display import form
from orchestrator.sweeps.findings import Findings
from orchestrator.sweeps.published import CURVES
from orchestrator.sweeps.space import cell, short

TEMPLATE = Path(__file__).parent / "templates" / "report.html"


def render_page(found: Findings, pictures: dict[str, Path], counts: str, space: str, recipe: str) -> str:
    """The page's HTML.

    Args:
        pictures: title → PNG file; they become part of the page.
        counts: of its trials, in words.
        space: the sweep's YAML.
        recipe: the best settings as a recipe; empty where there are none.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    keys, metrics = found.keys, found.config.metric
    return environment.from_string(TEMPLATE.read_text()).render(
        name=found.config.name,
        made=f"{datetime.now():%Y-%m-%d %H:%M}",
        counts=counts,
        answer=answer(found),
        images={title: base64.b64encode(path.read_bytes()).decode() for title, path in pictures.items()},
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
