"""What is wrong with a configuration, for people: which key, where it was set, what was expected, what is near.

pydantic decides whether a value is right. What it would say of a wrong one is not for people, so the schema is walked
alongside the values, and each value that its key does not take is told in our own words.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from ssl_core.recipes.read import Layer, line_of
from ssl_core.recipes.words import expected
from ssl_core.schema import walk
from ssl_core.schema.walk import Loc

OURS = ("value_error", "assertion_error")  # pydantic's types of what a validator of the schema says


def explain(model: type[BaseModel], values: Mapping[str, Any], layers: Sequence[Layer]) -> list[str]:
    """All that keeps `values` from being a `model`, a line each; nothing if they are one.

    Args:
        layers: who set the keys, the last one last.
    """
    return [placed(loc, message, layers) for loc, message in problems(model, values)]


def problems(model: type[BaseModel], values: Mapping[str, Any]) -> list[tuple[Loc, str]]:
    """Where `values` are no `model`, and a sentence that begins with the key."""
    return list(_of_section(model, values, (), model))


def _of_section(section: type[BaseModel], values: Any, loc: Loc, root: type[BaseModel]) -> Iterator[tuple[Loc, str]]:
    if not isinstance(values, Mapping):
        example = f"{_dotted(loc)}.{next(iter(section.model_fields))}"
        yield loc, f"{_dotted(loc)}: expected keys and values, such as {example}=…{_given(values)}"
        return
    found: list[tuple[Loc, str]] = []
    unknown = [key for key in values if key not in section.model_fields]
    for key in unknown:
        found.append(((*loc, key), f"{_dotted((*loc, key))}: unknown key; {_nearest((*loc, key), section, root)}"))
    for name, field in section.model_fields.items():
        here = (*loc, name)
        if name in values:
            found += _of_value(field.rebuild_annotation(), values[name], here, root)
        elif field.is_required() and not unknown:  # a misspelled key is not missing too
            found += _missing(field, here, root)
    yield from found
    if not found:
        yield from _between_keys(section, values, loc)


def _missing(field: FieldInfo, loc: Loc, root: type[BaseModel]) -> Iterator[tuple[Loc, str]]:
    among = walk.sections(field.annotation)
    if len(among) == 1:
        yield from _of_section(among[0], {}, loc, root)
        return
    example = next(iter(field.examples or ()), "…")
    described = field.description or expected(field.rebuild_annotation())
    yield loc, f"{_dotted(loc)}: missing; expected {described}: {_dotted(loc)}={example}"


def _of_value(annotation: Any, value: Any, loc: Loc, root: type[BaseModel]) -> Iterator[tuple[Loc, str]]:
    among, inner = walk.sections(annotation), walk.entry(annotation)
    if among and isinstance(value, Mapping):
        section = walk.section(annotation, value)
        if section is None:
            yield from _unknown_name(among, value, loc)
        else:
            yield from _of_section(section, value, loc, root)
    elif inner is not None and walk.sections(inner) and isinstance(value, list):
        for place, item in enumerate(value):
            yield from _of_value(inner, item, (*loc, place), root)
    elif among and not any(isinstance(value, section) for section in among) and _only_sections(annotation, value):
        name = walk.tag(among) or next(iter(among[0].model_fields))
        yield loc, f"{_dotted(loc)}: expected keys and values, such as {_dotted(loc)}.{name}=…{_given(value)}"
    else:
        yield from _of_leaf(annotation, value, loc)


def _only_sections(annotation: Any, value: Any) -> bool:
    """Whether nothing but a section can stand here (or null, which it is not)."""
    others = [member for member in walk.members(annotation) if member not in walk.sections(annotation)]
    return others in ([], [type(None)]) and (value is not None or not others)


def _unknown_name(among: list[type[BaseModel]], value: Mapping[str, Any], loc: Loc) -> Iterator[tuple[Loc, str]]:
    tag, known = walk.tag(among) or "", list(walk.names(among))
    listed = f"expected one of {', '.join(known)}"
    if tag not in value:
        yield loc, f"{_dotted((*loc, tag))}: missing; {listed}"
        return
    near = difflib.get_close_matches(str(value[tag]), known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    yield (*loc, tag), f"{_dotted((*loc, tag))}: {listed}{_given(value[tag])}{hint}"


def _of_leaf(annotation: Any, value: Any, loc: Loc) -> Iterator[tuple[Loc, str]]:
    errors = _errors(_adapter(annotation), value)
    if errors:
        ours = [said for error in errors if (said := _said(error)) is not None]
        message = ours[0] if len(ours) == len(errors) else f"expected {expected(annotation)}{_given(value)}"
        yield loc, f"{_dotted(loc)}: {message}"


def _between_keys(section: type[BaseModel], values: Mapping[str, Any], loc: Loc) -> Iterator[tuple[Loc, str]]:
    """What a section's own validators say, once each key alone is right."""
    for error in _errors(section.model_validate, values):
        where = (*loc, *error["loc"][:1])
        said = _said(error)
        if said is None:  # by no validator of the schema, though each key is right; then at least the key is told
            said = f"not possible{_given(error['input'])}"
        yield where, f"{_dotted(where)}: {said}" if where else said


def _said(error: ErrorDetails) -> str | None:
    return str(error["ctx"]["error"]) if error["type"] in OURS else None


def _errors(validate: Any, value: Any) -> list[ErrorDetails]:
    try:
        validate(value)
    except ValidationError as error:
        return error.errors()
    return []


def _adapter(annotation: Any) -> Any:
    return TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False)).validate_python


def placed(loc: Loc, message: str, layers: Sequence[Layer]) -> str:
    """A message behind `FILE:LINE: ` or `command line: `, whatever set its key last.

    What is between keys stands where the key that it begins with does.
    """
    if not loc:
        about = re.match(r"[a-z_]+(\.\w+)*", message)
        loc = tuple(about[0].split(".")) if about else ()
    for layer in reversed(layers if loc else []):
        node: Any = layer.values
        for part in loc:
            try:
                node = node[int(part)] if isinstance(node, list) else node[_key(node, part)]
            except (KeyError, IndexError, TypeError, ValueError):
                break
        else:
            line = f":{line_of(layer.where, loc)}" if isinstance(layer.where, Path) else ""
            return f"{layer.where}{line}: {message}"
    return message


def _key(node: Mapping[Any, Any], part: int | str) -> int | str:
    """A key as the mapping has it: the place in a list is a word where a setting reaches into it."""
    return part if part in node else str(part)


def _nearest(loc: Loc, section: type[BaseModel], root: type[BaseModel]) -> str:
    *above, leaf = loc
    valid = list(section.model_fields)
    near = difflib.get_close_matches(str(leaf), valid, n=1)
    if near:
        return f"did you mean {_dotted((*above, near[0]))}?"
    elsewhere = next((path for path in _every_key(root) if path.rpartition(".")[2] == leaf), None)
    if elsewhere is not None and _dotted(loc) not in _every_key(
        root
    ):  # a key of another framework is none of this one's
        return f"did you mean {elsewhere}?"
    return f"valid here: {', '.join(valid)}"


@cache
def _every_key(root: type[BaseModel]) -> dict[str, None]:
    return dict.fromkeys(walk.every_key(root))


def _dotted(loc: Sequence[int | str]) -> str:
    return ".".join(map(str, loc))


def _given(value: Any) -> str:
    shown = repr(value)
    return f" (given: {shown if len(shown) <= 60 else shown[:57] + '…'})"
