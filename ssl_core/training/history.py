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
        """The records in a run's folder; a line that is still being written is left out."""
        return HistoryReader(output).read()


class HistoryReader:
    """Follows a run's figures while another process writes them: each time only what was added is read.

    A file that was begun anew, by a resume or with weights taken over, is read from its start.
    """

    def __init__(self, output: Path):
        self.file = output / FILE
        self._start_anew()

    def _start_anew(self) -> None:
        self._inode = -1
        self._offset = 0  # behind the last line that was read
        self._last = b""  # that line
        self._records: list[dict[str, float]] = []

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
            lines = whole.splitlines(keepends=True)
            self._records += [json.loads(line) for line in lines]
            self._inode, self._last = inode, lines[-1]
            self._offset += len(whole)
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
