"""What a failure of the workers means: whether a run goes on by itself, and what is said where it does not."""

import errno
import re
from collections.abc import Callable

from orchestrator.errors import WorkFailed
from orchestrator.runs.folder import Run
from ssl_core.errors import DataError, InputError, TrainingDiverged


def _of_ray(error: BaseException) -> bool:
    """Ray's own word for a process, node or object that went; not what it passes on, nor what it refuses."""
    from ray import exceptions as ray

    refused = (ray.RayTaskError, ray.RuntimeEnvSetupError, ray.AuthenticationError, ray.CrossLanguageError)
    return isinstance(error, ray.RayError) and not isinstance(error, refused)


def _of_ray_train(error: BaseException) -> bool:
    """What Ray Train says of workers that do not answer, or did not come up."""
    return type(error).__module__.startswith("ray.train")


def _index_lost(error: BaseException) -> bool:
    from orchestrator.index.actors import IndexLost

    return isinstance(error, IndexLost)


def _cut_off(error: BaseException) -> bool:
    """How a worker falls when another one went: its connections break. gloo has words for it, and no class."""
    from torch.distributed import DistError

    said = isinstance(error, RuntimeError) and BACKEND.search(str(error)) and BROKEN.search(str(error))
    return bool(said) or isinstance(error, (DistError, ConnectionError, TimeoutError))


BACKEND = re.compile("gloo|nccl|TCPStore", re.IGNORECASE)
BROKEN = re.compile(
    "connection|broken pipe|reset by peer|timed ?out|timeout|socket|remote process exited", re.IGNORECASE
)
LOST: dict[str, Callable[[BaseException], bool]] = {
    "a process or node of Ray's": _of_ray,
    "a worker of Ray Train's": _of_ray_train,
    "a part of the neighbour index": _index_lost,
    "the connection to another worker": _cut_off,
}
"""What a run goes on after. Anything else would go wrong again, and ends it."""


def is_loss(error: BaseException) -> bool:
    """Whether a process or node was lost, rather than something done wrong."""
    return any(means(error) for means in LOST.values())


class Retries:
    """Whether a run that failed starts once more: after losses alone, so many times, and never twice at one step."""

    def __init__(self, allowed: int):
        self.allowed, self.used = allowed, 0
        self._before: tuple[str, object] | None = None

    def allow(self, error: BaseException, reached: object) -> bool:
        """Count a failure.

        Args:
            reached: epoch and step that this start has trained to; None if it had not begun to.
        """
        now = (type(error).__name__, reached)
        again = reached is not None and now == self._before
        self._before = now
        if self.used == self.allowed or again or not is_loss(error):
            return False
        self.used += 1
        return True


def disk_is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _out_of_memory(error: BaseException) -> bool:
    import torch

    return isinstance(error, (MemoryError, torch.OutOfMemoryError))


def wants_room(error: BaseException) -> bool:
    """Whether workers did not start for want of room."""
    return "WorkerGroupStartupTimeout" in type(getattr(error, "controller_failure", error)).__name__


def cause_of(error: BaseException) -> BaseException:
    """What went wrong in the workers, without Ray's wrapping: what one of them said, rather than how another fell."""
    failures = list(getattr(error, "worker_failures", {}).values()) or [getattr(error, "controller_failure", error)]
    causes = [_unwrapped(failure) for failure in failures]
    said = (cause for cause in causes if not is_loss(cause))
    fell = (cause for cause in causes if _index_lost(cause))
    return next(said, None) or next(fell, causes[0])


def explain(error: BaseException, run: Run) -> BaseException:
    """How a run that `error` ended is reported."""
    cause = cause_of(error)
    if isinstance(cause, InputError):
        return cause
    from ssl_core.training.checkpoints import CheckpointStore

    checkpoints = CheckpointStore(run.output, run.config).paths()
    last = f"the last good checkpoint is {checkpoints[-1]}" if checkpoints else "there is no checkpoint yet"
    said = str(cause) if isinstance(cause, (DataError, TrainingDiverged)) else f"{type(cause).__name__}: {cause}"
    if disk_is_full(cause):
        said += ": no room for a checkpoint; free some, or set checkpoint.keep=1, then go on with --resume"
    elif _out_of_memory(cause):
        said += "; begin anew with optim.accumulate=2, which needs half of it, or --resume with more scaling.workers"
    failed = WorkFailed(f"{said}\n{last}")
    failed.__cause__ = error
    return failed


def _unwrapped(failure: BaseException) -> BaseException:
    for name in ("health_check_failure", "cause"):
        failure = getattr(failure, name, None) or failure
    return failure
