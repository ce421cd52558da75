"""Pictures of a sweep: what is no number is not joined, and names do not run into one another."""

import hashlib
import itertools
import math
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchestrator.sweeps.findings import Findings
from orchestrator.sweeps.pictures import draw_pictures
from orchestrator.sweeps.pictures.axes import names_of
from orchestrator.sweeps.pictures.slices import draw_slices
from orchestrator.sweeps.pictures.together import draw_pairs
from orchestrator.sweeps.trials import Trial
from tests.orchestrator.sweeps.small import sweep_of

MODELS = [
    "vit_tiny_patch16_224.augreg_in21k",
    "vit_small_patch16_224.dino",
    "resnet50.a1_in1k",
    "vit_base_patch14_reg4_dinov2.lvd142m",
]
SPACE = {
    "backbone.name": {"choice": MODELS},
    "distill.anneal": {"choice": ["cosine", "none"]},
    "distill.projector_layers": {"choice": [3, 0, 2]},
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    sweep = sweep_of(tmp_path_factory.mktemp("sweep"), SPACE, searcher="grid")
    trials = []
    for number, settings in enumerate(sweep.config.planned(), 1):
        noise = hashlib.sha256(repr(sorted(settings.items())).encode()).digest()[0] / 2550
        value = 0.4 + 0.1 * MODELS.index(settings["backbone.name"]) + noise
        trials.append(Trial(number, settings, settings, 0, 1, "FINISHED", records=[{"epoch": 1.0, "knn/last": value}]))
    return Findings.of(sweep.config, trials)


def panel(figure: Figure, key: str) -> Axes:
    return next(axis for axis in figure.axes if axis.get_xlabel() == key)


def joined(axis: Axes) -> bool:
    return any(line.get_linestyle() != "None" for line in axis.lines)


def test_categories_are_points_and_numbers_a_curve(found: Findings) -> None:
    figure = draw_slices(found)
    assert not joined(panel(figure, "backbone.name"))
    assert joined(panel(figure, "distill.projector_layers"))
    assert [t.get_text() for t in panel(figure, "distill.projector_layers").get_xticklabels()] == ["0", "2", "3"]
    paper = [axis for axis in figure.axes if axis.get_ylabel().startswith("paper")]
    assert [joined(axis) for axis in paper] == [False, True], "what the paper has of `anneal` is no curve either"
    dots, means = panel(figure, "backbone.name").lines[0], panel(figure, "backbone.name").lines[-1]
    assert (len(dots.get_xdata()), list(means.get_xdata())) == (24, [0, 1, 2, 3])
    plt.close(figure)


def test_names_do_not_run_into_one_another(found: Findings) -> None:
    for draw in (draw_slices, draw_pairs):
        figure = draw(found)
        renderer = figure.canvas.get_renderer()
        figure.draw(renderer)
        for axis in figure.axes:
            for left, right in itertools.pairwise(axis.get_xticklabels()):
                angle = math.radians(left.get_rotation())
                if angle:  # lines of letters side by side
                    apart = right.get_transform().transform(right.get_position())[0]
                    apart -= left.get_transform().transform(left.get_position())[0]
                    assert apart * math.sin(angle) >= left.get_fontsize() * figure.dpi / 72
                else:
                    assert left.get_window_extent(renderer).x1 < right.get_window_extent(renderer).x0
        plt.close(figure)


def test_shortened_names_stay_different() -> None:
    assert names_of([*MODELS[1:3], 0.25, {"every": 2}]) == ["vit_small_pat…224.dino", MODELS[2], "0.25", "every: 2"]
    alike = [f"vit_small_patch{size}_dinov2.lvd142m" for size in (14, 16)]
    assert names_of(alike) == alike


def test_the_same_trials_give_the_same_pictures(found: Findings, tmp_path: Path) -> None:
    first, second = (draw_pictures(found, tmp_path / name) for name in "ab")
    assert [path.name for path in first.values()] == [
        "slices.png", "importance.png", "curves.png", "parallel.png", "pairs.png",
    ]  # fmt: skip
    assert [path.read_bytes() for path in first.values()] == [path.read_bytes() for path in second.values()]
