"""What each key of a run is for: whether it changes results, may change on resume or in mid-run, and changes shapes."""

from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ssl_core.schema import walk
from ssl_core.schema.run import RunConfig
from ssl_core.schema.types import Key, Section


def keys(config: RunConfig) -> dict[str, tuple[Any, Key]]:
    """Every dotted key of a configuration (`optim.lr`, `evaluation.0.k`, …) with its value, and what it is for."""
    return {key: (value, fact) for key, value, fact in _walk(config, "", config.key)}


def fact(config: RunConfig, key: str) -> Key | None:
    """What a dotted key is for, also below a section that is off; None for an unknown key.

    Of a whole section it is what all its keys are: it may change in mid-run if each of them may.
    """
    node: Any = config
    section: type[BaseModel] | None = type(config)
    found = config.key
    for part in key.split("."):
        if section is not None:
            if part not in section.model_fields:
                return None
            field = section.model_fields[part]
            found, node = _of(section, field), getattr(node, part, None)
            section = _section(field, node)
        elif isinstance(node, (list, tuple)) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
            section = type(node) if isinstance(node, BaseModel) else None
        elif not isinstance(node, dict):  # what stands below a free mapping is as the mapping
            return None
    return found if section is None else _together(section, node)


def differences(before: RunConfig, after: RunConfig) -> dict[str, tuple[Any, Any, Key]]:
    """Keys that two configurations do not have in common: value before and after, and what they are for."""
    old, new = keys(before), keys(after)
    found = {}
    for key in dict.fromkeys([*old, *new]):
        fact = (old.get(key) or new[key])[1]
        was, now = (all_of.get(key, (None, fact))[0] for all_of in (old, new))
        if was != now:
            found[key] = (was, now, fact)
    return found


def _walk(node: Any, prefix: str, fact: Key) -> list[tuple[str, Any, Key]]:
    if isinstance(node, BaseModel):
        items = [(name, getattr(node, name), _of(type(node), field)) for name, field in type(node).model_fields.items()]
    elif isinstance(node, (list, tuple)) and any(isinstance(item, BaseModel) for item in node):
        items = [(str(number), item, fact) for number, item in enumerate(node)]
    elif isinstance(node, dict):
        items = [(str(name), item, fact) for name, item in node.items()]
    else:
        return [(prefix, node, fact)]
    return [found for name, item, own in items for found in _walk(item, f"{prefix}.{name}" if prefix else name, own)]


def _of(section: type[BaseModel], field: FieldInfo) -> Key:
    said = (item for item in field.metadata if isinstance(item, Key))
    return next(said, section.key if issubclass(section, Section) else Key())


def _section(field: FieldInfo, value: Any) -> type[BaseModel] | None:
    """The section that stands at a key, or would if it were there."""
    if isinstance(value, BaseModel):
        return type(value)
    among = walk.sections(field.annotation) if value is None else []
    return among[0] if len(among) == 1 else None


def _together(section: type[BaseModel], value: Any) -> Key:
    """What all keys of a section are for, those of sections in it too."""
    found = []
    for name, field in section.model_fields.items():
        below = getattr(value, name, None)
        inner = _section(field, below)
        found.append(_of(section, field) if inner is None else _together(inner, below))
    return Key(
        science=any(key.science for key in found),
        resumes=all(key.resumes for key in found),
        in_mid_run=all(key.in_mid_run for key in found),
        shapes=any(key.shapes for key in found),
    )
