"""What an index needs to go on exactly: written into a folder and read back, by one index or any number of shards."""

from pathlib import Path

import numpy as np
import torch

from ssl_core.files import as_path
from ssl_core.positives.neighbors.files import (
    lists_file,
    read_cache,
    read_epoch,
    read_steps,
    write_cache,
    write_epoch,
    write_steps,
)
from ssl_core.positives.neighbors.index import NeighborIndex


def save(index: NeighborIndex, folder: Path | str) -> None:
    """Write what `load` needs: the cache, and the lists of the window as far as they are new. Not for shards."""
    for number, lists in enumerate(index.window.epochs, index.epoch - len(index.window.epochs) + 1):
        if number > index.saved or not lists_file(as_path(folder), number).exists():
            write_epoch(folder, number, *lists)
    index.saved = index.epoch
    save_cache(index, folder)


def save_cache(index: NeighborIndex, folder: Path | str) -> None:
    """Write the cache rows of `index.rows`. Shards save theirs into one folder, and their lists by `write_epoch`."""
    write_cache(folder, index.epoch, index.rows.start, index.cache.dump())


def save_steps(index: NeighborIndex, folder: Path | str, step: int) -> None:
    """Write what has changed since the last call, or since the epoch began, up to its `step`-th step.

    `load` needs it beside what was saved when the last epoch ended. Shards write theirs into one folder.
    """
    running, rows = index.running, index.rows
    if step == running.saved_steps:
        return
    ids = running.take_changed()
    own = ids[(ids >= rows.start) & (ids < rows.stop)]
    arrays = {
        "ids": ids,
        "near": running.lists[0][ids],
        "similarities": running.lists[1][ids],
        "features": index.cache.of(own),
        "self_similarity": running.self_similarity[own - rows.start],
    }
    if index.cache.cells is not None:
        arrays["recall"] = index.cache.cells.counts
    write_steps(folder, index.epoch, running.saved_steps, step, rows, arrays)
    running.saved_steps = step


def load(index: NeighborIndex, folder: Path | str, epoch: int, step: int = 0) -> None:
    """The state after `epoch` finished epochs and `step` steps, as one index or any number of shards have saved it.

    Raises:
        InputError: files are missing or damaged, or of another number of images, width or `top_k`.
    """
    index.restart(epoch)
    for number in range(max(1, epoch - index.window.size + 1), epoch + 1):
        index.window.push(*read_epoch(folder, number, index.num_images, index.top_k, index.rows))
    index.cache.fill(read_cache(folder, epoch, index.num_images, index.dim, index.rows) if epoch else ())
    index.settle()
    if step:
        _load_steps(index, folder, step)


def _load_steps(index: NeighborIndex, folder: Path | str, step: int) -> None:
    """What `save_steps` of one index or any number of shards has written."""
    rows, running, cache = index.rows, index.running, index.cache
    counts = np.zeros(3, dtype=np.int64)
    for parts in read_steps(folder, index.epoch, step, index.num_images):
        ids, found = parts[0]["ids"], []
        for part in parts:
            start, stop = part["rows"]
            written = ids[(ids >= start) & (ids < stop)]
            own = (written >= rows.start) & (written < rows.stop)
            cache.write(written[own], torch.from_numpy(part["features"][own]).to(cache.device, cache.dtype))
            running.self_similarity[written[own] - rows.start] = part["self_similarity"][own]
            if start in rows:
                found.append((part["near"], part["similarities"]))
                counts = part.get("recall", counts)
        running.add_saved(ids, found)
    if cache.cells is not None:
        cache.cells.counts = counts
    running.saved_steps = step
