"""Recipes, files that extend them, overrides, and errors that say what to change."""

from pathlib import Path

import pytest

from ssl_core import recipes
from ssl_core.errors import InputError

NAMES = recipes.names()


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def error_of(recipe: str | Path, *overrides: str) -> str:
    with pytest.raises(InputError) as error:
        recipes.load(recipe, ["data.train=x", *overrides])
    return str(error.value)


def test_there_are_recipes():
    assert NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_loads_and_round_trips(name: str, tmp_path: Path):
    config = recipes.load(name, ["data.train=x", "backbone.weights=w.pth"])
    assert config.data.train == "x"
    again = recipes.load(write(tmp_path / "run.yaml", recipes.dump(config)))
    assert again == config
    assert recipes.title(name)
    assert config.name == name


def test_a_file_extends_a_recipe_or_a_file_beside_it(tmp_path: Path):
    base = recipes.load(NAMES[0], ["data.train=x"])
    write(tmp_path / "parent.yaml", f"extends: {NAMES[0]}\nseed: 5\noptim: {{lr: 0.25}}\n")
    child = write(tmp_path / "child.yaml", "extends: parent.yaml\nseed: 6\n")
    config = recipes.load(child, ["data.train=x"])
    assert (config.seed, config.optim.lr) == (6, 0.25)
    assert config.optim.epochs == base.optim.epochs
    assert config.backbone == base.backbone


def test_a_file_that_extends_itself_is_refused(tmp_path: Path):
    write(tmp_path / "a.yaml", "extends: b.yaml\n")
    write(tmp_path / "b.yaml", "extends: a.yaml\n")
    assert "extends itself" in error_of(tmp_path / "a.yaml")


def test_an_unknown_recipe_is_answered_with_the_nearest():
    assert f"did you mean {NAMES[0]}?" in error_of(NAMES[0][:-1] + "x")
    assert "no recipe named nothing-like-it" in error_of("nothing-like-it")


@pytest.mark.parametrize(
    "text", ["- a\n- b\n", "a: [1\n", "5\n", "null: 3\n", f"a: {'[' * 400}{']' * 400}\n", "a: &x [*x]\n"]
)
def test_what_is_no_recipe_is_named(text: str, tmp_path: Path):
    message = error_of(write(tmp_path / "run.yaml", text))
    assert message.startswith(f"{tmp_path / 'run.yaml'}: ")
    assert "\n" not in message


def test_names_that_cannot_be_files_are_no_recipes():
    assert "no recipe named xxx" in error_of("x" * 5000)
    assert "no such user" in error_of("~nobody-of-this-name/x.yaml")
    assert "not a name in UTF-8" in error_of("caf\udce9.yaml")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("5", "no recipe named 5"),
        ("[a, b]", "expected one recipe's name or file (given: ['a', 'b'])"),
        ("{a: b}", "expected one recipe's name or file"),
        ("x" * 5000, "no recipe named xxx"),
        ("~nobody-of-this-name/x.yaml", "no such user"),
    ],
)
def test_what_cannot_be_extended_is_named_with_its_line(given: str, expected: str, tmp_path: Path):
    file = write(tmp_path / "run.yaml", f"seed: 1\nextends: {given}\n")
    assert error_of(file).startswith(f"{file}:2: extends: ")
    assert expected in error_of(file)


def test_a_recipe_with_a_number_for_a_name_can_be_extended(tmp_path: Path):
    write(tmp_path / "2020", "extends: demo\nseed: 5\n")
    assert recipes.load(write(tmp_path / "run.yaml", "extends: 2020\n")).seed == 5


def test_numbers_of_workers_are_bounded_by_the_batch():
    config = recipes.load("demo", ["scaling.workers=[1, 1000000000000]", "optim.batch_size=12"])
    assert config.possible_workers == [6, 4, 3, 2, 1]
    assert "shares optim.batch_size" in error_of("demo", "scaling.workers=[7, 1000000000000]", "optim.batch_size=12")
    assert recipes.load("demo", ["optim.batch_size=12", "optim.accumulate=2"]).possible_workers == [1]


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir", "!!python/name:os.system"])
def test_a_yaml_tag_makes_no_object(tag: str, tmp_path: Path):
    file = tmp_path / "bad.yaml"
    file.write_text(f"extends: demo\nname: {tag} [{tmp_path / 'made'}]\n")
    with pytest.raises(InputError, match=r"bad\.yaml"):
        recipes.load(str(file))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["../elsewhere", "/tmp/elsewhere", "..", "a/b", ".hidden"])
def test_a_name_cannot_leave_the_folder_of_runs(name: str):
    with pytest.raises(InputError, match="name"):
        recipes.load("demo", [f"name={name}"])


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("continue-")])
def test_a_recipe_that_goes_on_from_weights_asks_for_them(name: str):
    said = error_of(name)
    assert f"{name}.yaml:" in said
    assert "set backbone.weights=FILE, a run's folder or timm:NAME" in said
    optim = recipes.load(name, ["data.train=x", "backbone.weights=w.pth"]).optim
    assert 0 < optim.warm_heads < optim.warmup_epochs
    assert optim.layer_decay == 0.75
