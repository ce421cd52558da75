"""All that touches MLflow: one run for a pretraining, a sweep or a trial; figures, files, tags, status.

What MLflow is to hold is first written to `outbox.jsonl` in the run's folder, with its time; how far it was
delivered stands in `mlflow.json` beside it. So a store that is away, hangs or is restarted delays nobody and loses
nothing: what it missed is delivered when it answers again, when the run is resumed, or by `strata sync`. What is
delivered twice is one and the same point.
"""

import json
import logging
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.about import git_revision, versions
from orchestrator.paths import RUNS
from orchestrator.tracking.courier import Courier, StoreAway
from orchestrator.tracking.outbox import OUTBOX, Outbox
from ssl_core import recipes
from ssl_core.errors import InputError
from ssl_core.files import as_path, local_copy, write_atomically
from ssl_core.schema.run import RunConfig
from ssl_core.schema.scaling import TrackingConfig

RUN_FILE = "mlflow.json"  # in a run's folder: which MLflow run is its own, and what it has got
KEY = "strata.key"  # a tag that no two runs share
MOST_METRICS, MOST_PARAMS = 1000, 100  # that MLflow takes at once
PARAM_LENGTH = 500

# A server that is away must not hold anything up for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")


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
        folder: the run's; what is resumed there is the same MLflow run.
        name, params, tags: of the run, if it is new.
        parent: the folder of the run that this one is part of.
        courier: delivers what is logged; without one, `deliver` does.
    """

    def __init__(
        self,
        config: TrackingConfig,
        folder: Path,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        parent: Path | None = None,
        courier: Courier | None = None,
    ):
        self.folder, self.uri, self._courier = folder, store_uri(config), courier
        self._box = Outbox(folder)
        if not self._box.entries:
            values = {key: str(value)[:PARAM_LENGTH] for key, value in params.items()}
            about = {"name": name, "experiment": config.experiment, "params": values}
            about["tags"] = {**tags, **config.tags, KEY: uuid.uuid4().hex}
            self._box.add("run", about | ({"parent": os.path.relpath(str(parent), str(folder))} if parent else {}))

    @property
    def run_id(self) -> str | None:
        """Of the MLflow run, once there is one."""
        return self._known().get("run_id")

    @property
    def ended(self) -> bool:
        """Whether the run's end has been logged."""
        said = [entry["content"] for entry in self._box.entries if entry["kind"] == "status"]
        return bool(said) and said[-1] != "RUNNING"

    @property
    def delivered(self) -> bool:
        """Whether MLflow has all that was logged."""
        return self._known()["delivered"] == len(self._box.entries)

    def open(self) -> None:
        """Begin the run, or go on with it.

        Raises:
            InputError: the store of a new run cannot be used. One that goes on can wait for it.
        """
        if self.run_id is None:
            try:
                self.deliver()
            except StoreAway as error:
                raise InputError(f"tracking.uri: {error}") from error
        self.begin()

    def begin(self) -> None:
        """The run is under way, again if it had ended."""
        if self.ended:
            self._put("status", "RUNNING")

    def log(self, *records: Mapping[str, float]) -> None:
        """Epochs' figures; the step is the epoch. Epochs that were logged before are skipped."""
        logged = max((entry["step"] for entry in self._box.entries if entry["kind"] == "metrics"), default=-1)
        for record in records:
            if record["epoch"] > logged:
                self._box.add("metrics", dict(record), step=int(record["epoch"]))
        self._wake()

    def log_files(self, files: Iterable[tuple[Path, str | None]]) -> None:
        """Files of the run's folder, each with the artifact folder that it belongs in."""
        for file, where in files:
            self._box.add("file", [str(file.relative_to(self.folder)), where])
        self._wake()

    def summarise(self, figures: Mapping[str, float]) -> None:
        """Figures of the run as a whole, which belong to no epoch."""
        self._put("summary", dict(figures))

    def tag(self, key: str, value: str) -> None:
        self._put("tag", [key, value])

    def finish(self, status: str) -> None:
        """End the run: FINISHED, FAILED or KILLED."""
        self._put("status", status)

    def _put(self, kind: str, content: Any) -> None:
        self._box.add(kind, content)
        self._wake()

    def _wake(self) -> None:
        if self._courier is not None:
            self._courier.wake(self)

    def deliver(self) -> None:
        """Bring MLflow up to date.

        Raises:
            StoreAway: it does not answer; what it has got so far is remembered.
        """
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        quiet()
        known = self._known()
        if (file := sqlite_file(self.uri)) is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
        try:
            client = MlflowClient(tracking_uri=self.uri)
            for entry in self._box.entries[known["delivered"] :]:
                if entry["kind"] == "run":
                    known["run_id"] = self._create(client, entry)
                else:
                    self._send(client, known["run_id"], entry)
                known["delivered"] += 1
                write_atomically(self.folder / RUN_FILE, lambda f: f.write(json.dumps(known).encode()))
        except (MlflowException, OSError) as error:
            raise StoreAway(f"MLflow at {self.uri} does not answer: {str(error)[:200]}") from error

    def _known(self) -> dict[str, Any]:
        """What the store in use has got; a run of another store, or of none, is new to it."""
        known = known_run(self.folder)
        return known if known.get("uri") == self.uri and "delivered" in known else {"uri": self.uri, "delivered": 0}

    def _create(self, client: Any, entry: dict[str, Any]) -> str:
        from mlflow.entities import Param

        about = entry["content"]
        tags = dict(about["tags"])
        if "parent" in about:
            parent = known_run((self.folder / about["parent"]).resolve())
            if parent.get("uri") != self.uri:
                raise StoreAway(f"MLflow at {self.uri} does not have the sweep yet")
            tags["mlflow.parentRunId"] = parent["run_id"]
        experiment = self._experiment(client, about["experiment"])
        found = client.search_runs([experiment], f"tags.`{KEY}` = '{tags[KEY]}'")  # made, and the answer was lost
        run = found[0] if found else client.create_run(experiment, entry["time"], tags, run_name=about["name"])
        given = [Param(key, value) for key, value in about["params"].items()]
        for start in range(0, len(given), MOST_PARAMS):
            client.log_batch(run.info.run_id, params=given[start : start + MOST_PARAMS])
        return run.info.run_id

    def _experiment(self, client: Any, name: str) -> str:
        found = client.get_experiment_by_name(name)
        if found is not None:
            return found.experiment_id
        # A SQLite store would put files wherever the program happens to run: keep them beside the database.
        location = None
        if (file := sqlite_file(self.uri)) is not None:
            location = (file.parent / "mlflow-artifacts" / name).as_uri()
        # Without a kind, MLflow's page opens on its language-model side.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return client.create_experiment(name, artifact_location=location, tags=kind)

    def _send(self, client: Any, run_id: str, entry: dict[str, Any]) -> None:
        from mlflow.entities import Metric

        kind, content, when = entry["kind"], entry["content"], entry["time"]
        if kind in ("metrics", "summary"):
            points = [Metric(key, float(value), when, entry.get("step", 0)) for key, value in content.items()]
            for start in range(0, len(points), MOST_METRICS):
                client.log_batch(run_id, metrics=points[start : start + MOST_METRICS])
        elif kind == "file":
            file, where = self.folder / content[0], content[1]
            if file.exists():
                with local_copy(file) as local:
                    client.log_artifact(run_id, str(local), where)
        elif kind == "tag":
            client.set_tag(run_id, *content)
        elif content == "RUNNING":
            client.update_run(run_id, status="RUNNING")
        else:
            client.set_terminated(run_id, content, end_time=when)


def known_run(folder: Path) -> dict[str, Any]:
    """Which MLflow run the folder's is, in which store, and how much it has got."""
    file = folder / RUN_FILE
    return json.loads(file.read_text()) if file.exists() else {}


def track_run(config: RunConfig, folder: Path, tags: Mapping[str, str] | None = None, **options: Any) -> Tracker:
    """The MLflow run of one pretraining.

    Args:
        folder: the run's.
        tags: more of them.
        options: `name` (default: the run's), `parent` and `courier`, of `Tracker`.
    """
    known = {"seed": str(config.seed), **software_tags(), **(tags or {})}
    options = {"name": config.name, **options}
    return Tracker(config.tracking, folder, params=recipes.flatten(config), tags=known, **options)


def sync(folder: Path) -> Iterator[Tracker]:
    """Deliver what MLflow has not got of the run or sweep in `folder`, and of a sweep's trials; each, once it is done.

    Raises:
        InputError: nothing was ever to be delivered from there.
        StoreAway: the store still does not answer.
    """
    if not (folder / OUTBOX).exists():
        raise InputError(f"RUN: {folder} is no run's or sweep's folder (it has no {OUTBOX})")
    for file in (folder / OUTBOX, *sorted(folder.glob(f"trials/*/{OUTBOX}"))):
        uri = known_run(file.parent).get("uri") or known_run(folder).get("uri")
        tracker = Tracker(TrackingConfig(uri=uri), file.parent, "", {}, {})
        tracker.deliver()
        yield tracker


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
    if folder is None or not as_path(folder).is_dir():
        raise InputError(f"{run_id}: this MLflow run's folder ({folder}) is not on this machine, or it is no sweep")
    return as_path(folder)
