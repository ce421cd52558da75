"""What MLflow is to hold, in a file that several threads write to and that may be damaged."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.tracking import outbox
from orchestrator.tracking.outbox import OUTBOX, Outbox


def test_threads_add_in_one_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is delivered is counted by place: file and list must have the same places."""
    box, together, written = Outbox(tmp_path), threading.Barrier(8), outbox.append

    def append_and_pause(file: Path, line: str) -> None:
        written(file, line)
        threading.Event().wait(0.001 if hash(line) % 2 else 0)  # a file system that is slow now and then

    monkeypatch.setattr(outbox, "append", append_and_pause)

    def add(thread: int) -> None:
        together.wait()
        for number in range(25):
            box.add("tag", [str(thread), str(number)])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add, range(8)))
    in_file = [json.loads(line)["content"] for line in (tmp_path / OUTBOX).read_text().splitlines()]
    assert len(in_file) == 200
    assert in_file == [entry["content"] for entry in box.entries]


@pytest.mark.parametrize(
    "line",
    [
        "\x00\x00\x00",
        '{"kind": "metr',
        "[]",
        '{"kind": "metrics", "time": 1, "content": {"loss": 1}}',
        '{"kind": "metrics", "time": 1, "step": 2, "content": {"loss": "high"}}',
        '{"kind": "file", "time": 1, "content": "config.yaml"}',
        '{"kind": "status", "time": 1, "content": "GONE"}',
        '{"kind": "run", "time": 1, "content": {"name": "run"}}',
        '{"kind": "tag", "time": "now", "content": ["a", "b"]}',
    ],
)
def test_a_damaged_line_keeps_its_place(tmp_path: Path, line: str) -> None:
    box = Outbox(tmp_path)
    for key in "abc":
        box.add("tag", [key, key])
    first, _, third = (tmp_path / OUTBOX).read_text().splitlines()
    (tmp_path / OUTBOX).write_text(f"{first}\n{line}\n{third}\n")
    again = Outbox(tmp_path)
    assert [entry["kind"] for entry in again.entries] == ["tag", "damaged", "tag"]
    assert again.damaged == [2]
