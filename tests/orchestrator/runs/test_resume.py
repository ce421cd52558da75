"""Runs that are stopped or killed, and end with the weights of one that was not."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from rich.console import Console

from orchestrator.runs.folder import new_run, resumed_run
from orchestrator.runs.record import pretrain
from ssl_core import recipes
from ssl_core.errors import InputError
from ssl_core.files import sha256
from ssl_core.positives.neighbors import NeighborIndex
from ssl_core.training.checkpoints import CheckpointStore
from tests.conftest import tiny_config
from tests.orchestrator.conftest import TINY, assert_session_ends, listening

EPOCHS = 14  # enough of them that a signal comes in the middle
RECIPE = "small-adasim-sd-mocov3"


def _epochs(output: Path) -> int:
    file = output / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def _shared_memory() -> set[str]:
    """The segments in shared memory; the empty folder that every MLflow server leaves there is none of them."""
    return {entry.name for entry in os.scandir("/dev/shm") if not entry.is_dir()}


def _wait_for_epochs(output: Path, number: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while _epochs(output) < number:
        assert process.poll() is None, "the run ended too early"
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.02)


def _start(*words: str) -> subprocess.Popen:
    """`strata pretrain` on a Ray of its own, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "pretrain", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "RAY_ADDRESS": "local"},
    )


def _interrupt(output: Path, command: list[str], number: signal.Signals) -> str:
    """Start a run on a Ray of its own, end it by a signal, see that nothing of it is left; what it printed."""
    done, shared = _epochs(output), _shared_memory()
    process = _start(*command)
    _wait_for_epochs(output, done + 3, process)
    assert listening(process.pid) <= {"127.0.0.1", "::1"}
    process.send_signal(number)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -number), printed
    assert_session_ends(process.pid)
    assert _shared_memory() <= shared
    assert not (output / "model.safetensors").exists()
    return printed


def test_a_second_interrupt_forces_the_end(folders: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    words = [*TINY, f"data.train={folders / 'train'}", "optim.epochs=5000", "evaluation=[]"]
    process = _start("small-simclr", *words, "--output", str(output))
    _wait_for_epochs(output, 2, process)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert_session_ends(process.pid)


def test_a_run_interrupted_twice_ends_bit_equal(ray_session, folders, tmp_path: Path):
    quiet = Console(quiet=True)
    overrides = [
        *TINY,
        f"data.train={folders / 'train'}",
        f"data.val={folders / 'val'}",
        f"optim.epochs={EPOCHS}",
        "scaling.workers=2",
        "scaling.cpus_per_worker=1",
        "scaling.index_shards=2",
        "positives.picture_every=10",
        "checkpoint.every_steps=2",
    ]
    pretrain(new_run(recipes.load(RECIPE, overrides), tmp_path / "whole"), quiet, started=0.0)

    output = tmp_path / "broken"
    printed = _interrupt(output, [RECIPE, *overrides, "--output", str(output)], signal.SIGINT)
    assert f"strata pretrain --resume {output}" in printed
    _interrupt(output, ["--resume", str(output)], signal.SIGKILL)

    summary = pretrain(resumed_run(output, []), quiet, started=0.0)
    assert (output / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()

    client = MlflowClient(summary["mlflow"]["uri"])
    run = client.get_run(summary["mlflow"]["run_id"])
    assert run.info.status == "FINISHED"
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "loss")]
    assert steps == list(range(1, EPOCHS + 1))
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == list(range(EPOCHS + 1))
    assert any(record.get("positives/bootstrap_ratio") for record in records), "nobody was paired with a neighbour"
    assert (output / "plots" / f"neighbors_{EPOCHS:04d}.png").exists()


@pytest.mark.parametrize("damage", [lambda b: b[:100], lambda b: b[:300] + b"x" + b[301:]], ids=["short", "a byte"])
def test_a_damaged_checkpoint_is_passed_over(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, tiny_config(checkpoint={"keep": 3}))
    for epoch in (1, 2):
        store.save({"epoch": epoch, "step": 0, "history": []})
    newest = store.paths()[-1]
    newest.write_bytes(damage(newest.read_bytes()))
    told: list[str] = []
    found = store.latest(told.append)
    assert store.load(found)["epoch"] == 1
    assert newest.name in told[0]
    assert "checksum" in told[0]
    assert store.latest(told.append) == found
    assert len(told) == 1, "what was damaged is no longer looked at"
    assert newest.with_name(f"{newest.name}.damaged").exists()


def test_a_checkpoint_whose_neighbors_are_damaged_is_passed_over(tmp_path: Path) -> None:
    config = tiny_config(checkpoint={"keep": 2}, positives={"kind": "adasim", "window": 1})
    store = CheckpointStore(tmp_path, config)
    index = NeighborIndex(8, 4, window=1)
    for epoch in (1, 2):
        index.update(np.arange(8), np.random.default_rng(epoch).normal(size=(8, 4)))
        index.end_epoch()
        index.save(store.neighbors)
        store.save({"epoch": epoch, "step": 0, "history": []})
    index.update(np.arange(8), np.random.default_rng(3).normal(size=(8, 4)))
    index.save_steps(store.neighbors, 1)
    store.save({"epoch": 2, "step": 1, "history": []})
    assert [path.stem for path in store.paths()] == ["epoch_0002", "epoch_0002_step_000001"]
    check = ["sha256sum", "--check", "--quiet", "epoch_0002_step_000001.sha256"]
    assert subprocess.run(check, cwd=store.folder, check=False).returncode == 0
    (steps,) = store.neighbors.glob("steps_0002/*")
    steps.unlink()
    told: list[str] = []
    assert store.latest(told.append).stem == "epoch_0002"
    assert f"{steps} is missing" in told[0]


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    store = CheckpointStore(tmp_path, tiny_config())
    path = store.save({"epoch": 1, "step": 0, "history": []})
    torch.save({"epoch": 1, "step": 0, "history": [], "method": Bomb()}, path)
    path.with_suffix(".sha256").write_text(f"{sha256(path)}  {path.name}\n")
    with pytest.raises(InputError, match="refused"):
        store.load(store.latest(print))
    assert not (tmp_path / "exploded").exists()


def test_what_does_not_fit_its_checkpoint_leaves_the_configuration_as_it_was(ray_session, tmp_path: Path) -> None:
    run = new_run(recipes.load("small-simclr", [*TINY, "data.train=bundled:digits", "data.limit=32"]), tmp_path / "run")
    run.write_config()
    CheckpointStore(run.output, run.config).save({"epoch": 1, "step": 0, "history": [], "layout": 0})
    before = run.config_file.read_bytes()
    resumed = resumed_run(run.output, ["tracking.tags.try=second"])
    with pytest.raises(InputError, match="former version"):
        pretrain(resumed, Console(quiet=True), started=0.0)
    assert run.config_file.read_bytes() == before


def test_a_full_disk_leaves_the_last_checkpoint_as_it_was(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, tiny_config())
    good = store.save({"epoch": 1, "step": 0, "history": []})
    # What is written there is lost for want of room, as on a full disk.
    (store.folder / f".{store.path(2).name}.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as raised:
        store.save({"epoch": 2, "step": 0, "history": [], "weights": torch.zeros(10**6)})
    assert raised.value.errno == errno.ENOSPC
    assert store.paths() == [good]
    assert store.latest(print) == good
    assert not list(store.folder.glob(".*"))


def test_the_newest_and_the_best_checkpoints_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, tiny_config(checkpoint={"keep": 2}))
    history: list[dict[str, float]] = []
    for epoch, accuracy in enumerate([0.1, 0.2, 0.9, 0.3, 0.4, 0.5]):
        history.append({"epoch": float(epoch), "knn/last": accuracy})
        if epoch:
            store.save({"epoch": epoch, "step": 0, "history": history})
    assert [path.stem for path in store.paths()] == ["epoch_0002", "epoch_0004", "epoch_0005"]
    assert not list(store.folder.glob("*.partial"))


def test_neighbors_and_caches_stay_as_long_as_a_run_can_go_on_from_them(tmp_path: Path) -> None:
    config = tiny_config(checkpoint={"keep": 2}, positives={"kind": "adasim", "window": 2})
    store = CheckpointStore(tmp_path, config)
    index = NeighborIndex(8, 4, window=2)
    for epoch in range(1, 7):
        index.update(np.arange(8), np.random.default_rng(epoch).normal(size=(8, 4)))
        index.end_epoch()
        index.save(store.neighbors)
        store.save({"epoch": epoch, "step": 0, "history": []})
    for epoch in (5, 6):
        NeighborIndex(8, 4, window=2).load(store.neighbors, epoch)
    kept = sorted(path.name for path in store.neighbors.iterdir())
    assert kept == ["cache_0005", "cache_0006", "epoch_0004.parquet", "epoch_0005.parquet", "epoch_0006.parquet"]
