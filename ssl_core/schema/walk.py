"""Which sections a key can hold, and which of them a value is: the schema walked alongside plain values."""

import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

Loc = tuple[int | str, ...]
"""Where a value stands: keys, and places in lists."""


def members(annotation: Any) -> list[Any]:
    """The types that a value can have, one by one: `int | None` is int and None; without what is said of them."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for part in get_args(annotation) for member in members(part)]
    return [annotation]


def sections(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a value can be; those in a list are its entries', not its own."""
    return [member for member in members(annotation) if isinstance(member, type) and issubclass(member, BaseModel)]


def entry(annotation: Any) -> Any:
    """The type of what a list or a free mapping holds; None where a value can be neither."""
    for member in members(annotation):
        if get_origin(member) in (list, dict):
            return get_args(member)[-1]
    return None


def tag(among: list[type[BaseModel]]) -> str | None:
    """The key that names which of several sections one is: `name` or `kind`; None where there are no several."""
    if len(among) < 2:
        return None
    named = (name for name in among[0].model_fields if all(_names(section, name) for section in among))
    return next(named, None)


def names(among: list[type[BaseModel]]) -> dict[str, type[BaseModel]]:
    """Sections by what their tag says."""
    key = tag(among)
    return {name: section for section in among for name in _names(section, key)} if key else {}


def section(annotation: Any, value: Any) -> type[BaseModel] | None:
    """The section that a mapping is, by its tag where there are several; None if it is none of them."""
    among = sections(annotation)
    if not isinstance(value, Mapping) or not among:
        return None
    name = value.get(tag(among) or "")
    return among[0] if len(among) == 1 else names(among).get(name) if isinstance(name, str) else None


def below(annotation: Any, value: Any, key: str) -> Any:
    """The type of what stands at `key` of a mapping or list; Any where the schema does not say."""
    known = section(annotation, value)
    if known is not None:
        return known.model_fields[key].rebuild_annotation() if key in known.model_fields else Any
    inner = entry(annotation)
    return Any if inner is None else inner


def every_key(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key that can be set, in whichever section."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for part in sections(field.annotation):
            yield from every_key(part, f"{prefix}{name}.")


def _names(section: type[BaseModel], key: str) -> tuple[Any, ...]:
    """The names that its tag can have, if `key` is one."""
    field = section.model_fields.get(key)
    return get_args(field.annotation) if field is not None and get_origin(field.annotation) is Literal else ()
