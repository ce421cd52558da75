"""Ray Train from the driver's side: the workers of a run, its index actors, the messages they send, how they end."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.runs.elastic import Elastic
from orchestrator.runs.failures import Retries, cause_of, explain, wants_room
from orchestrator.runs.folder import Run
from ssl_core.files import remove_tree
from ssl_core.schema.run import RunConfig
from ssl_core.training.events import EpochEnded, Event, Stepped

if TYPE_CHECKING:
    from orchestrator.cluster.room import WorkerShare
    from ssl_core.data.sources.base import Images

RAY_TRAIN = "ray-train"  # in a run's folder, while it runs: Ray Train's own, of which nothing is needed
POLL = 0.2  # seconds between looks into the mailbox
STOP_TIMEOUT = 25.0  # seconds that workers get to write a checkpoint and end; Slurm and Kubernetes kill after 30
# For what we do not use, Ray Train would start processes, and wait for them.
LEAN = {
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon a finished or failed worker is noticed
}


class Training:
    """Ray Train in a thread of its own, so that this one can take the workers' messages; and the index actors."""

    def __init__(
        self,
        run: Run,
        share: "WorkerShare",
        num_images: int,
        index_dim: int,
        warn: Callable[[str], None],
        stop_timeout: float = STOP_TIMEOUT,
    ):
        self.run, self.share, self.num_images, self.index_dim = run, share, num_images, index_dim
        self._warn, self._stop_timeout = warn, stop_timeout
        self._room = Elastic(run.config, share, warn)
        self._retries = Retries(run.config.scaling.max_failures)
        self._start()

    def _start(self) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from orchestrator.index.actors import start_shards
        from orchestrator.runs.worker import Mailbox, train_worker

        self.workers = self._room.choose()
        run, config = self.run, self.run.config.with_workers(self.workers)
        self.error: BaseException | None = None
        self._reached: tuple[int, int] | None = None  # epoch and step that these workers have trained to
        self._moves: str | None = None  # why these workers were asked to stop, for others to go on
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = Mailbox  # as Ray's decorator makes it
        self.mailbox = actor.options(scheduling_strategy=here).remote()
        self.shards = []
        if config.positives.searches:
            folder = run.output / "neighbors"
            self.shards = start_shards(config.positives, config.scaling, self.num_images, self.index_dim, folder)
        job = {
            "config": config.model_dump(mode="json"),
            "output": str(run.output),
            "mailbox": self.mailbox,
            "shards": self.shards,
            "threads": self.share.cpus,
        }
        self._trainer = make_trainer(train_worker, job, self.share, self.workers, run.output / RAY_TRAIN)
        self._thread = threading.Thread(target=self._fit, daemon=True)
        self._thread.start()

    def _fit(self) -> None:
        from orchestrator.cluster.connect import environment

        try:
            with environment(LEAN):
                self._trainer.fit()
        except BaseException as error:
            self.error = error
        remove_tree(self.run.output / RAY_TRAIN)

    def follow(self, take: Callable[[list[Event]], None]) -> None:
        """Hand all events to `take` until training has ended.

        After a lost process or node it goes on from the newest checkpoint; so it does before a node leaves, and with
        more workers, where the configuration allows them and there is new room.

        Raises:
            InputError, WorkFailed: it ended badly.
        """
        try:
            self._follow(take)
        finally:
            self._room.release()

    def _follow(self, take: Callable[[list[Event]], None]) -> None:
        while True:
            self._follow_once(take)
            if self.error is None:
                return
            error = cause_of(self.error)
            if self._moves:
                self._warn(self._moves)
            elif wants_room(self.error):
                self._warn(f"{self.workers} worker(s) did not start; looking for room again")
            elif not self._retries.allow(error, self._reached):
                raise explain(self.error, self.run)
            else:
                what = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
                count = f"failure {self._retries.used} of {self._retries.allowed}"
                self._warn(f"a process was lost ({what}); going on from the newest checkpoint ({count})")
            self._start()

    def _follow_once(self, take: Callable[[list[Event]], None]) -> None:
        import ray

        try:
            while self._thread.is_alive():
                self._thread.join(POLL)
                self._take(take)
            self._take(take)
        except ray.exceptions.RayActorError as error:  # the mailbox; who cannot tell is not waited for
            self.stop()
            self.error = self.error or error
        except BaseException:
            self.stop()
            raise
        for shard in self.shards:
            ray.kill(shard)

    def _take(self, take: Callable[[list[Event]], None]) -> None:
        import ray

        events = ray.get(self.mailbox.take.remote())
        take(events)
        for event in events:
            if isinstance(event, Stepped):
                self._reached = event.epoch, event.step
        ended = any(isinstance(event, EpochEnded) for event in events)
        if not self._moves and (why := self._room.why_move(epoch_ended=ended)):
            self._moves = why
            self.mailbox.stop.remote()  # they keep a checkpoint first

    def stop(self) -> None:
        """End the workers: ask first, and leave them nobody to report to."""
        import ray

        self.mailbox.stop.remote()
        self._thread.join(self._stop_timeout)
        for actor in (self.mailbox, *self.shards):
            ray.kill(actor)
        self._room.release()


def make_trainer(
    work: Callable[[dict[str, Any]], None], job: dict[str, Any], share: "WorkerShare", workers: int, folder: Path
) -> Any:
    """Ray Train for workers that each do `work(job)`; nothing is tried again by Ray.

    Args:
        folder: Ray Train's own while it runs.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    from orchestrator.cluster.connect import ray_storage
    from orchestrator.cluster.ray_private import trainer_class

    never: Any = FailureConfig  # typed as a former one
    resources = {"CPU": share.cpus} | ({"GPU": share.gpus} if share.gpus else {})
    return trainer_class()(
        work,
        train_loop_config=job,
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=share.gpus > 0, resources_per_worker=resources),
        run_config=RunConfig(
            name=folder.name,
            **ray_storage(folder.parent),
            failure_config=never(max_failures=0, controller_failure_limit=0),
        ),
    )


def check_method(
    config: RunConfig, images: "Images", output: Path | None = None, tell: Callable[[str], None] = lambda _: None
) -> int:
    """What needs torch to be known; the width of the features that stand for an image.

    Args:
        output: the run's folder, where it has one: what goes on from a checkpoint there reads no `backbone.weights`.
        tell: hears what becomes of these.

    Raises:
        InputError: something in it cannot work.
    """
    import torch

    from ssl_core import methods
    from ssl_core.networks.weights import check_weights
    from ssl_core.training.checkpoints import CheckpointStore
    from ssl_core.training.checks import check_best, check_images

    check_images(config, images)
    fresh = output is None or not CheckpointStore(output, config).paths()
    if fresh and (fit := check_weights(config.backbone)) is not None:
        tell(f"weights: {fit}")
    with torch.device("meta"):  # shapes only
        method = methods.build(config)
    check_best(config, images, method)
    return method.index_dim
