"""`--layer best`: the layer of a run that its own measurements speak for."""

from pathlib import Path

from ssl_core.errors import InputError
from ssl_core.evaluation.best import BestLayer, choose
from ssl_core.evaluation.results import figures_of
from ssl_core.training.history import History


def best_layer(folder: Path, digest: str) -> BestLayer:
    """By what `strata evaluate` has measured of these weights; else by the run's own last figures.

    Args:
        folder: a run's.
        digest: of the weights (`Subject.digest`).

    Raises:
        InputError: nothing was measured of several layers.
    """
    records = History.read(folder)
    found = choose(figures_of(folder, digest)) or (choose(records[-1]) if records else None)
    if found is None:
        raise InputError(
            f"--layer: nothing was measured of {folder} that tells its layers apart: strata evaluate {folder}"
        )
    return found
