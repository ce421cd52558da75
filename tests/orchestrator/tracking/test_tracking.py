"""An MLflow server that is killed, hangs or comes back: nothing waits for it, and nothing is lost or doubled."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from rich.console import Console

from orchestrator.runs.folder import new_run
from orchestrator.runs.record import pretrain
from orchestrator.tracking import mlflow as tracking
from orchestrator.tracking.courier import Courier
from orchestrator.tracking.faults import StoreAway
from orchestrator.tracking.mlflow import Tracker
from orchestrator.tracking.outbox import OUTBOX
from orchestrator.tracking.receipt import RUN_FILE
from ssl_core import recipes
from ssl_core.schema.scaling import TrackingConfig
from tests.orchestrator.conftest import TINY
from tests.orchestrator.tracking.mlflow_server import MlflowServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(f"sqlite:///{tmp_path_factory.mktemp('server') / 'mlflow.db'}")
    server.start()
    yield server
    server.kill()


def _tracker(folder: Path, server: MlflowServer, courier: Courier | None = None) -> Tracker:
    config = TrackingConfig(uri=server.address, experiment="tests", tags={"team": "red"})
    return Tracker(config, folder, "run", {"optim.lr": 1e-3}, {"seed": "0"}, courier=courier)


def _steps(tracker: Tracker, server: MlflowServer) -> list[int]:
    history = MlflowClient(server.address).get_metric_history(tracker.run_id, "loss")
    return [metric.step for metric in history]


def _wait_until_delivered(tracker: Tracker) -> None:
    deadline = time.monotonic() + 30
    while not tracker.delivered:
        assert time.monotonic() < deadline, "nothing is delivered"
        time.sleep(0.05)


@pytest.mark.parametrize("trouble", ["killed", "hangs"])
def test_a_store_that_was_away_gets_everything_once(
    trouble: str, server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    courier = Courier(told.append)
    tracker = _tracker(tmp_path, server, courier)
    tracker.log(*({"epoch": epoch, "loss": 1 / (1 + epoch)} for epoch in range(3)))
    _wait_until_delivered(tracker)
    assert _steps(tracker, server) == [0, 1, 2]

    if trouble == "killed":
        server.kill()
    else:
        server.signal(signal.SIGSTOP)
    # A request to a server that hangs is given up sooner than by default; one that is back is busy at first.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "picture.txt").write_text("seen")
    for epoch in range(3, 6):
        began = time.perf_counter()
        tracker.log({"epoch": epoch, "loss": 1 / (1 + epoch)})
        tracker.tag("epochs", str(epoch))
        assert time.perf_counter() - began < 1, "training would have waited"
    tracker.log_files([(tmp_path / "picture.txt", "plots")])
    tracker.finish("FINISHED")
    courier.close(tmp_path, stopped=True)
    *before, last = told
    assert len(before) <= 1, "it is said once"
    assert all("does not answer" in message for message in before)
    assert f"strata sync {tmp_path}" in last
    with pytest.raises(StoreAway):
        list(tracking.sync(tmp_path))
    monkeypatch.undo()

    if trouble == "killed":
        server.start()
    else:
        server.signal(signal.SIGCONT)
    (synced,) = tracking.sync(tmp_path)
    assert synced.delivered
    assert _steps(synced, server) == list(range(6))
    client = MlflowClient(server.address)
    run = client.get_run(synced.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["epochs"] == "5"
    assert run.data.tags["team"] == "red"
    assert run.data.params == {"optim.lr": "0.001"}
    assert [file.path for file in client.list_artifacts(run.info.run_id, "plots")] == ["plots/picture.txt"]


def test_what_is_delivered_again_is_the_same(server: MlflowServer, tmp_path: Path) -> None:
    """As after a kill between a delivery and its note."""
    tracker = _tracker(tmp_path, server)
    tracker.log(*({"epoch": epoch, "loss": 1.0} for epoch in range(4)))
    tracker.finish("FINISHED")
    tracker.deliver()
    first = tracker.run_id
    (tmp_path / RUN_FILE).unlink()
    again = _tracker(tmp_path, server)
    again.deliver()
    assert again.run_id == first
    assert _steps(again, server) == [0, 1, 2, 3]


def test_a_resumed_run_is_the_same_run(server: MlflowServer, tmp_path: Path) -> None:
    tracker = _tracker(tmp_path, server)
    tracker.log(*({"epoch": epoch, "loss": 1.0} for epoch in range(3)))
    tracker.finish("KILLED")
    tracker.deliver()
    with open(tmp_path / OUTBOX, "a") as file:
        file.write('{"kind": "metr')  # what a kill has cut short
    resumed = _tracker(tmp_path, server)
    resumed.begin()
    resumed.log(*({"epoch": epoch, "loss": 1.0} for epoch in range(5)))
    resumed.deliver()
    assert resumed.run_id == tracker.run_id
    assert MlflowClient(server.address).get_run(resumed.run_id).info.status == "RUNNING"
    assert _steps(resumed, server) == list(range(5))


def test_a_run_ends_without_its_server(
    ray_session: None, server: MlflowServer, folders: Path, tmp_path: Path, strata
) -> None:
    class Kills(Console):
        def print(self, *objects, **options):
            super().print(*objects, **options)
            if any(str(item).startswith("training on") for item in objects):
                server.kill()

    console = Kills(record=True, width=120, force_terminal=False)
    overrides = [*TINY, f"data.train={folders / 'train'}", f"tracking.uri={server.address}"]
    run = new_run(recipes.load("small-simclr", overrides), tmp_path / "run")
    summary = pretrain(run, console, started=0.0)
    printed = console.export_text()
    assert summary["status"] == "FINISHED"
    assert "strata sync" in printed
    epochs = [json.loads(line)["epoch"] for line in (run.output / "metrics.jsonl").read_text().splitlines()]
    assert epochs == [0, 1, 2]

    server.start()
    done = strata("sync", str(run.output))
    assert done.returncode == 0, done.stderr
    found = MlflowClient(server.address).get_run(summary["mlflow"]["run_id"])
    assert found.info.status == "FINISHED"
    steps = MlflowClient(server.address).get_metric_history(found.info.run_id, "epoch")
    assert [metric.step for metric in steps] == [0, 1, 2]
    files = {file.path for file in MlflowClient(server.address).list_artifacts(found.info.run_id)}
    assert {"config.yaml", "summary.json", "model.safetensors", "plots"} <= files


def test_what_was_never_a_run_is_refused(strata, tmp_path: Path) -> None:
    done = strata("sync", str(tmp_path))
    assert done.returncode == 2
    assert "no run's or sweep's folder" in done.stderr
