"""What ends a run, what it goes on after, and what is said: failure by failure."""

import errno
from pathlib import Path

import pytest
import torch
from ray.exceptions import ActorDiedError, RayTaskError, WorkerCrashedError
from ray.train import ControllerError, WorkerGroupError

from orchestrator.errors import WorkFailed
from orchestrator.index.actors import IndexLost
from orchestrator.runs.failures import FINAL, cause_of, explain, may_pass, wants_room
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
}
GOES_ON = [
    ActorDiedError(),
    WorkerCrashedError(),
    IndexLost("an index actor is gone"),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    RuntimeError("[gloo] Connection closed by peer"),
    OSError(errno.EIO, "Input/output error"),
]


def test_every_meaning_is_held() -> None:
    assert ENDS.keys() == FINAL.keys()


@pytest.mark.parametrize("meaning", ENDS)
def test_what_would_go_wrong_again_ends_a_run(meaning: str) -> None:
    assert FINAL[meaning](ENDS[meaning])
    assert [other for other, means in FINAL.items() if means(ENDS[meaning])] == [meaning]
    assert not may_pass(ENDS[meaning])
    assert not may_pass(cause_of(WorkerGroupError("two failed", {0: ActorDiedError(), 1: ENDS[meaning]}))) or (
        meaning in ("memory does not suffice", "a GPU's memory does not suffice")  # the first failure counts there
    )


@pytest.mark.parametrize("error", GOES_ON, ids=lambda error: type(error).__name__)
def test_after_a_lost_process_a_run_goes_on(error: Exception) -> None:
    assert may_pass(error)
    assert cause_of(WorkerGroupError("one failed", {1: error})) is error


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
