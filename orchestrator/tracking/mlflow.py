"""What runs, sweeps and trials say to MLflow: figures, files, tags, status.

What MLflow is to hold is first written to `outbox.jsonl` in the run's folder, with its time; how far it was
delivered stands in `mlflow.json` beside it. So a store that is away, hangs or is restarted delays nobody and loses
nothing: what it missed is delivered when it answers again, when the run is resumed, or by `strata sync`. What is
delivered twice is one and the same point.
"""

import getpass
import os
import shlex
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.about import git_revision, versions
from orchestrator.tracking import data
from orchestrator.tracking.courier import Courier
from orchestrator.tracking.delivery import Delivery, Tell
from orchestrator.tracking.faults import StoreAway, Undelivered
from orchestrator.tracking.figures import Figures
from orchestrator.tracking.outbox import OUTBOX, Outbox
from orchestrator.tracking.receipt import known_run
from orchestrator.tracking.store import Store
from orchestrator.tracking.target import KEY
from ssl_core import recipes
from ssl_core.errors import InputError
from ssl_core.files import as_path
from ssl_core.schema.run import RunConfig
from ssl_core.schema.scaling import TrackingConfig

if TYPE_CHECKING:
    from ssl_core.data.sources.base import Images

NOTE = "mlflow.note.content"  # the tag that MLflow's page shows as a run's description
PARAM_LENGTH = 500


class Tracker:
    """One MLflow run, as those see it who have something to say.

    Args:
        config: names the store and the experiment.
        folder: the run's; what is resumed there is the same MLflow run.
        name, params, tags: of the run, if it is new; without a name it is not.
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
        self.folder, self._courier = folder, courier
        self._box = Outbox(folder)
        self._delivery = Delivery(Store.of(config), self._box, folder)
        self._figures = Figures(self._box)
        self._named = config.uri is not None and bool(self._box.entries)
        if name and not self._box.of_kind("run"):
            about: dict[str, Any] = {"name": name, "experiment": config.experiment, "uri": self.uri}
            about["params"] = {key: str(value)[:PARAM_LENGTH] for key, value in params.items()}
            about["tags"] = {**tags, **config.tags, KEY: uuid.uuid4().hex}
            self._box.add("run", about | ({"parent": os.path.relpath(str(parent), str(folder))} if parent else {}))

    @property
    def uri(self) -> str:
        """Of the store, without credentials."""
        return self._delivery.store.uri

    @property
    def run_id(self) -> str | None:
        """Of the MLflow run, once there is one."""
        return self._delivery.receipt.run_id

    @property
    def ended(self) -> bool:
        """Whether the run's end has been logged."""
        said = [entry["content"] for entry in self._box.of_kind("status")]
        return bool(said) and said[-1] != "RUNNING"

    @property
    def delivered(self) -> bool:
        """Whether MLflow has all that was logged."""
        return self._delivery.done

    def open(self) -> None:
        """Begin the run, or go on with it.

        Raises:
            InputError: the store of a new run cannot be used. One that goes on can wait for it.
        """
        tell = self._courier.tell if self._courier is not None else _keep_quiet
        if self._named and self.uri != Store.of().uri:
            tell(f"figures and files go to MLflow at {self.uri}, which the run's configuration names")
        if self.run_id is None:
            try:
                self.deliver(tell)
            except StoreAway as error:
                raise InputError(f"tracking.uri: {error}") from error
            except Undelivered as error:
                if self.run_id is None:
                    raise InputError(str(error)) from error
        self.begin()

    def begin(self) -> None:
        """The run is under way, again if it had ended."""
        if self.ended:
            self._put("status", "RUNNING")

    def log(self, *records: Mapping[str, float]) -> None:
        """Epochs' figures; the step is the epoch. Of epochs that were logged before, what has changed since."""
        for record in records:
            self._figures.add(record)
        self._wake()

    def log_files(self, files: Iterable[tuple[Path, str | None]]) -> None:
        """Files of the run's folder, each with the artifact folder that it belongs in."""
        for file, where in files:
            self._box.add("file", [str(file.relative_to(self.folder)), where])
        self._wake()

    def log_data(self, config: RunConfig, images: "Images") -> None:
        """What it is trained on and measured on, unless that was said before."""
        if self._box.of_kind("data"):
            return
        self._box.add("data", data.describe(config.data.train, images.train, "training"))
        val = config.data.train if config.data.split is not None else config.data.val
        if images.val is not None and val is not None:
            self._box.add("data", data.describe(val, images.val, "validation"))
        self._wake()

    def summarise(self, figures: Mapping[str, float]) -> None:
        """Figures of the run as a whole, which belong to no epoch."""
        self._put("summary", dict(figures))

    def tag(self, key: str, value: str) -> None:
        self._put("tag", [key, value])

    def describe(self, text: str) -> None:
        """The description that MLflow's page shows."""
        self.tag(NOTE, text)

    def finish(self, status: str) -> None:
        """End the run: FINISHED, FAILED or KILLED."""
        self._figures.end()
        self._put("status", status)

    def deliver(self, tell: Tell | None = None, again: bool = False) -> None:
        """Bring MLflow up to date.

        Args:
            tell: hears of what it refuses.
            again: offer what it has refused before once more.

        Raises:
            StoreAway: it does not answer; what it has got so far is remembered.
            Undelivered: something has to wait.
        """
        self._delivery.bring(tell or _keep_quiet, again)

    def deliver_if_possible(self, tell: Tell) -> None:
        """The same; `tell` hears of what has to wait."""
        try:
            self.deliver(tell)
        except (StoreAway, Undelivered) as error:
            tell(f"{error}; later: strata sync {shlex.quote(str(self.folder))}")

    def _put(self, kind: str, content: Any) -> None:
        self._box.add(kind, content)
        self._wake()

    def _wake(self) -> None:
        if self._courier is not None:
            self._courier.wake(self)


def _keep_quiet(_: str) -> None:
    """For those who do not want to hear."""


def check_store(config: TrackingConfig, folder: Path) -> None:
    """See that the store of a new run or sweep in `folder` can be used, before anything starts.

    Raises:
        InputError: it cannot. One that goes on can wait for it.
    """
    store = Store.of(config)
    if Delivery(store, Outbox(folder), folder).receipt.run_id is not None:
        return
    try:
        store.look()
    except StoreAway as error:
        raise InputError(f"tracking.uri: {error}") from error


def track_run(config: RunConfig, folder: Path, tags: Mapping[str, str] | None = None, **options: Any) -> Tracker:
    """The MLflow run of one pretraining.

    Args:
        folder: the run's.
        tags: more of them.
        options: `name` (default: the run's), `parent` and `courier`, of `Tracker`.
    """
    distilled = " with hidden self-distillation" if config.distill else ""
    about = (
        f"{config.method_name}{distilled}, {config.backbone.name} at {config.backbone.image_size} px, "
        f"{config.optim.epochs} epochs"
    )
    known = {
        "seed": str(config.seed),
        "folder": str(folder),
        **source_tags("strata pretrain"),
        NOTE: about,
        **(tags or {}),
    }
    options = {"name": config.name, **options}
    return Tracker(config.tracking, folder, params=recipes.flatten(config), tags=known, **options)


def sync(folder: Path, tell: Tell | None = None) -> Iterator[Tracker]:
    """Deliver what MLflow has not got of the run or sweep in `folder`, of its trials and evaluations; each, once done.

    Args:
        tell: hears where it goes, if that is not the user's own store, and what is refused.

    Raises:
        InputError: nothing was ever to be delivered from there.
        StoreAway: the store still does not answer.
        Undelivered: something still has to wait; all else is delivered.
    """
    if not (folder / OUTBOX).exists():
        raise InputError(f"RUN: {folder} is no run's or sweep's folder (it has no {OUTBOX})")
    waits: Undelivered | None = None
    told: set[str] = set()
    parts = (file for below in ("trials/*", "evaluation/*") for file in sorted(folder.glob(f"{below}/{OUTBOX}")))
    for file in (folder / OUTBOX, *parts):
        uri = _store_named(file.parent) or _store_named(folder)
        tracker = Tracker(TrackingConfig(uri=uri), file.parent, "", {}, {})
        if tell is not None and tracker.uri != Store.of().uri and tracker.uri not in told:
            told.add(tracker.uri)
            tell(f"{folder} names MLflow at {tracker.uri}: its figures and files go there")
        try:
            tracker.deliver(tell, again=True)
        except StoreAway:
            raise
        except Undelivered as error:
            waits = waits or error
        else:
            yield tracker
    if waits is not None:
        raise waits


@contextmanager
def attached(folder: Path, tell: Tell) -> Iterator[Tracker]:
    """The MLflow run of a run that has ended, for those who have something to add; it is delivered behind the block.

    Args:
        tell: hears where it has to wait.
    """
    tracker = Tracker(TrackingConfig(uri=_store_named(folder)), folder, "", {}, {})
    yield tracker
    if tracker.run_id is not None:
        tracker.deliver_if_possible(tell)


def _store_named(folder: Path) -> str | None:
    """The URI of the store that a run's folder names."""
    known = known_run(folder).get("uri")
    described = [entry["content"].get("uri") for entry in Outbox(folder).of_kind("run")]
    return next((uri for uri in (known, *reversed(described)) if isinstance(uri, str)), None)


def source_tags(command: str) -> dict[str, str]:
    """What ran it, for whoever wants to reproduce a figure; MLflow's page shows some of it as the run's source."""
    revision = git_revision()
    source = {"mlflow.source.name": command, "mlflow.source.type": "LOCAL", "mlflow.user": _user()}
    if revision:
        source["mlflow.source.git.commit"] = revision.rstrip("+")
    return {**source, "git_revision": revision, **{f"version.{name}": number for name, number in versions().items()}}


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return str(os.getuid())


def folder_of(run_id: str) -> Path:
    """The folder of a run or a sweep, by its MLflow run.

    Raises:
        InputError: there is no such run in the store in use, or its folder is not on this machine.
    """
    store = Store.of()
    if store.file is not None and not store.file.exists():
        raise InputError(f"{run_id}: no folder, and there is no MLflow store at {store.uri}")
    try:
        run = store.connect().get_run(run_id)
    except Exception as error:  # of MLflow, or of what it stands on
        raise InputError(f"{run_id}: no folder, and no run in the MLflow store {store.uri}") from error
    folder = run.data.tags.get("folder")
    if folder is None or not as_path(folder).is_dir():
        raise InputError(f"{run_id}: this MLflow run's folder ({folder}) is not on this machine")
    return as_path(folder)
