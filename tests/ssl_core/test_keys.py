"""Every key says what it is for, and those who need to know read it there."""

import pytest
import torch

from ssl_core import methods, recipes
from ssl_core.errors import InputError
from ssl_core.schema.keys import differences, fact, keys
from ssl_core.schema.run import RunConfig
from tests.conftest import tiny_config


def small(*overrides: str) -> RunConfig:
    return recipes.load("small-adasim-sd-mocov3", ["data.train=bundled:digits", *overrides])


def test_each_section_says_what_its_keys_are_for() -> None:
    found = {key: found for key, (_, found) in keys(small()).items()}
    assert {key for key, known in found.items() if not known.science} >= {"name", "scaling.workers", "data.workers"}
    assert not any(known.science and known.resumes for known in found.values())
    assert not any(known.shapes and known.in_mid_run for known in found.values())
    for key in ("image_column", "label_column", "labels", "cache_mb"):  # which images, which partners, which order
        assert found[f"data.{key}"].science
    assert found["backbone.kwargs.depth"].shapes
    assert found["distill.alpha"].in_mid_run
    assert fact(small(), "framework.output_dim").shapes
    assert fact(small(), "optim").science
    assert fact(small(), "optim.rl") is None
    assert str(fact(small(), "optim.lr")) == "science, tunable"


def test_a_section_is_what_all_its_keys_are_and_one_that_is_off_has_keys_too() -> None:
    off = small("distill=null", "views.local_crops=null")
    assert fact(off, "distill.alpha") == fact(small(), "distill.alpha")
    assert fact(off, "views.local_crops.count").shapes
    assert fact(off, "distill").shapes
    assert not fact(off, "views").in_mid_run  # its local crops may not
    assert fact(off, "scaling") == fact(off, "scaling.workers")
    assert fact(off, "views.local_crops.cuont") is None
    assert fact(off, "evaluation.0.k").resumes
    assert fact(off, "evaluation.7.k") is None


@pytest.mark.parametrize("name", ["mocov3", "dino", "simsiam", "bootleg"])
def test_keys_that_change_no_shapes_change_none(name: str) -> None:
    """Each such number is changed, one by one; a key that is wrong about it would fail to load elsewhere."""
    config = tiny_config(name, distill={}) if name not in ("bootleg",) else tiny_config(name)

    def shapes(config: RunConfig) -> list[torch.Size]:
        with torch.device("meta"):
            return [x.shape for x in methods.build(config).state_dict().values()]

    before, changed = shapes(config), 0
    for key, (value, known) in keys(config).items():
        section = key.partition(".")[0]
        if known.shapes or section not in ("framework", "distill", "optim") or type(value) not in (int, float):
            continue
        try:
            other = recipes.load(_file(config), [f"{key}={value * 0.5 if type(value) is float else value + 1}"])
        except InputError:
            continue
        assert shapes(other) == before, key
        changed += 1
    assert changed > 5


def _file(config: RunConfig) -> str:
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as file:
        file.write(recipes.dump(config))
    return file.name


def test_what_differs_is_named_with_both_values() -> None:
    found = differences(small(), small("distill=null", "seed=3"))
    assert found["seed"][:2] == (0, 3)
    assert found["distill.alpha"][:2] == (1.0, None)
    assert "optim.lr" not in found
