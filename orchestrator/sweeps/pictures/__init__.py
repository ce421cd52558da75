"""Pictures of a sweep: its metric over each setting and over pairs, by epoch and by seed, and what matters."""

from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure

from orchestrator.sweeps.findings import Findings
from orchestrator.sweeps.pictures.importance import draw_importance
from orchestrator.sweeps.pictures.scores import draw_curves, draw_pareto, draw_repeats
from orchestrator.sweeps.pictures.slices import draw_slices
from orchestrator.sweeps.pictures.together import draw_pairs, draw_parallel
from ssl_core.pictures.run import save_figure


def draw_pictures(found: Findings, folder: Path) -> dict[str, Path]:
    """Title → PNG file of every picture that the trials give."""
    metric = found.metric
    pictures: dict[str, tuple[str, Callable[[Findings], Figure | None]]] = {
        "slices": (f"{metric} over each setting", draw_slices),
        "importance": ("Which settings matter", draw_importance),
        "curves": (f"{metric} by epoch", draw_curves),
        "repeats": ("The best settings with their seeds", draw_repeats),
        "parallel": ("All settings at once", draw_parallel),
        "pairs": (f"{metric} over pairs of settings", draw_pairs),
        "pareto": (" against ".join(found.config.metric), draw_pareto),
    }
    drawn = {}
    for name, (title, draw) in pictures.items():
        figure = draw(found)
        if figure is not None:
            drawn[title] = save_figure(figure, folder / f"{name}.png")
    return drawn
