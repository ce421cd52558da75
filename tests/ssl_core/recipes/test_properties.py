"""Whatever is given to whatever key: it is accepted and survives being written down, or refused with its place."""

from collections.abc import Callable
from pathlib import Path

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssl_core import recipes
from ssl_core.errors import InputError
from ssl_core.schema import walk
from ssl_core.schema.run import RunConfig

KEYS = sorted(key for key in walk.every_key(RunConfig) if not key.startswith("data.train"))
ALWAYS = ["data.train=bundled:digits", "backbone.weights=w.pth"]
numbers = st.one_of(st.integers(), st.floats(), st.integers(0, 300), st.floats(0, 1))
values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), numbers, st.text(max_size=20), st.sampled_from(["all", "knn", "mocov3", "adasim"])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=4,
)
often = settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)


def _accepts(load: Callable[[], RunConfig], folder: Path) -> str | None:
    """With what words a configuration is refused; an accepted one is the same after it was written down."""
    try:
        config = load()
    except InputError as error:
        return str(error)
    (folder / "config.yaml").write_text(recipes.dump(config))
    assert recipes.dump(recipes.load(folder / "config.yaml")) == recipes.dump(config)
    return None


@often
@given(st.sampled_from(KEYS), values, st.sampled_from(recipes.names()))
def test_any_value_in_a_file(tmp_path_factory, key: str, value: object, recipe: str) -> None:
    folder = tmp_path_factory.getbasetemp()
    nested: object = value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    file = folder / "given.yaml"
    file.write_text(yaml.safe_dump({"extends": recipe, **nested}, allow_unicode=False))
    said = _accepts(lambda: recipes.load(file, ALWAYS), folder)
    assert said is None or key.partition(".")[0] in said
    assert said is None or "given.yaml" in said or recipe in said or key in said


@often
@given(st.sampled_from(KEYS), st.text(max_size=30), st.sampled_from(recipes.names()))
def test_any_word_for_a_key(tmp_path_factory, key: str, word: str, recipe: str) -> None:
    said = _accepts(lambda: recipes.load(recipe, [*ALWAYS, f"{key}={word}"]), tmp_path_factory.getbasetemp())
    assert said is None or key.partition(".")[0] in said


@often
@given(st.data())
def test_valid_values_are_accepted(tmp_path_factory, data: st.DataObject) -> None:
    """Numbers within their bounds, of keys that stand alone."""
    chosen = {
        "seed": st.integers(0, 2**63 - 1),
        "optim.epochs": st.integers(1, 10_000),
        "optim.lr": st.floats(1e-8, 1e3),
        "optim.weight_decay": st.floats(0, 1),
        "positives.tau": st.floats(0, 10),
        "positives.top_k": st.integers(1, 100),
        "checkpoint.keep": st.integers(1, 100),
        "checkpoint.every_epochs": st.integers(1, 100),
        "tracking.experiment": st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=50),
    }
    words = [f"{key}={data.draw(values)}" for key, values in chosen.items()]
    given = [*ALWAYS, "optim.warmup_epochs=0", *words]
    assert _accepts(lambda: recipes.load("small-mocov3", given), tmp_path_factory.getbasetemp()) is None
