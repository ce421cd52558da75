"""A configuration key by key, as `strata show` prints it."""

from ssl_core import recipes
from ssl_core.schema.run import RunConfig


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


def test_every_row_says_what_its_key_is_for_and_what_differs():
    found = {row.key: row for row in recipes.rows(recipes.load("demo", ["optim.lr=0.5"]))}
    assert (found["optim.lr"].value, found["optim.lr"].default, found["optim.lr"].changed) == (0.5, 1.5e-4, True)
    assert str(found["optim.lr"].purpose) == "science, tunable"
    assert str(found["data.workers"].purpose) == "operation"
    assert str(found["backbone.kwargs.depth"].purpose) == "science, shapes"
    assert not found["optim.accumulate"].changed
    assert "cosine" in found["optim.min_lr"].meaning
