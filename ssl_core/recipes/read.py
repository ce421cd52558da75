"""YAML as people write it, in files and behind `KEY=`: read with where each key stands, and with its text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_origin

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException

from ssl_core.errors import InputError
from ssl_core.recipes.references import Unresolved, check
from ssl_core.schema import walk
from ssl_core.schema.run import RunConfig

TEXTS = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # reads every value as text
NULLS = ("", "~", "null", "Null", "NULL")  # as YAML writes that there is none


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
    """One place that sets keys: a YAML file, or what a `Setting` calls itself.

    Attributes:
        extends: what the file is set over.
    """

    where: Path | str
    values: dict[str, Any]
    extends: str | None = None


def parse_override(word: str) -> Setting:
    """`KEY=VALUE` of a command line, the value as YAML; where a key takes text, the word as it stands.

    Raises:
        InputError: it is no such word.
    """
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise InputError(f"{word}: expected KEY=VALUE, such as optim.epochs=10")
    if any("\ud800" <= sign <= "\udfff" for sign in word):
        raise InputError(f"{word!a}: not UTF-8; give the file another name, or a link with one")
    setting = Setting(key, *_parse_value(value))
    types = _types(setting)
    if types and all(map(_takes_text_alone, types)) and not _is_meant_as_yaml(types, value, setting.value):
        return replace(setting, value=value, text=value)
    return as_key_takes(setting)


def as_key_takes(setting: Setting) -> Setting:
    """A setting with text where its key takes nothing else."""
    return replace(setting, value=as_text(_types(setting), setting.value, setting.text))


def _types(setting: Setting) -> list[Any]:
    """What the schema can have at a key; several, as long as nobody says which framework it is."""
    types: list[Any] = [RunConfig]
    for part in setting.parts:
        types = [field for one in types for field in _fields(one, part)]
    return types


def _is_meant_as_yaml(types: Sequence[Any], word: str, value: Any) -> bool:
    """Whether a word for a key of text is more than that: in quotation marks, a list or null where it takes them."""
    members = [member for one in types for member in walk.members(one)]
    if value is None:
        return word.strip() in NULLS and type(None) in members
    if isinstance(value, str):
        return word.strip()[:1] in ("'", '"') and value != word
    return isinstance(value, (list, dict)) and any(get_origin(member) is type(value) for member in members)


def read_file(path: Path) -> Layer:
    """A file with keys and values.

    Raises:
        InputError: it cannot be read, is no YAML, or another kind of it, or refers to something else than its keys.
    """
    try:
        text = path.read_text(encoding="utf-8")
        texts = yaml.load(text, TEXTS)
        if not isinstance(texts or {}, Mapping):
            raise InputError(f"{path}: expected keys and values, such as `optim: {{epochs: 10}}`")
        values = _values(text, texts)
    except Unresolved as error:
        raise InputError(f"{path}:{line_of(path, error.loc)}: {error}") from error
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not a YAML file: {_first(error)}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected keys and values, such as `optim: {{epochs: 10}}`")
    extends = as_text([str], values.pop("extends", None), (texts or {}).get("extends"))
    if not isinstance(extends, str | None):
        raise InputError(
            f"{path}:{line_of(path, ('extends',))}: extends: expected one recipe's name or file (given: {extends})"
        )
    return Layer(path, as_text([RunConfig], values, texts), extends)


def _values(text: str, texts: Any) -> Any:
    try:
        return OmegaConf.to_container(OmegaConf.create(text))
    except GrammarParseError:
        check(texts)  # says it with its place
        raise


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
    node = yaml.compose(path.read_text(encoding="utf-8"), TEXTS)  # which takes all that `read_file` does
    line = node.start_mark.line if node is not None else 0
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
        ((_, node),) = yaml.compose(whole, TEXTS).value
        if node.end_mark.index < len(whole.rstrip()):  # what follows would be a comment: `set #1`
            return text, text
        return read["value"], yaml.load(whole, TEXTS)["value"]
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError):
        return text, text


def _first(error: Exception) -> str:
    """What is wrong, and where, in a line."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return ", ".join(line.strip() for line in str(error).splitlines() if line.strip())


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
