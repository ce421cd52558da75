"""Folders, Parquet and the bundled digits: what is found, how it is labelled, what is refused."""

import io
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ssl_core.data.sources import open_images
from ssl_core.data.sources.base import Images, Source
from ssl_core.data.sources.bundled import DIGITS
from ssl_core.errors import InputError
from ssl_core.schema.data import DataConfig
from tests.conftest import make_folder, make_image


def encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path: Path, seeds: range, labels: list | None = None, struct: bool = False, group: int = 4) -> Path:
    data: list = [encode(make_image(seed)) for seed in seeds]
    if struct:
        data = [{"bytes": item, "path": f"{seed}.png"} for seed, item in zip(seeds, data, strict=True)]
    columns = {"image": data} | ({} if labels is None else {"label": labels})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path


def open_train(train: Path | list[Path] | str, **options) -> Source:
    return open_all(train, **options).train


def open_all(train: Path | list[Path] | str, val: Path | None = None, **options) -> Images:
    train = [str(path) for path in train] if isinstance(train, list) else str(train)
    return open_images(DataConfig(train=train, val=None if val is None else str(val), **options))


def pixels(source: Source, index: int) -> np.ndarray:
    return np.asarray(source.read(index).convert("RGB"))


def test_a_flat_folder_has_images_and_no_labels(tmp_path: Path):
    make_folder(tmp_path, ["a.png", "b.jpg", "c.webp", "D.JPEG"])
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_bytes(b"")
    source = open_train(tmp_path)
    assert [Path(source.where(i)).name for i in range(len(source))] == ["D.JPEG", "a.png", "b.jpg", "c.webp"]
    assert source.labels is None
    assert np.array_equal(pixels(source, 1), np.asarray(make_image(0)))
    for index in range(4):
        assert pixels(source, index).shape == (20, 20, 3)


def test_class_folders_are_labels_at_any_depth(tmp_path: Path):
    make_folder(tmp_path, ["dog/1.png", "cat/old/deep/2.png", "dog/more/3.png"])
    source = open_train(tmp_path)
    named = {Path(source.where(i)).name: source.classes[source.labels[i]] for i in range(3)}
    assert named == {"1.png": "dog", "2.png": "cat", "3.png": "dog"}
    assert open_train(tmp_path, labels="none").labels is None


@pytest.mark.parametrize("files", [["a/1.png", "2.png"], ["only/1.png", "only/2.png"], ["1.png"]])
def test_folders_that_are_no_classes_give_no_labels(tmp_path: Path, files: list[str]):
    source = open_train(make_folder(tmp_path, files))
    assert len(source) == len(files)
    assert source.labels is None


@pytest.mark.parametrize("struct", [False, True], ids=["bytes", "struct"])
@pytest.mark.parametrize("kind", ["file", "list", "folder"])
def test_parquet_of_every_shape_gives_the_same_images(tmp_path: Path, struct: bool, kind: str):
    first = write_parquet(tmp_path / "shards" / "0.parquet", range(6), struct=struct)
    if kind == "file":
        source = open_train(first)
    else:
        second = write_parquet(tmp_path / "shards" / "more" / "1.parquet", range(6, 11), struct=struct)
        source = open_train([first, second] if kind == "list" else tmp_path / "shards")
    assert len(source) == (6 if kind == "file" else 11)
    for index in range(len(source)):
        assert np.array_equal(pixels(source, index), np.asarray(make_image(index)))
    assert source.where(5) == f"{first} row 5"
    if kind != "file":
        assert source.where(8) == f"{second} row 2"
    assert source.labels is None


@pytest.mark.parametrize(
    ("labels", "classes"), [([3, 1, 3, 7], ["1", "3", "7"]), (["cat", "ant", "cat", "dog"], ["ant", "cat", "dog"])]
)
def test_parquet_labels_are_numbers_or_names(tmp_path: Path, labels: list, classes: list[str]):
    source = open_train(write_parquet(tmp_path / "a.parquet", range(4), labels))
    assert list(source.classes) == classes
    assert source.labels.tolist() == [1, 0, 1, 2]
    assert open_train(tmp_path / "a.parquet", label_column="none of it").labels is None


def test_a_source_can_be_sent_to_another_process(tmp_path: Path):
    source = open_train(write_parquet(tmp_path / "a.parquet", range(5)))
    source.read(0)
    copy = pickle.loads(pickle.dumps(source))
    assert np.array_equal(pixels(copy, 4), pixels(source, 4))
    assert len(pickle.dumps(source)) < (tmp_path / "a.parquet").stat().st_size, "images travel along"


def test_val_labels_are_numbered_as_in_train(tmp_path: Path):
    train = make_folder(tmp_path / "train", ["ant/1.png", "bee/2.png", "cat/3.png"])
    val = make_folder(tmp_path / "val", ["bee/1.png", "cat/2.png"])
    images = open_all(train, val)
    assert images.labelled
    assert images.val.labels.tolist() == [1, 2]
    assert not open_all(train).labelled


def test_limit_picks_the_same_images_every_time(tmp_path: Path):
    path = write_parquet(tmp_path / "a.parquet", range(20), [n % 3 for n in range(20)])
    whole, some = open_train(path), open_train(path, limit=7)
    again = open_train(path, limit=7)
    names = [some.where(i) for i in range(len(some))]
    assert len(set(names)) == 7
    assert names == [again.where(i) for i in range(7)]
    rows = [int(name.rpartition(" ")[2]) for name in names]
    assert [some.labels[i] for i in range(7)] == [whole.labels[row] for row in rows]
    assert all(np.array_equal(pixels(some, i), pixels(whole, row)) for i, row in enumerate(rows))
    assert some.block_ends[-1] == 7
    assert len(open_train(path, limit=100)) == 20


def test_the_digits_bring_a_disjoint_validation_set():
    images = open_all(DIGITS)
    assert (len(images.train), len(images.val)) == (4000, 1000)
    assert np.bincount(images.val.labels).tolist() == [100] * 10
    seen = {images.train.pixels[i].tobytes() for i in range(4000)}
    assert not any(images.val.pixels[i].tobytes() in seen for i in range(1000))
    assert images.train.read(0).size == (28, 28)


def test_what_is_no_set_of_images_is_refused_with_its_path(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    text = tmp_path / "list.txt"
    text.write_text("a.png\n")
    fake = tmp_path / "fake.parquet"
    fake.write_text("not Parquet")
    broken = make_folder(tmp_path / "broken", ["1.png", "2.png"])
    for file in broken.iterdir():
        file.write_bytes(b"no image")
    numbers = tmp_path / "numbers.parquet"
    pq.write_table(pa.table({"image": [1, 2], "picture": [b"", b""]}), numbers)
    for path, words in [
        (tmp_path / "missing", ["data.train", "missing", "does not exist"]),
        (tmp_path / "empty", ["data.train", "no images"]),
        (text, ["data.train", "list.txt", "folder of images", "Parquet"]),
        (fake, ["fake.parquet", "not a Parquet file"]),
        (broken, ["data.train", "2 images", "decoded"]),
        (numbers, ["'image'", "int64", "bytes"]),
    ]:
        with pytest.raises(InputError) as error:
            open_train(path)
        assert all(word in str(error.value) for word in words), str(error.value)


def test_a_missing_column_is_answered_with_those_that_exist(tmp_path: Path):
    path = write_parquet(tmp_path / "a.parquet", range(2), [0, 1])
    with pytest.raises(InputError, match=r"a\.parquet: no column 'picture' \(columns: image, label\).*image_column"):
        open_train(path, image_column="picture")


def test_labels_of_val_that_train_lacks_are_named(tmp_path: Path):
    train = make_folder(tmp_path / "train", ["ant/1.png", "bee/2.png"])
    val = make_folder(tmp_path / "val", ["ant/1.png", "wasp/2.png"])
    with pytest.raises(InputError, match=r"data\.val: 1 labels.*wasp.*data\.labels=none"):
        open_all(train, val)
    assert not open_all(train, val, labels="none").labelled
