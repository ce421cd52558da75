"""A configuration as people look at it: key by key, with what each means and is for."""

from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel

from ssl_core.recipes.references import escaped
from ssl_core.schema.keys import keys
from ssl_core.schema.run import RunConfig
from ssl_core.schema.types import Key


@dataclass(frozen=True)
class Row:
    """A key of a configuration.

    Attributes:
        default: empty text where there is none.
        changed: the value is not the default.
        purpose: what it is for: science or operation, whether it is tunable or changes shapes.
        meaning: its description; empty where it has none.
    """

    key: str
    value: Any
    default: Any
    changed: bool
    purpose: Key
    meaning: str


def rows(config: RunConfig) -> list[Row]:
    """Every key of a configuration, compared with the defaults of its own method."""
    given: dict[str, Any] = {"data": {"train": config.data.train}}
    if config.framework is not None:
        given["framework"] = {"name": config.framework.name}
    else:
        given["objectives"] = [{"name": objective.name} for objective in config.objectives]
    if config.distill is not None:
        given["distill"] = {}
    defaults = flatten(RunConfig.model_validate(given))
    facts = {key: fact for key, (_, fact) in keys(config).items()}
    return [
        Row(key, value, defaults.get(key, ""), defaults.get(key) != value, facts[key], describe(config, key))
        for key, value in flatten(config).items()
    ]


def dump(config: RunConfig) -> str:
    """The resolved configuration as YAML: `load` gives the same run again."""
    return yaml.safe_dump(escaped(config.model_dump(mode="json")), sort_keys=False, allow_unicode=True)


def typed(value: Any) -> str:
    """A value as one would type it behind KEY=."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {typed(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(typed, value)) + "]"
    return str(value)


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
