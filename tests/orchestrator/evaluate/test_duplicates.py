"""`strata duplicates`: copies that were put among other images are found, with their files."""

import csv
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.evaluate.plan import Wish, make_plan
from orchestrator.evaluate.same import duplicates
from ssl_core.errors import InputError
from tests.conftest import make_image


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images in train, one of them twice; 6 in val, one of which train has too."""
    folder = tmp_path_factory.mktemp("same")
    for split, seeds in (("train", range(24)), ("val", range(100, 106))):
        (folder / split).mkdir()
        for seed in seeds:
            make_image(seed, 40).save(folder / split / f"{seed:03d}.png")
    shutil.copy(folder / "train" / "003.png", folder / "train" / "again.png")
    shutil.copy(folder / "train" / "007.png", folder / "val" / "leak.png")
    return folder


def wish(images: Path, **more) -> Wish:
    words = (f"data.train={images / 'train'}", f"data.val={images / 'val'}", "data.workers=0", "data.limit=null")
    return Wish(words=words, kinds=("duplicates",), **more)


def test_copies_are_found_and_listed(runs: list[Path], images: Path, tmp_path: Path) -> None:
    console = Console(record=True, width=200)
    found = duplicates(make_plan(str(runs[0]), wish(images)), tmp_path, console)
    rows = list(csv.DictReader((tmp_path / "duplicates.csv").open()))
    groups: dict[str, set[str]] = {}
    for row in rows:
        groups.setdefault(row["group"], set()).add(Path(row["image"]).name)
    assert {"003.png", "again.png"} in groups.values()
    assert {"007.png", "leak.png"} in groups.values()
    assert {row["set"] for row in rows if Path(row["image"]).name == "leak.png"} == {"val"}
    assert found.leaked == sum(row["set"] == "val" for row in rows)
    assert (tmp_path / "duplicates.png").stat().st_size > 5_000
    assert "of 7 images of val look like one of train" in console.export_text()


def test_too_few_images_are_refused(runs: list[Path], images: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for name in ("000.png", "001.png"):
        shutil.copy(images / "train" / name, few / name)
    words = (f"data.train={few}", "data.limit=null")
    with pytest.raises(InputError, match="duplicates needs 10 images"):
        make_plan(str(runs[0]), Wish(words=words, kinds=("duplicates",)))
