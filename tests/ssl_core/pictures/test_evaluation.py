"""Pictures of an evaluation: what is coloured as good, and which cost accuracy is drawn over."""

import numpy as np

from ssl_core.pictures import evaluation

METRICS = {
    **{f"knn/layer_{layer:02d}": value for layer, value in enumerate((0.5, 0.7, 0.6), start=1)},
    **{f"parameters/layer_{layer:02d}": 1e5 * layer for layer in (1, 2, 3)},
    **{f"flops/layer_{layer:02d}": 1e6 * layer for layer in (1, 2, 3)},
}


def test_only_what_is_better_or_worse_is_coloured() -> None:
    figure = evaluation._layers(METRICS, ["knn", "parameters"])
    shades = np.ma.filled(figure.axes[0].images[0].get_array().astype(float), np.nan)
    np.testing.assert_allclose(shades[:, 0], [0.0, 1.0, 0.5])
    assert np.isnan(shades[:, 1]).all(), "a large network is not the best of its column"


def test_accuracy_is_drawn_over_flops_where_they_were_counted(tmp_path, monkeypatch) -> None:
    drawn = []
    monkeypatch.setattr(evaluation, "save_figure", lambda figure, path: drawn.append(figure) or path)
    names = [path.name for path in evaluation.draw_evaluation(METRICS, tmp_path)]
    assert names == ["layers.png", "accuracy_by_cost.png"]
    assert "FLOPs" in drawn[1].axes[0].get_xlabel()
