"""Checkpoints: whole or not there; what is damaged is named and gone round, and nothing that is intact is removed."""

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssl_core.data.sources import open_images
from ssl_core.errors import InputError
from ssl_core.files import sha256
from ssl_core.positives.neighbors import NeighborIndex, saving
from ssl_core.training.checkpoints import CheckpointStore
from ssl_core.training.events import CheckpointDue, EpochEnded, Event, Listener
from ssl_core.training.history import History
from ssl_core.training.loop import Pretraining
from tests.conftest import tiny_config


@pytest.mark.parametrize("damage", [lambda b: b[:100], lambda b: b[:300] + b"x" + b[301:]], ids=["short", "a byte"])
def test_a_damaged_checkpoint_is_passed_over(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, tiny_config(checkpoint={"keep": 3}))
    for epoch in (1, 2):
        store.save({"epoch": epoch, "step": 0, "history": []})
    newest = store.paths()[-1]
    newest.write_bytes(damage(newest.read_bytes()))
    told: list[str] = []
    found = store.latest(told.append)
    assert store.load(found)["epoch"] == 1
    assert newest.name in told[0]
    assert "checksum" in told[0]
    assert store.latest(told.append) == found
    assert len(told) == 1, "what was damaged is no longer looked at"
    assert newest.with_name(f"{newest.name}.damaged").exists()


def test_a_checkpoint_whose_neighbors_are_damaged_is_passed_over(tmp_path: Path) -> None:
    config = tiny_config(checkpoint={"keep": 2}, positives={"kind": "adasim", "window": 1})
    store = CheckpointStore(tmp_path, config)
    index = NeighborIndex(8, 4, window=1)
    for epoch in (1, 2):
        index.update(np.arange(8), np.random.default_rng(epoch).normal(size=(8, 4)))
        index.end_epoch()
        saving.save(index, store.neighbors)
        store.save({"epoch": epoch, "step": 0, "history": []})
    index.update(np.arange(8), np.random.default_rng(3).normal(size=(8, 4)))
    saving.save_steps(index, store.neighbors, 1)
    store.save({"epoch": 2, "step": 1, "history": []})
    assert [path.stem for path in store.paths()] == ["epoch_0002", "epoch_0002_step_000001"]
    check = ["sha256sum", "--check", "--quiet", "epoch_0002_step_000001.sha256"]
    assert subprocess.run(check, cwd=store.folder, check=False).returncode == 0
    (steps,) = store.neighbors.glob("steps_0002/*")
    steps.unlink()
    told: list[str] = []
    assert store.latest(told.append).stem == "epoch_0002"
    assert f"{steps} is missing" in told[0]


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    store = CheckpointStore(tmp_path, tiny_config())
    path = store.save({"epoch": 1, "step": 0, "history": []})
    torch.save({"epoch": 1, "step": 0, "history": [], "method": Bomb()}, path)
    path.with_suffix(".sha256").write_text(f"{sha256(path)}  {path.name}\n")
    with pytest.raises(InputError, match="refused"):
        store.load(store.latest(print))
    assert not (tmp_path / "exploded").exists()


def test_a_full_disk_leaves_the_last_checkpoint_as_it_was(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, tiny_config())
    good = store.save({"epoch": 1, "step": 0, "history": []})
    # What is written there is lost for want of room, as on a full disk.
    (store.folder / f".{store.path(2).name}.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as raised:
        store.save({"epoch": 2, "step": 0, "history": [], "weights": torch.zeros(10**6)})
    assert raised.value.errno == errno.ENOSPC
    assert store.paths() == [good]
    assert store.latest(print) == good
    assert not list(store.folder.glob(".*"))


def test_the_newest_and_the_best_checkpoints_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, tiny_config(checkpoint={"keep": 2}))
    history: list[dict[str, float]] = []
    for epoch, accuracy in enumerate([0.1, 0.2, 0.9, 0.3, 0.4, 0.5]):
        history.append({"epoch": float(epoch), "knn/last": accuracy})
        if epoch:
            store.save({"epoch": epoch, "step": 0, "history": history})
    assert [path.stem for path in store.paths()] == ["epoch_0002", "epoch_0004", "epoch_0005"]
    assert not list(store.folder.glob("*.partial"))


def test_neighbors_and_caches_stay_as_long_as_a_run_can_go_on_from_them(tmp_path: Path) -> None:
    config = tiny_config(checkpoint={"keep": 2}, positives={"kind": "adasim", "window": 2})
    store = CheckpointStore(tmp_path, config)
    index = NeighborIndex(8, 4, window=2)
    for epoch in range(1, 7):
        index.update(np.arange(8), np.random.default_rng(epoch).normal(size=(8, 4)))
        index.end_epoch()
        saving.save(index, store.neighbors)
        store.save({"epoch": epoch, "step": 0, "history": []})
    for epoch in (5, 6):
        saving.load(NeighborIndex(8, 4, window=2), store.neighbors, epoch)
    kept = sorted(path.name for path in store.neighbors.iterdir())
    assert kept == ["cache_0005", "cache_0006", "epoch_0004.parquet", "epoch_0005.parquet", "epoch_0006.parquet"]


def _saved(folder: Path, epochs: int = 3, **checkpoint: Any) -> CheckpointStore:
    """A store with a checkpoint after each epoch, and figures of all of them."""
    store = CheckpointStore(folder, tiny_config(checkpoint={"keep": 9, **checkpoint}, optim={"epochs": 9}))
    history = History(folder)
    history.begin([{"epoch": 0.0}])
    for epoch in range(1, epochs + 1):
        store.save({"epoch": epoch, "step": 0, "history": []})
        history.add({"epoch": float(epoch)})
    return store


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def _foreign(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00 no text at all")


SUMS = {
    "empty": lambda path: path.write_text(""),
    "cut": _cut,
    "no text": _foreign,
    "of another": lambda path: path.write_text(f"{'0' * 64}  epoch_0001.pt\n"),
}


@pytest.mark.parametrize("damage", SUMS.values(), ids=SUMS)
def test_damaged_sums_count_as_damage(damage: Callable[[Path], None], tmp_path: Path) -> None:
    store = _saved(tmp_path)
    damage(store.path(3).with_suffix(".sha256"))
    told: list[str] = []
    assert store.latest(told.append) == store.path(2)
    assert "epoch_0003.sha256 is damaged" in told[0]


def test_files_that_are_no_checkpoints_are_left_alone(tmp_path: Path) -> None:
    store = _saved(tmp_path)
    (store.folder / "epoch_backup.sha256").write_text("mine")
    (store.folder / "notes.txt").write_text("mine")
    assert [path.stem for path in store.paths()] == ["epoch_0001", "epoch_0002", "epoch_0003"]
    assert store.latest(print) == store.path(3)


def test_where_no_checkpoint_can_be_used_nothing_is_changed_and_nothing_begun_anew(tmp_path: Path) -> None:
    store = _saved(tmp_path)
    for path in store.paths():
        path.write_bytes(b"gone")
    before = _files(tmp_path)
    with pytest.raises(InputError, match="no checkpoint can be used, and nothing was changed") as raised:
        store.latest(print)
    assert all(f"epoch_000{epoch}.pt is damaged" in str(raised.value) for epoch in (1, 2, 3))
    assert _files(tmp_path) == before


def test_checkpoints_that_are_gone_are_missed(tmp_path: Path) -> None:
    store = _saved(tmp_path)
    for file in store.folder.iterdir():
        file.unlink()
    with pytest.raises(InputError, match="its figures are of 3 epochs"):
        store.latest(print)
    rare = CheckpointStore(tmp_path, tiny_config(checkpoint={"every_epochs": 5}, optim={"epochs": 9}))
    assert rare.latest(print) is None, "none was due yet"


def test_neighbors_that_are_gone_cost_no_checkpoint(tmp_path: Path) -> None:
    config = tiny_config(checkpoint={"keep": 2}, positives={"kind": "adasim", "window": 1})
    store, index = CheckpointStore(tmp_path, config), NeighborIndex(8, 4, window=1)
    for epoch in (1, 2):
        index.update(np.arange(8), np.random.default_rng(epoch).normal(size=(8, 4)))
        index.end_epoch()
        saving.save(index, store.neighbors)
        store.save({"epoch": epoch, "step": 0, "history": []})
    away = tmp_path / "away"
    store.neighbors.rename(away)
    with pytest.raises(InputError, match="is missing"):
        store.latest(print)
    away.rename(store.neighbors)
    assert store.latest(print) == store.path(2)


def test_the_best_checkpoint_keeps_sums_that_hold(tmp_path: Path) -> None:
    config = tiny_config(
        checkpoint={"keep": 1, "best": "knn/last"}, positives={"kind": "adasim", "window": 1}, optim={"epochs": 9}
    )
    store, index, history = CheckpointStore(tmp_path, config), NeighborIndex(8, 4, window=1), []
    for epoch, accuracy in ((1, 0.9), (2, 0.1), (3, 0.2)):
        index.update(np.arange(8), np.random.default_rng(epoch).normal(size=(8, 4)))
        index.end_epoch()
        saving.save(index, store.neighbors)
        history.append({"epoch": float(epoch), "knn/last": accuracy})
        store.save({"epoch": epoch, "step": 0, "history": history})
    assert [path.stem for path in store.paths()] == ["epoch_0001", "epoch_0003"]
    for sums in store.folder.glob("*.sha256"):
        assert (
            subprocess.run(["sha256sum", "--check", "--quiet", sums.name], cwd=store.folder, check=False).returncode
            == 0
        )
    store.path(3).unlink()
    with pytest.raises(InputError, match="kept as the best, without the neighbours"):
        store.latest(print)
    assert store.path(1).exists()


def test_nothing_is_removed_that_was_not_written_here(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "cache_0001").mkdir(parents=True)
    (mine / "letter.txt").write_text("dear")
    (mine / "cache_0001" / "000000000.npy").write_text("mine")
    output = tmp_path / "run"
    output.mkdir()
    (output / "neighbors").symlink_to(mine)
    store = CheckpointStore(output, tiny_config(checkpoint={"keep": 1}))
    for epoch in (1, 2):
        store.save({"epoch": epoch, "step": 0, "history": []})
    store.latest(print)
    assert sorted(path.name for path in mine.rglob("*.*")) == ["000000000.npy", "letter.txt"]


class _Keeps(Listener):
    def __init__(self, store: CheckpointStore, run: Pretraining):
        self.store, self.run = store, run

    def on(self, event: Event) -> None:
        if isinstance(event, EpochEnded):
            self.store.keep(self.run)
        elif isinstance(event, CheckpointDue):
            self.store.keep_within_epoch(self.run)


def test_a_run_at_its_end_gets_the_weights_that_it_lacks(tmp_path: Path) -> None:
    config = tiny_config()
    images = open_images(config.data)

    def go_on() -> CheckpointStore:
        run, store = Pretraining(config, images), CheckpointStore(tmp_path, config)
        store.restore(run, print)
        run.run(_Keeps(store, run))
        return store

    store = go_on()
    weights = store.model_file.read_bytes()
    for damage in (Path.unlink, lambda path: path.write_bytes(weights[:100])):
        damage(store.model_file)
        go_on()
        assert store.model_file.read_bytes() == weights


def test_a_checkpoint_knows_whose_it_is(tmp_path: Path) -> None:
    config = tiny_config()
    images = open_images(config.data)
    run, store = Pretraining(config, images), CheckpointStore(tmp_path, config)
    run.run(_Keeps(store, run))
    other = Pretraining(tiny_config(seed=5), images)
    with pytest.raises(InputError, match="seed: 0 there, 5 here"):
        store.restore(other, print)
    store.restore(Pretraining(tiny_config(checkpoint={"keep": 7}), images), print)
    fewer = open_images(tiny_config(data={"limit": 48}).data)
    with pytest.raises(InputError, match="48 images, and 64 when this checkpoint was written"):
        store.restore(Pretraining(config, fewer), print)
