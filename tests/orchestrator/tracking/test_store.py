"""Which MLflow store is meant, what its path may look like, and what keeps its credentials to itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.tracking.faults import StoreAway, words_of
from orchestrator.tracking.mlflow import Tracker, check_store
from orchestrator.tracking.receipt import RUN_FILE
from orchestrator.tracking.store import Store, sqlite_file, sqlite_uri
from ssl_core import recipes
from ssl_core.errors import InputError
from ssl_core.schema.scaling import TrackingConfig

BEGINS = """
import sys, time
from pathlib import Path
import mlflow, sqlalchemy
from orchestrator.tracking.mlflow import Tracker
from ssl_core.schema.scaling import TrackingConfig
folder = Path(sys.argv[1])
folder.mkdir()
tracker = Tracker(TrackingConfig(uri=sys.argv[2]), folder, "run", {"a": 1}, {})
print("ready", flush=True)
sys.stdin.readline()
tracker.open()
print("begun", tracker.run_id)
"""


def test_two_processes_may_begin_with_a_store_that_is_not_there(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    begin = [
        subprocess.Popen(
            [sys.executable, "-c", BEGINS, str(tmp_path / name), uri],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    for process in begin:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in begin:
        assert process.stdin is not None
        process.stdin.write("now\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120) for process in begin]
    assert all(out.startswith("begun") for out, _ in said), said


@pytest.mark.parametrize("name", ["my runs #1 100% [old] é", "100%25", "what?", "a?b=c%3F", "a@b:c"])
def test_a_path_of_odd_signs_is_the_path_of_the_store(tmp_path: Path, name: str) -> None:
    file = tmp_path / name / "mlflow.db"
    uri = sqlite_uri(file)
    assert sqlite_file(uri) == file
    from sqlalchemy import make_url

    assert make_url(uri).database == str(file)


def test_a_store_is_made_where_the_odd_path_says(tmp_path: Path) -> None:
    (home := tmp_path / "runs? 100%25 #1").mkdir()
    store = Store.of(TrackingConfig(uri=f"sqlite:///{home}/mlflow.db"))  # no options follow the ?
    assert store.file == home / "mlflow.db"
    (home / "run").mkdir()
    tracker = Tracker(TrackingConfig(uri=store.uri), home / "run", "run", {}, {})
    (home / "run" / "picture.txt").write_text("seen")
    tracker.log_files([(home / "run" / "picture.txt", None)])
    tracker.open()
    assert tracker.delivered
    assert store.file.is_file()
    assert (home / "mlflow-artifacts").is_dir()
    assert list(tmp_path.iterdir()) == [home], "something lies beside it"


@pytest.mark.parametrize("trouble", ["no database", "a folder", "nobody there", "no such kind"])
def test_a_store_that_cannot_be_used_is_refused_before_work_starts(tmp_path: Path, folder: Path, trouble: str) -> None:
    file = tmp_path / "mlflow.db"
    uri = f"sqlite:///{file}"
    if trouble == "no database":
        file.write_text("something else" * 1000)
    elif trouble == "a folder":
        file.mkdir()
    elif trouble == "nobody there":
        uri = "http://joe:hunter2@127.0.0.1:9"
    else:
        uri = "htp://somewhere"
    with pytest.raises(InputError, match=r"tracking\.uri: MLflow at .* does not answer") as refused:
        check_store(TrackingConfig(uri=uri), folder)
    assert "hunter2" not in str(refused.value)
    with pytest.raises(InputError, match=r"tracking\.uri: MLflow at .* does not answer") as refused:
        Tracker(TrackingConfig(uri=uri), folder, "run", {}, {}).open()
    assert "hunter2" not in str(refused.value)


def test_looking_makes_nothing(tmp_path: Path, folder: Path) -> None:
    check_store(TrackingConfig(uri=f"sqlite:///{tmp_path}/new/mlflow.db"), folder)
    assert list(folder.iterdir()) == []
    assert not (tmp_path / "new").exists()


SECRET = "http://joe:hunter2@127.0.0.1:9"


@pytest.mark.parametrize("where", ["tracking.uri", "MLFLOW_TRACKING_URI"])
def test_credentials_are_written_down_nowhere(folder: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    if where == "tracking.uri":
        config = recipes.load("demo", [f"tracking.uri={SECRET}"])
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", SECRET)
        config = recipes.load("demo")
    assert Store.of(config.tracking).connection == SECRET
    tracker = Tracker(config.tracking, folder, "run", recipes.flatten(config), {})
    with pytest.raises(StoreAway) as away:
        tracker.deliver()
    (folder / "config.yaml").write_text(recipes.dump(config))
    tracker._delivery.receipt.write(folder)
    written = "".join(file.read_text() for file in folder.iterdir())
    assert RUN_FILE in os.listdir(folder)
    for text in (written, str(away.value), repr(config), repr(Store.of(config.tracking)), tracker.uri):
        assert "joe" not in text
        assert "hunter2" not in text
    assert "hunter2" not in words_of(ValueError(f"cannot reach {SECRET}/api: no"))


def test_a_resumed_run_gets_its_credentials_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SECRET)
    assert Store.of(TrackingConfig(uri="http://127.0.0.1:9")).connection == SECRET
    assert Store.of(TrackingConfig(uri="http://127.0.0.1:8")).connection == "http://127.0.0.1:8"


@pytest.mark.parametrize("name", ["/any/where", "../../..", "..", ".", "a\\b", "100%2F", "é" * 200, "a name"])
def test_an_experiments_name_is_no_path(sqlite: Store, client: MlflowClient, folder: Path, name: str) -> None:
    config = TrackingConfig(uri=sqlite.uri, experiment=name)
    tracker = Tracker(config, folder, "run", {}, {})
    (folder / "seen.txt").write_text("seen")
    tracker.log_files([(folder / "seen.txt", None)])
    tracker.deliver()
    assert sqlite.file is not None
    (found,) = [path for path in sqlite.file.parent.rglob("seen.txt") if path.parts[-3] == tracker.run_id]
    assert found.relative_to(sqlite.file.parent / "mlflow-artifacts").parts[1] == tracker.run_id
    assert client.get_experiment_by_name(name) is not None
