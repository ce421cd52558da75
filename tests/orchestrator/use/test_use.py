"""`strata export` and `strata embed`: what can be typed, and features made by Ray's workers."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from orchestrator.use import embed, export
from ssl_core.errors import InputError
from tests.orchestrator.trained import train

Strata = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="module")
def run_folder(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an epoch, two layers."""
    folder = tmp_path_factory.mktemp("run")
    train(folder, f"data.train={folders / 'train'}", f"data.val={folders / 'val'}", "data.limit=90")
    return folder


def console() -> Console:
    return Console(record=True, width=200, force_terminal=False)


def test_the_best_layer_of_a_run_with_a_card(run_folder: Path) -> None:
    heard = console()
    folder = export.run(export.Wish(str(run_folder), "timm", "best"), heard)
    assert folder.parent == run_folder / "export"
    card = (folder / "README.md").read_text()
    assert "(the best layer, by " in card
    assert "| knn | " in card
    assert "(data.val)" in heard.export_text()


def test_without_its_images_an_export_is_compared_on_digits(run_folder: Path, tmp_path: Path) -> None:
    heard = console()
    wish = export.Wish(str(run_folder), "timm", "1", 48, tmp_path / "out", ["data.train=/nowhere", "data.val=null"])
    export.run(wish, heard)
    assert "bundled digits" in heard.export_text()


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        ({"format": "pickle"}, "--format: expected one of timm, hf, onnx, torch"),
        ({"layer": "3"}, "--layer: expected best, last, or a number from 1 to 2"),
        ({"layer": "-1"}, "--layer: expected best, last"),
        ({"what": "/nowhere"}, "neither a run's folder nor a file of weights"),
        ({"size": 17}, "--size: backbone.patch_size"),
        ({"words": ["optim.lr=1"]}, "the encoder is trained"),
    ],
)
def test_wrong_wishes_are_told(run_folder: Path, wish: dict, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        export.run(export.Wish(**{"what": str(run_folder), "format": "timm"} | wish), console())


def test_no_traceback_for_a_text_file_as_weights(strata: Strata, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_text("these are none")
    done = strata("export", "weights.pth", "backbone.name=vit_tiny_patch16_224")
    assert done.returncode == 2
    assert "weights.pth" in done.stderr
    assert "Traceback" not in done.stderr


def test_embed_wants_an_encoder_images_and_a_place(run_folder: Path, folders: Path, tmp_path: Path) -> None:
    images = str(folders / "val")
    with pytest.raises(InputError, match="DATA: /nowhere does not exist"):
        embed.run(embed.Wish(str(run_folder), "/nowhere", tmp_path / "x.parquet"), console())
    with pytest.raises(InputError, match=r"ends in \.parquet"):
        embed.run(embed.Wish(str(run_folder), images, tmp_path / "x.npz"), console())


def test_rays_workers_give_the_same_features(
    run_folder: Path, folders: Path, tmp_path: Path, ray_session: None
) -> None:
    images = tmp_path / "images"
    shutil.copytree(folders / "val", images)
    broken = sorted(images.rglob("*.png"))[5]
    broken.write_bytes(b"no image")
    here = embed.run(embed.Wish(str(run_folder), str(images), tmp_path / "here.parquet", "1,2"), console())
    assert here == tmp_path / "here.parquet"
    assert pq.read_table(here)["label"].value_counts().to_pylist()[0]["counts"] >= 15
    own = ["scaling.cpus_per_worker=1"]
    wish = embed.Wish(str(run_folder), str(images), tmp_path / "there.parquet", "1,2", workers=2, words=own)
    heard = console()
    there = embed.run(wish, heard)
    assert there == tmp_path / "there"
    assert "1 images cannot be decoded and were left out" in heard.export_text()
    parts = sorted(there.glob("part-*.parquet"))
    assert len(parts) == 8
    parts[3].unlink()
    heard = console()
    embed.run(wish, heard)
    assert "7 of 8 files are there already" in heard.export_text()
    one, many = pq.read_table(here), pq.read_table(parts)
    assert many["file"].to_pylist() == one["file"].to_pylist()
    for layer in ("layer_01", "layer_02"):
        np.testing.assert_allclose(many[layer].to_pylist(), one[layer].to_pylist(), atol=1e-5)
