"""What a job on a cluster is given, and what its dashboard then shows."""

from pathlib import Path

import pytest

from orchestrator.cluster.submit import job_of


def test_a_job_holds_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://joe:hunter2@mlflow.example/base")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    job = job_of(["pretrain", "demo", "tracking.uri=http://joe:hunter2@mlflow:5000", "name=a b"], Path("here"))
    assert "hunter2" not in str(job)
    assert job["entrypoint"] == "strata pretrain demo tracking.uri=http://mlflow:5000 'name=a b'"
    assert job["runtime_env"]["env_vars"]["MLFLOW_TRACKING_URI"] == "https://mlflow.example/base"
