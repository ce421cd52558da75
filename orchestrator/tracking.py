"""All that touches MLflow: one run for a pretraining, figures batched by epoch, files, status.

Figures go to `metrics.jsonl` first, elsewhere; a server that does not answer costs a warning, and
what it missed is delivered with the next epoch or at the end.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.runs import RUNS, Run, git_revision, versions
from ssl_core import recipes
from ssl_core.config import TrackingConfig
from ssl_core.errors import InputError
from ssl_core.files import write_atomically

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


def quiet() -> None:
    """Creating a store is no news."""
    for module in ("mlflow", "alembic"):
        logging.getLogger(module).setLevel(logging.WARNING)


class Tracker:
    """One MLflow run.

    Args:
        config: names the store and the experiment.
        folder: remembers the MLflow run, so that what is resumed is the same one.
        name, params, tags: of the run, if it is new.
        warn: told when the store does not answer.
        parent: the MLflow run that this one is part of.

    Raises:
        InputError: the store cannot be reached at all.
    """

    def __init__(
        self,
        config: TrackingConfig,
        folder: Path,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        warn: Callable[[str], None],
        parent: str | None = None,
    ):
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        quiet()
        self._failure = MlflowException
        self._warn, self._pending, self._warned = warn, [], False
        self.uri = store_uri(config)
        if (file := sqlite_file(self.uri)) is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
        tags = {**tags, **config.tags, **({"mlflow.parentRunId": parent} if parent else {})}
        try:
            self._client = MlflowClient(tracking_uri=self.uri)
            self.run_id, self._logged = self._open(config.experiment, folder / RUN_FILE, name, params, tags)
        except (MlflowException, OSError) as error:
            raise InputError(f"tracking.uri: MLflow cannot use {self.uri}: {error}") from error

    def _open(
        self, experiment: str, file: Path, name: str, params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> tuple[str, float]:
        """The run's id, and the last epoch that it already has."""
        from mlflow.entities import Param

        client = self._client
        if file.exists() and (known := json.loads(file.read_text()))["uri"] == self.uri:
            run = client.get_run(known["run_id"])
            client.update_run(run.info.run_id, status="RUNNING")
            epochs = client.get_metric_history(run.info.run_id, "epoch")
            return run.info.run_id, max((metric.step for metric in epochs), default=-1)
        run = client.create_run(self._experiment(experiment), run_name=name, tags=dict(tags))
        given = [Param(key, str(value)[:PARAM_LENGTH]) for key, value in params.items()]
        for start in range(0, len(given), 100):
            client.log_batch(run.info.run_id, params=given[start : start + 100])
        write_atomically(file, lambda f: f.write(json.dumps({"uri": self.uri, "run_id": run.info.run_id}).encode()))
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

    def log(self, *records: Mapping[str, float]) -> None:
        """Epochs' figures, in one call; the step is the epoch. Epochs that the run already has are skipped."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        for record in records:
            step = int(record["epoch"])
            if step > self._logged:
                self._logged = step
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

    def summarise(self, figures: Mapping[str, float]) -> None:
        """Figures of the run as a whole, which belong to no epoch."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._pending.extend(Metric(key, float(value), now, 0) for key, value in figures.items())
        self._deliver()

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


def track_run(run: Run, warn: Callable[[str], None], tags: Mapping[str, str] | None = None, **options: Any) -> Tracker:
    """The MLflow run of one pretraining.

    Args:
        tags: more of them.
        options: `name` (default: the run's) and `parent`, of `Tracker`.

    Raises:
        InputError: as `Tracker`.
    """
    config = run.config
    known = {"seed": str(config.seed), **software_tags(), **(tags or {})}
    options = {"name": config.name, **options}
    return Tracker(config.tracking, run.output, params=recipes.flatten(config), tags=known, warn=warn, **options)


def software_tags() -> dict[str, str]:
    """What ran it, for whoever wants to reproduce a figure."""
    return {"git_revision": git_revision(), **{f"version.{name}": number for name, number in versions().items()}}


def folder_of(run_id: str) -> Path:
    """The folder of a sweep, by its MLflow run.

    Raises:
        InputError: there is no such run in the store in use, or its folder is not on this machine.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    uri = store_uri()
    if (file := sqlite_file(uri)) is not None and not file.exists():
        raise InputError(f"{run_id}: no folder, and there is no MLflow store at {uri}")
    quiet()
    try:
        run = MlflowClient(tracking_uri=uri).get_run(run_id)
    except MlflowException as error:
        raise InputError(f"{run_id}: no folder, and no run in the MLflow store {uri}") from error
    folder = run.data.tags.get("folder")
    if folder is None or not Path(folder).is_dir():
        raise InputError(f"{run_id}: this MLflow run's folder ({folder}) is not on this machine, or it is no sweep")
    return Path(folder)
