"""Pictures of what masked runs hide and predict, and such runs on Ray."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from mlflow import MlflowClient
from rich.console import Console

from orchestrator.runs.folder import Run, new_run
from orchestrator.runs.record import pretrain
from ssl_core import recipes
from ssl_core.data.sources import open_images
from ssl_core.errors import InputError
from ssl_core.pictures.masks import draw_masks
from ssl_core.training.checkpoints import CheckpointStore
from ssl_core.training.events import EpochEnded, Event, Listener
from ssl_core.training.loop import Pretraining

TINY = [
    "backbone.kwargs.embed_dim=32",
    "backbone.kwargs.depth=3",
    "framework.predictor={dim: 16, depth: 1, heads: 2}",
    "optim.epochs=2",
    "optim.batch_size=16",
    "data.workers=0",
]


def _overrides(folders: Path, *more: str) -> list[str]:
    return [*TINY, f"data.train={folders / 'train'}", f"data.val={folders / 'val'}", *more]


def _trained(output: Path, name: str, folders: Path, *more: str) -> Run:
    """A run in this process, which keeps its checkpoints."""
    config = recipes.load(f"small-{name}", _overrides(folders, "evaluation=[]", *more))
    run = Pretraining(config, open_images(config.data), loaders=0)
    store = CheckpointStore(output, config)

    class Keeps(Listener):
        def on(self, event: Event) -> None:
            if isinstance(event, EpochEnded):
                store.keep(run)

    run.run(Keeps())
    return Run(config, output)


@pytest.mark.parametrize(("name", "more"), [("mae", []), ("ijepa", []), ("bootleg", ["framework.targets=all"])])
def test_a_picture_has_a_map_for_every_target(name: str, more: list[str], folders: Path, tmp_path: Path) -> None:
    run = _trained(tmp_path, name, folders, *more)
    source = open_images(run.config.data).train
    few = imread(draw_masks(run.config, tmp_path, source, tmp_path / "few.png", images=[3, 5]))
    many = imread(draw_masks(run.config, tmp_path, source, tmp_path / "many.png", epoch=1))
    assert many.shape[0] > 2 * few.shape[0], "more images are more rows"
    assert few.shape[1] == many.shape[1]
    assert few[:, :, :3].std() > 0.1, "a picture of something"
    if name == "bootleg":
        one = _trained(tmp_path / "one", name, folders, "framework.targets=[3]")
        narrow = imread(draw_masks(one.config, tmp_path / "one", source, tmp_path / "one.png", images=[3, 5]))
        assert few.shape[1] > 1.3 * narrow.shape[1], "more targets are more columns"


def test_what_cannot_be_drawn_is_refused(folders: Path, tmp_path: Path) -> None:
    run = _trained(tmp_path, "mae", folders, "checkpoint.keep=1")
    source = open_images(run.config.data).train
    with pytest.raises(InputError, match="no checkpoint of 1; there are epoch_0002"):
        draw_masks(run.config, tmp_path, source, tmp_path / "picture.png", epoch=1)
    with pytest.raises(InputError, match="no checkpoint in it yet"):
        draw_masks(run.config, tmp_path / "elsewhere", source, tmp_path / "picture.png")
    other = recipes.load("small-mocov3", [f"data.train={folders / 'train'}"])
    with pytest.raises(InputError, match="mocov3 hides nothing"):
        draw_masks(other, tmp_path, source, tmp_path / "picture.png")
    assert not (tmp_path / "picture.png").exists()


@pytest.mark.usefixtures("ray_session")
def test_two_workers_train_as_one_does_and_mlflow_gets_the_picture(folders: Path, tmp_path: Path) -> None:
    given = _overrides(folders, "evaluation=[{kind: knn}, {kind: linear}]", "framework.picture_every=1")
    config = recipes.load("small-bootleg", given)
    one = Pretraining(config, open_images(config.data), loaders=0).run()
    console = Console(record=True)
    run = new_run(recipes.load("small-bootleg", [*given, "scaling.workers=2"]), tmp_path / "two")
    summary = pretrain(run, console, started=0.0)
    two = [json.loads(line) for line in (run.output / "metrics.jsonl").read_text().splitlines()]
    for key in ("loss", "loss/last", "loss/target_01", "loss/target_03", "grad_norm"):
        assert two[1][key] == pytest.approx(one[1][key], rel=1e-4), key
    assert np.mean([two[2][f"loss/target_{layer:02d}"] for layer in (1, 3)]) == pytest.approx(two[2]["loss"])
    assert "linear probe last" in console.export_text()
    client = MlflowClient(summary["mlflow"]["uri"])
    drawn = {file.path for file in client.list_artifacts(summary["mlflow"]["run_id"], "plots")}
    assert {"plots/masks_0002.png", "plots/linear_by_layer.png"} <= drawn
    logged = client.get_metric_history(summary["mlflow"]["run_id"], "loss/target_01")
    assert [metric.step for metric in logged] == [1, 2]
