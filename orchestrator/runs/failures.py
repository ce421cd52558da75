"""What a failure of the workers means: whether a run goes on by itself, and what is said where it does not."""

import errno
from collections.abc import Callable

from orchestrator.errors import WorkFailed
from orchestrator.runs.folder import Run
from ssl_core.errors import DataError, InputError, TrainingDiverged


def _is(*kinds: type[BaseException]) -> Callable[[BaseException], bool]:
    return lambda error: isinstance(error, kinds)


def disk_is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _out_of_gpu_memory(error: BaseException) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError)


FINAL: dict[str, Callable[[BaseException], bool]] = {
    "the input is wrong": _is(InputError),
    "the images are unusable": _is(DataError),
    "the loss is not finite": _is(TrainingDiverged),
    "memory does not suffice": _is(MemoryError),
    "a GPU's memory does not suffice": _out_of_gpu_memory,
    "a disk is full": disk_is_full,
}
"""What would go wrong again. Anything else is taken for the loss of a process or a node, after which a run goes on."""


def may_pass(error: BaseException) -> bool:
    """Whether the same may go well at another time."""
    return not any(means(error) for means in FINAL.values())


def wants_room(error: BaseException) -> bool:
    """Whether workers did not start for want of room."""
    return "WorkerGroupStartupTimeout" in type(getattr(error, "controller_failure", error)).__name__


def cause_of(error: BaseException) -> BaseException:
    """What went wrong in the workers, without Ray's wrapping: what one of them said, rather than how another fell."""
    from orchestrator.index.actors import IndexLost

    failures = list(getattr(error, "worker_failures", {}).values()) or [getattr(error, "controller_failure", error)]
    causes = [_unwrapped(failure) for failure in failures]
    telling = _is(InputError, DataError, TrainingDiverged, IndexLost)
    return next((cause for cause in causes if telling(cause) or disk_is_full(cause)), causes[0])


def explain(error: BaseException, run: Run) -> BaseException:
    """How a run that `error` ended is reported."""
    cause = cause_of(error)
    if isinstance(cause, InputError):
        return cause
    from ssl_core.training.checkpoints import CheckpointStore

    checkpoints = CheckpointStore(run.output, run.config).paths()
    last = f"the last good checkpoint is {checkpoints[-1]}" if checkpoints else "there is no checkpoint yet"
    said = str(cause)
    if disk_is_full(cause):
        said += ": no room for a checkpoint; free some, or set checkpoint.keep=1, then go on with --resume"
    failed = WorkFailed(f"{said}\n{last}")
    failed.__cause__ = error
    return failed


def _unwrapped(failure: BaseException) -> BaseException:
    for name in ("health_check_failure", "cause"):
        failure = getattr(failure, name, None) or failure
    return failure
