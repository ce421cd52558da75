"""What is to be found for each query, read from JSON to indices."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl_core.data.sources.base import Source
from ssl_core.data.sources.ground_truth import Truth, read_ground_truth
from ssl_core.errors import InputError
from tests.conftest import make_folder
from tests.ssl_core.data.test_sources import open_train


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Source]:
    """A database b/0.jpg … b/5.jpg, and queries q0.jpg, q1.jpg."""
    root = tmp_path_factory.mktemp("retrieval")
    database = open_train(make_folder(root / "database", [f"b/{n}.jpg" for n in range(6)]))
    return database, open_train(make_folder(root / "queries", ["q0.jpg", "q1.jpg"]))


def read(tmp_path: Path, content: Any, sources: tuple[Source, Source]) -> list[Truth]:
    file = tmp_path / "gnd.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_ground_truth(file, *sources)


def lists(truth: Truth) -> tuple[list[int], list[int], list[int]]:
    return truth.easy.tolist(), truth.hard.tolist(), truth.junk.tolist()


@pytest.mark.parametrize("form", ["b/{}.jpg", "{}.jpg", "{}", "database/b/{}.jpg"])
def test_images_are_named_as_files_name_them(tmp_path: Path, form: str, sources: tuple[Source, Source]):
    def named(*numbers: int) -> list[str]:
        return [form.format(number) for number in numbers]

    content = {
        "q1.jpg": {"positives": named(3, 1), "junk": named(5)},
        "q0": {"easy": named(0), "hard": named(4, 2), "junk": []},
    }
    if "/" not in form:
        content = {key.removesuffix(".jpg"): value for key, value in content.items()}
    else:
        content["q0.jpg"] = content.pop("q0")
    found = read(tmp_path, content, sources)
    assert [truth.query for truth in found] == [1, 0]
    assert lists(found[0]) == ([3, 1], [], [5])
    assert lists(found[1]) == ([0], [4, 2], [])
    assert all(array.dtype == np.int64 for truth in found for array in (truth.easy, truth.hard, truth.junk))
    assert found[0].box is None


REVISITED = {
    "imlist": ["5", "4", "3", "2", "1", "0"],
    "qimlist": ["q0", "q1"],
    "gnd": [
        {"bbx": [1.5, 2, 10, 12], "easy": [0, 1], "hard": [2], "junk": [5]},
        {"bbx": [0, 0, 5, 5], "easy": [], "hard": [3], "junk": []},
    ],
}


def test_revisited_oxford_and_paris_are_read(tmp_path: Path, sources: tuple[Source, Source]):
    found = read(tmp_path, REVISITED, sources)
    assert [truth.query for truth in found] == [0, 1]
    assert [lists(truth) for truth in found] == [([5, 4], [3], [0]), ([], [2], [])]
    assert found[0].box == (1.5, 2.0, 10.0, 12.0)


def of_revisited(**said: Any) -> dict[str, Any]:
    return REVISITED | {"gnd": [REVISITED["gnd"][0] | said, REVISITED["gnd"][1]]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", r"gnd\.json: not a JSON file; expected \{\"query"),
        ("[]", r"expected \{\"query"),
        ({}, r"expected \{\"query"),
        ({"q0": ["1"]}, r"q0: expected positives, or easy and hard, and junk"),
        ({"q0": {"positive": ["1"]}}, r"q0: expected positives, or easy and hard, and junk"),
        ({"q0": {"positives": ["1"], "easy": ["2"]}}, r"q0: expected either positives, or easy and hard"),
        ({"q0": {"positives": "1"}}, r"q0: positives: expected a list of names"),
        ({"q0": {"positives": [1]}}, r"q0: positives: expected a list of names"),
        ({"q0": {"positives": ["1", "9"]}}, r"1 of 2 images that it names are not there, such as '9'; .*'b/0\.jpg'"),
        ({"q9": {"positives": ["1"]}}, r"1 of 1 images that it names are not there, such as 'q9'; .*'q0\.jpg'"),
        ({"q0": {"positives": ["1"], "junk": ["1"]}}, r"q0: an image is named twice"),
        ({"q0": {"junk": ["1"]}}, r"no query has a positive image"),
        (REVISITED | {"gnd": []}, r"gnd: expected a list with an entry for each of the 2 of qimlist"),
        (of_revisited(easy=[6]), r"gnd of q0: easy: expected a list of numbers from 0 to 5"),
        (of_revisited(hard=["1"]), r"gnd of q0: hard: expected a list of numbers from 0 to 5"),
        (of_revisited(bbx=[3, 0, 1, 9]), r"gnd of q0: bbx: expected \[left, top, right, bottom\]"),
        (REVISITED | {"gnd": [{}, {}]}, r"gnd of q0: expected easy, hard and junk"),
    ],
)
def test_what_is_no_ground_truth_is_refused(tmp_path: Path, content: Any, said: str, sources: tuple[Source, Source]):
    with pytest.raises(InputError, match=said):
        read(tmp_path, content, sources)


def test_a_pickle_is_not_opened(tmp_path: Path, sources: tuple[Source, Source]):
    (tmp_path / "gnd.pkl").write_bytes(b"\x80\x04]\x94.")
    with pytest.raises(InputError, match=r"gnd\.pkl: not a JSON file; a pickle may hold code"):
        read_ground_truth(tmp_path / "gnd.pkl", *sources)
    with pytest.raises(InputError, match=r"none\.json cannot be read: No such file"):
        read_ground_truth(tmp_path / "none.json", *sources)


def test_a_name_of_several_images_is_refused(tmp_path: Path, sources: tuple[Source, Source]):
    twice = open_train(make_folder(tmp_path / "twice", ["a/1.jpg", "b/1.jpg", "b/2.jpg"]))
    with pytest.raises(InputError, match=r"1 of 2 images that it names fit several images, such as '1'"):
        read(tmp_path, {"q0": {"positives": ["1", "2"]}}, (twice, sources[1]))
