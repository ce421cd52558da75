"""An MLflow run: made, written to, looked at, put away. What MLflow's client raises comes out in Strata's terms."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from orchestrator.tracking.faults import Refused, StoreAway, Undelivered, is_refusal, words_of
from orchestrator.tracking.store import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY = "strata.key"  # a tag that no two runs share
REPLACED_BY = "strata.replaced_by"  # a tag of a run whose figures no longer count
KIND = ("mlflow.experimentKind", "custom_model_development")  # without it MLflow's page opens on language models
MOST_METRICS, MOST_PARAMS = 1000, 100  # that MLflow takes at once
LONGEST_NAME = 200  # bytes of a folder's name


class RunGone(Undelivered):
    """The store does not know the MLflow run any more."""


@dataclass(frozen=True)
class Target:
    """One MLflow run in a store."""

    store: Store
    client: "MlflowClient"
    run_id: str

    @staticmethod
    def make(
        store: Store, client: "MlflowClient", about: Mapping[str, Any], tags: Mapping[str, str], when: int
    ) -> "Target":
        """The MLflow run with these tags, of which `KEY` is its own: a new one, if it was not made before.

        Args:
            about: its `name` and `experiment`.
            when: it began, in milliseconds since 1970.

        Raises:
            StoreAway, Refused.
            Undelivered: the experiment was deleted.
        """
        with _in_our_terms(store):
            experiment = _experiment(client, store, about["experiment"])
            found = client.search_runs([experiment], f"tags.`{KEY}` = '{tags[KEY]}'")  # made, and the answer was lost
            run = found[0] if found else client.create_run(experiment, when, dict(tags), run_name=about["name"])
        return Target(store, client, run.info.run_id)

    def log_params(self, params: Mapping[str, str]) -> list[str]:
        """Returns words about those that are refused. Raises StoreAway."""
        from mlflow.entities import Param

        given = [Param(key, value) for key, value in params.items()]
        return self._in_parts(lambda part: self.client.log_batch(self.run_id, params=part), given, MOST_PARAMS)

    def log(self, entry: Mapping[str, Any]) -> list[str]:
        """Log what an entry of an outbox holds, if that is no file.

        Returns:
            words about what is refused of it.

        Raises:
            StoreAway.
            Undelivered: the MLflow run was deleted.
        """
        try:
            refused = self._log(entry["kind"], entry["content"], entry["time"], entry.get("step", 0))
        except Refused as error:
            refused = [f"{entry['kind']}: {error}"]
        if refused:
            self.see()
        return refused

    def upload(self, file: Path, where: str | None) -> None:
        """Log a file of this machine as an artifact.

        Raises:
            StoreAway.
            Refused: MLflow itself does not take it.
            Undelivered: it does not reach the store of artifacts.
        """
        from mlflow.exceptions import MlflowException

        try:
            self.client.log_artifact(self.run_id, str(file), where)
        except Exception as error:  # of MLflow, or of whatever speaks to a store of artifacts
            self.see()
            if isinstance(error, MlflowException) and error.error_code == "INVALID_PARAMETER_VALUE":
                raise Refused(words_of(error)) from error
            raise Undelivered(words_of(error)) from error

    def see(self) -> None:
        """See whether the run is there.

        Raises:
            StoreAway, RunGone.
            Undelivered: it was deleted, and can be restored.
        """
        from mlflow.exceptions import MlflowException

        try:
            stage = self.client.get_run(self.run_id).info.lifecycle_stage
        except Exception as error:
            if isinstance(error, MlflowException) and error.error_code == "RESOURCE_DOES_NOT_EXIST":
                words = f"MLflow at {self.store.uri} no longer has the run {self.run_id}, and gets it as a new one"
                raise RunGone(words) from error
            raise StoreAway(f"MLflow at {self.store.uri} does not answer: {words_of(error)}") from error
        if stage == "deleted":
            raise Undelivered(
                f"the MLflow run {self.run_id} was deleted at {self.store.uri}; "
                f"restore it there: mlflow runs restore --run-id {self.run_id}"
            )

    def replace(self, former: str) -> None:
        """Put a former MLflow run of the same run where deleted ones are. Raises StoreAway."""
        try:
            with _in_our_terms(self.store):
                keys = [self.client.get_run(run).data.tags.get(KEY, "") for run in (former, self.run_id)]
                if keys[0].partition("-")[0] == keys[1].partition("-")[0]:  # nobody else's
                    self.client.set_tag(former, REPLACED_BY, self.run_id)
                    self.client.delete_run(former)
        except Refused:
            return  # it was deleted before

    def _log(self, kind: str, content: Any, when: int, step: int) -> list[str]:
        if kind in ("metrics", "summary"):
            return self._log_metrics(content, when, step)
        with _in_our_terms(self.store):
            if kind == "data":
                self._log_data(content)
            elif kind == "tag":
                self.client.set_tag(self.run_id, *content)
            elif kind == "status" and content == "RUNNING":
                self.client.update_run(self.run_id, status="RUNNING")
            elif kind == "status":
                self.client.set_terminated(self.run_id, content, end_time=when)
        return []

    def _log_metrics(self, figures: Mapping[str, float], when: int, step: int) -> list[str]:
        from mlflow.entities import Metric

        points = [Metric(key, float(value), when, step) for key, value in figures.items()]
        return self._in_parts(lambda part: self.client.log_batch(self.run_id, metrics=part), points, MOST_METRICS)

    def _log_data(self, about: Mapping[str, str]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        given = {key: about[key] for key in ("name", "digest", "source_type", "source", "profile")}
        context = InputTag("mlflow.data.context", about["context"])
        self.client.log_inputs(self.run_id, [DatasetInput(Dataset(**given), [context])])

    def _in_parts(self, send: Callable[[Sequence[Any]], object], items: Sequence[Any], most: int) -> list[str]:
        """Send all items but those that are refused; the words about these.

        MLflow refuses a whole part because of one item, so a refused part is sent again by halves.
        """
        refused: list[str] = []
        parts = [items[start : start + most] for start in range(0, len(items), most)]
        while parts:
            part = parts.pop(0)
            try:
                with _in_our_terms(self.store):
                    send(part)
            except Refused as error:
                if len(part) == 1:
                    refused.append(f"{part[0].key}: {error}")
                else:
                    middle = len(part) // 2
                    parts[:0] = [part[:middle], part[middle:]]
        return refused


@contextmanager
def _in_our_terms(store: Store) -> Iterator[None]:
    """What MLflow's client raises, as StoreAway or Refused."""
    try:
        yield
    except Undelivered:
        raise
    except Exception as error:  # of MLflow, SQLAlchemy, a driver of a database, requests
        if is_refusal(error):
            raise Refused(words_of(error)) from error
        raise StoreAway(f"MLflow at {store.uri} does not answer: {words_of(error)}") from error


def _experiment(client: "MlflowClient", store: Store, name: str) -> str:
    """The id of an experiment, which is made if need be.

    Raises:
        Undelivered: somebody has deleted it.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=_artifacts(store, name), tags=dict([KIND]))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process was faster
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise Undelivered(
            f"tracking.experiment: the experiment '{name}' was deleted in the MLflow store at {store.uri}; restore it "
            f"there (mlflow experiments restore -x {found.experiment_id}), or set tracking.experiment to another name"
        )
    if KIND[0] not in found.tags:
        client.set_experiment_tag(found.experiment_id, *KIND)
    return found.experiment_id


def _artifacts(store: Store, experiment: str) -> str | None:
    """Where an experiment's files are to lie, where MLflow does not know better.

    A SQLite store would put them wherever the program happens to run: they are kept beside the database, in a folder
    whose name is no path, whatever the experiment is called.
    """
    if store.file is None:
        return None
    name = re.sub(r"[/\\%\x00]|^\.+$", lambda odd: quote(odd[0], safe="").replace(".", "%2E"), experiment)
    if len(name.encode()) > LONGEST_NAME:
        name = f"{name[: LONGEST_NAME // 8]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return (store.file.parent.absolute() / "mlflow-artifacts" / name).as_uri()
