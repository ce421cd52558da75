"""Which layers of a network a key names."""

from ssl_core.errors import InputError
from ssl_core.schema.types import EveryN


def chosen_layers(choice: str | list[int] | EveryN, depth: int, key: str) -> list[int]:
    """Layers, from 1, ascending, that the configuration key names: all, every nth back from the last, or a list.

    Raises:
        InputError: a layer that the backbone does not have.
    """
    if choice == "all":
        return list(range(1, depth + 1))
    if isinstance(choice, list):
        missing = [layer for layer in choice if layer > depth]
        if missing:
            raise InputError(f"{key}: {missing} of a backbone with layers 1 to {depth}")
        return sorted(set(choice))
    assert isinstance(choice, EveryN)
    return sorted(range(depth, 0, -choice.every))
