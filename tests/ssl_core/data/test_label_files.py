"""Labels in a CSV or Parquet file beside a folder of images, as people write such files."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ssl_core.errors import InputError
from tests.conftest import make_folder
from tests.ssl_core.data.test_sources import open_all, open_train, write_parquet

FILES = ["a/1.png", "a/2.png", "b/3.png", "b/4.png"]
PLAIN = "filename,label\na/1.png,cat\na/2.png,dog\nb/3.png,cat\nb/4.png,ant\n"


def labelled(root: Path, text: str | bytes, file: str = "labels.csv", files: list[str] = FILES, **options) -> list:
    """What each image is labelled as, with images below `root`, and a file of labels there."""
    make_folder(root, files)
    (root / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    source = open_train(root, labels=file, **options)
    assert [source.name(index) for index in range(len(source))] == sorted(files)
    return [None if label < 0 else source.classes[label] for label in source.labels]


def remarks(root: Path, **options) -> str:
    return "\n".join(open_all(root, **({"labels": "labels.csv"} | options)).remarks)


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        PLAIN.replace(",", "    "),
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\n\n"),
        PLAIN.partition("\n")[2],
        PLAIN.partition("\n")[2].replace(",", "   "),
        "\ufeff" + PLAIN,
        "\ufeff" + PLAIN.partition("\n")[2],
        "image,id,label\n1.png,4,cat\n2.png,3,dog\n3.png,2,cat\n4.png,1,ant\n",
        PLAIN.encode("utf-16"),
        '"filename","label"\n"a/1.png","cat"\n"a/2.png","dog"\n"b/3.png","cat"\n"b/4.png","ant"\n',
        "label, filename\ncat, a/1.png\ndog, a/2.png\ncat, b/3.png\nant, b/4.png\n",
        "Species,Image ID\ncat,1\ndog,2\ncat,3\nant,4\n",
        ",file,class\n0,a/1.png,cat\n1,a/2.png,dog\n2,b/3.png,cat\n3,b/4.png,ant\n",
        'file class\n"0" a/1.png cat\n"1" a/2.png dog\n"2" b/3.png cat\n"3" b/4.png ant\n',
        PLAIN.replace("a/", "a\\").replace("b/", "b\\"),
        PLAIN.replace("a/", "./a/").replace("b/", "./b/"),
        PLAIN.replace("a/", "").replace("b/", ""),
        PLAIN.replace("a/", "/home/me/set/a/").replace("b/", "/home/me/set/b/"),
        PLAIN.replace(".png", ""),
        PLAIN.replace(".png", ".JPG"),
        "picture,what\n1.png,cat\n2.png,dog\n3.png,cat\n4.png,ant\n",
    ],
)
def test_csv_as_people_write_it(tmp_path: Path, text: str | bytes):
    assert labelled(tmp_path, text) == ["cat", "dog", "cat", "ant"]


def test_what_is_in_quotation_marks_is_one_cell(tmp_path: Path):
    files, text = ["my cat; 1.png", "2.png"], 'name,label\n"my cat; 1.png","a ""b"", c"\n2.png,"two\nlines"\n'
    assert labelled(tmp_path, text, files=files) == ["two\nlines", 'a "b", c']
    assert labelled(tmp_path, '"my cat; 1.png"  x\n2.png  y\n', files=files) == ["y", "x"]


def test_accents_are_the_same_however_they_are_written(tmp_path: Path):
    files, text = ["Käfer.png", "2.png"], "name,label\nKäfer.png,one\n2.png,two\n"
    assert labelled(tmp_path, text, files=files) == ["two", "one"]
    assert labelled(tmp_path, text.replace("ä", "a\u0308"), files=files) == ["two", "one"]
    assert labelled(tmp_path, text.encode("cp1252"), files=files) == ["two", "one"]


def test_paths_of_another_machine_are_known_by_their_ends(tmp_path: Path):
    text = "name,label\n/kaggle/set/a/1.png,x\n/kaggle/set/b/1.png,y\n"
    assert labelled(tmp_path, text, files=["a/1.png", "b/1.png"]) == ["x", "y"]


def test_numbers_are_classes_and_a_threshold_makes_two(tmp_path: Path):
    text = "a/1.png 1.0 mono\na/2.png 0.0 poly\nb/3.png 0.25 mono\nb/4.png 0.75 poly\n"
    assert labelled(tmp_path, text, label_column="2") == ["1.0", "0.0", "0.25", "0.75"]
    two = ["above 0.25", "at most 0.25", "at most 0.25", "above 0.25"]
    assert labelled(tmp_path, text, label_column="2", label_above=0.25) == two
    comma = text.replace("0.", "0,").replace(" ", ";")
    assert labelled(tmp_path, comma, label_column="2", label_above=0.25) == two
    turned = "0,75;a/1.png\n0,0;a/2.png\n0,25;b/3.png\n1,0;b/4.png\n"
    assert labelled(tmp_path, turned, label_above=0.25) == two
    assert labelled(tmp_path, text, label_column="3") == ["mono", "poly", "mono", "poly"]
    with pytest.raises(InputError, match=r"data\.label_above: expected labels that are numbers, and there is 'mono'"):
        open_train(tmp_path, labels="labels.csv", label_column="3", label_above=0.5)
    whole = "name,label\n1,10\n2,9\n3,NA\n4,-1\n"
    assert labelled(tmp_path, whole) == ["10", "9", None, None]
    assert open_train(tmp_path, labels="labels.csv").classes == ["9", "10"]


def test_labels_that_are_measured_are_no_classes(tmp_path: Path):
    files = [f"{n}.png" for n in range(30)]
    text = "name,label\n" + "".join(f"{file},{n + 0.5}\n" for n, file in enumerate(files))
    with pytest.raises(InputError, match=r"'label' holds 30 different numbers with a fraction.*data\.label_above"):
        labelled(tmp_path, text, files=files)
    found = labelled(tmp_path, text, files=files, label_above=3.5)
    assert (found.count("above 3.5"), found.count("at most 3.5")) == (26, 4)
    pq.write_table(pa.table({"n": [n + 0.5 for n in range(30)]}), tmp_path / "n.parquet")
    whole = write_parquet(tmp_path / "set" / "a.parquet", range(30), [n + 0.5 for n in range(30)])
    assert open_train(whole).labels is None
    assert "no labels: column 'label' holds 30 different numbers" in remarks(whole, labels="auto")
    assert np.bincount(open_train(whole, label_above=3.5).labels).tolist() == [4, 26]


def test_a_threshold_needs_numbers(tmp_path: Path):
    make_folder(tmp_path, FILES)
    with pytest.raises(InputError, match=r"data\.label_above: data\.train: the labels are no numbers"):
        open_train(tmp_path, label_above=1)
    with pytest.raises(InputError, match=r"data\.label_above: data\.train: there are no labels"):
        open_train(tmp_path, label_above=1, labels="none")


def test_a_parquet_file_of_labels(tmp_path: Path):
    make_folder(tmp_path, FILES)
    table = pa.table({"id": [1, 2, 3, 4], "species": pa.array(["x", "y", None, "y"]).dictionary_encode()})
    pq.write_table(table, tmp_path / "labels.parquet")
    source = open_train(tmp_path, labels="labels.parquet")
    assert source.labels.tolist() == [0, 1, -1, 1]
    said = remarks(tmp_path, labels="labels.parquet")
    assert "column 'id', labels in column 'species'" in said
    assert "1 of 4 images have a row without a label" in said
    assert "left out" not in said
    pq.write_table(pa.table({"id": [1, 2], "label": [[1], [2]]}), tmp_path / "labels.parquet")
    with pytest.raises(InputError, match=r"data\.labels: .*labels\.parquet: column 'label' holds list"):
        open_train(tmp_path, labels="labels.parquet")
    (tmp_path / "labels.parquet").write_text("no")
    with pytest.raises(InputError, match=r"data\.labels: .*labels\.parquet: not a Parquet file"):
        open_train(tmp_path, labels="labels.parquet")


def test_what_does_not_pair_up_is_said(tmp_path: Path):
    text = "filename,label\na/1.png,cat\nb/3.png,\nb/4.png,ant\nc/9.png,ant\n"
    assert labelled(tmp_path, text) == ["cat", None, None, "ant"]
    said = remarks(tmp_path)
    assert "data.train: 1 of 4 images have no row in" in said
    assert "such as a/2.png; what needs labels leaves them out" in said
    assert "data.train: 1 of 4 images have a row without a label" in said
    assert "data.labels: 1 of 4 rows of" in said
    assert "name no image, such as 'c/9.png'" in said
    assert "names of images are in column 'filename', labels in column 'label'" in said
    assert "names of images" not in remarks(tmp_path, name_column="filename", label_column="label")


def test_names_that_fit_several_images_are_no_ones(tmp_path: Path):
    files = ["a/1.png", "b/1.png", "b/2.png"]
    assert labelled(tmp_path, "name,label\n1.png,x\n2.png,y\n", files=files) == [None, None, "y"]
    assert "1 of 2 rows of" in remarks(tmp_path)
    assert "fit several images, such as '1.png'" in remarks(tmp_path)
    (tmp_path / "labels.csv").write_text("name,label\n1.png,x\n1.png,y\n")
    with pytest.raises(
        InputError, match=r"several images may be '1\.png' of column 'name'; expected paths.*'a/1\.png'"
    ):
        open_train(tmp_path, labels="labels.csv")


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("filename,class,species\na/1.png,1,x\n", {}, r"data\.label_column: .* class, species may be it \(columns:"),
        ("a/1.png 1 x\n", {}, r"data\.label_column: .* 2, 3 may be it \(columns, by number: 1 \('a/1\.png', …\), 2"),
        (
            "filename,other\na/1.png,x\n",
            {"label_column": "kind"},
            r"data\.label_column: .*no column 'kind' \(columns: f",
        ),
        ("filename,other\na/1.png,x\n", {"label_column": "3"}, r"no column '3'"),
        ("filename,other\na/1.png,x\n", {"name_column": "pic"}, r"data\.name_column: .*no column 'pic'"),
        ("filename,other\na/1.png,x\n", {"name_column": "other"}, r"no image has a row: column 'other' says 'x'"),
        ("image,id,label\n1,2,x\n", {}, r"data\.name_column: image and id of .* may both name images"),
        (
            "image,label\nz.png,2\ny.png,1\n",
            {},
            r"column 'image' says 'z\.png', 'y\.png', and images .*'a/1\.png', 'a/2",
        ),
        ("image,label\na/1.png,x\na/1.png,y\n", {}, r"a/1\.png has several rows, with labels 'x' and 'y'"),
        ("image,label\na/1.png,x\na/2.png,x,y\n", {}, r"data\.labels: .*row 3 has 3 columns, expected 2: 'a/2\.png"),
        ("image,label,label\na/1.png,x,y\n", {}, r"two columns are called 'label'"),
        ("image,label\n", {}, r"no rows below the column names image, label"),
        ("", {}, r"no rows"),
        ("1.png\n2.png\n", {}, r"expected columns separated by .* its first line is '1\.png'"),
        (b"PK\x03\x04\x00\x00", {}, r"labels\.csv: neither text nor Parquet"),
        ("name,,\na/1.png,,\na/2.png,,\n", {}, r"data\.label_column: .* there is none beside 'name'"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, text: str | bytes, options: dict, said: str):
    with pytest.raises(InputError, match=said) as error:
        labelled(tmp_path, text, **options)
    assert str(error.value).startswith("data.")


def test_rows_that_say_the_same_twice_are_one(tmp_path: Path):
    assert labelled(tmp_path, PLAIN + "a/1.png,cat\n") == ["cat", "dog", "cat", "ant"]


def test_where_a_file_of_labels_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_folder(tmp_path / "set", FILES)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"data\.labels: my\.csv: no such file in .*set or .*expected auto, none, or"):
        open_train(tmp_path / "set", labels="my.csv")
    (tmp_path / "my.csv").write_text(PLAIN)
    assert open_train(tmp_path / "set", labels="my.csv").classes == ["ant", "cat", "dog"]
    (tmp_path / "set" / "my.csv").write_text(PLAIN.replace("ant", "emu"))
    assert open_train(tmp_path / "set", labels="my.csv").classes == ["cat", "dog", "emu"]
    assert open_train(tmp_path / "set", labels=str(tmp_path / "my.csv")).classes == ["ant", "cat", "dog"]
    with pytest.raises(
        InputError, match=r"data\.labels: a file of labels is about a folder of images, and data\.train"
    ):
        open_train(write_parquet(tmp_path / "a.parquet", range(2)), labels="my.csv")


def test_one_file_may_be_about_train_and_val(tmp_path: Path):
    for part in ("train", "val"):
        make_folder(tmp_path / part, ["1.png", "2.png"])
    text = "file,label\ntrain/1.png,x\ntrain/2.png,y\nval/1.png,y\nval/2.png,x\nno.png,x\n"
    (tmp_path / "labels.csv").write_text(text)
    images = open_all(tmp_path / "train", tmp_path / "val", labels="../labels.csv")
    assert images.labelled
    assert images.train.labels.tolist() == [0, 1]
    assert images.val.labels.tolist() == [1, 0]
    assert next(remark for remark in images.remarks if "rows" in remark).startswith("data.labels: 1 of 5 rows")
    (tmp_path / "train" / "labels.csv").write_text("1.png,y\n2.png,x\n")
    images = open_all(tmp_path / "train", tmp_path / "val", labels="labels.csv", name_column="1", label_column="2")
    assert images.train.labels.tolist() == images.val.labels.tolist() == [1, 0], "that of train serves val as well"
    (tmp_path / "val" / "labels.csv").write_text("1.png,y\n2.png,y\n")
    images = open_all(tmp_path / "train", tmp_path / "val", labels="labels.csv")
    assert images.val.labels.tolist() == [1, 1], "val has its own"
    (tmp_path / "val" / "labels.csv").write_text("1.png,z\n2.png,y\n")
    with pytest.raises(InputError, match=r"data\.val: 1 labels that data\.train lacks \(z\)"):
        open_all(tmp_path / "train", tmp_path / "val", labels="labels.csv")
