"""From a recipe's name or a YAML file, and `KEY=VALUE` overrides, to a checked `RunConfig`."""

import difflib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ssl_core.errors import InputError
from ssl_core.files import as_path, is_file
from ssl_core.recipes.errors import explain, placed
from ssl_core.recipes.merge import merged, nested
from ssl_core.recipes.read import Layer, Setting, as_key_takes, parse_override, read_file
from ssl_core.recipes.references import Unresolved, resolved
from ssl_core.schema.run import RunConfig

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The bundled recipes."""
    return sorted(_bundled())


def title(name: str) -> str:
    """The first line of a bundled recipe's opening comment."""
    return _bundled()[name].read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def load(recipe: str | Path | Layer, overrides: Sequence[str | Setting] = ()) -> RunConfig:
    """A checked configuration from `recipe` (a bundled name, a YAML file, or keys) and `KEY=VALUE` overrides.

    Raises:
        InputError: an unknown recipe or key, a value of the wrong type or outside its range.
    """
    files, settings = _places(recipe, overrides)
    layers = [*files, *(Layer(setting.where, nested(setting)) for setting in settings)]
    try:
        values = resolved(merged(files, settings)[0])
    except Unresolved as error:
        raise InputError(placed(error.loc, str(error), layers)) from error
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise InputError("\n".join(explain(RunConfig, values, layers))) from error


def merge(recipe: str | Path, overrides: Sequence[str | Setting] = ()) -> dict[str, Any]:
    """What `recipe` and all that it extends say, with `overrides`, but without the schema's defaults.

    Raises:
        InputError: an unknown recipe.
    """
    return merged(*_places(recipe, overrides))[0]


def remarks(recipe: str | Path, overrides: Sequence[str | Setting] = ()) -> list[str]:
    """What is allowed, but may not be meant: keys that another method's name has dropped.

    Raises:
        InputError: an unknown recipe.
    """
    return merged(*_places(recipe, overrides))[1]


def _places(recipe: str | Path | Layer, overrides: Sequence[str | Setting]) -> tuple[list[Layer], list[Setting]]:
    """All that sets keys, what it is set over first."""
    settings = [as_key_takes(item) if isinstance(item, Setting) else parse_override(item) for item in overrides]
    return [recipe] if isinstance(recipe, Layer) else _read(_find(recipe)), settings


@cache
def _bundled() -> dict[str, Path]:
    """The bundled recipes' files, by family in folders; a name says nothing of its folder."""
    return {path.stem: path for path in FOLDER.rglob("*.yaml")}


def _find(recipe: str | Path) -> Path:
    if str(recipe) in _bundled():
        return _bundled()[str(recipe)]
    if is_file(file := as_path(recipe)):
        return file
    near = difflib.get_close_matches(str(recipe), names(), n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    shown = name if len(name := str(recipe)) <= 200 else f"{name[:200]}…"
    raise InputError(f"no recipe named {shown}, and no such YAML file: {hint}`strata recipes` lists them")


def _read(path: Path, below: tuple[Path, ...] = ()) -> list[Layer]:
    """The files that make up a recipe, the one it extends first."""
    if path in below:
        raise InputError(f"{path}: extends itself through {' → '.join(p.name for p in below)}")
    layer = read_file(path)
    parent = layer.extends
    if parent is None:
        return [layer]
    try:
        above = beside if is_file(beside := path.parent / parent) else _find(parent)
    except InputError as error:
        here = Layer(path, {"extends": parent})
        raise InputError(placed(("extends",), f"extends: {error}", [here])) from error
    return [*_read(above, (*below, path)), layer]
