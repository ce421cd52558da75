"""Pictures of a run's figures."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from ssl_core.pictures import run as pictures
from ssl_core.pictures.run import draw_plots


def layers(name: str, *values: float) -> dict[str, float]:
    return {f"{name}/layer_{layer:02d}": value for layer, value in enumerate(values, start=1)}


def record(epoch: float, **more: float) -> dict[str, float]:
    trained = {"loss": 3.0 / epoch, "loss/last": 3.0 / epoch, "lr": 0.1} if epoch else {}
    return {"epoch": epoch, **trained, **more}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Figures by file name, as they are saved."""
    found: dict[str, Figure] = {}
    save = pictures.save_figure
    monkeypatch.setattr(
        pictures, "save_figure", lambda figure, path: found.update({path.name: figure}) or save(figure, path)
    )
    return found


def titles(figure: Figure) -> list[str]:
    return [axis.get_title() for axis in figure.axes if axis.get_title()]


def test_what_should_rise_is_drawn_by_layer_and_all_before_and_after(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    measured = layers("knn", 0.1, 0.2) | layers("food.knn", 0.3, 0.1) | layers("rankme", 5.0, 4.0)
    measured |= layers("uniformity", -2.0, -1.0) | layers("uniformity_ratio", 1.0, 2.0)
    files = draw_plots([record(epoch, **measured) for epoch in range(3)], tmp_path)
    by_layer = {"knn_by_layer.png", "food.knn_by_layer.png", "rankme_by_layer.png"}
    assert {file.name for file in files} == {"loss.png", "before_after.png", *by_layer}
    assert all(file.stat().st_size > 1000 for file in files)
    assert titles(drawn["food.knn_by_layer.png"]) == ["food: k-NN accuracy by layer over epochs"]
    assert titles(drawn["before_after.png"]) == ["k-NN accuracy (%)", "food: k-NN accuracy (%)", "RankMe", "uniformity"]
    assert titles(drawn["loss.png"]) == ["loss and its parts", "lr"]


@pytest.mark.parametrize(
    ("parts", "lines"),
    [
        (["last"], ["loss/last"]),
        (["last", "hidden"], ["loss", "loss/last", "loss/hidden"]),
        (["last", "target_04", "target_02"], ["loss", "loss/target_02", "loss/target_04"]),
        ([], ["loss"]),
        (["dino/last", "dino", "ibot/last", "ibot"], ["loss", "loss/dino", "loss/ibot"]),
    ],
)
def test_a_loss_is_drawn_with_what_it_adds_up_from(
    tmp_path: Path, drawn: dict[str, Figure], parts: list[str], lines: list[str]
) -> None:
    history = [{"epoch": epoch, "loss": 2.0} | {f"loss/{part}": 1.0 for part in parts} for epoch in (1.0, 2.0)]
    draw_plots(history, tmp_path)
    assert [line.get_label() for line in drawn["loss.png"].axes[0].lines] == lines
