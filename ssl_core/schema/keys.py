"""What each key of a run is for: whether it changes results, may change on resume or in mid-run, and changes shapes."""

from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ssl_core.schema.run import RunConfig
from ssl_core.schema.types import Key, Section


def keys(config: RunConfig) -> dict[str, tuple[Any, Key]]:
    """Every dotted key of a configuration (`optim.lr`, `evaluation.0.k`, …) with its value, and what it is for."""
    return {key: (value, fact) for key, value, fact in _walk(config, "", config.key)}


def fact(config: RunConfig, key: str) -> Key | None:
    """What a dotted key is for, of a value or of a section, even one that is not there; None for an unknown key."""
    node: Any = config
    found = config.key
    for part in key.split("."):
        if isinstance(node, (list, tuple)) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, Section) and part in type(node).model_fields:
            found = _of(type(node), type(node).model_fields[part])
            node = getattr(node, part)
        elif not isinstance(node, dict):  # what stands below a free mapping is as the mapping
            return None
    return node.key if isinstance(node, Section) else found


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
