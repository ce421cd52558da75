"""Recipes, files that extend them, overrides, and errors that say what to change."""

from pathlib import Path

import pytest

from ssl_core import recipes
from ssl_core.errors import InputError
from ssl_core.schema.evaluation import LinearConfig
from ssl_core.schema.objectives import BlockMaskConfig, ObjectiveConfig
from ssl_core.schema.run import RunConfig
from ssl_core.schema.types import EveryN

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
    config = recipes.load(name, ["data.train=x"])
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


def test_overrides_win_and_reach_into_lists(tmp_path: Path):
    text = "framework: {name: byol}\nevaluation:\n  - {kind: knn, every: 2}\n  - {kind: geometry, every: 3}\n"
    file = write(tmp_path / "run.yaml", text)
    options = ["data.train=x", "evaluation.0.every=7", "optim.betas=[0.8, 0.95]", "distill.layers=every=2", "name=a.b"]
    config = recipes.load(file, options)
    assert [(e.kind, e.every) for e in config.evaluation] == [("knn", 7), ("geometry", 3)]
    assert config.optim.betas == (0.8, 0.95)
    assert config.distill.layers == EveryN(every=2)
    assert config.name == "a.b"
    assert recipes.load(file, ["data.train=x", "distill={alpha: 0.8}"]).distill.alpha == 0.8


@pytest.mark.parametrize("before", ["{every: 2}", "[1, 2]", "all"])
@pytest.mark.parametrize("after", ["{every: 3}", "[3]", "all"])
def test_a_value_of_one_form_takes_the_place_of_another(before: str, after: str, tmp_path: Path):
    write(tmp_path / "parent.yaml", f"framework: {{name: byol}}\ndistill: {{alpha: 0.5, layers: {before}}}\n")
    child = write(tmp_path / "child.yaml", f"extends: parent.yaml\ndata: {{train: x}}\ndistill: {{layers: {after}}}\n")
    expected = {"{every: 3}": EveryN(every=3), "[3]": [3], "all": "all"}[after]
    for config in (recipes.load(child), recipes.load(child, [f"distill.layers={before}", f"distill.layers={after}"])):
        assert config.distill.layers == expected
        assert config.distill.alpha == 0.5


def test_an_unknown_recipe_is_answered_with_the_nearest():
    assert f"did you mean {NAMES[0]}?" in error_of(NAMES[0][:-1] + "x")
    assert "no recipe named nothing-like-it" in error_of("nothing-like-it")


def test_errors_name_file_and_line(tmp_path: Path):
    file = write(tmp_path / "run.yaml", "# a run\nframework: {name: byol}\noptim:\n  epochs: 3\n  learning_rate: 1\n")
    message = error_of(file)
    assert message.startswith(f"{file}:5: optim.learning_rate: unknown key")
    file.write_text("framework: {name: byol}\n\noptim:\n  epochs: many\n")
    message = error_of(file)
    assert message.startswith(f"{file}:4: optim.epochs: ")
    assert "many" in message


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("optim.epoch=3", ["command line: optim.epoch: unknown key", "did you mean optim.epochs?"]),
        ("epochs=3", ["epochs: unknown key", "did you mean optim.epochs?"]),
        ("framework.momentums=0.9", ["framework.momentums: unknown key", "did you mean framework.momentum?"]),
        ("framework.name=mocov4", ["framework.name", "mocov3", "'mocov4'"]),
        ("optim.epochs=-1", ["command line: optim.epochs", "greater than 0", "-1"]),
        ("optim.lr=fast", ["command line: optim.lr", "'fast'"]),
        ("views.crop_scale=[0.9, 0.1]", ["views.crop_scale", "low ≤ high"]),
        ("distill.layers=[]", ["distill.layers", "at least 1"]),
        ("optim.batch_size=63", ["optim.batch_size (63)", "scaling.workers"]),
        ("optim.batch-size=8", ["command line: optim.batch-size: unknown key", "did you mean optim.batch_size?"]),
        ("optim.batch_size", ["optim.batch_size: expected KEY=VALUE"]),
        ("evaluation.0.kk=3", ["evaluation.0.kk: unknown key", "did you mean"]),
    ],
)
def test_errors_say_what_was_given_and_what_is_near(override: str, parts: list[str], tmp_path: Path):
    text = "framework: {name: mocov3}\nscaling: {workers: 2}\nevaluation: [{kind: knn}]\n"
    message = error_of(write(tmp_path / "run.yaml", text), override)
    assert all(part in message for part in parts), message


def test_several_errors_are_told_at_once(tmp_path: Path):
    file = write(tmp_path / "run.yaml", "framework: {name: byol}\nsede: 1\noptim: {lr: x}\n")
    assert len(error_of(file).splitlines()) == 2


def test_missing_data_says_how_to_give_it(tmp_path: Path):
    with pytest.raises(InputError, match=r"data\.train: missing; give a folder of images, Parquet.*data\.train=FOLDER"):
        recipes.load(write(tmp_path / "run.yaml", "framework: {name: byol}\n"))


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n"])
def test_what_is_no_recipe_is_named(text: str, tmp_path: Path):
    assert str(tmp_path / "run.yaml") in error_of(write(tmp_path / "run.yaml", text))


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


def test_flatten_gives_dotted_keys():
    config = RunConfig.model_validate({"data": {"train": "x"}, "framework": {"name": "byol"}})
    flat = recipes.flatten(config)
    assert flat["optim.lr"] == config.optim.lr
    assert flat["evaluation.1.kind"] == config.evaluation[1].kind
    assert flat["views.jitter"] == list(config.views.jitter)


def test_every_key_of_a_list_entry_is_described_as_its_section():
    config = recipes.load("demo")
    kinds = [evaluator.kind for evaluator in config.evaluation]
    assert "bank" in recipes.describe(config, f"evaluation.{kinds.index('knn')}.max_train")
    assert recipes.describe(config, "no.such.key") == recipes.describe(config, "backbone.kwargs.depth") == ""


def test_a_key_is_described_as_its_own_framework_means_it():
    two_views, masked = (recipes.load(name, ["data.train=x"]) for name in ("mocov3", "bootleg"))
    assert "cosine" in recipes.describe(two_views, "framework.momentum")
    assert "cosine" not in recipes.describe(masked, "framework.momentum") != ""


@pytest.mark.parametrize("name", sorted(ObjectiveConfig.known))
def test_another_framework_starts_its_section_anew_over_every_recipe(name: str):
    for recipe in recipes.names():
        plain = ["data.train=x", "distill=null", "positives=null", "positives={}", "views.local_crops=null"]
        before = recipes.load(recipe, plain).framework
        framework = recipes.load(recipe, [*plain, f"framework.name={name}"]).framework
        assert framework == (before if before.name == name else type(framework)(name=name)), recipe


def test_what_another_name_drops_is_said_and_what_is_set_beside_it_stays():
    words = ["framework.output_dim=512", "framework.name=dino"]
    for overrides in (words, words[::-1]):
        assert recipes.load("demo", overrides).framework.output_dim == 512
        (remark,) = recipes.remarks("demo", overrides)
        assert remark.startswith("framework.name=dino: starts anew, without mocov3's hidden_dim=512, output_dim=128")
    assert recipes.remarks("demo", ["framework.name=mocov3", "framework.temperature=0.3"]) == []
    assert recipes.load("demo", ["framework.name=mocov3"]).framework.temperature == 0.1


def test_a_recipe_of_ones_own_says_what_it_drops(tmp_path: Path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: small-bootleg\nframework: {name: ijepa, mask: {kind: random, share: 0.5}}\n")
    framework = recipes.load(mine, ["data.train=x"]).framework
    assert (framework.name, framework.mask.share, framework.momentum) == ("ijepa", 0.5, 0.996)
    (remark,) = recipes.remarks(mine)
    assert "without bootleg's" in remark
    kinds = ["framework.mask.kind=blocks", "evaluation.0.kind=linear"]
    config = recipes.load(mine, ["data.train=x", *kinds])
    assert config.framework.mask == BlockMaskConfig()
    assert config.evaluation[0] == LinearConfig()
