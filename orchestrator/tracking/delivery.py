"""Brings what an outbox holds to an MLflow store, and notes how far it came.

Three things can go wrong. The store is away: everything waits. It refuses an entry, such as a metric with an impossible
name: that is noted and told, and the rest goes on. Its place for files cannot be written to, or wants other
credentials: figures go on, files wait.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.tracking.faults import Refused, StoreAway, Undelivered
from orchestrator.tracking.outbox import OUTBOX, Outbox
from orchestrator.tracking.receipt import RUN_FILE, Receipt, is_damaged, known_run
from orchestrator.tracking.store import Store
from orchestrator.tracking.target import KEY, RunGone, Target
from ssl_core.files import is_local, local_copy

if TYPE_CHECKING:
    from mlflow import MlflowClient

MOST_FAILURES = 2  # files that fail, until the others are no longer tried

Tell = Callable[[str], None]


class Delivery:
    """From a run's outbox to its MLflow run.

    Args:
        box: the run's.
        folder: the run's, where it is noted how far the store has got.
    """

    def __init__(self, store: Store, box: Outbox, folder: Path):
        self.store, self.folder, self._box = store, folder, box
        self.receipt = Receipt.read(folder, store.uri)
        self.receipt.fit(box.entries)
        self._remarks = [f"{folder / OUTBOX}: line {line} is damaged, and left out" for line in box.damaged]
        if is_damaged(folder):
            self._remarks.append(f"{folder / RUN_FILE} is damaged: MLflow is told again what it may know, as one run")

    @property
    def done(self) -> bool:
        """Whether the store has all that it can get."""
        return self.receipt.delivered == len(self._box.entries) and not self.receipt.waiting

    def bring(self, tell: Tell, again: bool = False) -> None:
        """Bring the store up to date.

        Args:
            tell: hears of what is refused or damaged.
            again: offer what was refused in an earlier session once more.

        Raises:
            StoreAway: it does not answer; what it has got so far is remembered.
            Undelivered: something has to wait; the rest is delivered.
        """
        while self._remarks:
            tell(self._remarks.pop(0))
        try:
            known = self.receipt
            target = self._target(self.store.connect(), tell)
            if again and self.receipt is known:
                self._offer_again(target, tell)
            for place in range(self.receipt.delivered, len(self._box.entries)):
                self._pass_on(target, place, tell)
            self._upload(target, tell)
        except RunGone:
            self.receipt = Receipt(self.store.uri)
            self.receipt.write(self.folder)
            raise

    def _target(self, client: "MlflowClient", tell: Tell) -> Target:
        """The MLflow run: a new one if there is none yet, or if figures that it has no longer count."""
        former, rewritten = self.receipt.run_id, self._box.rewritten
        if former is not None and self.receipt.rewritten == rewritten:
            return Target(self.store, client, former)
        described = [(place, entry) for place, entry in enumerate(self._box.entries) if entry["kind"] == "run"]
        if not described:
            raise Undelivered(f"{self.folder / OUTBOX}: what describes the run is damaged; --resume writes it anew")
        place, entry = described[-1]
        tags = self._tags(entry["content"], rewritten)
        try:
            target = Target.make(self.store, client, entry["content"], tags, entry["time"])
        except Refused as error:
            raise Undelivered(f"MLflow at {self.store.uri} does not take the run: {error}") from error
        refused = target.log_params(entry["content"]["params"])
        if former is not None:
            target.replace(former)
            tell(
                f"MLflow had other figures of {self.folder.name}: those of now are in a new run of its, "
                f"{target.run_id}, and the former one, {former}, is among its deleted runs"
            )
        self.receipt = Receipt(self.store.uri, target.run_id, rewritten=rewritten)
        for words in refused:
            self._refuse(place, words, tell)
        self.receipt.write(self.folder)
        return target

    def _tags(self, about: dict[str, Any], rewritten: int) -> dict[str, str]:
        tags = dict(about["tags"])
        if rewritten:
            tags[KEY] += f"-{rewritten}"
        if "parent" in about:
            parent = known_run((self.folder / about["parent"]).resolve())
            if parent.get("uri") != self.store.uri or not parent.get("run_id"):
                raise Undelivered(f"MLflow at {self.store.uri} does not have the sweep yet")
            tags["mlflow.parentRunId"] = parent["run_id"]
        return tags

    def _pass_on(self, target: Target, place: int, tell: Tell) -> None:
        """Deliver an entry; files wait until there is nothing else to deliver."""
        entry = self._box.entries[place]
        no_longer_counts = entry["kind"] == "metrics" and place < self.receipt.rewritten
        if entry["kind"] == "file":
            self.receipt.waiting[place] = ""
        elif not no_longer_counts:
            for words in target.log(entry):
                self._refuse(place, words, tell)
        self.receipt.delivered = max(self.receipt.delivered, place + 1)
        self.receipt.write(self.folder)

    def _offer_again(self, target: Target, tell: Tell) -> None:
        """What was refused, once more: the server may take it by now."""
        refused, self.receipt.refused = self.receipt.refused, {}
        try:
            for place in refused:
                entry = self._box.entries[place]
                if entry["kind"] == "run":
                    still = target.log_params(entry["content"]["params"])
                    for words in still:
                        self._refuse(place, words, tell)
                else:
                    self._pass_on(target, place, tell)
        except Exception:
            self.receipt.refused = refused
            self.receipt.write(self.folder)
            raise
        self.receipt.write(self.folder)

    def _upload(self, target: Target, tell: Tell) -> None:
        """Deliver the files that wait.

        Raises:
            Undelivered: some still have to.
        """
        failures: list[str] = []
        for place in list(self.receipt.waiting):
            name, where = self._box.entries[place]["content"]
            try:
                self._upload_one(target, name, where)
                del self.receipt.waiting[place]
            except Refused as error:
                del self.receipt.waiting[place]
                self._refuse(place, f"{name}: {error}", tell)
            except (StoreAway, RunGone):
                raise
            except (Undelivered, OSError) as error:
                failures.append(f"{name}: {error}")
                del self.receipt.waiting[place]
                self.receipt.waiting[place] = str(error)  # behind the others, which are tried first next time
            self.receipt.write(self.folder)
            if len(failures) == MOST_FAILURES:
                break
        if failures:
            raise Undelivered(f"MLflow has the figures, but its store of artifacts does not take {failures[0]}")

    def _upload_one(self, target: Target, name: str, where: str | None) -> None:
        file = _inside(self.folder, name)
        if file is None:
            raise Refused(f"lies outside of {self.folder}, and is not sent")
        if file.is_file():
            with local_copy(file) as local:
                target.upload(local, where)

    def _refuse(self, place: int, words: str, tell: Tell) -> None:
        if self.receipt.refuse(place, words):
            tell(
                f"MLflow does not get something of {self.folder.name} ({RUN_FILE} notes it), the rest goes on: {words}"
            )


def _inside(folder: Path, name: str) -> Path | None:
    """A file of a folder; None where it lies elsewhere, as it may in a folder that somebody else has made."""
    if not is_local(folder):
        return None if name.startswith("/") or "://" in name or ".." in name.split("/") else folder / name
    real = Path(os.path.realpath(folder / name))
    return folder / name if real.is_relative_to(os.path.realpath(folder)) else None
