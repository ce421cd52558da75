"""Ray Train from the driver's side: the workers of a run, its index actors, the messages they send, how they end."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from orchestrator.runs import Run, WorkFailed
from ssl_core.config import RunConfig
from ssl_core.errors import DataError, InputError, TrainingDiverged

if TYPE_CHECKING:
    from orchestrator.cluster import WorkerShare
    from ssl_core.data.sources import Images

POLL = 0.2  # seconds between looks into the mailbox
STOP_TIMEOUT = 5.0  # seconds that workers get to end by themselves
MAX_RESTARTS = 3  # times that a run goes on by itself after it lost its neighbour index


class Training:
    """Ray Train in a thread of its own, so that this one can take the workers' messages; and the index actors."""

    def __init__(
        self, run: Run, share: "WorkerShare", num_images: int, index_dim: int, stop_timeout: float = STOP_TIMEOUT
    ):
        self.run, self.share, self.num_images, self.index_dim = run, share, num_images, index_dim
        self._stop_timeout = stop_timeout
        self._restarts = 0
        self._start()

    def _start(self) -> None:
        from ray.train import RunConfig as TrainRunConfig
        from ray.train import ScalingConfig
        from ray.train.torch import TorchTrainer

        from orchestrator.index_actor import start_shards
        from orchestrator.worker import Mailbox, train_worker

        run, config = self.run, self.run.config
        self.error: BaseException | None = None
        self.mailbox = Mailbox.remote()
        self.shards = []
        if config.positives.searches:
            folder = run.output / "neighbors"
            self.shards = start_shards(config.positives, config.scaling, self.num_images, self.index_dim, folder)
        resources = {"CPU": self.share.cpus} | ({"GPU": self.share.gpus} if self.share.gpus else {})
        self._trainer = TorchTrainer(
            train_worker,
            train_loop_config={
                "config": config.model_dump(mode="json"),
                "output": str(run.output),
                "mailbox": self.mailbox,
                "shards": self.shards,
                "threads": self.share.cpus,
            },
            scaling_config=ScalingConfig(
                num_workers=config.scaling.workers, use_gpu=self.share.gpus > 0, resources_per_worker=resources
            ),
            run_config=TrainRunConfig(name="ray-train", storage_path=str(run.output)),
        )
        self._thread = threading.Thread(target=self._fit, daemon=True)
        self._thread.start()

    def _fit(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as error:
            self.error = error

    def follow(self, take: Callable[[list[tuple[str, Any]]], None], warn: Callable[[str], None]) -> None:
        """Hand all messages to `take` until training has ended; start again from the checkpoint if the index is lost.

        Raises:
            InputError, WorkFailed: it ended badly.
        """
        from orchestrator.index_actor import IndexLost

        while True:
            self._follow_once(take)
            if self.error is None:
                return
            error = cause_of(self.error)
            if not isinstance(error, IndexLost) or self._restarts == MAX_RESTARTS:
                raise explain(self.error, self.run)
            warn(f"{error}; going on from the newest checkpoint with a new one")
            self._restarts += 1
            self._start()

    def _follow_once(self, take: Callable[[list[tuple[str, Any]]], None]) -> None:
        import ray

        try:
            while self._thread.is_alive():
                self._thread.join(POLL)
                take(ray.get(self.mailbox.take.remote()))
            take(ray.get(self.mailbox.take.remote()))
        except BaseException:
            self.stop()
            raise
        for shard in self.shards:
            ray.kill(shard)

    def stop(self) -> None:
        """End the workers: ask first, and leave them nobody to report to."""
        import ray

        self.mailbox.stop.remote()
        self._thread.join(self._stop_timeout)
        for actor in (self.mailbox, *self.shards):
            ray.kill(actor)


def cause_of(error: BaseException) -> BaseException:
    """What went wrong in the workers, without Ray's wrapping: what one of them said, rather than how another fell."""
    from orchestrator.index_actor import IndexLost

    failures = list(getattr(error, "worker_failures", {}).values()) or [error]
    causes = [getattr(failure, "cause", None) or failure for failure in failures]
    known = (InputError, DataError, TrainingDiverged, IndexLost)
    return next((cause for cause in causes if isinstance(cause, known)), causes[0])


def explain(error: BaseException, run: Run) -> BaseException:
    """How a run that `error` ended is reported."""
    cause = cause_of(error)
    if isinstance(cause, InputError):
        return cause
    from orchestrator.checkpoints import CheckpointStore

    checkpoints = CheckpointStore(run.output, run.config).paths()
    last = f"the last good checkpoint is {checkpoints[-1]}" if checkpoints else "there is no checkpoint yet"
    failed = WorkFailed(f"{cause}\n{last}")
    failed.__cause__ = cause
    return failed


def check_method(config: RunConfig, images: "Images") -> int:
    """What needs torch to be known; the width of the features that stand for an image."""
    import torch

    from ssl_core import methods
    from ssl_core.loop import check_images

    check_images(config, images)
    with torch.device("meta"):  # shapes only
        return methods.build(config).index_dim
