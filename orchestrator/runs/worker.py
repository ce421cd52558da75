"""What one Ray Train worker does: open the images, go on from the newest checkpoint, train, report."""

import multiprocessing
import multiprocessing.forkserver
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.train
import ray.train.collective
import ray.train.torch
import torch
import torch.distributed as dist

from orchestrator.cluster.connect import own_address
from orchestrator.cluster.ray_private import WORKER_MODULE
from orchestrator.index.actors import ShardedIndex
from ssl_core.data.sources import open_images
from ssl_core.files import as_path
from ssl_core.schema.run import RunConfig
from ssl_core.training.checkpoints import CheckpointStore
from ssl_core.training.events import CheckpointDue, EpochEnded, Event, Listener, Stepped, Warned
from ssl_core.training.loop import Pretraining

STEP_INTERVAL = 0.5  # seconds between two messages about steps
# Every loader process has these already; the second is what it runs again because it is a worker's main module.
LOADER_IMPORTS = ["ssl_core.data.loading", WORKER_MODULE]


@ray.remote(num_cpus=0)
class Mailbox:
    """Events of rank 0 for the driver, in order, and the driver's wish to stop.

    Owned by the driver: it goes when the driver goes.
    """

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._stopped = False

    def put(self, event: Event) -> bool:
        """Leave an event; whether to stop."""
        self._events.append(event)
        return self._stopped

    def take(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def stop(self) -> None:
        self._stopped = True


class WorkerListener(Listener):
    """Keeps checkpoints, together with the other ranks', and lets the driver know what rank 0 says.

    Ray Train itself is told nothing: it would let every epoch wait until it has asked all workers.
    """

    def __init__(self, mailbox: Any, store: CheckpointStore, run: Pretraining):
        self.mailbox, self.store, self.run = mailbox, store, run
        self._speaks = ray.train.get_context().get_world_rank() == 0
        self._last_step = 0.0
        self._stop = False

    def on(self, event: Event) -> None:
        if isinstance(event, CheckpointDue):
            self.store.keep_within_epoch(self.run)
        elif isinstance(event, EpochEnded):
            # The checkpoint holds the record: once it is written, a restart neither loses nor repeats the epoch.
            self.store.keep(self.run)
        if self._speaks and self._is_news(event):
            self._tell(event)

    def _is_news(self, event: Event) -> bool:
        """Whether the driver wants to know."""
        if isinstance(event, Stepped):
            now = time.monotonic()  # the clock that people set may go back
            if now - self._last_step < STEP_INTERVAL and event.step != event.steps:
                return False
            self._last_step = now
        return not isinstance(event, CheckpointDue)

    def wants_stop(self) -> bool:
        return self._stop

    def _tell(self, event: Event) -> None:
        """Leave an event with the driver, who may say that it wants no more, or be gone."""
        try:
            self._stop |= ray.get(self.mailbox.put.remote(event))
        except ray.exceptions.RayActorError:
            self._stop = True


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


@contextmanager
def process_group() -> Iterator[torch.device]:
    """The group of all workers, where there are several; this one's device.

    They meet at rank 0, which listens on its node's address alone: on a single machine, that of the loopback.
    """
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world == 1:
        yield device
        return
    with socket.socket() as listening:
        place = None
        if rank == 0:
            listening.bind((own_address(), 0))
            listening.listen()
            place = listening.getsockname()
        host, port = ray.train.collective.broadcast_from_rank_zero(place)
        ours: dict[str, Any] = {"is_master": True, "master_listen_fd": listening.detach()} if rank == 0 else {}
        store = dist.TCPStore(host, port, world, wait_for_workers=False, **ours)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=store, rank=rank, world_size=world)
    yield device
    dist.destroy_process_group()


def train_worker(job: dict[str, Any]) -> None:
    """The function that every Ray Train worker runs.

    Args:
        job: `config` (a resolved configuration as a dict), `output` (the run's folder), `mailbox`, `threads`,
            `shards` (of the neighbour index; none where nothing is searched).
    """
    config = RunConfig.model_validate(job["config"])
    start_loader_server(config, job["threads"])
    torch.set_num_threads(job["threads"])
    with process_group() as device:
        _train(config, job, device)


def _train(config: RunConfig, job: dict[str, Any], device: torch.device) -> None:
    output = as_path(job["output"])
    images = open_images(config.data)
    index = ShardedIndex(job["shards"], len(images.train)) if job["shards"] else None
    store = CheckpointStore(output, config)
    run = Pretraining(config, images, device, index=index, fresh=not store.paths())
    listener = WorkerListener(job["mailbox"], store, run)
    store.restore(run, lambda message: listener.on(Warned(message)))
    run.run(listener)
