"""What a run's images found to be near them: pictures from the neighbours that the run has written down."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssl_core.data.sources.base import Source
from ssl_core.errors import InputError
from ssl_core.pictures.run import neighbor_picture, save_figure, some_images
from ssl_core.positives.neighbors.files import epochs_with_lists, read_epoch
from ssl_core.positives.neighbors.lists import nearest_others, spread_of
from ssl_core.positives.neighbors.partners import index_options, tau_of
from ssl_core.positives.neighbors.signals import Signals
from ssl_core.positives.neighbors.window import Window
from ssl_core.schema.run import RunConfig


def draw_neighbors(
    config: RunConfig, output: Path, source: Source, target: Path, epoch: int | None = None, images: Sequence[int] = ()
) -> Path:
    """A picture of `images` (default: some, always the same) and what they may be paired with after `epoch`.

    Args:
        output: the run's folder.
        source: the run's training images.
        epoch: default: the last one that is written down.

    Raises:
        InputError: the run has written nothing down for it, or no longer has it.
    """
    folder = output / "neighbors"
    written = epochs_with_lists(folder)
    if not written:
        raise InputError(f"{output}: no neighbours in it; a run with positives.kind=adasim or nearest has them")
    epoch = max(written) if epoch is None else epoch
    options = index_options(config.positives)
    window = Window(range(len(source)), options["window"], options["top_k"], options["support"])
    needed = range(max(1, epoch - window.size + 1), epoch + 1)
    if not written.issuperset(needed):
        raise InputError(
            f"--epoch: {epoch} needs the neighbours of epochs {needed[0]} to {epoch}; "
            f"{folder} has those of {min(written)} to {max(written)}"
        )
    for number in needed:
        window.push(*read_epoch(folder, number, len(source), options["top_k"], window.rows))
    queries = np.asarray(images if len(images) else some_images(source))
    title = f"{config.name}, epoch {epoch}: neighbours by probability"
    lists = window.epochs[-1]
    if config.positives.kind == "nearest":
        near = lists[0][queries]
        first = nearest_others(near, queries)[:, :1]
        probabilities, gate = (near == first) & (near >= 0), first[:, 0] >= 0
    else:
        means = Signals.means([Signals(spread=spread_of(*lists))])
        near, probabilities, gate = window.distribution(queries, tau_of(config.positives, means))
        title += "" if window.full else f" (none is drawn before {window.size} epochs are finished)"
    return save_figure(neighbor_picture(source, queries, near, probabilities, gate, title), target)
