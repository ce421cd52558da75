"""Pictures of neighbours, from what a run has written down."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from ssl_core.data.sources import open_images
from ssl_core.errors import InputError
from ssl_core.pictures.neighbors import draw_neighbors
from ssl_core.positives.neighbors import NeighborIndex, saving
from ssl_core.positives.neighbors.files import lists_file
from tests.conftest import tiny_config

EPOCHS = 3


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A run's folder with the neighbours of three epochs of 32 images."""
    index = NeighborIndex(32, 4, window=2)
    for epoch in range(EPOCHS):
        index.update(np.arange(32), np.random.default_rng(epoch).normal(size=(32, 4)))
        index.end_epoch()
        saving.save(index, tmp_path / "neighbors")
    return tmp_path


@pytest.mark.parametrize("positives", [{"kind": "adasim", "tau_scale": "spread"}, {"kind": "nearest"}])
def test_a_picture_is_drawn_even_of_a_broken_image(output: Path, image_folder: Path, positives: dict):
    config = tiny_config(data={"train": str(image_folder), "limit": None}, positives={"window": 2, **positives})
    source = open_images(config.data).train
    Path(source.where(5)).write_bytes(b"no image")
    target = draw_neighbors(config, output, source, output / "picture.png", images=[3, 5])
    assert imread(target).std() > 0.05, "a picture of something"


def test_an_epoch_whose_window_is_no_longer_whole_is_refused(output: Path, image_folder: Path):
    config = tiny_config(data={"train": str(image_folder), "limit": None}, positives={"kind": "adasim", "window": 2})
    source = open_images(config.data).train
    lists_file(output / "neighbors", 1).unlink()
    with pytest.raises(InputError, match="epochs 1 to 2"):
        draw_neighbors(config, output, source, output / "picture.png", epoch=2)
    assert draw_neighbors(config, output, source, output / "picture.png", epoch=3).exists()
