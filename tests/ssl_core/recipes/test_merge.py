"""What is set over what: files in order, then settings; another name starts a section anew."""

from pathlib import Path

import pytest

from ssl_core import recipes
from ssl_core.errors import InputError
from ssl_core.schema.distill import DistillConfig
from ssl_core.schema.encoder import BackboneConfig
from ssl_core.schema.evaluation import LinearConfig
from ssl_core.schema.objectives import BlockMaskConfig, ObjectiveConfig
from ssl_core.schema.types import EveryN
from tests.ssl_core.recipes.test_load import write


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


@pytest.mark.parametrize("name", sorted(ObjectiveConfig.known))
def test_another_framework_starts_its_section_anew_over_every_recipe(name: str):
    for recipe in recipes.names():
        plain = ["data.train=x", "backbone.weights=x", "distill=null", "positives=null", "positives={}"]
        plain.append("views.local_crops=null")
        before = recipes.load(recipe, plain).framework
        framework = recipes.load(recipe, [*plain, f"framework.name={name}"]).framework
        assert framework == (before if before.name == name else type(framework)(name=name)), recipe


def test_what_another_name_drops_is_said_and_what_is_set_beside_it_stays():
    words = ["framework.output_dim=512", "framework.name=dino"]
    for overrides in (words, words[::-1]):
        assert recipes.load("demo", overrides).framework.output_dim == 512
        (remark,) = recipes.remarks("demo", overrides)
        dropped = "hidden_dim=512, momentum=0.98, temperature=0.1"
        assert remark == f"framework: mocov3 → dino; dropped {dropped} of demo.yaml"
    assert recipes.remarks("demo", ["framework.name=mocov3", "framework.temperature=0.3"]) == []
    assert recipes.load("demo", ["framework.name=mocov3"]).framework.temperature == 0.1


def test_a_recipe_of_ones_own_says_what_it_drops(tmp_path: Path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: small-bootleg\nframework: {name: ijepa, mask: {kind: random, share: 0.5}}\n")
    framework = recipes.load(mine, ["data.train=x"]).framework
    assert (framework.name, framework.mask.share, framework.momentum) == ("ijepa", 0.5, 0.996)
    (remark,) = recipes.remarks(mine)
    lost = "targets.every=2, momentum=0.98, predictor.dim=64, predictor.depth=2, predictor.heads=2"
    assert remark == f"framework: bootleg → ijepa; dropped {lost} of small-bootleg.yaml"
    kinds = ["framework.mask.kind=blocks", "evaluation.0.kind=linear"]
    config = recipes.load(mine, ["data.train=x", *kinds])
    assert config.framework.mask == BlockMaskConfig()
    assert config.evaluation[0] == LinearConfig()


def test_another_model_loses_the_size_of_the_former_one_and_keeps_other_options():
    def backbone(*words: str) -> BackboneConfig:
        return recipes.load("small-mae", ["data.train=x", *words]).backbone

    named = "backbone.name=vit_small_patch16_224"
    assert backbone("backbone.name=vit_tiny_patch16_224") == backbone()
    another = backbone(named, "backbone.kwargs.depth=3")
    assert another.kwargs == {"depth": 3, "in_chans": 1}
    assert (another.image_size, another.patch_size) == (backbone().image_size, backbone().patch_size)
    (remark,) = recipes.remarks("small-mae", [named, "backbone.kwargs.depth=3"])
    change = "vit_tiny_patch16_224 → vit_small_patch16_224"
    assert remark == f"backbone: {change}; dropped kwargs.embed_dim=64, kwargs.num_heads=2 of small-mae.yaml"
    assert recipes.remarks("small-mae", ["backbone.kwargs.depth=3"]) == []


@pytest.mark.parametrize("name", recipes.names())
def test_a_bundled_recipe_drops_nothing_unsaid(name: str):
    assert recipes.remarks(name) == []


def test_of_two_settings_of_a_key_the_last_one_wins():
    def distill(*words: str) -> DistillConfig | None:
        return recipes.load("small-sd-mocov3", ["data.train=x", *words]).distill

    assert distill("distill.alpha=0.5", "distill=null") is None
    assert distill("distill.anneal=none", "distill.alpha=0.5", "distill=null", "distill={beta: 0.5}") == DistillConfig(
        beta=0.5
    )
    assert distill("distill={alpha: 0.25, beta: 0.5}", "distill.alpha=0.75") == DistillConfig(alpha=0.75, beta=0.5)


def test_an_entry_of_a_list_starts_anew_too_but_not_its_neighbours(tmp_path: Path):
    text = "extends: demo\nevaluation: [{kind: knn, k: 5}, {kind: geometry, every: 4}]\n"
    file = write(tmp_path / "run.yaml", text)
    config = recipes.load(file, ["evaluation.0.every=3", "evaluation.0.kind=linear"])
    assert config.evaluation[0] == LinearConfig(every=3)
    assert config.evaluation[1].every == 4
    assert recipes.remarks(file, ["evaluation.0.kind=linear"]) == [
        "evaluation.0: knn → linear; dropped k=5 of run.yaml"
    ]
    with pytest.raises(InputError, match=r"evaluation\.0\.k: unknown key"):  # set in the same place as the name
        recipes.load(file, ["evaluation.0={kind: linear, k: 5}"])


def test_a_recipe_and_a_setting_with_the_same_name_go_together(tmp_path: Path):
    file = write(tmp_path / "run.yaml", "extends: small-mocov3\nframework: {name: byol, momentum: 0.5}\n")
    (remark,) = recipes.remarks(file, ["framework.name=byol", "framework.output_dim=64"])
    assert remark == "framework: mocov3 → byol; dropped hidden_dim=512, output_dim=128 of small-mocov3.yaml"
    framework = recipes.load(file, ["data.train=x", "framework.name=byol", "framework.output_dim=64"]).framework
    assert (framework.momentum, framework.output_dim) == (0.5, 64)
