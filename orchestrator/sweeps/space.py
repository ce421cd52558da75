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
import math
from collections.abc import Iterator, Mapping
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
from ssl_core.schema.types import Section

Settings = dict[str, Any]
"""What one trial is tried with: dotted keys to values; keys whose condition does not hold are absent."""

NUMBERS = {"uniform": 2, "loguniform": 2, "quniform": 3, "randint": 2, "normal": 2}  # kind → how many
LISTS = ("choice", "grid")
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


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
        expected = "expected one of {uniform: [low, high]}, loguniform, quniform, randint, normal, choice, grid"
        if not isinstance(value, dict):
            raise ValueError(expected)
        if "kind" in value:
            return value
        kinds = [key for key in value if key != "when"]
        if len(kinds) != 1 or kinds[0] not in (*NUMBERS, *LISTS):
            near = [near for kind in kinds for near in difflib.get_close_matches(kind, [*NUMBERS, *LISTS], 1)]
            raise ValueError(f"{expected}{f'; did you mean {near[0]}?' if near else ''}")
        (kind,) = kinds
        args = value[kind]
        if not isinstance(args, list) or not args:
            raise ValueError(f"{kind}: expected a list")
        _check_args(kind, args)
        when = {key: list(v) if isinstance(v, list) else [v] for key, v in (value.get("when") or {}).items()}
        return {"kind": kind, "args": args, "when": when}

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
        low, high, *step = self.args
        if self.kind == "uniform":
            return float(generator.uniform(low, high))
        if self.kind == "loguniform":
            return float(math.exp(generator.uniform(math.log(low), math.log(high))))
        if self.kind == "quniform":
            steps = round((high - low) / step[0])
            return float(round(low + step[0] * generator.integers(steps + 1), 12))
        if self.kind == "randint":
            return int(generator.integers(low, high))
        return float(generator.normal(low, high))

    def probes(self) -> tuple[Any, ...]:
        """Values to check: all of a list, the ends of a range."""
        if self.values is not None:
            return self.values
        if self.kind == "normal":
            mean, deviation = self.args
            return (mean - 3 * deviation, mean, mean + 3 * deviation)
        low, high = self.args[:2]
        return (low, high - 1 if self.kind == "randint" else high)

    @property
    def condition(self) -> str:
        """Where it exists, in words; empty if everywhere."""
        return " and ".join(f"{key} is {' or '.join(map(str, values))}" for key, values in self.when.items())

    def __str__(self) -> str:
        when = f" when {self.condition}" if self.when else ""
        return f"{self.kind} [{', '.join(str(label(v)) for v in self.args)}]{when}"


def _check_args(kind: str, args: list) -> None:
    if kind in LISTS:
        if len({str(value) for value in args}) < len(args):
            raise ValueError(f"{kind}: a value stands in it twice")
        return
    if len(args) != NUMBERS[kind] or not all(isinstance(a, (int, float)) and not isinstance(a, bool) for a in args):
        form = {"quniform": "[low, high, step]", "normal": "[mean, deviation]"}.get(kind, "[low, high]")
        raise ValueError(f"{kind}: expected numbers {form}")
    low, high = args[:2]
    if kind == "normal":
        if high <= 0:
            raise ValueError("normal: expected a deviation above 0")
    elif low >= high:
        raise ValueError(f"{kind}: expected low < high")
    if kind == "loguniform" and low <= 0:
        raise ValueError("loguniform: expected low > 0")
    if kind == "quniform" and args[2] <= 0:
        raise ValueError("quniform: expected a step above 0")
    if kind == "randint" and not all(isinstance(a, int) for a in args):
        raise ValueError("randint: expected integers; the upper one is excluded")


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
    factor: Annotated[float, Field(gt=1)] = Field(4, description="asha, hyperband: one in so many goes on")
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


class SweepConfig(Section):
    """All that a sweep's YAML can say."""

    name: Annotated[str, Field(pattern=NAME)]
    recipe: str = Field("demo", description="a bundled recipe, or a YAML file beside this one; may be in `space` too")
    overrides: dict[str, Any] = Field(default_factory=dict, description="keys for all trials")
    space: Annotated[dict[str, Dimension], Field(min_length=1)]
    metric: Annotated[list[str], BeforeValidator(_listed), Field(min_length=1, max_length=2)] = Field(
        default_factory=lambda: ["knn/last"], description="any metric that a run logs; two for searcher.sampler=nsgaii"
    )
    mode: Annotated[list[Literal["max", "min"]], BeforeValidator(_listed)] = Field(
        default_factory=list, description="of each metric; default: the end at which the metric is better"
    )
    searcher: Annotated[SearcherConfig, BeforeValidator(named)] = Field(default_factory=SearcherConfig)
    scheduler: Annotated[SchedulerConfig, BeforeValidator(named)] = Field(default_factory=SchedulerConfig)
    trials: PositiveInt | None = Field(None, description="settings to try; default: 20, or all of a grid or ablation")
    repeats: PositiveInt = Field(1, description="seeds for each setting")
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    resources: ResourcesConfig = Field(default_factory=ResourcesConfig)
    collapse: CollapseConfig | None = Field(default_factory=CollapseConfig, description="null: let them run")
    keep_weights: NonNegativeInt = Field(3, description="trials that keep their weights: the best ones")
    seed: NonNegativeInt = Field(0, description="of the first repeat, and of the searcher")

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
        before: list[str] = []
        for key, dimension in self.space.items():
            for needed in dimension.when:
                if needed not in before:
                    raise ValueError(f"space.{key}: when: {needed} is no key of the space above it")
            before.append(key)
        self._check_pairs()
        return self

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
        normal = [key for key, dimension in self.space.items() if dimension.kind == "normal"]
        if searcher.name == "optuna" and normal:
            raise ValueError(f"space.{normal[0]}: optuna knows no normal; use uniform, or searcher: random")
        if searcher.sampler == "cmaes" and any(d.values is not None or d.when for d in self.space.values()):
            raise ValueError("searcher.sampler: cmaes needs ranges, without choices and conditions; use tpe")

    def active(self, values: Mapping[str, Any]) -> Settings:
        """`values` without the keys whose condition does not hold."""
        found: Settings = {}
        for key, dimension in self.space.items():
            if all(needed in found and found[needed] in allowed for needed, allowed in dimension.when.items()):
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
            elif dimension.kind != "normal":
                low, *_, high = dimension.probes()
                value = min(max(value, low), high)
                value = int(value) if dimension.kind == "randint" else value
            found[key] = value
        return self.active({key: found.get(key) for key in self.space})

    def planned(self) -> list[Settings] | None:
        """The settings to try, in order; None if the searcher decides while it runs."""
        if self.searcher.learns:
            return None
        if self.searcher.name == "random":
            return self.samples(self.trials or 20, self.seed)
        if self.searcher.name == "ablation":
            return _distinct(self._ablation())[: self.trials]
        found = _distinct(self._product(self.space))
        # In order, each setting would be a little better than all before it, and early stopping would stop none.
        np.random.default_rng(self.seed).shuffle(found)
        return found[: self.trials]

    def samples(self, count: int, seed: int) -> list[Settings]:
        """Settings at random; keys with `grid` go through all their combinations in turn."""
        generator = np.random.default_rng(seed)
        cells = list(self._product({key: d for key, d in self.space.items() if d.kind == "grid"}, active=False))
        found = []
        for number in range(count):
            values = {key: dimension.sample(generator) for key, dimension in self.space.items()}
            found.append(self.active(values | cells[number % len(cells)]))
        return found

    def _product(self, space: Mapping[str, Dimension], active: bool = True) -> Iterator[Settings]:
        for values in itertools.product(*(dimension.values for dimension in space.values())):
            point = dict(zip(space, values, strict=True))
            yield self.active(point) if active else point

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
    return f"{value:.3g}" if isinstance(value, float) else str(label(value))


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


def _distinct(points: Iterator[Settings]) -> list[Settings]:
    """Without the doubles that inactive keys make."""
    found: dict[str, Settings] = {}
    for point in points:
        found.setdefault(str(point), point)
    return list(found.values())
