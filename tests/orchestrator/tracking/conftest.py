"""Stores on SQLite files, which take seconds to make: one of each kind for all tests of a file."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.tracking.store import Store
from ssl_core.schema.scaling import TrackingConfig


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store that is there."""
    file = tmp_path_factory.mktemp("sqlite") / "mlflow.db"
    store = Store.of(TrackingConfig(uri=f"sqlite:///{file}"))
    store.connect()
    return store


@pytest.fixture(scope="module")
def client(sqlite: Store) -> MlflowClient:
    return sqlite.connect()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder."""
    (tmp_path / "run").mkdir()
    return tmp_path / "run"
