"""Finished runs, trained in this process, with their runs in MLflow."""

from pathlib import Path

import pytest

from orchestrator.runs.folder import Run, absolute_paths
from orchestrator.tracking.mlflow import track_run
from ssl_core import recipes
from ssl_core.data.sources import open_images
from ssl_core.training.checkpoints import CheckpointStore
from ssl_core.training.events import EpochEnded, Event, Listener
from ssl_core.training.history import History
from ssl_core.training.loop import Pretraining
from tests.orchestrator.conftest import TINY


class Keeps(Listener):
    """What a worker of a run and its driver write down."""

    def __init__(self, run: Pretraining, folder: Path):
        self.run, self.store, self.history = run, CheckpointStore(folder, run.config), History(folder)

    def on(self, event: Event) -> None:
        if isinstance(event, EpochEnded):
            self.store.keep(self.run)
            self.history.add(event.record)


def train(folder: Path, *words: str) -> Path:
    """A finished run's folder, with its run in MLflow."""
    own = ["data.train=bundled:digits", "data.limit=128", "optim.epochs=1"]
    config = absolute_paths(recipes.load("small-sd-simclr", [*TINY, *own, *words]))
    Run(config, folder).write_config()
    tracker = track_run(config, folder)
    tracker.open()
    run = Pretraining(config, open_images(config.data), loaders=0)
    run.run(Keeps(run, folder))
    tracker.finish("FINISHED")
    tracker.deliver()
    return folder


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two finished runs of two layers, which differ in their seed."""
    place = tmp_path_factory.mktemp("runs")
    return [train(place / str(seed), f"seed={seed}", f"name=seed-{seed}") for seed in (0, 1)]
