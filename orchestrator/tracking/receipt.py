"""What a store has got of a run's outbox, in a file of the run's folder."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssl_core.files import write_atomically
from ssl_core.schema.urls import without_credentials

RUN_FILE = "mlflow.json"  # in a run's folder: which MLflow run is its own, and what it has got


@dataclass
class Receipt:
    """How far a store has got.

    Attributes:
        uri: of the store, without credentials.
        run_id: of the MLflow run, once there is one.
        delivered: entries of the outbox that were delivered, from the first, but for files that wait.
        rewritten: the outbox's `rewritten` that the MLflow run stands for.
        waiting: files that the store could not take yet, by their places in the outbox, with the reason.
        refused: what the store will not take, likewise.
    """

    uri: str
    run_id: str | None = None
    delivered: int = 0
    rewritten: int = 0
    waiting: dict[int, str] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)

    @staticmethod
    def read(folder: Path, uri: str) -> "Receipt":
        """What the store at `uri` has got of the run in a folder; a run of another store, or of none, is new to it."""
        known = known_run(folder)
        if known.get("uri") != uri or not isinstance(known.get("run_id"), str):
            return Receipt(uri)
        try:
            count, rewritten = int(known["delivered"]), int(known.get("rewritten", 0))
            notes = [
                {int(key): str(why) for key, why in known.get(name, {}).items()} for name in ("waiting", "refused")
            ]
        except (KeyError, TypeError, ValueError, AttributeError):
            return Receipt(uri)  # what is delivered twice is one and the same
        return Receipt(uri, known["run_id"], count, rewritten, *notes)

    def fit(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Forget what is not about these entries: the outbox may have been lost, and begun anew."""
        if self.delivered > len(entries):
            self.delivered, self.refused = 0, {}
        self.waiting = {
            p: why for p, why in self.waiting.items() if p < self.delivered and entries[p]["kind"] == "file"
        }
        self.refused = {p: why for p, why in self.refused.items() if 0 <= p < len(entries)}

    def write(self, folder: Path) -> None:
        values = {"uri": self.uri, "run_id": self.run_id, "delivered": self.delivered}
        more = {"rewritten": self.rewritten, "waiting": self.waiting, "refused": self.refused}
        text = json.dumps(values | {key: value for key, value in more.items() if value}, indent=1)
        write_atomically(folder / RUN_FILE, lambda file: file.write(text.encode()))

    def refuse(self, place: int, words: str) -> bool:
        """Note that an entry is refused; whether that is news, for the same may befall every epoch's figures."""
        said = {re.sub(r"\d+", "", why) for why in self.refused.values()}
        self.refused[place] = words
        return re.sub(r"\d+", "", words) not in said


def known_run(folder: Path) -> dict[str, Any]:
    """Which MLflow run the folder's is, in which store, and how much it has got; nothing if that cannot be read."""
    file = folder / RUN_FILE
    try:
        known = json.loads(file.read_text(errors="replace")) if file.exists() else {}
    except ValueError:
        known = {}
    if not isinstance(known, dict) or not known:
        return {}
    uri = known.get("uri")
    return known | {"uri": without_credentials(uri) if isinstance(uri, str) else None}


def is_damaged(folder: Path) -> bool:
    """Whether there is a note of an MLflow run that cannot be read."""
    return (folder / RUN_FILE).exists() and not known_run(folder)
