"""A run's figures on disk: a line an epoch, begun anew from a checkpoint, read while it is written."""

import json
from pathlib import Path

import pytest

from ssl_core.training.history import History, HistoryReader

RECORDS = [{"epoch": 0.0, "knn/last": 0.5}, {"epoch": 1.0, "loss": 2.5}, {"epoch": 2.0, "loss": 2.25}]


def test_what_is_added_is_read(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.begin([])
    for record in RECORDS:
        history.add(record)
    assert history.records == History.read(tmp_path) == RECORDS
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_it_goes_on_from_what_a_checkpoint_knows(tmp_path: Path) -> None:
    first = History(tmp_path)
    first.begin(RECORDS)
    again = History(tmp_path)
    again.begin(RECORDS[:2])  # the last epoch will be done again
    again.add({"epoch": 2.0, "loss": 2.0})
    assert [record.get("loss") for record in History.read(tmp_path)] == [None, 2.5, 2.0]


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    History(tmp_path).begin(RECORDS)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3.0, "lo')
    assert History.read(tmp_path) == RECORDS
    assert History.read(tmp_path / "elsewhere") == []


def test_a_damaged_line_is_left_out_and_named(tmp_path: Path) -> None:
    History(tmp_path).begin(RECORDS)
    file = tmp_path / "metrics.jsonl"
    lines = file.read_text().splitlines()
    for damage in ("\x00\x00", '{"epoch": 1.0, "lo', "[]", '{"loss": 1.0}', '{"epoch": 1, "loss": "low"}'):
        file.write_text(f"{lines[0]}\n{damage}\n{lines[2]}\n")
        assert History.read(tmp_path) == [RECORDS[0], RECORDS[2]]
        assert History.damaged(tmp_path) == [2]


def test_a_reader_parses_each_line_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed, loads = [], json.loads
    monkeypatch.setattr(json, "loads", lambda line: parsed.append(line) or loads(line))
    history, reader = History(tmp_path), HistoryReader(tmp_path)
    assert reader.read() == []
    history.begin([])
    assert reader.read() == []
    for number, record in enumerate(RECORDS, 1):
        history.add(record)
        assert reader.read() == reader.read() == RECORDS[:number]
    assert len(parsed) == len(RECORDS)


def test_a_reader_leaves_a_half_line_for_the_next_time(tmp_path: Path) -> None:
    History(tmp_path).begin(RECORDS[:2])
    reader, whole = HistoryReader(tmp_path), json.dumps(RECORDS[2]) + "\n"
    with (tmp_path / "metrics.jsonl").open("a") as file:
        for part in (whole[:9], whole[9:-1]):
            file.write(part)
            file.flush()
            assert reader.read() == RECORDS[:2]
        file.write("\n")
    assert reader.read() == RECORDS


OTHERS = [record | {"epoch": record["epoch"] + 5} for record in RECORDS]


@pytest.mark.parametrize("again", [[], RECORDS[:1], OTHERS, [*OTHERS[:2], RECORDS[2]], OTHERS + RECORDS])
def test_a_reader_starts_anew_where_a_run_does(again: list[dict[str, float]], tmp_path: Path) -> None:
    reader = HistoryReader(tmp_path)
    History(tmp_path).begin(RECORDS)
    assert reader.read() == RECORDS
    history = History(tmp_path)
    history.begin(again)
    assert reader.read() == again
    history.add({"epoch": 9.0})
    assert reader.read() == [*again, {"epoch": 9.0}]


@pytest.mark.parametrize("again", [RECORDS[:1], OTHERS])
def test_a_reader_starts_anew_where_the_same_file_was_written_over(again: list, tmp_path: Path) -> None:
    """A file system may give a new file the number of the one that it replaced."""
    reader, file = HistoryReader(tmp_path), tmp_path / "metrics.jsonl"
    History(tmp_path).begin(RECORDS)
    assert reader.read() == RECORDS
    file.write_text("".join(json.dumps(record) + "\n" for record in again))
    assert reader.read() == again


def test_a_reader_follows_a_run_that_is_removed_and_begun_again(tmp_path: Path) -> None:
    reader = HistoryReader(tmp_path)
    History(tmp_path).begin(RECORDS)
    assert reader.read() == RECORDS
    (tmp_path / "metrics.jsonl").unlink()
    assert reader.read() == []
    History(tmp_path).begin(RECORDS[:2])
    assert reader.read() == RECORDS[:2]


def test_what_a_reader_gave_stays_as_it_was(tmp_path: Path) -> None:
    history, reader = History(tmp_path), HistoryReader(tmp_path)
    history.begin(RECORDS[:1])
    first = reader.read()
    history.add(RECORDS[1])
    reader.read()
    assert first == RECORDS[:1]
