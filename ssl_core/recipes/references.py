"""`${optim.lr}` in a value stands for that key's value. Nothing else is looked up: no environment, no files.

Recipes and the folders of runs are passed on, and what they come to is written down and sent to MLflow: a value that
could name the environment would carry its secrets. `\\${` is a plain `${`.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ssl_core.schema.walk import Loc

_MARK = re.compile(r"\\\$\{|\$\{([^{}]*)(\}?)")
_KEY = re.compile(r"\w+(\.\w+)*", re.ASCII)
LONGEST = 10_000  # signs of a text with references in it; twice a reference to twice a reference grows without end


class Unresolved(ValueError):
    """A reference that leads nowhere.

    Attributes:
        loc: of the value that it stands in.
    """

    def __init__(self, loc: Loc, message: str):
        super().__init__(f"{'.'.join(map(str, loc))}: {message}")
        self.loc = loc


def check(values: Any, loc: Loc = ()) -> None:
    """See that only other keys are referred to.

    Raises:
        Unresolved: something else is.
    """
    for where, text in _texts(values, loc):
        for found in _MARK.finditer(text):
            if found[1] is not None and not (found[2] and _KEY.fullmatch(found[1])):
                raise Unresolved(
                    where, f"{found[0]}: expected the name of another key, as in ${{optim.lr}}; \\${{ is a plain ${{"
                )


def resolved(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with what their references stand for.

    Raises:
        Unresolved: no such key, one that refers to itself, or a section.
    """
    check(values)
    return {key: _resolved(value, (key,), values, ()) for key, value in values.items()}


def escaped(values: Any) -> Any:
    """What `resolved` makes these values of."""
    if isinstance(values, Mapping):
        return {key: escaped(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [escaped(value) for value in values]
    return values.replace("${", "\\${") if isinstance(values, str) else values


def _texts(values: Any, loc: Loc) -> Iterator[tuple[Loc, str]]:
    if isinstance(values, str):
        yield loc, values
    elif isinstance(values, (Mapping, list, tuple)):
        for key, value in values.items() if isinstance(values, Mapping) else enumerate(values):
            yield from _texts(value, (*loc, key))


def _resolved(value: Any, loc: Loc, root: Mapping[str, Any], through: tuple[str, ...]) -> Any:
    if isinstance(value, Mapping):
        return {key: _resolved(item, (*loc, key), root, through) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item, (*loc, place), root, through) for place, item in enumerate(value)]
    if not isinstance(value, str) or "${" not in value:
        return value
    whole = _MARK.fullmatch(value)
    if whole is not None and whole[1] is not None:
        return _referred(whole[1], loc, root, through)
    text = _MARK.sub(lambda m: "${" if m[1] is None else str(_referred(m[1], loc, root, through)), value)
    if len(text) > LONGEST:
        raise Unresolved(loc, f"with what it refers to, longer than {LONGEST:,} signs")
    return text


def _referred(key: str, loc: Loc, root: Mapping[str, Any], through: tuple[str, ...]) -> Any:
    if key in through:
        raise Unresolved(loc, f"${{{key}}} refers to itself")
    node: Any = root
    for part in key.split("."):
        if isinstance(node, Mapping) and part in node:
            node = node[part]
        elif isinstance(node, list) and part.isdecimal() and int(part) < len(node):
            node = node[int(part)]
        else:
            raise Unresolved(loc, f"${{{key}}}: neither a file nor the command line sets {key}")
    if isinstance(node, Mapping) or (
        isinstance(node, list) and any(isinstance(item, (Mapping, list)) for item in node)
    ):
        raise Unresolved(loc, f"${{{key}}} is a section; refer to one of its keys")
    found = _resolved(node, loc, root, (*through, key))
    if isinstance(found, list) and any(isinstance(item, list) for item in found):
        raise Unresolved(loc, f"${{{key}}} is a list of lists")
    return found
