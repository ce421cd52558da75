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
        """The records in a run's folder; a line that is still being written, or is damaged, is left out."""
        return [record for record in _lines(output) if record is not None]

    @staticmethod
    def damaged(output: Path) -> list[int]:
        """The lines, from 1, that cannot be read."""
        return [number for number, record in enumerate(_lines(output), 1) if record is None]


def _lines(output: Path) -> list[dict[str, float] | None]:
    """The whole lines of a run's file of figures; None for one that is no record."""
    file = History(output).file
    text = file.read_text(errors="replace") if file.exists() else ""
    return [_record(line) for line in text.split("\n")[:-1]]


def _record(line: str) -> dict[str, float] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    sound = isinstance(record, dict) and isinstance(record.get("epoch"), (int, float))
    return record if sound and all(isinstance(value, (int, float)) for value in record.values()) else None
