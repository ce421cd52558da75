"""From a recipe's name or a YAML file, and `KEY=VALUE` overrides, to a checked `RunConfig`.

A recipe is a YAML file with a few lines over the schema's defaults; `extends: NAME` starts from
another one. Every error names the key, where it was set (file and line, or the command line), what
was expected, and the nearest valid key.
"""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from ssl_core.errors import InputError
from ssl_core.files import as_path
from ssl_core.schema.run import RunConfig

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Setting:
    """A dotted key that is set over a recipe, and who says so (for errors)."""

    key: str
    value: Any
    where: str = "command line"


@dataclass(frozen=True)
class Layer:
    """One place that sets keys: a YAML file, or what a `Setting` calls itself."""

    where: Path | str
    values: DictConfig


def names() -> list[str]:
    """The bundled recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def title(name: str) -> str:
    """The first line of a bundled recipe's opening comment."""
    return (FOLDER / f"{name}.yaml").read_text().partition("\n")[0].lstrip("# ")


def load(recipe: str | Path, overrides: Sequence[str | Setting] = ()) -> RunConfig:
    """A checked configuration from `recipe` (a bundled name or a YAML file) and `KEY=VALUE` overrides.

    Raises:
        InputError: an unknown recipe or key, a value of the wrong type or outside its range.
    """
    layers, merged, _ = _merge(recipe, overrides)
    try:
        return RunConfig.model_validate(OmegaConf.to_container(merged, resolve=True))
    except OmegaConfBaseException as error:
        raise InputError(f"{recipe}: {str(error).splitlines()[0]}") from error
    except ValidationError as error:
        raise InputError("\n".join(_explain(item, layers) for item in error.errors())) from error


def merge(recipe: str | Path, overrides: Sequence[str | Setting] = ()) -> dict[str, Any]:
    """What `recipe` and all that it extends say, with `overrides`, but without the schema's defaults.

    Raises:
        InputError: an unknown recipe.
    """
    return OmegaConf.to_container(_merge(recipe, overrides)[1])


def remarks(recipe: str | Path, overrides: Sequence[str | Setting] = ()) -> list[str]:
    """What is allowed, but may not be meant: keys that another method's name has dropped.

    Raises:
        InputError: an unknown recipe.
    """
    return _merge(recipe, overrides)[2]


def _merge(recipe: str | Path, overrides: Sequence[str | Setting]) -> tuple[list[Layer], DictConfig, list[str]]:
    """The places that set keys, what they say together, and what got lost on the way."""
    settings = [item if isinstance(item, Setting) else parse_override(item) for item in overrides]
    files = _read(_find(recipe))
    dropped: list[str] = []
    whole: Any = {}
    for layer in files:
        ours = isinstance(layer.where, Path) and layer.where.parent == FOLDER  # the bundled ones know what they do
        whole = _over(whole, OmegaConf.to_container(layer.values), (), [] if ours else dropped)
    merged, layers = OmegaConf.create(whole), files
    # Overrides are applied one by one, so that `evaluation.0.every=5` reaches into a recipe's list; names first, for
    # they start their section anew.
    for setting in sorted(settings, key=_order):
        values = OmegaConf.create()
        try:
            OmegaConf.update(values, setting.key, setting.value, merge=True, force_add=True)
            section, value = _section_of(setting)
            before = OmegaConf.select(merged, section) if section else merged
            if OmegaConf.is_dict(before) and isinstance(value, dict):
                path = tuple(section.split("."))
                value = _over(OmegaConf.to_container(before), value, path, dropped)
            OmegaConf.update(merged, section, value, merge=False)
        except OmegaConfBaseException as error:
            raise InputError(f"{setting.key}={setting.value}: {str(error).splitlines()[0]}") from error
        layers = [*layers, Layer(setting.where, values)]
    return layers, merged, dropped


def _section_of(setting: Setting) -> tuple[str, Any]:
    """Which section a setting is of, and what it says of it: `framework.name=x` is {name: x} of framework."""
    parent, _, leaf = setting.key.rpartition(".")
    if parent and _tags().get(_form(parent.split("."))) == leaf:
        return parent, {leaf: setting.value}
    return setting.key, setting.value


def _order(setting: Setting) -> int:
    """Names before what else is set, sections before what is in them."""
    section, value = _section_of(setting)
    names = isinstance(value, dict) and _tags().get(_form(section.split("."))) in value
    return section.count(".") if names else len(setting.key)


def _over(old: Any, new: Any, path: tuple[str, ...], dropped: list[str]) -> Any:
    """`new` over `old`: mappings key by key; anything else takes the place of what was there.

    A section that gets another name (`framework.name`, `mask.kind`) starts anew: the other's keys mean other things.

    Args:
        path: where they are.
        dropped: gets a sentence for each section that started anew and lost something.
    """
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    tag = _tags().get(_form(path))
    if tag in old and tag in new and old[tag] != new[tag]:
        lost = ", ".join(f"{key}={value}" for key, value in old.items() if key not in new)
        if lost:
            dropped.append(f"{'.'.join(path)}.{tag}={new[tag]}: starts anew, without {old[tag]}'s {lost}")
        return new
    return old | {key: _over(old.get(key), value, (*path, str(key)), dropped) for key, value in new.items()}


def _form(path: Sequence[str]) -> tuple[str, ...]:
    """A path with `*` for places in lists."""
    return tuple("*" if part.isdigit() else part for part in path)


@cache
def _tags() -> dict[tuple[str, ...], str]:
    """The key that names what a section is, for each path at which sections of several kinds may stand."""
    return dict(_tags_below(RunConfig, ()))


def _tags_below(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    for name, field in model.model_fields.items():
        here = (*path, name)
        for annotation, place in _parts(field.annotation, here, field.discriminator):
            if isinstance(annotation, str):
                yield place, annotation
            else:
                yield from _tags_below(annotation, place)


def _parts(annotation: Any, path: tuple[str, ...], tag: object = None) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """The sections that an annotation can hold, with their paths; where there are several by name, its key first."""
    if isinstance(tag, str):
        yield tag, path
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, path
    elif get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        yield from _parts(inner, path, next((getattr(item, "discriminator", None) for item in more), None))
    elif get_origin(annotation) is list:
        yield from _parts(*get_args(annotation), (*path, "*"))
    elif get_origin(annotation):
        for part in get_args(annotation):
            yield from _parts(part, path)


def dump(config: RunConfig) -> str:
    """The resolved configuration as YAML: `load` gives the same run again."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def flatten(config: RunConfig) -> dict[str, Any]:
    """Dotted keys to values: `optim.lr`, `evaluation.0.kind`, …"""

    def walk(value: Any, prefix: str) -> dict[str, Any]:
        if isinstance(value, dict):
            items = [(str(key), item) for key, item in value.items()]
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            items = [(str(index), item) for index, item in enumerate(value)]
        else:
            return {prefix: value}
        return {k: v for key, item in items for k, v in walk(item, f"{prefix}.{key}" if prefix else key).items()}

    return walk(config.model_dump(mode="json"), "")


def describe(config: RunConfig, key: str) -> str:
    """What a dotted key of `config` means: `framework.momentum`, `evaluation.0.k`; nothing of what is unknown."""
    node: Any = config
    *sections, name = key.split(".")
    for part in sections:
        node = node[int(part)] if isinstance(node, list) else getattr(node, part, None)
    field = type(node).model_fields.get(name) if isinstance(node, BaseModel) else None
    return (field.description or "") if field else ""


def _find(recipe: str | Path) -> Path:
    bundled = FOLDER / f"{recipe}.yaml"
    if "/" not in str(recipe) and bundled.is_file():
        return bundled
    if (file := as_path(recipe)).is_file():
        return file
    near = difflib.get_close_matches(str(recipe), names(), n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise InputError(f"no recipe named {recipe}, and no such YAML file: {hint}`strata recipes` lists them")


def _read(path: Path, below: tuple[Path, ...] = ()) -> list[Layer]:
    """The files that make up a recipe, the one it extends first."""
    if path in below:
        raise InputError(f"{path}: extends itself through {' → '.join(p.name for p in below)}")
    try:
        with path.open() as file:
            values = OmegaConf.load(file)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a YAML file: {error}") from error
    if not isinstance(values, DictConfig):
        raise InputError(f"{path}: expected keys and values, such as `optim: {{epochs: 10}}`")
    parent = values.pop("extends", None)
    if parent is None:
        return [Layer(path, values)]
    beside = path.parent / parent
    return [*_read(beside if beside.is_file() else _find(parent), (*below, path)), Layer(path, values)]


def parse_override(word: str) -> Setting:
    """`KEY=VALUE` of a command line, the value as YAML."""
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise InputError(f"{word}: expected KEY=VALUE, such as optim.epochs=10")
    return Setting(key, _parse_value(value))


def _parse_value(text: str) -> Any:
    try:
        return OmegaConf.to_container(OmegaConf.create(f"value: {text}"))["value"]
    except (yaml.YAMLError, OmegaConfBaseException):
        return text


def _explain(item: Any, layers: Sequence[Layer]) -> str:
    """One error of pydantic's, for people."""
    valid, loc = _walk_schema(item["loc"])
    key = ".".join(map(str, loc))
    where = _where(loc, layers)
    if item["type"] == "extra_forbidden":
        return f"{where}{key}: unknown key; {_nearest(key, valid)}"
    if item["type"] == "missing":
        if key in ("data", "data.train"):
            return "data.train: missing; give a folder of images, Parquet, or bundled:digits: data.train=FOLDER"
        return f"{key}: missing"
    if item["type"] in ("union_tag_invalid", "union_tag_not_found"):
        field = item["ctx"]["discriminator"].strip("'")
        expected = item["ctx"].get("expected_tags") or "a name"
        return f"{where}{key}.{field}: expected {expected} (given: {item['input'].get(field)!r})"
    message = item["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    given = "" if not key or isinstance(item["input"], (dict, BaseModel)) else f" (given: {item['input']!r})"
    return f"{where}{key + ': ' if key else ''}{message}{given}"


def _nearest(key: str, valid: Sequence[str]) -> str:
    prefix, _, leaf = key.rpartition(".")
    near = difflib.get_close_matches(leaf, valid, n=1)
    if near:
        return f"did you mean {prefix + '.' if prefix else ''}{near[0]}?"
    elsewhere = [path for path in _schema_keys(RunConfig) if path.rpartition(".")[2] == leaf]
    if elsewhere and key not in elsewhere:  # a key of another framework is none of this one's
        return f"did you mean {elsewhere[0]}?"
    return f"valid here: {', '.join(valid)}" if valid else "nothing can be set below it"


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The schema's sections that a type annotation can hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)] if get_origin(annotation) else []


def _walk_schema(raw: Sequence[int | str]) -> tuple[list[str], list[int | str]]:
    """Pydantic's location without its union tags, and the keys that are valid beside the last one."""
    models, valid, loc = [RunConfig], list(RunConfig.model_fields), []
    for part in raw:
        if isinstance(part, int):
            loc.append(part)
            continue
        if part in ("every", "all", "list") and loc[-1:] == ["layers"] and "every" not in valid:
            valid = ["every"]
            continue
        owner = next((model for model in models if part in model.model_fields), None)
        tagged = [m for m in models if any(part in get_args(f.annotation) for f in m.model_fields.values())]
        if owner is None and tagged:
            models = tagged
            valid = list(models[0].model_fields)
            continue
        if owner is None and "[" in part:  # a type's name: pydantic's, no key
            continue
        loc.append(part)
        valid = sorted({name for model in models for name in model.model_fields})
        models = _models(owner.model_fields[part].annotation) if owner else []
    return valid, loc


def _schema_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted key that can be set."""
    keys = []
    for name, field in model.model_fields.items():
        below = [key for part in _models(field.annotation) for key in _schema_keys(part, f"{prefix}{name}.")]
        keys += [prefix + name, *below]
    return list(dict.fromkeys(keys))


def _where(loc: Sequence[int | str], layers: Sequence[Layer]) -> str:
    """Which file and line, or the command line, set the key."""
    if not loc:
        return ""
    for layer in reversed(layers):
        node: Any = OmegaConf.to_container(layer.values)
        for part in loc:
            try:
                node = node[part if isinstance(node, list) else str(part)]
            except (KeyError, IndexError, TypeError):
                break
        else:
            if isinstance(layer.where, Path):
                return f"{layer.where}:{line_of(layer.where, loc)}: "
            return f"{layer.where}: "
    return ""


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
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
    return line + 1
