"""Folders as people have them: what is part of a set, what is left out, and what is said of it."""

import contextlib
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ssl_core.data.loading import read_or_replace
from ssl_core.data.sources import base
from ssl_core.errors import DataError, InputError
from ssl_core.recipes import dump
from ssl_core.schema.data import DataConfig
from tests.conftest import make_folder, tiny_config
from tests.ssl_core.data.test_sources import open_all, open_train

CLASSES = ["cat/1.png", "cat/2.png", "dog/3.png", "dog/4.png"]


def names(root: Path, **options) -> list[str]:
    source = open_train(root, **options)
    return [os.path.relpath(source.where(i), root) for i in range(len(source))]


def remarks(train: Path, val: Path | None = None, **options) -> str:
    return "\n".join(open_all(train, val, **options).remarks)


@pytest.mark.parametrize(
    "folder", [".ipynb_checkpoints", "__MACOSX", "@eaDir", ".git", ".Trash-1000", "strata-runs", "lost+found"]
)
def test_folders_that_systems_leave_behind_are_no_part_of_a_set(tmp_path: Path, folder: str):
    make_folder(tmp_path, [*CLASSES, f"{folder}/5.png", f"cat/{folder}/6.png"])
    assert names(tmp_path) == CLASSES
    assert names(tmp_path / folder) == ["5.png"], "named itself it is one"


def test_runs_and_sweeps_among_the_images_are_not_learned_from(tmp_path: Path):
    make_folder(tmp_path, [*CLASSES, "mine/plots/loss.png", "sweep/slices.png", "other/5.png"])
    (tmp_path / "mine" / "config.yaml").write_text(dump(tiny_config()))
    (tmp_path / "other" / "config.yaml").write_text("camera: mine\n")
    for name in ("sweep.yaml", "sweep.json"):
        (tmp_path / "sweep" / name).touch()
    assert names(tmp_path) == [*CLASSES, "other/5.png"]


def test_links_are_followed_and_no_image_is_counted_twice(tmp_path: Path):
    make_folder(tmp_path, CLASSES)
    make_folder(tmp_path / "elsewhere", ["1.png"])
    root = tmp_path / "root"
    root.mkdir()
    for name in ("cat", "dog"):
        (root / name).symlink_to(tmp_path / name)
    (root / "more").mkdir()
    (root / "more" / "5.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    (root / "again").symlink_to(root / "more")
    (root / "more" / "up").symlink_to("..")
    (root / "more" / "itself.png").symlink_to("itself.png")
    (root / "gone.png").symlink_to("nowhere.png")
    assert names(root) == [*CLASSES, "more/5.png"]


def test_what_is_no_regular_file_is_passed_over(tmp_path: Path):
    make_folder(tmp_path, CLASSES)
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    (tmp_path / "cat" / "folder.png").mkdir()
    assert names(tmp_path) == CLASSES
    os.mkfifo(tmp_path / "pipe.parquet")
    with pytest.raises(InputError, match="neither a file nor a folder"):
        open_train(tmp_path / "pipe.parquet")


@contextmanager
def nobody(folder: Path) -> Iterator[None]:
    """Without the rights of root, where tests have them."""
    if os.geteuid():
        yield
        return
    for place in (folder, *folder.parents)[:-2]:
        place.chmod(place.stat().st_mode | 0o055)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path):
    make_folder(tmp_path, CLASSES)
    (tmp_path / "dog").chmod(0)
    try:
        with nobody(tmp_path), pytest.raises(InputError, match=r"dog cannot be listed: Permission denied"):
            open_train(tmp_path)
    finally:
        (tmp_path / "dog").chmod(0o755)


def test_files_that_are_left_out_are_counted(tmp_path: Path):
    make_folder(tmp_path, CLASSES)
    (tmp_path / "labels.csv").touch()
    assert remarks(tmp_path) == ""
    for file in ("a.heic", "b.HEIC", "features.h5", "clip.mpg", "fig.eps", "damaged.dds"):
        (tmp_path / "cat" / file).touch()
    assert names(tmp_path) == CLASSES
    assert f"data.train: left out of {tmp_path}, a folder of images: 2 files .heic, 1 file" in remarks(tmp_path)
    for file in CLASSES:
        (tmp_path / file).unlink()
    with pytest.raises(InputError, match=r"data\.train: no images in .*; there are 2 files \.heic"):
        open_train(tmp_path)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (CLASSES, ""),
        ([*CLASSES, "stray.png"], "no labels: 1 of 5 images are in no class folder, such as stray.png"),
        (["train/1.png", "val/2.png"], "what is called train and val is taken together"),
        (["only/1.png", "only/2.png"], ""),
    ],
)
def test_folders_that_can_hardly_be_meant_are_remarked_on(tmp_path: Path, files: list[str], said: str):
    found = remarks(make_folder(tmp_path, files))
    assert said in found
    assert bool(said) == bool(found)
    assert "labels" not in remarks(tmp_path, labels="none")


def test_a_single_folder_of_val_is_one_of_trains_classes(tmp_path: Path):
    train, val = make_folder(tmp_path / "train", CLASSES), make_folder(tmp_path / "val", ["dog/1.png"])
    images = open_all(train, val)
    assert (images.labelled, images.val.labels.tolist(), images.remarks) == (True, [1], ())
    other = make_folder(tmp_path / "other", ["wasp/1.png"])
    assert not open_all(train, other).labelled
    assert "data.val: no labels, and data.train has some" in remarks(train, other)


def test_what_the_system_does_not_let_be_read_is_no_broken_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = open_train(make_folder(tmp_path, CLASSES))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    waits: list[float] = []

    def use_up() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 2, hard))
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(0))

    def give_back() -> None:
        while held:
            os.close(held.pop())
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    monkeypatch.setattr(base, "WAITS", (0.01, 0.02))
    try:
        use_up()
        monkeypatch.setattr(base.time, "sleep", waits.append)
        with pytest.raises(DataError, match=r"1\.png cannot be read: .*Too many open files"):
            read_or_replace(source, 0, 3)
        assert waits == [0.01, 0.02]
        monkeypatch.setattr(base.time, "sleep", lambda _: give_back())
        assert read_or_replace(source, 0, 3)[1:] == (0, [])
    finally:
        give_back()


def test_a_file_that_is_gone_is_a_broken_image(tmp_path: Path):
    source = open_train(make_folder(tmp_path, CLASSES))
    (tmp_path / CLASSES[0]).unlink()
    assert read_or_replace(source, 0, 3)[1:] == (1, [0])
    assert DataConfig(train=str(tmp_path)).max_broken < 0.25
