"""Images for validation that are taken out of those to train on."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from ssl_core.data.sources.base import Images
from ssl_core.data.sources.bundled import DIGITS
from ssl_core.data.sources.split import draw_share
from ssl_core.errors import InputError
from ssl_core.schema.data import DataConfig
from tests.conftest import make_folder
from tests.ssl_core.data.test_sources import open_all, write_parquet

SIZES = {"a": 8, "b": 5, "c": 2, "d": 1}
FILES = [f"{name}/{n}.png" for name, size in SIZES.items() for n in range(size)]


def names(images: Images) -> tuple[list[str], list[str]]:
    return tuple([source.name(index) for index in range(len(source))] for source in (images.train, images.val))


def test_a_share_of_each_class_is_taken_out(tmp_path: Path):
    make_folder(tmp_path, FILES)
    images = open_all(tmp_path, split={"share": 0.25})
    train, val = names(images)
    assert sorted(train + val) == sorted(FILES)
    assert np.bincount(images.val.labels, minlength=4).tolist() == [2, 1, 1, 0]
    assert images.labelled
    assert list(images.train.classes) == list(images.val.classes) == list(SIZES)
    assert [images.val.classes[label] for label in images.val.labels] == [name[0] for name in val]
    assert names(open_all(tmp_path, split={"share": 0.25})) == (train, val)
    assert names(open_all(tmp_path, split={"share": 0.25, "seed": 1})) != (train, val)
    some = open_all(tmp_path, split={"share": 0.25}, limit=3)
    assert (len(some.train), names(some)[1]) == (3, val)
    assert set(names(some)[0]) <= set(train)


def test_shares_keep_to_the_whole_and_leave_no_class_empty():
    generator = np.random.default_rng(0)
    for trial in range(200):
        labels = np.repeat(np.arange(-1, 6), generator.integers(0, 30, 7))
        generator.shuffle(labels)
        if len(np.unique(labels)) == len(labels):
            continue
        share = generator.uniform(0.02, 0.98)
        val = draw_share(labels, len(labels), share, trial)
        _, groups, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        taken = np.bincount(groups, val, len(sizes))
        assert (taken[sizes > 1] >= 1).all()
        assert (taken[sizes > 1] < sizes[sizes > 1]).all()
        assert (taken[sizes == 1] == 0).all()
        assert (np.abs(taken - share * sizes) <= 1).all()
        if (share * sizes >= 1).all() and ((1 - share) * sizes >= 1).all():
            assert val.sum() == round(share * len(labels))


def test_images_without_labels_are_split_at_random(tmp_path: Path):
    flat = make_folder(tmp_path / "flat", [f"{n}.png" for n in range(12)])
    images = open_all(flat, split={"share": 0.25})
    assert (len(images.train), len(images.val), images.labelled) == (9, 3, False)
    one = make_folder(tmp_path / "one", ["1.png"])
    with pytest.raises(InputError, match=r"data\.split\.share: 1 image cannot be split"):
        open_all(one, split={"share": 0.5})
    single = make_folder(tmp_path / "single", ["a/1.png", "b/2.png"])
    with pytest.raises(InputError, match=r"data\.split\.share: every class has one image alone; data\.labels=none"):
        open_all(single, split={"share": 0.5})
    assert len(open_all(single, split={"share": 0.5}, labels="none").val) == 1


def test_sources_by_name_and_parquet_are_split(tmp_path: Path):
    digits = open_all(DIGITS, split={"share": 0.1})
    assert (len(digits.train), len(digits.val)) == (3600, 400)
    assert np.bincount(digits.val.labels).tolist() == [40] * 10
    path = write_parquet(tmp_path / "a.parquet", range(12), [0, 1] * 6)
    images = open_all(path, split={"share": 0.25})
    assert np.bincount(images.val.labels).sum() == 3
    rows = {source.where(index) for source in (images.train, images.val) for index in range(len(source))}
    assert len(rows) == 12
    assert np.array_equal(np.asarray(images.val.read(0)), np.asarray(images.val.source.read(images.val.indices[0])))


TEXT = "file,label,part\n" + "".join(
    f"{file},{file[0]},{part}\n" for file, part in zip(FILES, ["train", "val", "train", "test"] * 4, strict=True)
)


def test_a_column_says_what_is_for_validation(tmp_path: Path):
    make_folder(tmp_path, FILES)
    (tmp_path / "labels.csv").write_text(TEXT.replace("d/0.png,d,test\n", ""))
    part = dict(zip(FILES, ["train", "val", "train", "test"] * 4, strict=True)) | {"d/0.png": None}

    def opened(**said: str) -> Images:
        return open_all(tmp_path, labels="labels.csv", split={"column": "part", "val": "val"} | said)

    images = opened(train="train")
    train, val = names(images)
    assert (train, val) == tuple([file for file in FILES if part[file] == key] for key in ("train", "val"))
    assert images.labelled
    assert "data.split: column 'part' also says 'test' (3), nothing (1) of images, which are left out" in images.remarks
    images = opened()
    assert (len(images.train), names(images)[1]) == (12, val)
    assert any(
        "'train' (8), 'test' (3), nothing (1) of images, which are trained on" in said for said in images.remarks
    )
    for said, words in [
        ({"val": "dev"}, r"data\.split\.val: column 'part' says 'dev' of no image; it says 'train', 'val', 'test'"),
        ({"train": "all"}, r"data\.split\.train: column 'part' says 'all' of no image"),
        ({"train": "val"}, r"data\.split: column 'part' leaves no image to train on"),
        ({"column": "fold"}, r"data\.split\.column: .* has no column 'fold' \(columns: file, label, part\)"),
    ]:
        with pytest.raises(InputError, match=words):
            opened(**said)
    with pytest.raises(InputError, match=r"data\.split\.column: part: there are columns in Parquet, or in a file"):
        open_all(tmp_path, split={"column": "part", "val": "val"})


def test_a_file_may_hold_parts_and_no_labels(tmp_path: Path):
    make_folder(tmp_path, ["1.png", "2.png"])
    (tmp_path / "parts.csv").write_text("1.png;1\n2.png;0\n")
    images = open_all(tmp_path, labels="parts.csv", split={"column": "2", "val": "1"})
    assert names(images) == (["2.png"], ["1.png"])
    assert not images.labelled
    assert "no labels" in images.remarks[0]


def test_a_column_of_parquet_says_it_as_well(tmp_path: Path):
    path = write_parquet(tmp_path / "a.parquet", range(6), [1, 2, 1, 2, 1, None])
    images = open_all(path, labels="none", split={"column": "label", "val": "2"})
    assert [images.val.where(index) for index in range(2)] == [f"{path} row 1", f"{path} row 3"]
    assert len(images.train) == 4
    for column, words in (("fold", "no column 'fold' of numbers or words"), ("image", "says '2' of no image")):
        with pytest.raises(InputError, match=words):
            open_all(path, split={"column": column, "val": "2"})


@pytest.mark.parametrize(
    "split",
    [{}, {"share": 0.0}, {"share": 1.0}, {"share": 0.5, "column": "a"}, {"share": 0.5, "val": "a"}, {"column": "a"}],
)
def test_a_split_is_a_share_or_a_column(split: dict):
    with pytest.raises(ValidationError):
        DataConfig(train="x", split=split)
    with pytest.raises(ValidationError, match="split: val is given as well"):
        DataConfig(train="x", val="y", split={"share": 0.5})
