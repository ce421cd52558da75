"""Whatever stands in a sweep's YAML: it is read, or refused with its place. What is drawn from it is what it says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from orchestrator.sweeps.file import Sweep
from orchestrator.sweeps.space import Dimension
from ssl_core.errors import InputError

# The same examples every time, and none kept in a folder.
FEW = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=100,
    phases=[Phase.explicit, Phase.generate],  # a failing example is told as it was found
    suppress_health_check=[HealthCheck.too_slow],
)
KEYS = ["distill.alpha", "distill.beta", "distill.layers", "positives.tau", "optim.lr", "backbone.name", "recipe"]

numbers = st.floats(-1e6, 1e6) | st.integers(-1000, 1000)
texts = st.text(max_size=5).filter(lambda text: "$" not in text)  # ${key} refers to another key


@st.composite
def ranges(draw: st.DrawFn) -> dict[str, list]:
    kind = draw(st.sampled_from(["uniform", "loguniform", "quniform", "randint", "normal"]))
    low, width = draw(st.floats(-1e6, 1e6)), draw(st.floats(1e-3, 1e6))
    if kind == "randint":
        return {kind: [int(low), int(low) + 1 + int(width)]}
    if kind == "normal":
        return {kind: [low, width]}
    if kind == "loguniform":
        low = abs(low) + 1e-6
    step = [width * draw(st.floats(1e-3, 1))] if kind == "quniform" else []
    return {kind: [low, low + width, *step]}


lists = st.sampled_from(["choice", "grid"]).flatmap(
    lambda kind: st.lists(texts, min_size=1, max_size=4, unique=True).map(lambda values: {kind: values})
)


@st.composite
def right(draw: st.DrawFn) -> dict[str, Any]:
    """A sweep that is right."""
    keys = draw(st.lists(st.sampled_from(KEYS[:-1]), min_size=1, max_size=4, unique=True))
    space: dict[str, Any] = {key: draw(ranges() | lists) for key in keys}
    above, last = keys[0], keys[-1]
    conditions = [values for kind, values in space[above].items() if kind in ("choice", "grid")]
    if conditions and above != last and draw(st.booleans()):
        space[last]["when"] = {above: draw(st.sampled_from(conditions[0]))}
    optional = {
        "name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
        "trials": st.integers(1, 30),
        "repeats": st.integers(1, 5),
        "seed": st.integers(0, 2**31 - 1),
        "keep_weights": st.integers(0, 5),
        "scheduler": st.sampled_from(["none", "asha", "median", None, {"name": "asha", "factor": 3}]),
        "metric": st.sampled_from(["knn/last", ["loss"]]),
        "collapse": st.sampled_from([None, {"std": 0.1}]),
        "budget": st.just({"hours": 1.5, "trials": 7}),
    }
    return {"space": space} | {key: draw(values) for key, values in optional.items() if draw(st.booleans())}


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.sampled_from(KEYS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=5,
)
WRONG = [
    (("trials",), [0, -1, 1.5, "many", [1], 10**9, True]),
    (("repeats",), [0, None, "x"]),
    (("seed",), [-1, 2**31, None]),
    (("name",), ["", "a/b", " x", [], "x" * 101, None, "a\nb"]),
    (("metric",), [[], {}, ["a", "b", "c"], None]),
    (("mode",), ["best", ["max", "min"], {}]),
    (("searcher",), ["skopt", {"nme": "grid"}, 3, ["grid"]]),
    (("scheduler",), ["ashs", {"factor": 1}, {"grace": 0}, {"factor": float("nan")}, 3]),
    (("budget",), [{"hours": 0}, {"hours": float("inf")}, {"days": 1}, 3, None]),
    (("resources",), [{"gpus": -1}, {"cpus": 0.5}]),
    (("collapse",), [{"std": -1}, 0, "off"]),
    (("overrides",), [[], "x", None, {"seed": 7}, {"name": "x"}]),
    (("space",), [{}, [], None, 3, "x"]),
    (("spcae",), [{}]),
    (
        ("space", "distill.alpha"),
        [None, 3, [], {}, {"uniform": [0, 1], "choice": [1]}, {"kind": "uniform", "args": [0]}],
    ),
    (
        ("space", "distill.alpha", "uniform"),
        [[1, 0], [0, float("inf")], [0, float("nan")], [0, 10**400], ["a", 1], 3, []],
    ),
    (("space", "distill.alpha", "when"), ["abc", 3, [], {"optim.lr": 1}, {"distill.alpha": 0.5}, {"optim.lr": []}]),
    (("space", "recipe"), [{"choice": [1, None]}, {"uniform": [0, 1]}]),
    (("space", "seed"), [{"choice": [1, 2]}]),
]


PLACES = [
    *[loc for loc, _ in WRONG],
    ("space", "distill.beta", "choice"),
    ("space", "distill.beta", "when"),
    ("space", "distill.beta", "randint"),
    ("space", "distill.beta", "quniform"),
    ("scheduler", "every"),
    ("recipe",),
    ("extends",),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


def read(folder: Path, values: Any) -> Sweep:
    file = folder / "mine.yaml"
    file.write_text(values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    return Sweep(file)


def read_or_refused(folder: Path, values: object) -> None:
    said = f"{folder / 'mine.yaml'}:"
    try:
        found = read(folder, values)
        found.config.planned()
        found.dump()
    except InputError as error:
        said = str(error)
    assert said.startswith(f"{folder / 'mine.yaml'}:")
    assert "Input should" not in said, "these are pydantic's words"


@FEW
@given(right())
def test_a_sweep_that_is_right_is_read_and_written_and_tries_each_setting_once(folder: Path, values: dict) -> None:
    found = read(folder, values)
    planned = found.config.planned()
    assert 1 <= len(planned) <= (found.config.trials or 4**4)
    assert len({str(one) for one in planned}) == len(planned)
    again = read(folder, found.dump())
    assert again.config == found.config
    assert again.config.planned() == planned


@FEW
@given(right(), st.sampled_from([(loc, value) for loc, wrong in WRONG for value in wrong]))
def test_a_sweep_with_one_thing_wrong_is_refused_with_its_place(folder: Path, values: dict, wrong: tuple) -> None:
    (*above, last), value = wrong
    values["space"] = {"distill.alpha": {"uniform": [0, 1]}, "optim.lr": {"choice": [0.1, 0.2]}}
    node = values
    for part in above:
        node = node[part]
    node[last] = value
    with pytest.raises(InputError) as error:
        read(folder, values)
    message = str(error.value)
    assert message.startswith(f"{folder / 'mine.yaml'}:")
    assert ".".join(map(str, wrong[0][:1])) in message
    assert "Input should" not in message, "these are pydantic's words"


@FEW
@given(right(), st.sampled_from(PLACES), anything)
def test_anything_anywhere_is_read_or_refused_with_its_place(
    folder: Path, values: dict, loc: tuple, value: object
) -> None:
    values["space"] = {"distill.alpha": {"uniform": [0, 1]}, "optim.lr": {"choice": [0.1, 0.2]}}
    node = values
    for part in loc[:-1]:
        node[part] = node.get(part) if isinstance(node.get(part), dict) else {}
        node = node[part]
    node[loc[-1]] = value
    read_or_refused(folder, values)


@FEW
@given(anything | st.text(alphabet="ab:-[]{}&*!|>'\"#%,?. \n\t\x00é1$", max_size=30))
def test_any_text_is_read_or_refused_with_its_file(folder: Path, written: object) -> None:
    read_or_refused(folder, written)


@FEW
@given(ranges())
def test_what_is_drawn_lies_within_its_range(written: dict) -> None:
    dimension = Dimension.model_validate(written)
    generator = np.random.default_rng(0)
    drawn = [dimension.sample(generator) for _ in range(20)]
    if dimension.kind == "normal":
        assert np.isfinite(drawn).all()
        return
    low, high, *step = dimension.args
    assert low <= min(drawn) <= max(drawn) <= high
    assert all(value == dimension.nearest(value) for value in drawn), "what was drawn is none of its values"
    if step:
        steps = [(value - low) / step[0] for value in drawn]
        assert np.allclose(steps, np.round(steps), atol=1e-3)
    if dimension.kind == "randint":
        assert max(drawn) < high
        assert {type(value) for value in drawn} == {int}
