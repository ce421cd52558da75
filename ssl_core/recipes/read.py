"""YAML as people write it, in files and behind `KEY=`: read with where each key stands, and with its text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_origin

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssl_core.errors import InputError
from ssl_core.schema import walk
from ssl_core.schema.run import RunConfig

TEXTS = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # reads every value as text


@dataclass(frozen=True)
class Setting:
    """A dotted key that is set over a recipe.

    Attributes:
        text: the value as it was written, where that is known: 007 for 7.
        where: who says so, for errors.
    """

    key: str
    value: Any
    text: Any = None
    where: str = "command line"

    @property
    def parts(self) -> list[str]:
        return self.key.split(".")


@dataclass(frozen=True)
class Layer:
    """One place that sets keys: a YAML file, or what a `Setting` calls itself."""

    where: Path | str
    values: dict[str, Any]


def parse_override(word: str) -> Setting:
    """`KEY=VALUE` of a command line, the value as YAML; where a key takes text, `2020` and `1e3` are text."""
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise InputError(f"{word}: expected KEY=VALUE, such as optim.epochs=10")
    return as_key_takes(Setting(key, *_parse_value(value)))


def as_key_takes(setting: Setting) -> Setting:
    """A setting with text where its key takes nothing else."""
    types: list[Any] = [RunConfig]
    for part in setting.parts:
        types = [field for one in types for field in _fields(one, part)]
    return replace(setting, value=as_text(types, setting.value, setting.text))


def read_file(path: Path) -> Layer:
    """A file with keys and values.

    Raises:
        InputError: it is no YAML, or another kind of it.
    """
    try:
        text = path.read_text()
        values = OmegaConf.create(text)
        texts = yaml.load(text, TEXTS)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a YAML file: {error}") from error
    if not isinstance(values, DictConfig):
        raise InputError(f"{path}: expected keys and values, such as `optim: {{epochs: 10}}`")
    return Layer(path, as_text([RunConfig], OmegaConf.to_container(values), texts))


def as_text(types: Sequence[Any], value: Any, text: Any = None) -> Any:
    """`value` with the text of those numbers that stand where the schema takes text alone.

    A folder may be called 2020 and an experiment 1e3: YAML would make numbers of them.

    Args:
        types: what the schema can have here; several, as long as nobody says which framework it is.
        text: the same as it was written, as far as that is known.
    """
    if isinstance(value, Mapping):
        free = types and all(get_origin(member) is dict for one in types for member in walk.members(one))
        found = {}
        for key, item in value.items():
            below = [field for one in types for field in _fields(one, str(key))]
            written = text.get(str(key)) if isinstance(text, Mapping) else None
            found[str(key) if free else key] = as_text(below, item, written)
        return found
    if isinstance(value, list):
        below = [inner for one in types if (inner := walk.entry(one)) is not None]
        texts = text if isinstance(text, list) and len(text) == len(value) else [None] * len(value)
        return [as_text(below, *pair) for pair in zip(value, texts, strict=True)]
    if isinstance(value, (bool, int, float)) and types and all(map(_takes_text_alone, types)):
        return text if isinstance(text, str) else str(value).lower()
    return value


def line_of(path: Path, loc: Sequence[int | str]) -> int:
    """The line of a YAML file, from 1, that sets the key at `loc`, or the nearest key above it that there is."""
    node = yaml.compose(path.read_text())
    line = node.start_mark.line
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line, found[1]
        elif isinstance(node, yaml.SequenceNode) and str(part).isdigit() and int(part) < len(node.value):
            node = node.value[int(part)]
            line = node.start_mark.line
    return line + 1


def _parse_value(text: str) -> tuple[Any, Any]:
    """What stands behind `KEY=`, as YAML reads it and as text; what is no YAML, or not to its end, is text."""
    whole = f"value: {text}"
    try:
        read: Any = OmegaConf.to_container(OmegaConf.create(whole))
        ((_, node),) = yaml.compose(whole).value
        if node.end_mark.index < len(whole.rstrip()):  # what follows would be a comment: `set #1`
            return text, text
        return read["value"], yaml.load(whole, TEXTS)["value"]
    except (yaml.YAMLError, OmegaConfBaseException, ValueError):
        return text, text


def _fields(annotation: Any, key: str) -> list[Any]:
    """What `key` can be below a type, or a place in it where it is a list."""
    found = [
        section.model_fields[key].rebuild_annotation()
        for section in walk.sections(annotation)
        if key in section.model_fields
    ]
    inner = walk.entry(annotation)
    return [*found, inner] if inner is not None else found


def _takes_text_alone(annotation: Any) -> bool:
    members = walk.members(annotation)
    return str in members and not {bool, int, float, Any}.intersection(members)
