"""A run's figures on disk: `metrics.jsonl`, a record an epoch."""

import json
from collections.abc import Sequence
from pathlib import Path

from ssl_core.files import append, write_atomically

FILE = "metrics.jsonl"


class History:
    """A run's figures, a record an epoch, and the file that holds them (`metrics.jsonl`)."""

    def __init__(self, output: Path):
        self.file = output / FILE
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
        return HistoryReader(output).read()

    @staticmethod
    def damaged(output: Path) -> list[int]:
        """The lines, from 1, that cannot be read."""
        reader = HistoryReader(output)
        reader.read()
        return reader.damaged


def _record(line: bytes) -> dict[str, float] | None:
    """What a line says; None if it is no record."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    sound = isinstance(record, dict) and isinstance(record.get("epoch"), (int, float))
    return record if sound and all(isinstance(value, (int, float)) for value in record.values()) else None


class HistoryReader:
    """Follows a run's figures while another process writes them: each time only what was added is read.

    A file that was begun anew, by a resume or with weights taken over, is read from its start.

    Attributes:
        damaged: the lines, from 1, that are no records and were left out.
    """

    def __init__(self, output: Path):
        self.file = output / FILE
        self._start_anew()

    def _start_anew(self) -> None:
        self._inode = -1
        self._offset = 0  # behind the last line that was read
        self._last = b""  # that line
        self._lines = 0
        self._records: list[dict[str, float]] = []
        self.damaged: list[int] = []

    def read(self) -> list[dict[str, float]]:
        """All records so far; a line that is still being written is left for the next time."""
        try:
            inode = self.file.stat().st_ino
            added = self._added(inode)
        except FileNotFoundError:
            self._start_anew()
            return []
        whole = added[: added.rfind(b"\n") + 1]
        if whole:
            lines = whole.split(b"\n")[:-1]
            for number, record in enumerate(map(_record, lines), self._lines + 1):
                if record is None:
                    self.damaged.append(number)
                else:
                    self._records.append(record)
            self._inode, self._last = inode, lines[-1] + b"\n"
            self._lines, self._offset = self._lines + len(lines), self._offset + len(whole)
        return list(self._records)

    def _added(self, inode: int) -> bytes:
        """What stands behind the last line that was read, if that is still where it was."""
        with self.file.open("rb") as file:
            if inode == self._inode:
                file.seek(self._offset - len(self._last))
                if file.read(len(self._last)) == self._last:
                    return file.read()
                file.seek(0)
            self._start_anew()
            return file.read()
