"""YAML as people write it: text that looks like numbers or comments, the line of a key."""

from pathlib import Path
from typing import Any

import pytest

from ssl_core import recipes
from ssl_core.errors import InputError
from ssl_core.recipes import Setting, parse_override
from tests.ssl_core.recipes.test_load import write


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("data.train=set #1", "set #1"),
        ("data.train='set #1'", "set #1"),
        ("data.train=set#1", "set#1"),
        ("data.train=2020", "2020"),
        ("data.train=007", "007"),
        ("data.train=[1e3, 2020, no, b]", ["1e3", "2020", "no", "b"]),
        ("data.train=*.parquet", "*.parquet"),
        ("data.train=a: b", "a: b"),
        ("data.train=&x", "&x"),
        ("data.train=1:30", "1:30"),
        ("data.train=010", "010"),
        ("data.train={a}", "{a}"),
        ("data.train=[old]/x", "[old]/x"),
        ("data.train=a${b}", "a${b}"),
        ("data.train=null", "null"),
        ("data.train=", ""),
        ("data.train='tis", "'tis"),
        ('data.train="a\\tb"', "a\tb"),
        ("name=1_000", "1_000"),
        ("tracking.experiment=[x]", "[x]"),
        ("tracking.experiment={x: 1}", "{x: 1}"),
        ("tracking.tags.day=2020-01-01", "2020-01-01"),
        ("evaluation.0.name=~", None),
        ("data.val=null", None),
        ("data={train: 2020, limit: 5}", {"train": "2020", "limit": 5}),
        ("data.label_column=2", "2"),
        ("tracking.tags.year=2020", "2020"),
        ("tracking.tags={2020: 1e3}", {"2020": "1e3"}),
        ("evaluation.0.name=10", "10"),
        ("evaluation=[{kind: knn, name: 10, k: 5}]", [{"kind": "knn", "name": "10", "k": 5}]),
        ("optim.lr=1e-3", 1e-3),
        ("seed=7", 7),
        ("backbone.kwargs.depth=4", 4),
        ("backbone.kwargs={class_token: false}", {"class_token": False}),
        ("distill.layers={every: 2}", {"every": 2}),
        ("distill.layers=every: 2", "every: 2"),
        ("distill=null", None),
        ("trials=8", 8),
    ],
)
def test_a_value_is_text_where_its_key_takes_text_alone(word: str, value: Any):
    assert parse_override(word).value == value


def test_so_it_is_in_a_file_and_in_a_setting_without_a_text(tmp_path: Path):
    file = write(tmp_path / "run.yaml", "framework: {name: byol}\ndata: {train: 007}\ntracking: {tags: {year: 2020}}\n")
    config = recipes.load(file, [Setting("tracking.experiment", 2020)])
    assert (config.data.train, config.tracking.experiment, config.tracking.tags) == ("007", "2020", {"year": "2020"})


def test_a_word_that_is_not_utf_8_is_refused():
    for word in ("data.train=caf\udce9", "tracking.tags.x=caf\udce9"):
        with pytest.raises(InputError, match=r"caf\\udce9.*UTF-8"):
            parse_override(word)


def test_the_line_of_a_key_is_found_in_all_that_is_read(tmp_path: Path):
    file = write(tmp_path / "run.yaml", "extends: demo\nname: a\tb\nsede: 1\n")
    assert recipes.line_of(file, ("sede",)) == 3
    with pytest.raises(InputError, match=r"run\.yaml:3: sede: unknown key"):
        recipes.load(file)
    assert recipes.line_of(write(tmp_path / "empty.yaml", ""), ("sede",)) == 1


def test_the_line_of_a_key_is_found_in_mappings_and_lists(tmp_path: Path):
    file = write(tmp_path / "run.yaml", "seed: 1\nevaluation:\n  - {kind: knn}\n  - kind: geometry\n    every: 3\n")
    assert recipes.line_of(file, ("evaluation", 1, "every")) == 5
    assert recipes.line_of(file, ("evaluation", "1", "every")) == 5
    assert recipes.line_of(file, ("evaluation", 0, "no")) == 3
