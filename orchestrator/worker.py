"""What one Ray Train worker does: open the images, go on from the newest checkpoint, train, report."""

import multiprocessing
import multiprocessing.forkserver
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from orchestrator.checkpoints import CheckpointStore
from orchestrator.index_actor import ShardedIndex
from ssl_core.config import RunConfig
from ssl_core.data.sources import open_images
from ssl_core.loop import Pretraining, Record

STEP_INTERVAL = 0.5  # seconds between two messages about steps
# Every loader process has these already; the second is what it runs again because it is a worker's main module.
LOADER_IMPORTS = ["ssl_core.data.loading", "ray._private.workers.default_worker"]


@ray.remote(num_cpus=0)
class Mailbox:
    """Messages from rank 0 to the driver, in order, and the driver's wish to stop.

    Owned by the driver: it goes when the driver goes.
    """

    def __init__(self) -> None:
        self._messages: list[tuple[str, Any]] = []
        self._stopped = False

    def put(self, kind: str, content: Any) -> bool:
        """Leave a message; whether to stop."""
        self._messages.append((kind, content))
        return self._stopped

    def take(self) -> list[tuple[str, Any]]:
        messages, self._messages = self._messages, []
        return messages

    def stop(self) -> None:
        self._stopped = True


class Stopped(RuntimeError):
    """The driver asked the workers to stop, or is gone."""


class WorkerReporter:
    """Tells the driver (rank 0 only) and Ray Train (every rank), and keeps checkpoints (rank 0)."""

    def __init__(self, mailbox: Any, store: CheckpointStore, run: Pretraining):
        self.mailbox, self.store, self.run = mailbox, store, run
        self.rank = ray.train.get_context().get_world_rank()
        self._last_step = 0.0

    def tell(self, kind: str, content: Any) -> None:
        """Leave a message with the driver.

        Raises:
            Stopped: it wants no more. Ray Train then ends the whole group.
        """
        try:
            stopped = ray.get(self.mailbox.put.remote(kind, content))
        except ray.exceptions.RayActorError as error:
            raise Stopped("the driver is gone") from error
        if stopped:
            raise Stopped("the driver asked to stop")

    def on_step(self, epoch: int, step: int, steps: int, images_per_second: float) -> None:
        now = time.time()
        if now - self._last_step < STEP_INTERVAL and step != steps:
            return
        self._last_step = now
        content = {"epoch": epoch, "step": step, "steps": steps, "images_per_second": images_per_second, "time": now}
        self.tell("step", content)

    def on_epoch(self, record: Record, state: Callable[[], dict[str, Any]]) -> None:
        # The checkpoint holds the record: once it is written, a restart neither loses nor repeats the epoch.
        if self.rank == 0:
            self.store.keep(self.run)
            self.tell("epoch", record)
        ray.train.report(record)

    def on_warning(self, message: str) -> None:
        self.tell("warning", message)


def start_loader_server(config: RunConfig, threads: int) -> None:
    """Let loader processes, if the run has any, be forked from a server of their own.

    A fork of this process would inherit Ray's threads' locks and objects without the threads, and now
    and then dies of it.
    """
    if config.data.workers == 0 or (config.data.workers is None and threads == 1):
        return  # starting it takes seconds
    multiprocessing.set_start_method("forkserver", force=True)
    multiprocessing.set_forkserver_preload(LOADER_IMPORTS)
    multiprocessing.forkserver.ensure_running()


def train_worker(job: dict[str, Any]) -> None:
    """The function that every Ray Train worker runs.

    Args:
        job: `config` (a resolved configuration as a dict), `output` (the run's folder), `mailbox`, `threads`,
            `shards` (of the neighbour index; none where nothing is searched).
    """
    config = RunConfig.model_validate(job["config"])
    start_loader_server(config, job["threads"])
    torch.set_num_threads(job["threads"])
    output = Path(job["output"])
    images = open_images(config.data)
    device = ray.train.torch.get_device()
    index = ShardedIndex(job["shards"], len(images.train)) if job["shards"] else None
    run = Pretraining(config, images, device, index=index)
    store = CheckpointStore(output, config)
    reporter = WorkerReporter(job["mailbox"], store, run)
    state = store.load_latest(reporter.on_warning if reporter.rank == 0 else lambda _: None)
    if state is not None:
        run.load_state_dict(state)
        run.positives.load(store.neighbors, run.epoch)
    if reporter.rank == 0:
        trained = sum(p.numel() for p in run.method.parameters() if p.requires_grad)
        encoder = sum(p.numel() for p in run.method.encoder.parameters())
        name = (
            torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({torch.get_num_threads()} threads)"
        )
        about = {"device": name, "loaders": run.loaders, "trained": trained, "encoder": encoder}
        reporter.tell("start", {"history": run.history, "steps": run.steps_per_epoch, **about})
    run.run(reporter)
