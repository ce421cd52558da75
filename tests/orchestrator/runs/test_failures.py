"""What ends a run, what it goes on after, and what is said: failure by failure."""

import errno
from pathlib import Path

import pytest
import torch
from ray.exceptions import ActorDiedError, NodeDiedError, RayTaskError, RuntimeEnvSetupError, WorkerCrashedError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerHealthCheckTimeoutError
from torch.distributed import DistBackendError

from orchestrator.errors import WorkFailed
from orchestrator.index.actors import IndexLost
from orchestrator.runs.failures import LOST, Retries, cause_of, explain, is_loss, wants_room
from orchestrator.runs.folder import Run
from ssl_core import recipes
from ssl_core.errors import DataError, InputError, TrainingDiverged

FULL = OSError(errno.ENOSPC, "No space left on device")
ENDS = {
    "the input is wrong": InputError("backbone.name: timm has no model x"),
    "the images are unusable": DataError("100 images in a row cannot be decoded"),
    "the loss is not finite": TrainingDiverged("step 3: loss is not finite"),
    "memory does not suffice": MemoryError(),
    "a GPU's memory does not suffice": torch.OutOfMemoryError("CUDA out of memory"),
    "a disk is full": FULL,
    "a disk fails": OSError(errno.EIO, "Input/output error"),
    "shapes do not fit": RuntimeError(
        "Given groups=1, weight of size [64, 4, 8, 8], expected input to have 4 channels"
    ),
    "a bug": KeyError("momentum"),
    "the environment of Ray cannot be made": RuntimeEnvSetupError("pip install failed"),
}
GOES_ON = {
    "a process or node of Ray's": [ActorDiedError(), WorkerCrashedError(), NodeDiedError("gone")],
    "a worker of Ray Train's": [
        WorkerHealthCheckTimeoutError("no answer"),
        WorkerGroupStartupFailedError("a node died"),
    ],
    "a part of the neighbour index": [IndexLost("an index actor is gone")],
    "the connection to another worker": [
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:3"),
        DistBackendError("NCCL error: remote process exited or there was a network error"),
        TimeoutError("no answer"),
    ],
}


def test_every_kind_of_loss_is_held() -> None:
    assert GOES_ON.keys() == LOST.keys()


@pytest.mark.parametrize("error", ENDS.values(), ids=ENDS)
def test_what_would_go_wrong_again_ends_a_run(error: Exception) -> None:
    assert not is_loss(error)
    assert not Retries(3).allow(error, None)
    assert cause_of(WorkerGroupError("two failed", {0: ActorDiedError(), 1: error})) is error


@pytest.mark.parametrize("kind", GOES_ON)
def test_after_a_loss_a_run_goes_on(kind: str) -> None:
    for error in GOES_ON[kind]:
        assert [other for other, means in LOST.items() if means(error)] == [kind]
        assert Retries(1).allow(error, (1, 2))
        assert cause_of(WorkerGroupError("one failed", {1: error})) is error


def test_a_run_goes_on_so_many_times_and_never_twice_from_one_step() -> None:
    lost, retries = ActorDiedError(), Retries(3)
    assert retries.allow(lost, None)
    assert retries.allow(lost, None), "it had not begun to train, either time"
    assert retries.allow(lost, (1, 5))
    assert not retries.allow(lost, (2, 1)), "three times are up"
    retries = Retries(9)
    assert [retries.allow(lost, at) for at in ((1, 5), (1, 6), (1, 5), (1, 5))] == [True, True, True, False]


def test_what_a_worker_said_counts_more_than_how_another_fell() -> None:
    fell, said = ActorDiedError(), TrainingDiverged("step 3")
    assert cause_of(WorkerGroupError("", {0: fell, 1: said})) is said
    assert cause_of(ControllerError(FULL)) is FULL
    wrapped = RayTaskError("train", "traceback", said)
    assert cause_of(WorkerGroupError("", {0: wrapped})) is said


def test_want_of_room_is_told_from_failure() -> None:
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    assert wants_room(ControllerError(WorkerGroupStartupTimeoutError(2)))
    assert not wants_room(ControllerError(RuntimeError("WorkerGroup")))
    assert not wants_room(WorkerGroupError("", {0: ActorDiedError()}))


def test_what_is_said_names_the_last_checkpoint_and_what_to_do(tmp_path: Path) -> None:
    run = Run(recipes.load("demo"), tmp_path)
    wrong = ENDS["the input is wrong"]
    assert explain(WorkerGroupError("", {0: wrong}), run) is wrong
    failed = explain(WorkerGroupError("", {0: FULL}), run)
    assert isinstance(failed, WorkFailed)
    assert "checkpoint.keep=1" in str(failed)
    assert "there is no checkpoint yet" in str(failed)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "epoch_0002.sha256").touch()
    assert str(tmp_path / "checkpoints" / "epoch_0002.pt") in str(explain(RuntimeError("fell"), run))
