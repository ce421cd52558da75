"""A run's figures on disk: a line an epoch, begun anew from a checkpoint, read while it is written."""

from pathlib import Path

from ssl_core.training.history import History

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
