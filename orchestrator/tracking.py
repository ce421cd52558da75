"""All that touches MLflow: one run for a pretraining, figures batched by epoch, files, status.

Figures go to `metrics.jsonl` first, elsewhere; a server that does not answer costs a warning, and
what it missed is delivered with the next epoch or at the end.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from ssl_core import recipes
from ssl_core.config import RunConfig, TrackingConfig
from ssl_core.errors import InputError

RUNS = Path("strata-runs")
RUN_FILE = "mlflow.json"  # in a run's folder: which MLflow run is its own
BATCH = 1000  # metrics that MLflow takes at once
PARAM_LENGTH = 500

# A server that is away must not hold anything up for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")


def store_uri(config: TrackingConfig | None = None) -> str:
    """The MLflow store in use: `tracking.uri`, MLFLOW_TRACKING_URI, or SQLite in strata-runs/."""
    if config is not None and config.uri:
        return config.uri
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(RUNS / 'mlflow.db').absolute()}"


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite store; None for a server."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


class Tracker:
    """One MLflow run.

    Args:
        config: names the store, the experiment, the run and its tags.
        output: the run's folder; remembers the MLflow run, so that a resumed training is the same one.
        warn: told when the store does not answer.

    Raises:
        InputError: the store cannot be reached at all.
    """

    def __init__(self, config: RunConfig, output: Path, tags: dict[str, str], warn: Callable[[str], None]):
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        for name in ("mlflow", "alembic"):  # creating a store is no news
            logging.getLogger(name).setLevel(logging.WARNING)
        self._failure = MlflowException
        self._warn, self._pending, self._warned = warn, [], False
        self.uri = store_uri(config.tracking)
        if (file := sqlite_file(self.uri)) is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._client = MlflowClient(tracking_uri=self.uri)
            self.run_id, self._logged = self._open(config, output / RUN_FILE, tags)
        except (MlflowException, OSError) as error:
            raise InputError(f"tracking.uri: MLflow cannot use {self.uri}: {error}") from error

    def _open(self, config: RunConfig, file: Path, tags: dict[str, str]) -> tuple[str, float]:
        """The run's id, and the last epoch that it already has."""
        client = self._client
        if file.exists() and (known := json.loads(file.read_text()))["uri"] == self.uri:
            run = client.get_run(known["run_id"])
            client.update_run(run.info.run_id, status="RUNNING")
            epochs = client.get_metric_history(run.info.run_id, "epoch")
            return run.info.run_id, max((metric.step for metric in epochs), default=-1)
        run = client.create_run(
            self._experiment(config.tracking.experiment),
            run_name=config.name,
            tags={**tags, **config.tracking.tags, "seed": str(config.seed)},
        )
        from mlflow.entities import Param

        params = [Param(key, str(value)[:PARAM_LENGTH]) for key, value in recipes.flatten(config).items()]
        for start in range(0, len(params), 100):
            client.log_batch(run.info.run_id, params=params[start : start + 100])
        file.write_text(json.dumps({"uri": self.uri, "run_id": run.info.run_id}))
        return run.info.run_id, -1

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return found.experiment_id
        # A SQLite store would put files wherever the program happens to run: keep them beside the database.
        location = None
        if (file := sqlite_file(self.uri)) is not None:
            location = (file.parent / "mlflow-artifacts" / name).as_uri()
        # Without a kind, MLflow's page opens on its language-model side.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return self._client.create_experiment(name, artifact_location=location, tags=kind)

    def log(self, record: dict[str, float]) -> None:
        """One epoch's figures, in one call; the step is the epoch. Epochs that the run already has are skipped."""
        from mlflow.entities import Metric

        step = int(record["epoch"])
        if step <= self._logged:
            return
        self._logged = step
        now = int(time.time() * 1000)
        self._pending.extend(Metric(key, float(value), now, step) for key, value in record.items())
        self._deliver()

    def _deliver(self) -> bool:
        try:
            while self._pending:
                self._client.log_batch(self.run_id, metrics=self._pending[:BATCH])
                del self._pending[:BATCH]
        except (self._failure, OSError) as error:
            if not self._warned:
                self._warn(f"MLflow at {self.uri} does not answer ({str(error)[:120]}); will deliver later")
            self._warned = True
            return False
        return True

    def log_files(self, files: Iterable[tuple[Path, str | None]]) -> None:
        """Files, each with the artifact folder that it belongs in."""
        try:
            for file, folder in files:
                self._client.log_artifact(self.run_id, str(file), folder)
        except (self._failure, OSError) as error:
            self._warn(f"MLflow did not take {file.name}: {str(error)[:120]}")

    def tag(self, key: str, value: str) -> None:
        try:
            self._client.set_tag(self.run_id, key, value)
        except (self._failure, OSError) as error:
            self._warn(f"MLflow did not take the tag {key}: {str(error)[:120]}")

    def finish(self, status: str) -> None:
        """End the run: FINISHED, FAILED or KILLED."""
        delivered = self._deliver()
        try:
            self._client.set_terminated(self.run_id, status)
        except (self._failure, OSError) as error:
            delivered = False
            self._warn(f"MLflow did not take the run's end: {str(error)[:120]}")
        if not delivered:
            self._warn(f"MLflow misses figures of this run; all of them are in metrics.jsonl (run {self.run_id})")
