"""What a run's MLflow run is to hold, in a file of the run's folder, before MLflow has it."""

import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_core.files import append, write_atomically

OUTBOX = "outbox.jsonl"  # in a run's folder
STATUSES = ("RUNNING", "FINISHED", "FAILED", "KILLED")


class Outbox:
    """What a run's MLflow run is to hold, in order, in a file of its folder.

    Attributes:
        entries: all of them, at the places that they have in the file. One that cannot be read is of kind `damaged`.
    """

    def __init__(self, folder: Path):
        self.file = folder / OUTBOX
        self._adding = threading.Lock()  # several threads do; who counts what is delivered, counts lines of the file
        text = self.file.read_text(errors="replace") if self.file.exists() else ""
        whole = text.split("\n")[:-1]
        self.entries: list[dict[str, Any]] = [_read(line) for line in whole]
        if text and not text.endswith("\n"):  # a line that a kill has cut short
            write_atomically(self.file, lambda file: file.write("".join(f"{line}\n" for line in whole).encode()))

    def add(self, kind: str, content: Any, **more: Any) -> None:
        entry = {"kind": kind, "time": int(1000 * time.time()), **more, "content": content}
        with self._adding:
            append(self.file, json.dumps(entry))
            self.entries.append(entry)

    def of_kind(self, *kinds: str) -> list[dict[str, Any]]:
        return [entry for entry in self.entries if entry["kind"] in kinds]

    @property
    def damaged(self) -> list[int]:
        """The lines of the file, from 1, that cannot be read."""
        return [number for number, entry in enumerate(self.entries, 1) if entry["kind"] == "damaged"]

    @property
    def rewritten(self) -> int:
        """The place of the last entry that says that figures begin anew, those before it no longer count; or 0."""
        return max((place for place, entry in enumerate(self.entries) if entry["kind"] == "anew"), default=0)


def _read(line: str) -> dict[str, Any]:
    """The entry of a line, of kind `damaged` if it is none: MLflow is to get what can be read."""
    try:
        entry = json.loads(line)
        sound = isinstance(entry["time"], int) and _is_content(entry["kind"], entry["content"])
        sound = sound and (entry["kind"] != "metrics" or isinstance(entry["step"], int))
    except (ValueError, TypeError, KeyError):
        sound = False
    return entry if sound else {"kind": "damaged", "time": 0, "content": None}


def _is_content(kind: str, content: Any) -> bool:
    """Whether this can be what an entry of a kind holds."""
    if kind in ("metrics", "summary"):
        return isinstance(content, dict) and all(isinstance(value, (int, float)) for value in content.values())
    if kind == "run":
        texts = isinstance(content["name"], str) and isinstance(content["experiment"], str)
        return texts and _is_texts(content["params"]) and _is_texts(content["tags"])
    if kind == "data":
        return _is_texts(content)
    if kind == "file":
        name, where = content
        return isinstance(name, str) and isinstance(where, (str, type(None)))
    if kind == "tag":
        return len(content) == 2 and all(isinstance(item, str) for item in content)
    if kind == "status":
        return content in STATUSES
    return kind == "anew"


def _is_texts(values: Any) -> bool:
    return isinstance(values, Mapping) and all(isinstance(value, str) for value in values.values())
