"""Runs and sweeps whose folder and images are in an object store: S3, as a server on this machine speaks it."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console

from orchestrator.runs.folder import new_run, resumed_run
from orchestrator.runs.record import pretrain
from ssl_core import recipes
from ssl_core.files import as_path, sha256
from tests.orchestrator.conftest import TINY
from tests.orchestrator.sweeps.small import run, write_sweep

RECIPE = [
    "small-adasim-sd-mocov3",
    *TINY,
    "positives.window=1",
    "checkpoint.every_steps=4",
    "optim.epochs=4",
    "evaluation=[]",
]


class StopsAt(Console):
    """A console at which somebody presses Ctrl-C when it shows the end of an epoch."""

    def __init__(self, epoch: int):
        super().__init__(quiet=True)
        self._epoch = f"epoch {epoch} "

    def print(self, *objects: object, **options: object) -> None:
        if any(self._epoch in str(item) for item in objects):
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def parquet(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training images as two Parquet files."""
    files = sorted((folders / "train").rglob("*.png"))
    folder = tmp_path_factory.mktemp("parquet")
    for number in range(2):
        columns = {"image": [file.read_bytes() for file in files[number::2]]}
        pq.write_table(pa.table(columns), folder / f"{number}.parquet", row_group_size=10)
    return folder


def test_a_run_lives_in_an_object_store(ray_session: None, bucket: Path, parquet: Path, tmp_path: Path) -> None:
    """Its images too; it is stopped and goes on, and ends with the weights of a run on a disk."""
    recipe, *words = RECIPE
    config = recipes.load(recipe, [*words, f"data.train={parquet}"])
    pretrain(new_run(config, tmp_path / "here"), Console(quiet=True), started=0.0)

    for file in parquet.iterdir():
        (bucket / "images" / file.name).write_bytes(file.read_bytes())
    output = bucket / "runs" / "there"
    config = recipes.load(recipe, [*words, f"data.train={bucket / 'images'}"])
    with pytest.raises(KeyboardInterrupt):
        pretrain(new_run(config, output), StopsAt(2), started=0.0)
    assert not (output / "model.safetensors").exists()
    pretrain(resumed_run(output, []), Console(quiet=True), started=0.0)
    assert sha256(output / "model.safetensors") == sha256(tmp_path / "here" / "model.safetensors")
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == list(range(5))
    assert (output / "plots" / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_sweep_lives_in_an_object_store(ray_session: None, bucket: Path, folders: Path, tmp_path: Path) -> None:
    """Its trials take over one another's weights there."""
    file = write_sweep(
        tmp_path,
        folders,
        space={"optim.lr": {"grid": [1e-2, 1e-8]}, "distill.alpha": {"uniform": [0.0, 1.0]}},
        searcher="random",
        scheduler={"name": "pbt", "every": 1, "quantile": 0.5},
        metric="loss",
        mode="min",
        trials=2,
        overrides={"optim.epochs": 2},
    )
    output = bucket / "sweeps" / "there"
    trials, _ = run(file, output)
    assert [trial.status for trial in trials] == ["FINISHED"] * 2
    assert list(output.glob("trials/*/taken_over.jsonl"))
    assert yaml.safe_load((output / "best.yaml").read_text())["optim"]
    assert not (output / "tune").exists()


@pytest.mark.parametrize("place", ["s3://no-such-bucket/run", "nowhere://run"])
def test_a_place_that_cannot_be_used_is_named_before_work_starts(place: str, bucket: Path, strata) -> None:
    done = strata("pretrain", "--output", place)
    assert done.returncode == 2
    assert place in done.stderr
    assert len(done.stderr) < 400


def test_images_in_a_store_are_parquet(bucket: Path, folders: Path, strata) -> None:
    (bucket / "pictures" / "1.png").write_bytes(next(folders.rglob("*.png")).read_bytes())
    done = strata("pretrain", "small-simclr", f"data.train={bucket / 'pictures'}")
    assert done.returncode == 2
    assert "Parquet alone" in done.stderr


def test_a_path_names_what_it_did(tmp_path: Path) -> None:
    assert as_path("~/x") == Path(os.path.expanduser("~/x"))
    assert as_path(tmp_path) is tmp_path
