"""A run's figures on disk: `metrics.jsonl`, a record an epoch."""

import json
from collections.abc import Sequence
from pathlib import Path

from ssl_core.files import append, write_atomically


class History:
    """A run's figures, a record an epoch, and the file that holds them (`metrics.jsonl`)."""

    def __init__(self, output: Path):
        self.file = output / "metrics.jsonl"
        self.records: list[dict[str, float]] = []

    def begin(self, records: Sequence[dict[str, float]]) -> None:
        """Start from what a checkpoint knows: epochs after it will be done again."""
        self.records = list(records)
        lines = "".join(json.dumps(record) + "\n" for record in self.records)
        write_atomically(self.file, lambda file: file.write(lines.encode()))

    def add(self, record: dict[str, float]) -> None:
        self.records.append(record)
        append(self.file, json.dumps(record))

    @staticmethod
    def read(output: Path) -> list[dict[str, float]]:
        """The records in a run's folder; a line that is still being written is left out."""
        file = History(output).file
        text = file.read_text() if file.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
