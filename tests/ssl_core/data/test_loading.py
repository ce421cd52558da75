"""Which image when, and its views: repeatable, whatever the loaders; broken images; sets larger than memory."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor

from ssl_core.data.loading import EpochOrder, read_or_replace, train_loader
from ssl_core.data.sources import open_images
from ssl_core.data.sources.parquet import ParquetSource
from ssl_core.data.views import normalise, to_channels, to_tensor
from ssl_core.errors import DataError
from ssl_core.schema.data import DataConfig
from ssl_core.schema.run import RunConfig
from ssl_core.training.events import EpochEnded, Listener, Warned
from ssl_core.training.loop import Pretraining
from tests.conftest import make_image, tiny_config
from tests.ssl_core.data.test_sources import encode


def config_for(path: Path, **options) -> RunConfig:
    return tiny_config(data={"train": str(path), "limit": None, **options}, optim={"batch_size": 8})


def epoch_views(config: RunConfig, epoch: int, workers: int = 0) -> dict[int, Tensor]:
    """Image id → its two views, of a whole epoch."""
    loader = train_loader(open_images(config.data).train, config, workers)
    loader.batch_sampler.epoch = epoch
    return {int(i): batch.views["global"][:, n] for batch in loader for n, i in enumerate(batch.ids)}


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_every_mode_of_image_comes_out_as_it_looks(tmp_path: Path, mode: str, suffix: str):
    image = make_image(3, mode=mode)
    file = tmp_path / f"image{suffix}"
    if mode in ("CMYK",) and suffix == ".png":
        file = file.with_suffix(".jpg")
    image.save(file)
    with Image.open(file) as stored:
        stored.load()
    colour, grey = to_tensor(to_channels(stored, 3)), to_tensor(to_channels(stored, 1))
    assert (colour.shape, grey.shape) == ((3, 20, 20), (1, 20, 20))
    expected = np.asarray(image.convert("RGB"), dtype=float).transpose(2, 0, 1)
    assert np.abs(colour.numpy() - expected).mean() < 12, "JPEG may change a little, nothing else"


def test_a_16_bit_gradient_keeps_its_contrast(tmp_path: Path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(8, axis=0)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    with Image.open(tmp_path / "ramp.png") as stored:
        stored.load()
    row = to_tensor(to_channels(stored, 3))[0, 0].int()
    assert (row[0], row[-1]) == (0, 255)
    assert (row.diff() > 0).all()


def test_transparent_palettes_load(tmp_path: Path):
    make_image(1, mode="P").save(tmp_path / "a.png", transparency=0)
    with Image.open(tmp_path / "a.png") as stored:
        stored.load()
        assert to_tensor(to_channels(stored, 3)).shape == (3, 20, 20)


def test_normalised_white_and_black_are_imagenets():
    images = torch.stack([torch.zeros(3, 2, 2), torch.full((3, 2, 2), 255)]).to(torch.uint8)
    black, white = normalise(images)[:, :, 0, 0]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(black, -mean / std)
    torch.testing.assert_close(white, (1 - mean) / std)
    assert normalise(images[:, :1]).shape == (2, 1, 2, 2)


def test_views_do_not_depend_on_the_number_of_loader_processes(image_folder: Path):
    config = config_for(image_folder)
    alone = epoch_views(config, 1)
    assert sorted(alone) == list(range(32))
    for workers in (1, 2):
        others = epoch_views(config, 1, workers)
        assert list(others) == list(alone), "another order"
        assert all(torch.equal(others[i], alone[i]) for i in alone)


def test_epochs_seeds_and_views_differ(image_folder: Path):
    config = config_for(image_folder)
    first = epoch_views(config, 1)
    assert all(not torch.equal(views[0], views[1]) for views in first.values())
    for other in (epoch_views(config, 2), epoch_views(config.model_copy(update={"seed": 1}), 1)):
        assert list(other) != list(first)
        assert sum(torch.equal(other[i], first[i]) for i in first) <= 1


def test_making_views_leaves_torchs_generator_alone(image_folder: Path):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    dataset = train_loader(open_images(DataConfig(train=str(image_folder))).train, config_for(image_folder), 0).dataset
    dataset[1, 0, 0]
    assert torch.equal(torch.get_rng_state(), before)


class Remembers(Listener):
    def __init__(self):
        self.records, self.warnings = [], []

    def on(self, event):
        if isinstance(event, EpochEnded):
            self.records.append(event.record)
        elif isinstance(event, Warned):
            self.warnings.append(event.message)


def test_a_corrupt_image_is_replaced_and_reported(image_folder: Path):
    corrupt = image_folder / "cat" / "03.png"
    corrupt.write_bytes(corrupt.read_bytes()[:60])
    source = open_images(DataConfig(train=str(image_folder))).train
    index = next(i for i in range(32) if source.where(i) == str(corrupt))
    image, used, broken = read_or_replace(source, index, 3)
    assert (used, broken) == (index + 1, [index])
    assert np.array_equal(np.asarray(image), np.asarray(source.read(index + 1)))

    config, listener = config_for(image_folder), Remembers()
    Pretraining(config, open_images(config.data)).run(listener)
    assert listener.records[-1]["broken_images"] == 1
    assert len(listener.warnings) == 1, "reported once, not every epoch"
    assert str(corrupt) in listener.warnings[0]


def test_too_many_corrupt_images_stop_the_run(image_folder: Path):
    for number in range(1, 11, 2):
        (image_folder / "cat" / f"{number:02d}.png").write_bytes(b"gone")
    config = config_for(image_folder, max_broken=0.1)
    run = Pretraining(config, open_images(config.data))
    with pytest.raises(DataError, match=r"of 32 training images.*data\.max_broken=0\.1.*cat/\d\d\.png"):
        run.run()
    config = config_for(image_folder, max_broken=0.2)
    assert len(Pretraining(config, open_images(config.data)).run()) == 3


class CountingSource(ParquetSource):
    """Real Parquet that counts what is read from disk and the most that is kept."""

    def __init__(self, *args):
        super().__init__(*args)
        self.reads, self.most = Counter(), 0

    def _group(self, group: int) -> pa.Array:
        if group not in self._cache:
            self.reads[group] += 1
        column = super()._group(group)
        self.most = max(self.most, sum(c.nbytes for c in self._cache.values()))
        return column


def test_a_set_larger_than_the_cache_is_shuffled_in_blocks(tmp_path: Path):
    generator = np.random.default_rng(0)
    noise = [
        encode(Image.fromarray(generator.integers(0, 255, (100, 100, 3), dtype=np.uint8))) for _ in range(160)
    ]  # 30 kB each
    pq.write_table(pa.table({"image": noise}), tmp_path / "a.parquet", row_group_size=8, compression="none")
    source = CountingSource([tmp_path / "a.parquet"], "image", "label", 1 << 20)
    assert source.total_bytes > 4 << 20
    order = EpochOrder(source, micro_batch=8, seed=0, budget_bytes=1 << 20)
    for epoch in (1, 2):
        order.epoch = epoch
        source.reads.clear()
        indices = [index for batch in order for _, index, *_ in batch]
        assert sorted(indices) == list(range(160))
        assert indices != sorted(indices)
        for index in indices:
            source.read(index)
        assert len(source.reads) == 20
        assert max(source.reads.values()) == 1, "a row group was read again within an epoch"
    assert source.most <= (1 << 20) + source.total_bytes // 20
    neighbours = [len({i // 8 for i in indices[at : at + 8]}) for at in range(0, 160, 8)]
    assert np.mean(neighbours) > 1.5, "batches mix row groups"
    whole = EpochOrder(source, micro_batch=8, seed=0, budget_bytes=1 << 30)
    assert np.mean([len({i // 8 for _, i, *_ in batch}) for batch in whole]) > 5, "a set that fits is shuffled whole"
