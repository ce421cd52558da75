"""One place that sets keys over another: files in order, then what a command line or a sweep sets, all together.

A section that gets another name (`framework.name`, `framework.mask.kind`, an evaluator's `kind`) starts anew: the keys
of the other mean other things. It has what is set in the same place as the name, and its own defaults. A backbone of
another name loses the options that say how large the model is.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ssl_core.errors import InputError
from ssl_core.recipes.read import Layer, Setting
from ssl_core.schema import walk
from ssl_core.schema.encoder import BackboneConfig
from ssl_core.schema.run import RunConfig

SIZES = frozenset(
    {"embed_dim", "depth", "num_heads", "mlp_ratio", "embed_dims", "depths", "dims", "layers", "channels"}
)
"""Options by which timm's models say how large one is: another model's name says it too."""


def merged(files: Sequence[Layer], settings: Sequence[Setting]) -> tuple[dict[str, Any], list[str]]:
    """What the files and settings say together, and a sentence for each section that lost something on the way.

    Args:
        files: the last one wins.
        settings: over all of them, in whichever order, but that the last one of a key wins.

    Raises:
        InputError: a setting of an entry that a list does not have.
    """
    remarks: list[str] = []
    values: dict[str, Any] = {}
    before = ""
    for layer in files:
        values = _over(_anew(RunConfig, values, layer.values, "", before, remarks), layer.values)
        before = getattr(layer.where, "name", str(layer.where))
    together: dict[str, Any] = {}
    for setting in settings:
        together = _over(together, nested(setting))
    values = _anew(RunConfig, values, together, "", before, remarks)
    for setting in settings:
        values = _set(values, setting.parts, setting)
    return values, remarks


def nested(setting: Setting) -> dict[str, Any]:
    """`a.b=1` as {a: {b: 1}}."""
    value = setting.value
    for part in reversed(setting.parts):
        value = {part: value}
    return value


def _over(old: Any, new: Any) -> Any:
    """`new` over `old`: mappings key by key; anything else takes the place of what was there."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return {**old, **{key: _over(old.get(key), value) for key, value in new.items()}}
    return new


def _anew(annotation: Any, old: Any, new: Any, path: str, before: str, remarks: list[str]) -> Any:
    """`old` with those sections empty that `new` gives another name.

    Args:
        annotation: what the schema has here.
        path: where it is, dotted.
        before: what set the old values, for the remarks.
    """
    if isinstance(old, list) and isinstance(new, Mapping):  # `evaluation.0.kind=linear`
        return [
            _anew(walk.entry(annotation), item, new.get(str(place)), f"{path}.{place}", before, remarks)
            for place, item in enumerate(old)
        ]
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return old
    tag = walk.tag(walk.sections(annotation))
    if tag in old and tag in new and old[tag] != new[tag]:
        lost = {key: value for key, value in _leaves(old) if key != tag}
        _say_lost(lost, new, path, f"{old[tag]} → {new[tag]}", before, remarks)
        return {}
    if walk.section(annotation, old) is BackboneConfig:
        old = _of_another_model(old, new, path, before, remarks)
    return {
        **old,
        **{
            key: _anew(walk.below(annotation, old, key), old[key], value, _joined(path, key), before, remarks)
            for key, value in new.items()
            if key in old
        },
    }


def _of_another_model(
    old: Mapping[str, Any], new: Mapping[str, Any], path: str, before: str, remarks: list[str]
) -> Mapping[str, Any]:
    """An old backbone without its model's size, where `new` names another one; the recipe's other options stay."""
    former = old.get("name", BackboneConfig.model_fields["name"].default)
    name, kwargs = new.get("name", former), old.get("kwargs")
    if name == former or not isinstance(kwargs, Mapping) or not isinstance(new.get("kwargs", {}), Mapping):
        return old
    lost = {f"kwargs.{key}": value for key, value in kwargs.items() if key in SIZES}
    _say_lost(lost, new, path, f"{former} → {name}", before, remarks)
    return {**old, "kwargs": {key: value for key, value in kwargs.items() if key not in SIZES}}


def _say_lost(
    lost: Mapping[str, Any], new: Mapping[str, Any], path: str, change: str, before: str, remarks: list[str]
) -> None:
    """Remark on the old values that are gone and that nothing new stands for."""
    stands = dict(_leaves(new))
    told = [f"{key}={_short(value)}" for key, value in lost.items() if key not in stands]
    if told:
        remarks.append(f"{path}: {change}; dropped {', '.join(told)} of {before}")


def _set(node: Any, parts: Sequence[str], setting: Setting) -> Any:
    """`node` with one setting, which reaches into lists too: `evaluation.0.every=5`."""
    if not parts:
        return _over(node, setting.value)
    part, *rest = parts
    if isinstance(node, list):
        if not part.isdecimal() or int(part) >= len(node):
            above = setting.key[: len(setting.key) - len(".".join(parts)) - 1]
            raise InputError(
                f"{setting.where}: {setting.key}: no such entry; {above} has {len(node)} here, counted from 0"
                f"{f' ({above}.0, …)' if node else ''}"
            )
        return [_set(item, rest, setting) if place == int(part) else item for place, item in enumerate(node)]
    there = node if isinstance(node, Mapping) else {}
    return {**there, part: _set(there.get(part), rest, setting)}


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, _joined(prefix, key))
        else:
            yield _joined(prefix, key), value


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else str(key)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
