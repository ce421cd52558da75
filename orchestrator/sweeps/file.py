"""A sweep's YAML: read and written, its errors with file and line, and the runs that its settings make."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from orchestrator.runs.folder import absolute_paths
from orchestrator.sweeps.space import (
    BudgetConfig,
    CollapseConfig,
    ResourcesConfig,
    SchedulerConfig,
    SearcherConfig,
    Settings,
    SweepConfig,
    named,
)
from ssl_core import recipes
from ssl_core.errors import InputError
from ssl_core.recipes import Setting
from ssl_core.schema.run import RunConfig
from ssl_core.schema.urls import without_credentials

SWEEP_FILE = "sweep.yaml"  # in a sweep's folder
SECTIONS = {
    "searcher": SearcherConfig,
    "scheduler": SchedulerConfig,
    "budget": BudgetConfig,
    "resources": ResourcesConfig,
    "collapse": CollapseConfig,
}


class Sweep:
    """A sweep's YAML, read and checked as far as no images are needed.

    Args:
        file: the YAML.
        words: `KEY=VALUE` from the command line, for the sweep (`trials=8`) or for all its runs (`optim.epochs=4`).

    Raises:
        InputError: with file, line and key.
    """

    def __init__(self, file: Path, words: Sequence[str] = ()):
        self.file = file
        self._where: dict[tuple[str, ...], str] = {}
        values = _read(file)
        given = [recipes.parse_override(word) for word in words]
        self._command_line = [s for s in given if s.key.partition(".")[0] not in SweepConfig.model_fields]
        for setting in given:
            if setting not in self._command_line:
                _assign(values, setting)
        values.setdefault("name", file.stem)
        try:
            self.config = SweepConfig.model_validate(values)
        except ValidationError as error:
            raise InputError("\n".join(self._explain(item, given) for item in error.errors())) from error
        for setting in self._command_line:
            if setting.key in self.config.space:
                raise InputError(f"command line: {setting.key} is varied by {self.where('space', setting.key)}")

    def where(self, *loc: str) -> str:
        """FILE:LINE of a key."""
        if loc not in self._where:  # asked for with every setting that is tried
            self._where[loc] = f"{self.file}:{recipes.line_of(self.file, loc)}"
        return self._where[loc]

    def run_config(self, settings: Settings, repeat: int = 0) -> RunConfig:
        """The run that `settings` make, with the seed of a repeat.

        Raises:
            InputError: a key that does not exist, a value that it does not take.
        """
        recipe, overrides = self._overrides(settings)
        config = recipes.load(recipe, overrides)
        return absolute_paths(config.model_copy(update={"name": self.config.name, "seed": self.config.seed + repeat}))

    def remarks(self, settings: Settings) -> list[str]:
        """What is allowed of that, but may not be meant."""
        return recipes.remarks(*self._overrides(settings))

    def recipe_of(self, settings: Settings) -> dict[str, Any]:
        """The same as a recipe: only what differs from the schema's defaults."""
        recipe, overrides = self._overrides(settings)
        return _without_credentials(recipes.merge(recipe, overrides))

    def _overrides(self, settings: Settings) -> tuple[str, list[Setting]]:
        c = self.config
        values = dict(settings)
        recipe = values.pop("recipe", c.recipe)
        beside = self.file.parent / recipe
        own = [Setting(key, value, where=self.where("overrides", key)) for key, value in c.overrides.items()]
        varied = [Setting(key, value, where=self.where("space", key)) for key, value in values.items()]
        return str(beside) if beside.is_file() else recipe, [*own, *self._command_line, *varied]

    def dump(self) -> str:
        """The sweep as YAML, with what the command line set: it gives the same sweep again, from any folder."""
        c = self.config
        overrides = dict(c.overrides) | {s.key: s.value for s in self._command_line}
        space = {
            key: {d.kind: list(d.args), **({"when": {k: list(v) for k, v in d.when.items()}} if d.when else {})}
            for key, d in c.space.items()
        }
        recipe = self.file.parent / c.recipe
        values = c.model_dump(mode="json") | {
            "recipe": str(recipe.absolute()) if recipe.is_file() else c.recipe,
            "overrides": overrides,
            "space": space,
        }
        return yaml.safe_dump(_without_credentials(values), sort_keys=False, allow_unicode=True)

    def _explain(self, item: Any, given: Sequence[Setting]) -> str:
        loc = [part for part in item["loc"] if isinstance(part, (str, int))]
        key = ".".join(map(str, loc))
        set_there = any(s.key == key or key.startswith(f"{s.key}.") for s in given)
        where = "command line" if set_there else self.where(*map(str, loc)) if loc else str(self.file)
        if item["type"] == "extra_forbidden":
            valid = list(SECTIONS.get(loc[0] if len(loc) > 1 else "", SweepConfig).model_fields)
            near = difflib.get_close_matches(str(loc[-1]), valid, 1)
            hint = f"did you mean {near[0]}?" if near else f"valid here: {', '.join(valid)}"
            return f"{where}: {key}: unknown key; {hint}"
        if item["type"] == "missing":
            return f"{where}: {key}: missing; `space` says what is varied, such as distill.alpha: {{uniform: [0, 1]}}"
        message = item["msg"].removeprefix("Value error, ")
        if not loc:  # errors between keys begin with the key that they are about
            about = message.partition(":")[0]
            parts = ("space", about.removeprefix("space.")) if about.startswith("space.") else tuple(about.split("."))
            return f"{self.where(*parts)}: {message}"
        shown = "" if isinstance(item["input"], dict) else f" (given: {item['input']!r})"
        return f"{where}: {key}: {message[:1].lower()}{message[1:]}{shown}"


def sweep_at(folder: Path, given_as: str) -> Sweep:
    """The sweep whose folder this is; `given_as` names the argument in errors.

    Raises:
        InputError: it is no sweep's folder.
    """
    file = folder.absolute() / SWEEP_FILE
    if not file.is_file():
        raise InputError(f"{given_as}: {folder} is no sweep's folder (it has no {SWEEP_FILE})")
    return Sweep(file)


def _without_credentials(values: Any) -> Any:
    """The same values, with no name and password in any URL."""
    if isinstance(values, dict):
        return {key: _without_credentials(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [_without_credentials(value) for value in values]
    return without_credentials(values) if isinstance(values, str) else values


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise InputError(f"{file}: no such file; a sweep is a YAML file, such as search_spaces/smoke.yaml")
    try:
        values = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not a YAML file: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{file}: expected keys and values, with at least `space:`")
    return values


def _assign(values: dict[str, Any], setting: Setting) -> None:
    """Set a key of the sweep; `searcher.sampler=cmaes` after `searcher: optuna` goes below the name."""
    *above, last = setting.key.split(".")
    node = values
    for part in above:
        below = node.get(part)
        node[part] = named(below) if below is not None and not isinstance(below, dict) else (below or {})
        node = node[part]
    node[last] = setting.value
