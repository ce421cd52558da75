"""An evaluation on Ray: workers that share the images and the layers, as ranks of one group."""

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.evaluate.plan import Plan, Wish, make_plan
from orchestrator.runs.failures import cause_of
from ssl_core.errors import InputError
from ssl_core.evaluation.measure import Told, measure
from ssl_core.evaluation.results import Results
from ssl_core.files import as_path, remove_tree

POLL = 0.2  # seconds between looks at what the workers say
RAY_TRAIN = ".ray-train"  # in the folder of results, while workers run


def measure_on_ray(plan: Plan, folder: Path, about: Mapping[str, Any], tell: Told) -> None:
    """Measure a plan with Ray's workers; the results are in `folder`, where rank 0 writes them.

    Raises:
        InputError: the cluster has no room for the workers, or does not see the folder or the images.
        WorkFailed: a worker failed.
    """
    import ray

    from orchestrator.cluster.connect import connected, environment
    from orchestrator.cluster.room import worker_share
    from orchestrator.cluster.seen import check_seen
    from orchestrator.errors import WorkFailed
    from orchestrator.runs.supervise import LEAN, make_trainer

    scaling = plan.config.scaling
    with connected():
        share = worker_share(scaling)
        folder.mkdir(parents=True, exist_ok=True)
        check_seen(folder, plan.config.paths)
        board: Any = ray.remote(num_cpus=0)(Board).remote()
        job = {
            "what": plan.what,
            "wish": plan.wish,
            "folder": str(folder),
            "about": dict(about),
            "board": board,
            "threads": share.cpus,
        }
        trainer = make_trainer(evaluate_worker, job, share, scaling.bounds[1], folder / RAY_TRAIN)
        errors: list[BaseException] = []

        def fit() -> None:
            try:
                with environment(LEAN):
                    trainer.fit()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=fit, daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(POLL)
                for said in ray.get(board.take.remote()):
                    tell(*said)
        finally:
            ray.kill(board)
            thread.join(10.0)
            remove_tree(folder / RAY_TRAIN)
    if errors:
        cause = cause_of(errors[0])
        if isinstance(cause, InputError):
            raise cause
        raise WorkFailed(
            f"{type(cause).__name__}: {cause}\nwhat was measured is kept; the same command goes on"
        ) from cause


class Board:
    """What rank 0 is doing, for the driver."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[str, int, int]] = {}

    def put(self, what: str, done: int, total: int) -> None:
        self._said[what] = (what, done, total)

    def take(self) -> list[tuple[str, int, int]]:
        said, self._said = list(self._said.values()), {}
        return said


def evaluate_worker(job: dict[str, Any]) -> None:
    """The function that every worker runs: it opens the encoder itself, and is one rank of the evaluation."""
    import ray.train
    import torch

    from orchestrator.evaluate.record import context_of
    from orchestrator.runs.worker import process_group, start_loader_server

    wish: Wish = job["wish"]
    torch.set_num_threads(job["threads"])
    plan = make_plan(job["what"], wish)
    start_loader_server(plan.config, job["threads"])
    board, last = job["board"], [0.0]

    def tell(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if ray.train.get_context().get_world_rank() == 0 and (done in (0, total) or now - last[0] > POLL):
            last[0] = now
            board.put.remote(what, done, total)

    with process_group() as device:
        measure(context_of(plan, device, tell), Results(as_path(job["folder"]), job["about"]), tell)
