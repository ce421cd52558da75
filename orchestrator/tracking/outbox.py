"""What a run's MLflow run is to hold, in a file of the run's folder, before MLflow has it."""

import json
import time
from pathlib import Path
from typing import Any

from ssl_core.files import append, write_atomically

OUTBOX = "outbox.jsonl"  # in a run's folder


class Outbox:
    """What a run's MLflow run is to hold, in order, in a file of its folder."""

    def __init__(self, folder: Path):
        self._file = folder / OUTBOX
        text = self._file.read_text() if self._file.exists() else ""
        whole = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        self.entries: list[dict[str, Any]] = [json.loads(line) for line in whole]
        if len("".join(whole)) < len(text):  # a line that a kill has cut short
            write_atomically(self._file, lambda file: file.write("".join(whole).encode()))

    def add(self, kind: str, content: Any, **more: Any) -> None:
        entry = {"kind": kind, "time": int(1000 * time.time()), **more, "content": content}
        append(self._file, json.dumps(entry))
        self.entries.append(entry)
