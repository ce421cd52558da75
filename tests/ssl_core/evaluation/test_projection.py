"""t-SNE of layers: what is near stays near, seeds, colours by classes or by clusters, what cannot be shown."""

import numpy as np
import pytest
from sklearn.manifold import trustworthiness

from ssl_core.data.sources import open_images
from ssl_core.data.sources.base import Images, Subset
from ssl_core.errors import InputError
from ssl_core.evaluation.projection import Projection, project
from ssl_core.schema.evaluation import ProjectionConfig
from tests.conftest import tiny_config
from tests.ssl_core.evaluation.pictured import context_of


def test_groups_that_are_apart_stay_apart_and_the_map_is_always_the_same() -> None:
    generator = np.random.default_rng(0)
    features = np.repeat(40.0 * generator.normal(size=(3, 60)), 20, axis=0) + generator.normal(size=(60, 60))
    found = project(features)
    assert found.shape == (60, 2)
    assert trustworthiness(features, found, n_neighbors=5) > 0.85
    centres = found.reshape(3, 20, 2).mean(axis=1)
    distances = np.linalg.norm(found[:, None] - centres, axis=2)
    assert distances.argmin(axis=1).tolist() == np.repeat([0, 1, 2], 20).tolist()
    assert np.array_equal(project(features), found)


@pytest.mark.parametrize("features", [np.full((12, 4), 0.1), np.arange(12.0)[:, None]])
def test_one_point_and_one_dimension_are_no_error(features: np.ndarray) -> None:
    assert np.isfinite(project(features)).all()


@pytest.mark.parametrize("labels", ["auto", "none"])
def test_its_picture_has_a_panel_for_each_layer_and_a_colour_for_each_group(labels: str) -> None:
    own = {"kind": "projection", "max_images": 40, "layers": [1, 3]}
    config = tiny_config("simclr", data={"labels": labels}, evaluation=[own])
    figure = Projection(config.evaluation[0], context_of(config)).pictures()["tsne"]
    assert [axis.get_title() for axis in figure.axes] == ["layer 1", "layer 3"]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == (
        [str(digit) for digit in range(10)] if labels == "auto" else [f"cluster {n + 1}" for n in range(10)]
    )
    assert len(figure.axes[0].collections[0].get_offsets()) == 40
    colours = figure.axes[0].collections[0].get_facecolors()
    assert len(np.unique(colours, axis=0)) == 10


def test_of_many_classes_the_largest_ten_are_shown() -> None:
    source = open_images(tiny_config("simclr", data={"limit": None}).data).train
    source.labels = np.arange(len(source)) % 30 + 20
    source.labels[source.labels == 49] = -1
    source.classes = [f"kind {number}" for number in range(50)]
    config = tiny_config("simclr", evaluation=[{"kind": "projection", "max_images": 99, "layers": [1]}])
    context = context_of(config, Images(source, None))
    figure = Projection(config.evaluation[0], context).pictures()["tsne"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [f"kind {number}" for number in range(20, 30)]


def test_a_few_images_cannot_be_shown() -> None:
    source = open_images(tiny_config("simclr").data).train
    with pytest.raises(InputError, match=r"projection needs 10 images at least, .* got 9"):
        Projection.check(ProjectionConfig(), Images(Subset(source, np.arange(9)), None))
    Projection.check(ProjectionConfig(), Images(Subset(source, np.arange(10)), None))
