"""A sweep's YAML: read and written, its errors with file and line, and the runs that its settings make."""

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from pydantic import ValidationError

from orchestrator.runs.folder import absolute_paths
from orchestrator.sweeps.space import Dimension, Settings, SweepConfig, named
from ssl_core import recipes
from ssl_core.errors import InputError
from ssl_core.files import is_file
from ssl_core.recipes import Setting
from ssl_core.recipes.errors import problems
from ssl_core.recipes.read import read_file
from ssl_core.schema.run import RunConfig
from ssl_core.schema.urls import without_credentials

SWEEP_FILE = "sweep.yaml"  # in a sweep's folder
FREE = ("space", "overrides")  # of keys with dots
NAMED = ("searcher", "scheduler")  # of which the name alone can be given


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
        values.setdefault("name", _name_of(file))
        for key in NAMED:
            if key in values:
                values[key] = named(values[key])
        wrong = _problems(values)
        if wrong:
            raise InputError("\n".join(self._located(loc, message, given) for loc, message in wrong))
        self.config = SweepConfig.model_validate(values)
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
        return str(beside) if is_file(beside) else recipe, [*own, *self._command_line, *varied]

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
            "recipe": str(recipe.absolute()) if is_file(recipe) else c.recipe,
            "overrides": overrides,
            "space": space,
        }
        return as_yaml(_without_credentials(values))

    def _located(self, loc: Sequence[int | str], message: str, given: Sequence[Setting]) -> str:
        """A message with file and line, or the command line, of the key that it is about."""
        key = message.partition(":")[0] if not loc else ".".join(map(str, loc))
        if any(f"{key}.".startswith(f"{s.key}.") or s.key.startswith(f"{key}.") for s in given):
            return f"command line: {message}"
        if not loc:  # errors between keys begin with the key that they are about
            section, _, below = key.partition(".")
            loc = (section, below) if section in FREE else key.split(".")
        return f"{self.where(*map(str, loc))}: {message}"


def as_yaml(values: dict[str, Any]) -> str:
    """YAML that recipes' loader reads as the same values: the text 1e-5 stands in quotation marks."""
    return OmegaConf.to_yaml(OmegaConf.create(values))


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
    if not is_file(file):
        raise InputError(f"{file}: no such file; a sweep is a YAML file, such as search_spaces/smoke.yaml")
    try:
        node = yaml.compose(file.read_text(encoding="utf-8"), yaml.SafeLoader)
        if not isinstance(node, yaml.MappingNode) or not node.value:
            raise InputError(f"{file}:1: expected keys and values, with at least `space:`")
        layer = read_file(file)
        if layer.extends is not None:
            raise InputError(f"{file}: extends: a sweep stands on a recipe alone: recipe: {layer.extends}")
        return layer.values
    except (InputError, yaml.YAMLError) as error:
        cause = error.__cause__ if isinstance(error, InputError) else error
        mark = getattr(cause, "problem_mark", None)
        if mark is None and isinstance(error, InputError):
            raise
        line = f":{mark.line + 1}" if mark is not None else ""
        raise InputError(f"{file}{line}: not a YAML file: {getattr(cause, 'problem', None) or cause}") from error
    except RecursionError as error:
        raise InputError(f"{file}: not a YAML file: nested too deeply") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read: {error}") from error


def _name_of(file: Path) -> str:
    """A sweep's name of its file's: `my sweep (é).yaml` is my-sweep-e."""
    letters = unicodedata.normalize("NFKD", file.stem).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._]+", "-", letters)[:100].strip("-._") or "sweep"


def _problems(values: dict[str, Any]) -> list[tuple[Sequence[int | str], str]]:
    """What is wrong with a sweep's values, and where: each varied key by itself, then all together.

    Varied keys become `Dimension`s in `values`.
    """
    wrong: list[tuple[Sequence[int | str], str]] = []
    given = values.get("space")
    space: dict[str, Any] = given if isinstance(given, dict) else {}
    for key, written in space.items():
        try:
            space[key] = Dimension.model_validate(written)
        except ValidationError as error:
            wrong += [(("space", key), f"space.{key}: {item['ctx']['error']}") for item in error.errors()]
    return wrong or [*problems(SweepConfig, values)]


def _assign(values: dict[str, Any], setting: Setting) -> None:
    """Set a key of the sweep; `searcher.sampler=cmaes` after `searcher: optuna` goes below the name."""
    section, _, below = setting.key.partition(".")
    *above, last = (section, below) if section in FREE and below else setting.parts
    node: Any = values
    for part in above:
        inner = named(node.get(part)) if part in NAMED and part in node else node.get(part)
        node[part] = inner if isinstance(inner, dict) else {}
        node = node[part]
    node[last] = setting.value
