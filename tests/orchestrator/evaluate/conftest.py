"""Finished runs, with their runs in MLflow."""

from pathlib import Path

import pytest

from orchestrator.tracking.mlflow import track_run
from tests.orchestrator.trained import train


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two finished runs of two layers, which differ in their seed."""
    place = tmp_path_factory.mktemp("runs")
    made = []
    for seed in (0, 1):
        words = ["data.train=bundled:digits", "data.limit=128", f"seed={seed}", f"name=seed-{seed}"]
        run = train(place / str(seed), *words)
        tracker = track_run(run.config, run.output)
        tracker.open()
        tracker.finish("FINISHED")
        tracker.deliver()
        made.append(run.output)
    return made
