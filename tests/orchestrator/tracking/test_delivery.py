"""What can go wrong on the way to MLflow: the store is away, an entry is refused, the place for files is not there."""

import json
import os
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.tracking import mlflow as tracking
from orchestrator.tracking.courier import Courier
from orchestrator.tracking.faults import Undelivered
from orchestrator.tracking.mlflow import Tracker, check_store
from orchestrator.tracking.outbox import OUTBOX
from orchestrator.tracking.receipt import RUN_FILE
from orchestrator.tracking.store import Store
from ssl_core.errors import InputError
from ssl_core.schema.scaling import TrackingConfig


def _tracker(store: Store, folder: Path, experiment: str = "tests", **options) -> Tracker:
    config = TrackingConfig(uri=store.uri, experiment=experiment)
    return Tracker(config, folder, "run", {"optim.lr": 1e-3}, {"seed": "0"}, **options)


def _points(client: MlflowClient, tracker: Tracker, key: str = "loss") -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client.get_metric_history(tracker.run_id, key))


def test_a_refused_entry_is_noted_and_told_once_and_the_rest_goes_on(
    sqlite: Store, client: MlflowClient, folder: Path
) -> None:
    told: list[str] = []
    tracker = _tracker(sqlite, folder)
    for epoch in range(3):
        tracker.log({"epoch": epoch, "loss": 1.0, "a?name#": 2.0, "knn/last": 0.5})
    tracker.tag("x" * 300, "too long a key")
    tracker.finish("FINISHED")
    tracker.deliver(told.append)
    assert tracker.delivered
    assert _points(client, tracker) == [(0, 1.0), (1, 1.0), (2, 1.0)]
    assert _points(client, tracker, "knn/last") == [(0, 0.5), (1, 0.5), (2, 0.5)]
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
    about_the_name = [text for text in told if "a?name#" in text]
    assert len(about_the_name) == 1
    assert "Invalid value" in about_the_name[0], "in the store's own words"
    assert len(told) == 2
    assert len(json.loads((folder / RUN_FILE).read_text())["refused"]) == 4


def test_a_sync_offers_once_more_what_was_refused(
    sqlite: Store, client: MlflowClient, folder: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere.txt"
    elsewhere.write_text("somebody else's")
    (folder / "note.txt").symlink_to(elsewhere)
    tracker = _tracker(sqlite, folder)
    tracker.log({"epoch": 0, "loss": 1.0})
    tracker.tag("x" * 300, "too long a key")
    tracker.log_files([(folder / "note.txt", None)])
    tracker.deliver()
    assert len(json.loads((folder / RUN_FILE).read_text())["refused"]) == 2
    (folder / "note.txt").unlink()
    (folder / "note.txt").write_text("the run's own")
    again: list[str] = []
    assert [synced.delivered for synced in tracking.sync(folder, again.append)] == [True]
    assert [file.path for file in client.list_artifacts(tracker.run_id)] == ["note.txt"]
    assert len(json.loads((folder / RUN_FILE).read_text())["refused"]) == 1
    assert len([text for text in again if "maximum length" in text]) == 1
    assert _points(client, tracker) == [(0, 1.0)]


def test_without_its_place_for_files_figures_go_on_and_files_wait(
    sqlite: Store, client: MlflowClient, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "full").write_text("no folder")
    client.create_experiment("nowhere", artifact_location=(tmp_path / "full" / "below").as_uri())
    told: list[str] = []
    courier = Courier(told.append)
    tracker = _tracker(sqlite, folder, "nowhere", courier=courier)
    for name in ("a.txt", "b.txt", "c.txt"):
        (folder / name).write_text(name)
        tracker.log_files([(folder / name, None)])
    tracker.log({"epoch": 0, "loss": 1.0})
    tracker.finish("FINISHED")
    courier.close(folder)
    assert _points(client, tracker) == [(0, 1.0)]
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
    waits, misses = told
    assert "store of artifacts does not take" in waits
    assert "strata sync" in misses
    with pytest.raises(Undelivered):
        list(tracking.sync(folder))
    (tmp_path / "full").unlink()
    (synced,) = tracking.sync(folder)
    assert synced.delivered
    assert {file.path for file in client.list_artifacts(synced.run_id)} == {"a.txt", "b.txt", "c.txt"}


def test_a_courier_survives_whatever_a_delivery_raises(sqlite: Store, client: MlflowClient, folder: Path) -> None:
    told: list[str] = []
    courier = Courier(told.append)

    class Odd:
        def __init__(self) -> None:
            self.tried = 0

        def deliver(self, tell) -> None:
            self.tried += 1
            raise KeyError("bucket")

    odd, tracker = Odd(), _tracker(sqlite, folder, courier=courier)
    courier.wake(odd)
    tracker.log({"epoch": 0, "loss": 1.0})
    courier.close(folder)
    assert odd.tried
    assert _points(client, tracker) == [(0, 1.0)]
    assert "KeyError" in told[0]
    assert "strata sync" in told[-1]


def test_a_store_that_breaks_in_mid_run_is_waited_for(folder: Path, tmp_path: Path) -> None:
    store = Store.of(TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db"))
    tracker = _tracker(store, folder)
    tracker.log({"epoch": 0, "loss": 1.0})
    tracker.deliver()
    sound = (tmp_path / "mlflow.db").read_bytes()
    (tmp_path / "mlflow.db").write_bytes(b"no database at all" * 1000)
    told: list[str] = []
    courier = Courier(told.append)
    resumed = _tracker(store, folder, courier=courier)
    resumed.open()
    resumed.log({"epoch": 1, "loss": 0.5})
    courier.close(folder)
    assert any("does not answer" in text for text in told)
    assert "strata sync" in told[-1]
    (tmp_path / "mlflow.db").write_bytes(sound)
    (synced,) = tracking.sync(folder)
    assert _points(store.connect(), synced) == [(0, 1.0), (1, 0.5)]


def test_a_deleted_experiment_is_called_that(sqlite: Store, client: MlflowClient, folder: Path) -> None:
    number = client.create_experiment("gone")
    client.delete_experiment(number)
    with pytest.raises(InputError, match=r"tracking\.experiment: the experiment 'gone' was deleted .* restore"):
        _tracker(sqlite, folder, "gone").open()
    client.restore_experiment(number)
    tracker = _tracker(sqlite, folder, "gone")
    tracker.open()
    assert tracker.delivered


def test_a_deleted_run_waits_until_it_is_restored(sqlite: Store, client: MlflowClient, folder: Path) -> None:
    tracker = _tracker(sqlite, folder)
    tracker.deliver()
    client.delete_run(tracker.run_id)
    tracker.log({"epoch": 0, "loss": 1.0})
    with pytest.raises(Undelivered, match=r"was deleted .* restore it"):
        tracker.deliver()
    client.restore_run(tracker.run_id)
    tracker.deliver()
    assert _points(client, tracker) == [(0, 1.0)]


def test_files_outside_of_the_folder_are_not_sent(
    sqlite: Store, client: MlflowClient, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "key.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "plots").symlink_to(tmp_path / "keys")
    (folder / "mine.txt").write_text("mine")
    (folder / "inside.txt").symlink_to(folder / "mine.txt")
    tracker = _tracker(sqlite, folder)
    tracker.deliver()
    names = ["../secret.txt", str(tmp_path / "secret.txt"), "link.txt", "plots/key.txt", "mine.txt", "inside.txt"]
    with open(folder / OUTBOX, "a") as file:
        for name in names:
            file.write(json.dumps({"kind": "file", "time": 1, "content": [name, None]}) + "\n")
    told: list[str] = []
    (synced,) = tracking.sync(folder, told.append)
    sent = {file.path for file in client.list_artifacts(synced.run_id)}
    assert sent == {"mine.txt", "inside.txt"}
    outside = [text for text in told if "lies outside" in text]
    assert len(outside) == 4


def test_sync_says_where_a_strangers_folder_would_send_it(
    sqlite: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _tracker(sqlite, folder).deliver()
    told: list[str] = []
    list(tracking.sync(folder, told.append))
    assert sqlite.uri in told[0]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite.uri)
    told.clear()
    list(tracking.sync(folder, told.append))
    assert told == []


@pytest.mark.parametrize(
    "damage", ["", "\x00\x00", "[]", '{"uri": 3}', '{"uri": "URI", "run_id": "x", "delivered": []}']
)
def test_a_damaged_note_is_gone_round(sqlite: Store, client: MlflowClient, folder: Path, damage: str) -> None:
    tracker = _tracker(sqlite, folder)
    tracker.log({"epoch": 0, "loss": 1.0})
    tracker.deliver()
    (folder / RUN_FILE).write_text(damage.replace("URI", sqlite.uri))
    check_store(TrackingConfig(uri=sqlite.uri), folder)
    told: list[str] = []
    (synced,) = tracking.sync(folder, told.append)
    assert synced.run_id == tracker.run_id, "one and the same"
    assert _points(client, synced) == [(0, 1.0)]
    assert damage.startswith("{") or any(f"{RUN_FILE} is damaged" in text for text in told)


def test_a_damaged_line_is_named_and_the_rest_delivered(sqlite: Store, client: MlflowClient, folder: Path) -> None:
    tracker = _tracker(sqlite, folder)
    tracker.log(*({"epoch": epoch, "loss": 1.0} for epoch in range(3)))
    lines = (folder / OUTBOX).read_text().splitlines()
    (folder / OUTBOX).write_text("\n".join([lines[0], lines[1], "\x00" * 20, lines[3], ""]))
    told: list[str] = []
    resumed = _tracker(sqlite, folder)
    resumed.deliver(told.append)
    assert told == [f"{folder / OUTBOX}: line 3 is damaged, and left out"]
    assert _points(client, resumed) == [(0, 1.0), (2, 1.0)]


def test_without_its_description_only_a_resume_can_go_on(sqlite: Store, client: MlflowClient, folder: Path) -> None:
    _tracker(sqlite, folder).log({"epoch": 0, "loss": 1.0})
    lines = (folder / OUTBOX).read_text().splitlines()
    (folder / OUTBOX).write_text(f"\x00\n{lines[1]}\n")
    (folder / RUN_FILE).write_text(json.dumps({"uri": sqlite.uri}))
    with pytest.raises(Undelivered, match="--resume writes it anew"):
        list(tracking.sync(folder))
    resumed = _tracker(sqlite, folder)
    resumed.deliver()
    assert _points(client, resumed) == [(0, 1.0)]


FIRST = [{"epoch": float(epoch), "loss": 1.0 / (1 + epoch), "data_wait": 0.1} for epoch in range(4)]


@pytest.mark.parametrize("kind", ["same", "other times", "other figures", "taken over", "fewer", "another measure"])
def test_mlflow_agrees_with_the_figures_on_disk_after_every_kind_of_resume(
    sqlite: Store, client: MlflowClient, folder: Path, kind: str
) -> None:
    changed = {
        "same": FIRST,
        "other times": [*FIRST[:2], *({**r, "data_wait": 0.3} for r in FIRST[2:])],
        "other figures": [*FIRST[:2], *({**r, "loss": 0.7} for r in FIRST[2:])],
        "taken over": [{**r, "loss": 9.0} for r in FIRST],
        "fewer": FIRST[:2],
        "another measure": [*FIRST[:2], *({**r, "knn/last": 0.7} for r in FIRST[2:])],
    }[kind]
    (folder / "picture.txt").write_text("seen")
    tracker = _tracker(sqlite, folder)
    tracker.log(*FIRST)
    tracker.tag("device", "cpu")
    tracker.log_files([(folder / "picture.txt", None)])
    tracker.deliver()
    first = tracker.run_id
    time.sleep(0.002)  # MLflow orders points of one epoch by their times
    resumed = _tracker(sqlite, folder)
    resumed.log(*changed[:2])
    for record in changed[2:]:
        resumed.log(record)
    resumed.finish("FINISHED")
    resumed.deliver()
    for key in ("epoch", "loss", "data_wait", "knn/last"):
        expected = [(int(record["epoch"]), record[key]) for record in changed if key in record]
        got = {point.step: point.value for point in client.get_metric_history(resumed.run_id, key)}
        assert sorted(got.items()) == expected, key
    assert [step for step, _ in _points(client, resumed)] == list(range(len(changed))), "each once"
    assert (resumed.run_id == first) == (kind in ("same", "other times", "another measure"))
    run = client.get_run(resumed.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["device"] == "cpu"
    assert run.data.params == {"optim.lr": "0.001"}
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["picture.txt"]
    experiment = client.get_experiment_by_name("tests").experiment_id
    key = run.data.tags["strata.key"].partition("-")[0]
    assert len(client.search_runs([experiment], f"tags.`strata.key` LIKE '{key}%'")) == 1
    assert os.path.exists(folder / RUN_FILE)
