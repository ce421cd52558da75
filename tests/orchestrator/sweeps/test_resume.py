"""Sweeps that are stopped or killed, and go on."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mlflow import MlflowClient
from rich.console import Console

from orchestrator.sweeps.file import Sweep
from orchestrator.sweeps.plan import make_plan
from orchestrator.sweeps.trials import Trial, read_trials
from orchestrator.sweeps.watch import new_sweep, run_sweep
from orchestrator.tracking.receipt import RUN_FILE, known_run
from tests.orchestrator.conftest import assert_session_ends
from tests.orchestrator.sweeps.small import mlflow_runs, write_sweep

TRIALS, EPOCHS = 4, 8


def _start(*arguments: str) -> subprocess.Popen:
    """A sweep on a Ray of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "sweep", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "RAY_ADDRESS": "local"},
    )


def _wait(process: subprocess.Popen, output: Path, enough: Callable[[list[Trial]], bool]) -> list[Trial]:
    deadline = time.monotonic() + 120
    while not enough(trials := read_trials(output)):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, "the sweep does not get on"
        time.sleep(0.05)
    return trials


def _ended(trials: list[Trial]) -> dict[str, Trial]:
    return {trial.id: trial for trial in trials if trial.ended}


def _forget_last_delivery(trial: Path) -> None:
    """Leave things as if the sweep had been killed between writing down that a trial ended and telling MLflow."""
    known = known_run(trial)
    (trial / RUN_FILE).write_text(json.dumps(known | {"delivered": known["delivered"] - 1}))
    MlflowClient().update_run(known["run_id"], status="RUNNING")


def test_a_sweep_stopped_and_killed_goes_on_to_its_end(folders: Path, tmp_path: Path) -> None:
    file = write_sweep(
        tmp_path,
        folders,
        space={"distill.alpha": {"uniform": [0.0, 1.0]}},
        searcher="optuna",
        trials=TRIALS,
        overrides={"optim.epochs": EPOCHS},
    )
    output = tmp_path / "sweep"

    process = _start(str(file), "--output", str(output))
    _wait(process, output, lambda trials: len(_ended(trials)) >= 1 and any(2 < t.epoch < 7 for t in trials))
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert f"strata sweep --resume {output}" in printed
    assert "Traceback" not in printed
    assert_session_ends(process.pid)
    stopped = read_trials(output)
    assert {trial.status for trial in stopped} == {"FINISHED", "KILLED"}
    parent, children = mlflow_runs(output)
    assert parent.info.status == "KILLED"
    assert {child.info.status for child in children} == {"FINISHED", "KILLED"}

    finished = len(_ended(stopped))
    process = _start("--resume", str(output))
    killed = _wait(
        process,
        output,
        lambda trials: len(_ended(trials)) > finished and any(not t.ended and 2 < t.epoch < 7 for t in trials),
    )
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    assert_session_ends(process.pid)
    _forget_last_delivery(output / "trials" / next(trial.id for trial in stopped if trial.ended))

    process = _start("--resume", str(output))
    printed, _ = process.communicate(timeout=280)
    assert process.returncode == 0, printed
    assert "best: α=" in printed
    trials = read_trials(output)
    assert len(trials) == TRIALS
    assert {trial.status for trial in trials} == {"FINISHED"}
    assert len({trial.settings["distill.alpha"] for trial in trials}) == TRIALS, "the searcher forgot what it proposed"
    for trial in trials:
        assert [record["epoch"] for record in trial.records] == list(range(EPOCHS + 1))
    for before in killed:
        after = next(trial for trial in trials if trial.settings == before.settings)
        kept = before.epoch if before.ended else before.epoch - 1  # its last epoch may not have been in a checkpoint
        assert after.records[: kept + 1] == before.records[: kept + 1], "what was done was done again"

    parent, children = mlflow_runs(output)
    assert parent.info.status == "FINISHED"
    assert [child.info.status for child in children] == ["FINISHED"] * TRIALS
    client = MlflowClient()
    for child in children:
        steps = [metric.step for metric in client.get_metric_history(child.info.run_id, "loss")]
        assert steps == list(range(1, EPOCHS + 1))
    assert json.loads((output / "sweep.json").read_text())["seconds"] > 0


def test_a_sweep_reads_no_pickle_from_its_folder(ray_session: None, folders: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    sweep = Sweep(write_sweep(tmp_path, folders, trials=1, budget={"trials": 1}))
    output = new_sweep(sweep, tmp_path / "sweep")
    (output / "tune").mkdir(parents=True)
    for name in ("tuner.pkl", "trainable.pkl", "searcher-state-x.pkl", "experiment_state-x.json"):
        (output / "tune" / name).write_bytes(pickle.dumps(Bomb()))
    run_sweep(make_plan(sweep), output, Console(quiet=True))
    assert [trial.status for trial in read_trials(output)] == ["FINISHED"]
    assert not (tmp_path / "exploded").exists()


def test_resuming_what_is_no_sweep_is_refused(strata, tmp_path: Path) -> None:
    done = strata("sweep", "--resume", str(tmp_path))
    assert done.returncode == 2
    assert "no sweep's folder" in done.stderr
