"""The grammar of a sweep's YAML: which settings are varied, how, under which condition; and its errors.

    recipe: small-sd-mocov3
    space:
      distill.alpha: {uniform: [0, 1]}
      positives.kind: {choice: [augment, adasim]}
      positives.tau: {loguniform: [0.01, 1], when: {positives.kind: adasim}}

A *setting* is what a trial has of these: `{distill.alpha: 0.3, positives.kind: augment}`.
"""

import difflib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from ssl_core.evaluation.collapse import COLLAPSED_RANK, COLLAPSED_STD
from ssl_core.evaluation.metrics import find
from ssl_core.schema.types import Form, Section

Settings = dict[str, Any]
"""What one trial is tried with: dotted keys to values; keys whose condition does not hold are absent."""

NUMBERS = {"uniform": 2, "loguniform": 2, "quniform": 3, "randint": 2, "normal": 2}  # kind → how many
LISTS = ("choice", "grid")
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
EXPECTED = f"expected one of {{uniform: [low, high]}}, {', '.join([*list(NUMBERS)[1:], *LISTS])}"
FORMS = {"quniform": "[low, high, step]", "normal": "[mean, deviation]"}
LARGEST = 1e300  # of a range's ends: their difference is still a number
EXACT = 2**53  # whole numbers up to here are told from each other, whatever holds them
MOST_SETTINGS = 10_000  # that can be tried
MOST_KEYS = 100
DEFAULT_TRIALS = 20
TRIES = 100  # draws in which chance finds no new setting, before those that are left are listed


class Dimension(Section):
    """One varied key.

    Attributes:
        kind: `uniform`, `loguniform` [low, high]; `quniform` [low, high, step]; `randint` [low, high), integers;
            `normal` [mean, deviation]; `choice` and `grid`, a list of values. The names are Ray Tune's.
        args: its numbers, or its values.
        when: keys of the space → values at which this one exists.
    """

    kind: str
    args: tuple[Any, ...]
    when: dict[str, tuple[Any, ...]] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        if isinstance(value, Dimension):
            return value
        if not isinstance(value, dict):
            raise ValueError(EXPECTED)
        kinds = [str(key) for key in value if key != "when"]
        if len(kinds) != 1 or kinds[0] not in (*NUMBERS, *LISTS):
            near = [near for kind in kinds for near in difflib.get_close_matches(kind, [*NUMBERS, *LISTS], 1)]
            raise ValueError(f"{EXPECTED}{f'; did you mean {near[0]}?' if near else ''}")
        (kind,) = kinds
        args = value[kind]
        if not isinstance(args, list) or not args:
            raise ValueError(f"{kind}: expected a list{given(args)}")
        _check_args(kind, args)
        return {"kind": kind, "args": args, "when": _parse_when(value.get("when"))}

    @property
    def values(self) -> tuple[Any, ...] | None:
        """All values that there are; None for a range."""
        return self.args if self.kind in LISTS else None

    @property
    def logarithmic(self) -> bool:
        return self.kind == "loguniform"

    def sample(self, generator: np.random.Generator) -> Any:
        """A value at random."""
        if self.values is not None:
            return self.values[generator.integers(len(self.values))]
        low, high, *_ = self.args
        if self.kind == "uniform":
            return self.nearest(generator.uniform(low, high))
        if self.kind == "loguniform":
            return self.nearest(math.exp(generator.uniform(math.log(low), math.log(high))))
        if self.kind == "quniform":
            return self._step(int(generator.integers(self._steps + 1)))
        if self.kind == "randint":
            return int(generator.integers(low, high))
        return float(generator.normal(low, high))

    def nearest(self, value: float) -> float:
        """The value of a range that is nearest to a number; of whole ones, the one below it."""
        if self.kind == "normal":
            return float(value)
        low, *_, high = self.probes()
        within = min(max(value, low), high)
        if self.kind == "randint":
            return int(within)
        return self._step(round((within - low) / self.args[2])) if self.kind == "quniform" else float(within)

    def takes(self, value: Any) -> bool:
        """Whether it can have this very value, other than by chance."""
        if self.values is not None:
            return value in self.values
        exact = self.kind in ("randint", "quniform") and _is_number(value) and abs(value) <= LARGEST
        return exact and self.nearest(value) == value

    def listed(self, generator: np.random.Generator) -> Iterator[Any]:
        """All its values one by one; of those without number, one at random."""
        if self.values is not None:
            yield from self.values
        elif self.kind == "randint":
            yield from range(*self.args)
        elif self.kind == "quniform":
            yield from (self._step(step) for step in range(self._steps + 1))
        else:
            yield self.sample(generator)

    def probes(self) -> tuple[Any, ...]:
        """Values to check: all of a list, the ends of a range."""
        if self.values is not None:
            return self.values
        if self.kind == "normal":
            mean, deviation = self.args
            return (mean - 3 * deviation, mean, mean + 3 * deviation)
        low, high = self.args[:2]
        if self.kind == "quniform":
            return (self._step(0), self._step(self._steps))
        return (low, high - 1 if self.kind == "randint" else high)

    @property
    def divides(self) -> bool:
        """Whether both ends are multiples of the step, as Ray Tune asks of a `quniform`; other kinds have none."""
        low, high, step = self.args if self.kind == "quniform" else (0, 0, 1)
        return all(math.isclose(end / step, round(end / step)) for end in (low, high))

    @property
    def _steps(self) -> int:
        """How often the step fits into the range, but for rounding."""
        low, high, step = self.args
        return math.floor((high - low) / step + 1e-9)

    def _step(self, number: int) -> float:
        low, high, step = self.args
        return min(max(float(f"{low + number * step:.15g}"), float(low)), float(high))  # 0.3, not 0.30000000000000004

    @property
    def condition(self) -> str:
        """Where it exists, in words; empty if everywhere."""
        return " and ".join(f"{key} is {' or '.join(map(_one_line, values))}" for key, values in self.when.items())

    def __str__(self) -> str:
        when = f" when {self.condition}" if self.when else ""
        return f"{self.kind} [{', '.join(map(_one_line, self.args))}]{when}"


def _check_args(kind: str, args: list) -> None:
    if kind in LISTS:
        if len({label(value) for value in args}) < len(args):
            raise ValueError(f"{kind}: a value stands in it twice")
        if any(isinstance(value, float) and not math.isfinite(value) for value in args):
            raise ValueError(f"{kind}: expected finite numbers{given(args)}")
        return
    form = FORMS.get(kind, "[low, high]")
    if len(args) != NUMBERS[kind] or not all(map(_is_number, args)):
        raise ValueError(f"{kind}: expected numbers {form}{given(args)}")
    if not all(abs(number) <= LARGEST for number in args):
        raise ValueError(f"{kind}: expected numbers {form} from {-LARGEST:g} to {LARGEST:g}{given(args)}")
    low, high = args[:2]
    if kind == "normal":
        if high <= 0:
            raise ValueError(f"normal: expected a deviation above 0{given(args)}")
    elif low >= high:
        raise ValueError(f"{kind}: expected low < high{given(args)}")
    if kind == "loguniform" and low <= 0:
        raise ValueError(f"loguniform: expected low > 0{given(args)}")
    if kind == "quniform" and not 0 < args[2] <= high - low:
        raise ValueError(f"quniform: expected a step above 0, at most high - low{given(args)}")
    if kind == "quniform" and (high - low) / args[2] > EXACT:
        raise ValueError(f"quniform: expected a larger step, or uniform{given(args)}")
    if kind == "randint" and not all(isinstance(a, int) and abs(a) <= EXACT for a in args):
        raise ValueError(f"randint: expected integers within ±2^53; the upper one is excluded{given(args)}")


def _parse_when(when: Any) -> dict[str, list[Any]]:
    if when is None:
        return {}
    if not isinstance(when, dict):
        raise ValueError(f"when: expected keys and values, such as {{positives.kind: adasim}}{given(when)}")
    found = {str(key): list(value) if isinstance(value, list) else [value] for key, value in when.items()}
    for key, values in found.items():
        if not values:
            raise ValueError(f"when: {key}: expected a value of it, or a list of some{given(values)}")
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def given(value: Any) -> str:
    """What an error shows of a wrong value."""
    shown = repr(value)
    return f" (given: {shown if len(shown) <= 60 else shown[:57] + '…'})"


def named(value: Any) -> Any:
    """`searcher: random` is `searcher: {name: random}`; none is {name: none}."""
    return {"name": value or "none"} if value is None or isinstance(value, str) else value


class SearcherConfig(Section):
    name: Literal["grid", "ablation", "random", "optuna", "hyperopt", "bohb"] = Field(
        "random",
        description="which settings come next; grid: all, in random order; "
        "ablation: the first value of each, then each varied alone",
    )
    sampler: Literal["tpe", "cmaes", "nsgaii"] = Field("tpe", description="optuna's; nsgaii for two metrics")

    @property
    def learns(self) -> bool:
        """Whether it waits for results before it says what comes next."""
        return self.name in ("optuna", "hyperopt", "bohb")


class SchedulerConfig(Section):
    name: Literal["none", "asha", "median", "hyperband", "bohb", "pbt"] = Field(
        "asha", description="which trials are stopped early; pbt: which take over another's weights and settings"
    )
    grace: PositiveInt = Field(1, description="epochs that every trial gets")
    factor: Annotated[float, Field(ge=1.1)] = Field(4, description="asha, hyperband: one in so many goes on")
    every: PositiveInt = Field(1, description="pbt: epochs between two rounds of taking over")
    quantile: Annotated[float, Field(gt=0, le=0.5)] = Field(
        0.25, description="pbt: share that takes over, and is taken"
    )


class BudgetConfig(Section):
    """When to stop, whichever comes first."""

    trials: PositiveInt | None = Field(None, description="runs, every seed counted")
    epochs: PositiveInt | None = Field(None, description="of all trials together")
    hours: PositiveFloat | None = None


class ResourcesConfig(Section):
    """Of one trial, shared evenly among its workers."""

    cpus: PositiveInt | None = Field(None, description="default: 1 for each worker; on GPUs its share of the CPUs")
    gpus: Annotated[float, Field(ge=0)] | None = Field(
        None, description="fractions allowed; default: 1 for each worker where the cluster has GPUs"
    )


class CollapseConfig(Section):
    """Trials whose last layer falls below either are ended."""

    std: Annotated[float, Field(ge=0)] = Field(COLLAPSED_STD, description="deviation of the features; 1 is even spread")
    rankme: Annotated[float, Field(ge=0)] = Field(COLLAPSED_RANK, description="effective rank of the features")


def _listed(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else [value]


def _modes(value: Any) -> Any:
    return [] if value is None else _listed(value)


class SweepConfig(Section):
    """All that a sweep's YAML can say."""

    name: Annotated[str, Field(pattern=NAME, max_length=100), Form("a name of letters, digits, `.`, `_` and `-`")]
    recipe: str = Field("demo", description="a bundled recipe, or a YAML file beside this one; may be in `space` too")
    overrides: dict[str, Any] = Field(default_factory=dict, description="keys for all trials")
    space: Annotated[
        dict[str, Dimension],
        Field(min_length=1, max_length=MOST_KEYS),
        Form(f"1 to {MOST_KEYS} keys and how each is varied"),
    ] = Field(description="what is varied", examples=["{distill.alpha: {uniform: [0, 1]}}"])
    metric: Annotated[
        list[str], BeforeValidator(_listed), Field(min_length=1, max_length=2), Form("a metric, or a list of two")
    ] = Field(
        default_factory=lambda: ["knn/last"], description="any metric that a run logs; two for searcher.sampler=nsgaii"
    )
    mode: Annotated[
        list[Literal["max", "min"]], BeforeValidator(_modes), Form("max or min, or a list with one for each metric")
    ] = Field(default_factory=list, description="of each metric; default: the end at which the metric is better")
    searcher: SearcherConfig = Field(default_factory=SearcherConfig)
    scheduler: SchedulerConfig = Field(default_factory=SchedulerConfig)
    trials: Annotated[int, Field(ge=1, le=MOST_SETTINGS)] | None = Field(
        None, description="settings to try; default: 20, or all of a grid or ablation, or where `space` has grids alone"
    )
    repeats: PositiveInt = Field(1, description="seeds for each setting")
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    resources: ResourcesConfig = Field(default_factory=ResourcesConfig)
    collapse: CollapseConfig | None = Field(default_factory=CollapseConfig, description="null: let them run")
    keep_weights: NonNegativeInt = Field(3, description="trials that keep their weights: the best ones")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="of the first repeat, and of the searcher")

    @model_validator(mode="before")
    @classmethod
    def _better(cls, values: Any) -> Any:
        """Where no `mode` is given, that of each metric; an unknown one is refused once its runs are known."""
        if not isinstance(values, dict) or values.get("mode") is not None:
            return values
        metrics = [find(str(name)) for name in _listed(values.get("metric", "knn/last"))]
        lower = [metric is not None and metric.higher is False for metric in metrics]
        return values | {"mode": ["min" if is_lower else "max" for is_lower in lower]}

    @model_validator(mode="after")
    def _consistent(self) -> "SweepConfig":
        if len(self.mode) != len(self.metric):
            raise ValueError(f"metric: {len(self.metric)} of them, and {len(self.mode)} in mode; expected as many")
        for place, values in (("space", self.space), ("overrides", self.overrides)):
            if "seed" in values:
                raise ValueError(
                    f"{place}.seed: a sweep sets its runs' seeds: `repeats` says how many for each setting, "
                    "`seed` the first of them"
                )
            if "name" in values:
                raise ValueError(f"{place}.name: a sweep's runs are called by its own `name`")
        self._check_space()
        self._check_pairs()
        self._check_size()
        return self

    def _check_space(self) -> None:
        """Conditions are on keys above that can have such a value; recipes have names."""
        before: dict[str, Dimension] = {}
        for key, dimension in self.space.items():
            for needed, allowed in dimension.when.items():
                if needed not in before:
                    raise ValueError(f"space.{key}: when: {needed} is no key of the space above it")
                never = [value for value in allowed if not before[needed].takes(value)]
                if never:
                    raise ValueError(
                        f"space.{key}: when: {needed} is never {_one_line(never[0])}; it is {before[needed]}"
                    )
            before[key] = dimension
        recipe = self.space.get("recipe")
        if recipe is not None and not all(isinstance(value, str) for value in recipe.values or [None]):
            raise ValueError(f"space.recipe: expected a list of recipes' names or files; it is {recipe}")

    def _check_size(self) -> None:
        """That no more is to be tried than can be, before it is listed."""
        grids_alone = self.searcher.name == "random" and self.trials is None and self._grids_alone
        if not (self.searcher.name == "grid" or grids_alone):
            return
        cells = self._product(self.space, np.random.default_rng(self.seed))
        if sum(1 for _ in itertools.islice(cells, MOST_SETTINGS + 1)) > MOST_SETTINGS:
            raise ValueError(
                f"space: it has more than {MOST_SETTINGS:,} combinations; with searcher: random, "
                "`trials` says how many of them are tried"
            )

    def _check_pairs(self) -> None:
        """Which searcher goes with which scheduler, metric and kinds of dimensions."""
        searcher, scheduler = self.searcher, self.scheduler.name
        ranges = [key for key, dimension in self.space.items() if dimension.values is None]
        if searcher.name in ("grid", "ablation") and ranges:
            raise ValueError(f"searcher: {searcher.name} needs lists, and space.{ranges[0]} is a range; use random")
        if (searcher.name == "bohb") != (scheduler == "bohb"):
            raise ValueError("searcher: bohb and scheduler: bohb go together, and with nothing else")
        if scheduler == "pbt" and searcher.name != "random":
            raise ValueError(
                f"scheduler: pbt changes settings itself: it goes with searcher: random, not {searcher.name}"
            )
        if scheduler == "pbt" and self.repeats > 1:
            raise ValueError("repeats: scheduler: pbt gives no setting a whole run, so there is nothing to repeat")
        if scheduler == "pbt" and any(dimension.when for dimension in self.space.values()):
            raise ValueError("space: scheduler: pbt does not go with `when`")
        if len(self.metric) == 2:
            if (searcher.name, searcher.sampler) != ("optuna", "nsgaii") and searcher.learns:
                raise ValueError(
                    "metric: two of them need searcher: {name: optuna, sampler: nsgaii}, or random or grid"
                )
            if scheduler != "none":
                raise ValueError(
                    f"metric: with two metrics nothing can be stopped early: scheduler: none, not {scheduler}"
                )
            if self.repeats > 1 and searcher.learns:
                raise ValueError("repeats: not with two metrics and a searcher that learns")
        elif searcher.name == "optuna" and searcher.sampler == "nsgaii":
            raise ValueError("searcher.sampler: nsgaii is for two metrics")
        tune = next((name for name in (searcher.name, scheduler) if name in ("hyperopt", "bohb", "pbt")), None)
        uneven = [key for key, dimension in self.space.items() if not dimension.divides]
        if tune and uneven:
            raise ValueError(
                f"space.{uneven[0]}: quniform: {tune} needs low and high that are multiples of the step; "
                f"it is {self.space[uneven[0]]}"
            )
        normal = [key for key, dimension in self.space.items() if dimension.kind == "normal"]
        if searcher.name == "optuna" and normal:
            raise ValueError(f"space.{normal[0]}: optuna knows no normal; use uniform, or searcher: random")
        if searcher.sampler == "cmaes" and any(d.values is not None or d.when for d in self.space.values()):
            raise ValueError("searcher.sampler: cmaes needs ranges, without choices and conditions; use tpe")

    def active(self, values: Mapping[str, Any]) -> Settings:
        """`values` without the keys whose condition does not hold."""
        found: Settings = {}
        for key, dimension in self.space.items():
            if _holds(dimension, found):
                found[key] = values[key]
        return found

    def decode(self, encoded: Mapping[str, Any]) -> Settings:
        """Settings from what a searcher or scheduler says: `label`s of values, numbers within their range."""
        found = {}
        for key, value in encoded.items():
            dimension = self.space[key]
            value = value.item() if isinstance(value, np.generic) else value
            if dimension.values is not None:
                value = next(v for v in dimension.values if label(v) == label(value))
            else:
                value = dimension.nearest(value)
            found[key] = value
        return self.active({key: found.get(key) for key in self.space})

    def planned(self) -> list[Settings] | None:
        """The settings to try, in order; None if the searcher decides while it runs."""
        if self.searcher.learns:
            return None
        if self.searcher.name == "random":
            every = MOST_SETTINGS if self._grids_alone else DEFAULT_TRIALS
            return self.samples(self.trials or every, self.seed)
        if self.searcher.name == "ablation":
            return _distinct(self._ablation())[: self.trials]
        generator = np.random.default_rng(self.seed)
        found = list(self._product(self.space, generator))
        # In order, each setting would be a little better than all before it, and early stopping would stop none.
        generator.shuffle(found)
        return found[: self.trials]

    @property
    def _grids_alone(self) -> bool:
        return all(dimension.kind == "grid" for dimension in self.space.values())

    def samples(self, count: int, seed: int) -> list[Settings]:
        """Settings at random, each once, in an order that is the same for a larger count; keys with `grid` go through
        all their combinations in turn.

        Returns:
            fewer than `count` where there are no more.
        """
        generator = np.random.default_rng(seed)
        grids = [[(key, value) for value in d.args] for key, d in self.space.items() if d.kind == "grid"]
        every = itertools.islice(itertools.product(*grids), MOST_SETTINGS)
        cells: Iterable[Iterator[Settings]] = (self._draws(dict(cell), generator) for cell in every)
        found: dict[str, Settings] = {}
        left: list[Iterator[Settings]] = [iter(())]
        while left and len(found) < count:
            left = []
            for draws in cells:
                if len(found) == count:
                    break
                settings = next((drawn for drawn in draws if str(drawn) not in found), None)
                if settings is not None:
                    found[str(settings)] = settings
                    left.append(draws)
            cells = left
        return list(found.values())

    def _draws(self, cell: Settings, generator: np.random.Generator) -> Iterator[Settings]:
        """Settings of a grid's cell: at random, until nothing new seems to come, then those that are left."""
        if self._grids_alone:
            yield self.active(cell)
            return
        drawn: set[str] = set()
        again = 0
        while again < TRIES:
            values = {key: dimension.sample(generator) for key, dimension in self.space.items()}
            settings = self.active(values | cell)
            again = again + 1 if str(settings) in drawn else 0
            drawn.add(str(settings))
            yield settings
        space = {
            key: dimension.model_copy(update={"kind": "grid", "args": (cell[key],)}) if key in cell else dimension
            for key, dimension in self.space.items()
        }
        left = list(itertools.islice(self._product(space, generator), MOST_SETTINGS))
        generator.shuffle(left)
        yield from left

    def _product(
        self, space: Mapping[str, Dimension], generator: np.random.Generator, above: Settings | None = None
    ) -> Iterator[Settings]:
        """All settings of a space one by one, each once; of a range without number, values at random."""
        above = above or {}
        if not space:
            yield above
            return
        (key, dimension), *rest = space.items()
        if not _holds(dimension, above):
            yield from self._product(dict(rest), generator, above)
            return
        for value in dimension.listed(generator):
            yield from self._product(dict(rest), generator, above | {key: value})

    def _ablation(self) -> Iterator[Settings]:
        """First values of all, then each key's other values alone."""
        base = {key: dimension.args[0] for key, dimension in self.space.items()}
        yield self.active(base)
        for key, dimension in self.space.items():
            for value in dimension.args[1:]:
                yield self.active(base | {key: value})


def label(value: Any) -> str | int | float | bool | None:
    """A value as searchers, tables and pictures take it: scalars as they are, others as short YAML."""
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return yaml.safe_dump(value, default_flow_style=True, width=1000).strip().strip("{}")


def describe(settings: Mapping[str, Any]) -> str:
    """`α=0.5 layers=every: 2`, for people."""
    return "  ".join(f"{short(key)}={cell(value)}" for key, value in settings.items())


def short(key: str) -> str:
    """A key as people call it: α, layers, lr."""
    return SHORT.get(key, key.rpartition(".")[2])


def cell(value: object) -> str:
    """A setting's value in a table."""
    return f"{value:.3g}" if isinstance(value, float) else _one_line(value)


def _one_line(value: object) -> str:
    text = str(label(value))
    return text if text.isprintable() else json.dumps(text)


SHORT = {
    "distill.alpha": "α",
    "distill.beta": "β",
    "positives.tau": "τ",
    "positives.window": "w",
    "positives.top_k": "K",
    "positives.kind": "positives",
    "framework.name": "framework",
}
"""The papers' signs."""


def _holds(dimension: Dimension, settings: Settings) -> bool:
    """Whether its condition does, among settings of the keys above it."""
    return all(needed in settings and settings[needed] in allowed for needed, allowed in dimension.when.items())


def _distinct(points: Iterator[Settings]) -> list[Settings]:
    """Without the doubles that inactive keys make."""
    found: dict[str, Settings] = {}
    for point in points:
        found.setdefault(str(point), point)
    return list(found.values())
