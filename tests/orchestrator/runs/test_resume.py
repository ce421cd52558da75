"""Runs that are stopped or killed, and end with the weights of one that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from rich.console import Console

from orchestrator.runs.folder import claimed, new_run, resumed_run
from orchestrator.runs.record import pretrain
from ssl_core import recipes
from ssl_core.errors import InputError
from ssl_core.training.checkpoints import CheckpointStore
from tests.orchestrator.conftest import TINY, assert_session_ends, listening

EPOCHS = 9  # enough of them that a signal comes in the middle
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
    _wait_for_epochs(output, done + 2, process)
    assert listening(process.pid) <= {"127.0.0.1", "::1"}
    process.send_signal(number)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == (-number if number == signal.SIGKILL else 130), printed
    assert "***" not in printed, "Ray's handler of SIGTERM, which prints a trace and kills"
    assert_session_ends(process.pid)
    assert _shared_memory() <= shared
    assert not (output / "model.safetensors").exists()
    return printed


def _of_ray(session_id: int, name: str) -> psutil.Process:
    """A process of the Ray that a session has started."""
    return next(p for p in psutil.process_iter(["name"]) if p.info["name"] == name and os.getsid(p.pid) == session_id)


def _own_folder(session_id: int) -> Path:
    """Where that Ray has its files."""
    words = _of_ray(session_id, "gcs_server").cmdline()
    session = next(word.partition("=")[2] for word in words if word.startswith("--session-dir="))
    return Path(session).parents[1]


def test_a_lost_ray_is_told_and_a_second_interrupt_forces_the_end(folders: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    words = [*TINY, f"data.train={folders / 'train'}", "optim.epochs=5000", "evaluation=[]"]
    process = _start("small-simclr", *words, "--output", str(output))
    _wait_for_epochs(output, 2, process)
    folder = _own_folder(process.pid)
    assert folder.stat().st_mode & 0o777 == 0o700, "others could look into Ray's files"
    with pytest.raises(InputError, match=f"in use by process {process.pid}"), claimed(output, new=False):
        pass
    _of_ray(process.pid, "gcs_server").kill()
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "--resume goes on" in printed
    assert_session_ends(process.pid)
    assert not folder.exists()

    process = _start("--resume", str(output))
    _wait_for_epochs(output, _epochs(output) + 1, process)
    folder = _own_folder(process.pid)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert_session_ends(process.pid)
    assert not folder.exists()
    with claimed(output, new=False):
        pass


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
        "evaluation=[]",
        "positives.picture_every=10",
        "checkpoint.every_steps=2",
    ]
    pretrain(new_run(recipes.load(RECIPE, overrides), tmp_path / "whole"), quiet, started=0.0)

    output = tmp_path / "broken"
    printed = _interrupt(output, [RECIPE, *overrides, "--output", str(output)], signal.SIGTERM)
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


def test_what_does_not_fit_its_checkpoint_leaves_the_configuration_as_it_was(ray_session, tmp_path: Path) -> None:
    run = new_run(recipes.load("small-simclr", [*TINY, "data.train=bundled:digits", "data.limit=32"]), tmp_path / "run")
    run.write_config()
    CheckpointStore(run.output, run.config).save({"epoch": 1, "step": 0, "history": [], "layout": 0})
    before = run.config_file.read_bytes()
    resumed = resumed_run(run.output, ["tracking.tags.try=second"])
    with pytest.raises(InputError, match="former version"):
        pretrain(resumed, Console(quiet=True), started=0.0)
    assert run.config_file.read_bytes() == before
