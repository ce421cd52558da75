"""Parquet files as other programs write them: types, labels, folders, paths, large groups, many files."""

import os
import resource
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ssl_core.data.sources import parquet
from ssl_core.data.sources.base import BrokenImage, read_image
from ssl_core.data.sources.parquet import ParquetSource
from ssl_core.errors import InputError
from tests.conftest import make_folder, make_image
from tests.ssl_core.data.test_sources import encode, open_all, open_train, pixels, write_parquet

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def images(count: int) -> list[bytes]:
    return [encode(make_image(seed)) for seed in range(count)]


def write(file: Path, labels: pa.Array | None = None, count: int = 4) -> Path:
    columns = {"image": images(count)} | ({} if labels is None else {"label": labels})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), file)
    return file


@pytest.mark.parametrize(
    "kind",
    [pa.binary_view(), pa.large_binary(), pa.struct([("bytes", pa.binary_view()), ("path", pa.string_view())]), STRUCT],
    ids=str,
)
def test_bytes_of_every_arrow_type_are_read(tmp_path: Path, kind: pa.DataType):
    values = [{"bytes": data, "path": None} if pa.types.is_struct(kind) else data for data in images(3)]
    pq.write_table(pa.table({"image": pa.array(values, kind)}), tmp_path / "a.parquet")
    source = open_train(tmp_path / "a.parquet")
    assert np.array_equal(pixels(source, 2), np.asarray(make_image(2)))


@pytest.mark.parametrize("struct", [False, True], ids=["bytes", "struct"])
def test_a_column_with_a_dot_in_its_name_has_a_size(tmp_path: Path, struct: bool):
    table = pq.read_table(write_parquet(tmp_path / "plain.parquet", range(8), struct=struct))
    other = pa.array([[n] * 100 for n in range(8)])
    table = pa.table({"before": other, "image.png": table["image"], "image": other})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    source = open_train(tmp_path / "a.parquet", image_column="image.png")
    plain = open_train(tmp_path / "plain.parquet")
    assert source.total_bytes == plain.total_bytes > 0
    assert np.array_equal(pixels(source, 5), pixels(plain, 5))


INTS = pa.array([0, 1, 0, 2], pa.int64())


@pytest.mark.parametrize(
    ("first", "second", "classes", "labels"),
    [
        (INTS, INTS.cast(pa.int32()), ["0", "1", "2"], [0, 1, 0, 2] * 2),
        (INTS.cast(pa.float64()), INTS.cast(pa.uint8()), ["0", "1", "2"], [0, 1, 0, 2] * 2),
        (INTS, pa.nulls(4), ["0", "1", "2"], [0, 1, 0, 2, -1, -1, -1, -1]),
        (INTS, None, ["0", "1", "2"], [0, 1, 0, 2, -1, -1, -1, -1]),
        (INTS, pa.array([5, -1, None, 0]), ["0", "1", "2", "5"], [0, 1, 0, 2, 3, -1, -1, 0]),
        (INTS, pa.array([1.0, np.nan, None, 0.5]), ["0.0", "0.5", "1.0", "2.0"], [0, 2, 0, 3, 2, -1, -1, 1]),
        (
            pa.array(["b", "a"] * 2),
            pa.array(["b", None] * 2).dictionary_encode(),
            ["a", "b"],
            [1, 0, 1, 0, 1, -1, 1, -1],
        ),
        (pa.array(["b", "a"] * 2).cast(pa.string_view()), INTS, ["0", "1", "2", "a", "b"], [4, 3, 4, 3, 0, 1, 0, 2]),
        (pa.array([-1, 1] * 2), pa.array([1, -1] * 2), ["-1", "1"], [0, 1, 0, 1, 1, 0, 1, 0]),
        (pa.array([True, False] * 2), pa.array([True] * 4), ["False", "True"], [1, 0, 1, 0, 1, 1, 1, 1]),
    ],
)
def test_labels_of_shards_of_different_types(
    tmp_path: Path, first: pa.Array, second: pa.Array | None, classes: list[str], labels: list[int]
):
    write(tmp_path / "a.parquet", first)
    write(tmp_path / "b.parquet", second)
    found = open_all(tmp_path)
    assert list(found.train.classes) == classes
    assert found.train.labels.tolist() == labels
    bare = labels.count(-1)
    assert [f"data.train: {bare} of 8 images have no label" in remark for remark in found.remarks] == [True] * (
        bare > 0
    )


@pytest.mark.parametrize(
    "labels",
    [pa.array([[0], [1, 2], [], None]), pa.array([{"a": 1}] * 4), pa.array([-1] * 4), pa.nulls(4)],
    ids=["lists", "structs", "-1", "null"],
)
def test_labels_that_are_none_are_remarked_on(tmp_path: Path, labels: pa.Array):
    write(tmp_path / "a.parquet", labels)
    found = open_all(tmp_path)
    assert found.train.labels is None
    assert ["data.train: no labels: column 'label'" in remark for remark in found.remarks] == [True]
    assert open_all(tmp_path, labels="none").remarks == ()


def test_unlabelled_images_of_val_stay_so(tmp_path: Path):
    train = write(tmp_path / "train.parquet", pa.array([7, 8, 7, -1]))
    val = write(tmp_path / "val.parquet", pa.array([8, -1, None, 8]))
    assert open_all(train, val).val.labels.tolist() == [1, -1, -1, 1]


def test_two_columns_of_one_name_are_refused(tmp_path: Path):
    for name, columns in (("image", ["image", "image"]), ("label", ["image", "label", "label"])):
        arrays = [pa.array(images(2)) if column == "image" else pa.array([0, 1]) for column in columns]
        pq.write_table(pa.Table.from_arrays(arrays, columns), tmp_path / f"{name}.parquet")
        with pytest.raises(InputError, match=rf"{name}\.parquet: 2 columns are called '{name}'"):
            open_train(tmp_path / f"{name}.parquet")


def test_a_damaged_label_column_is_named(tmp_path: Path):
    file = write(tmp_path / "a.parquet", pa.array(np.arange(1000) % 7), count=1000)
    place = pq.ParquetFile(file).metadata.row_group(0).column(1).dictionary_page_offset
    data = bytearray(file.read_bytes())
    data[place : place + 40] = b"\xff" * 40
    file.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"a\.parquet: column 'label' cannot be read: .*data\.labels=none"):
        open_train(file)
    assert len(open_train(file, labels="none")) == 1000


def test_what_lies_about_in_a_folder_of_parquet(tmp_path: Path):
    write(tmp_path / "set" / "a.parquet")
    write(tmp_path / "set" / "part.parquet" / "part-0000.parquet")
    write(tmp_path / "set" / ".cache" / "old.parquet")
    (tmp_path / "set" / "._a.parquet").write_bytes(b"of a Macintosh")
    source = open_train(tmp_path / "set")
    assert [source.where(i) for i in (0, 4)] == [
        f"{tmp_path}/set/a.parquet row 0",
        f"{tmp_path}/set/part.parquet/part-0000.parquet row 0",
    ]
    assert len(source) == 8


def test_a_folder_with_images_is_one_of_images(tmp_path: Path):
    make_folder(tmp_path, ["cat/1.png", "dog/2.png"])
    pq.write_table(pa.table({"file_name": ["cat/1.png"]}), tmp_path / "metadata.parquet")
    found = open_all(tmp_path)
    assert list(found.train.classes) == ["cat", "dog"]
    assert ["1 file .parquet" in remark for remark in found.remarks] == [True]


def test_splits_that_are_taken_together_are_remarked_on(tmp_path: Path):
    for name in ("train-0", "train-1", "test-0"):
        write(tmp_path / "data" / f"{name}.parquet")
    (remark,) = open_all(tmp_path).remarks
    assert "test and train is taken together" in remark
    assert open_all(tmp_path / "data" / "test-0.parquet").remarks == ()


def test_paths_are_followed_within_the_sets_folder_alone(tmp_path: Path):
    make_folder(tmp_path, ["set/pics/1.png", "secret.png"])
    (tmp_path / "set" / "link.png").symlink_to(tmp_path / "secret.png")
    outside = ["../secret.png", str(tmp_path / "secret.png"), "link.png", "pics", "gone.png"]
    paths = ["pics/1.png", str(tmp_path / "set" / "pics" / "1.png"), *outside]
    rows = pa.array([{"bytes": None, "path": path} for path in paths], STRUCT)
    pq.write_table(pa.table({"image": rows}), tmp_path / "set" / "a.parquet")
    source = open_train(tmp_path / "set" / "a.parquet")
    for index in range(len(paths)):
        if index < 2:
            assert np.array_equal(pixels(source, index), np.asarray(make_image(0)))
        else:
            with pytest.raises(BrokenImage, match=r"the path .* is no file below"):
                read_image(source, index)


def test_a_group_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = write_parquet(tmp_path / "a.parquet", range(40), struct=True, group=40)
    source = open_train(file)
    monkeypatch.setattr(parquet, "BATCH_BYTES", source.total_bytes // 5)
    source = open_train(file)
    assert all(np.array_equal(pixels(source, i), np.asarray(make_image(i))) for i in (0, 7, 8, 39))
    assert source._group(0).num_chunks >= 5


def test_more_files_than_a_process_may_open(tmp_path: Path):
    files = [write(tmp_path / f"{number:03d}.parquet", count=1) for number in range(100)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    source = ParquetSource(files, "image", "label", 1)
    try:
        others = max(int(number) for number in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (others + parquet.OPEN_FILES + 20, hard))
        for index in (*range(100), 0, 50, 99):
            assert source.read(index).size == (20, 20)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_cache_knows_its_size(tmp_path: Path):
    file = write_parquet(tmp_path / "a.parquet", range(40), group=2)
    whole = ParquetSource([file], "image", None, 1 << 30)
    source = ParquetSource([file], "image", None, whole.total_bytes // 3)
    for index in np.random.default_rng(0).permutation(40):
        source.read(int(index))
        assert source._cached_bytes == sum(column.nbytes for column in source._cache.values())
    assert 1 < len(source._cache) < 20
