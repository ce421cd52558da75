"""Runs that are trained in this process, with what a worker and its driver leave of them."""

from pathlib import Path

from orchestrator.runs.folder import Run, absolute_paths
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


def train(folder: Path, *words: str) -> Run:
    """A finished run of two layers and an epoch."""
    config = absolute_paths(recipes.load("small-sd-simclr", [*TINY, "optim.epochs=1", *words]))
    described = Run(config, folder)
    described.write_config()
    run = Pretraining(config, open_images(config.data), loaders=0)
    run.run(Keeps(run, folder))
    return described
