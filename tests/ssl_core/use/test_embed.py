"""Features as Parquet: the encoder's own, shard by shard, without broken images."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ssl_core.data.sources import open_images
from ssl_core.data.sources.base import Source, read_image
from ssl_core.data.views import CentreView, normalise, to_channels, to_tensor
from ssl_core.errors import InputError
from ssl_core.networks.encoder import Encoder
from ssl_core.networks.layers import Want
from ssl_core.use.embed import Output, describe, write_shard
from ssl_core.use.subject import Subject
from tests.conftest import tiny_config


def opened(folder: Path) -> tuple[Subject, Source]:
    config = tiny_config(data={"train": str(folder), "limit": None, "workers": 0})
    torch.manual_seed(0)
    return Subject("x", Encoder(config.backbone).eval(), config), open_images(config.data).train


def embed(subject: Subject, source: Source, path: Path, layers: tuple[int, ...] = (3,), **about) -> Output:
    half = about.pop("half", False)
    output = Output(path, describe(subject, source, layers, half, **about))
    output.begin()
    for shard in output.missing:
        write_shard(subject, source, output, shard, 0, lambda count: None)
    return output


def test_rows_are_the_encoders_features(image_folder: Path, tmp_path: Path) -> None:
    subject, source = opened(image_folder)
    embed(subject, source, tmp_path / "x.parquet", (1, 3))
    table = pq.read_table(tmp_path / "x.parquet")
    assert table.column_names == ["id", "file", "label", "layer_01", "layer_03"]
    row = table.to_pylist()[20]
    assert row["file"] == source.where(20)
    assert row["label"] == Path(row["file"]).parent.name
    image = CentreView(16)(to_channels(read_image(source, 20), 3))
    expected = subject.look(normalise(to_tensor(image))[None], Want(pooled=(1, 3))).pooled
    for layer in (1, 3):
        np.testing.assert_allclose(row[f"layer_{layer:02d}"], expected[layer][0].numpy(), atol=1e-5)


def test_shards_go_on_where_they_stopped(image_folder: Path, tmp_path: Path) -> None:
    subject, source = opened(image_folder)
    whole = pq.read_table(embed(subject, source, tmp_path / "whole.parquet").place)
    output = Output(tmp_path / "x.parquet", describe(subject, source, (3,), False, rows=10))
    output.begin()
    for shard in (0, 2):
        write_shard(subject, source, output, shard, 0, lambda count: None)
    before = output.part(0).stat().st_mtime_ns
    assert Output(tmp_path / "x.parquet", describe(subject, source, (3,), False)).missing == [1, 3]
    again = embed(subject, source, tmp_path / "x.parquet")  # another size of shards: theirs counts
    assert again.part(0).stat().st_mtime_ns == before
    assert again.missing == []
    found = pq.read_table([again.part(shard) for shard in range(4)])
    assert found["id"].to_pylist() == list(range(32))
    np.testing.assert_allclose(found["features"].to_pylist(), whole["features"].to_pylist(), atol=1e-5)


def test_broken_images_are_left_out_and_named(image_folder: Path, tmp_path: Path) -> None:
    file = sorted(image_folder.rglob("*.png"))[3]
    file.write_bytes(b"no image")
    subject, source = opened(image_folder)
    output = embed(subject, source, tmp_path / "x.parquet", rows=8)
    assert output.broken() == [str(file)]
    files = pq.read_table(output.folder, columns=["file"])["file"].to_pylist()
    assert len(files) == 31
    assert str(file) not in files


def test_half_as_large(image_folder: Path, tmp_path: Path) -> None:
    subject, source = opened(image_folder)
    embed(subject, source, tmp_path / "x.parquet", half=True)
    kind = pq.read_schema(tmp_path / "x.parquet").field("features").type
    assert (str(kind.value_type), kind.list_size) == ("halffloat", 32)


def test_what_is_there_is_not_mixed_with_something_else(image_folder: Path, tmp_path: Path) -> None:
    subject, source = opened(image_folder)
    embed(subject, source, tmp_path / "x.parquet", rows=10)
    with pytest.raises(InputError, match="other layers"):
        Output(tmp_path / "x.parquet", describe(subject, source, (1,), False))
    with pytest.raises(InputError, match=r"ends in \.parquet"):
        Output(tmp_path / "x.csv", describe(subject, source, (1,), False))
    (tmp_path / "y.parquet").write_text(json.dumps("no Parquet"))
    with pytest.raises(InputError, match="no Parquet file"):
        Output(tmp_path / "y.parquet", describe(subject, source, (3,), False))
