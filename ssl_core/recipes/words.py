"""What a type of the schema expects, in words: `a whole number above 0`, `one of adamw, sgd, lars`."""

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Len, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ssl_core.schema import walk
from ssl_core.schema.types import Form

PLAIN = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}


def expected(annotation: Any) -> str:
    """What can stand where the schema has this type."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        said = [note for item in more for note in _notes(item)]
        form = next((note.text for note in reversed(said) if isinstance(note, Form)), None)
        return form or f"{expected(inner)}{_bounds(said)}"
    if annotation in PLAIN:
        return PLAIN[annotation]
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        listed = ", ".join(str(part) for part in parts)
        return f"one of {listed}" if len(parts) > 1 else listed
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(expected(part) for part in parts))
    if origin is tuple:
        return f"[{', '.join(expected(part) for part in parts)}]"
    if origin is list and (known := walk.names(walk.sections(parts[0]))):
        return f"a list, such as [{{{walk.tag(walk.sections(parts[0]))}: {next(iter(known))}}}]"
    if origin is list:
        return f"a list, each {expected(parts[0])}"
    if origin is dict and parts[-1] is not Any:
        return f"keys and values, each {expected(parts[-1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"{{{', '.join(annotation.model_fields)}}}"
    return "keys and values"


def _notes(item: Any) -> Iterator[Any]:
    """What an `Annotated` says, also what a `Field(ge=0)` in it does."""
    yield from item.metadata if isinstance(item, FieldInfo) else [item]


def _bounds(said: list[Any]) -> str:
    above = next((f"above {note.gt:g}" for note in said if isinstance(note, Gt)), None)
    least = next((note.ge for note in said if isinstance(note, Ge)), None)
    below = next((f"below {note.lt:g}" for note in said if isinstance(note, Lt)), None)
    most = next((note.le for note in said if isinstance(note, Le)), None)
    if least is not None and most is not None:
        return f" from {least:g} to {most:g}"
    ends = [above, least is not None and f"of at least {least:g}", below, most is not None and f"of at most {most:g}"]
    found = [end for end in ends if end]
    if any(isinstance(note, (Len, MinLen)) and note.min_length for note in said):
        found.append("with at least 1 entry")
    return f" {' and '.join(found)}" if found else ""
