"""The files of a neighbour index: each finished epoch's lists, and the cache.

    epoch_0003.parquet              the lists of the third epoch, a row an image; never changed
    cache_0003/000000000.npy        the cache after it: rows of the images from this id on, NaN where never visited

One process writes a file of lists. Of the cache, each holder of a part writes its own; whoever reads takes the
rows it wants, however many parts there are.
"""

import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from ssl_core.errors import InputError
from ssl_core.files import write_atomically

ROW_GROUP = 1 << 16  # images


def lists_file(folder: Path, epoch: int) -> Path:
    return folder / f"epoch_{epoch:04d}.parquet"


def cache_folder(folder: Path, epoch: int) -> Path:
    return folder / f"cache_{epoch:04d}"


def epochs_with_lists(folder: Path) -> set[int]:
    """Of which epochs the lists are written down."""
    return {_epoch(path) for path in folder.glob("epoch_*.parquet")}


def drop_unneeded(folder: Path, resumable: Collection[int], window: int) -> None:
    """Leave what a run may go on from: the caches after some epochs, and from the first's window on all lists."""
    for cache in folder.glob("cache_*"):
        if _epoch(cache) not in resumable:
            shutil.rmtree(cache)
    for epoch in epochs_with_lists(folder):
        if epoch <= min(resumable) - window:
            lists_file(folder, epoch).unlink()


def _epoch(path: Path) -> int:
    return int(re.search(r"\d+", path.name).group())


def write_epoch(folder: Path | str, epoch: int, ids: np.ndarray, similarities: np.ndarray) -> None:
    """The lists of all images (N, K) of a finished epoch, counted from 1."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values, dtype).reshape(-1)), ids.shape[1])
        for name, values, dtype in (("ids", ids, np.int32), ("similarities", similarities, np.float32))
    }
    options = {"row_group_size": ROW_GROUP, "compression": "zstd", "use_dictionary": False}
    path = lists_file(Path(folder), epoch)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: pq.write_table(pa.table(columns), file, **options))


def read_epoch(folder: Path | str, epoch: int, num_images: int, top_k: int, rows: range) -> tuple[np.ndarray, ...]:
    """The lists (ids, similarities) of the images of `rows`.

    Raises:
        InputError: the file is missing, damaged, or of other images or another `top_k`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = lists_file(Path(folder), epoch)
    wanted = f"expected the neighbour lists of {num_images} images, {top_k} each"
    try:
        with pq.ParquetFile(path) as file:
            lengths = {name: file.schema_arrow.field(name).type.list_size for name in ("ids", "similarities")}
            count = file.metadata.num_rows
            if count != num_images or set(lengths.values()) != {top_k}:
                raise InputError(f"{path}: lists of {count} images, {lengths['ids']} each; {wanted}")
            first = rows.start // ROW_GROUP
            groups = range(first, -(-rows.stop // ROW_GROUP))
            table = file.read_row_groups(list(groups)).slice(rows.start - first * ROW_GROUP, len(rows))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; {wanted}") from error
    except (pa.ArrowException, OSError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({error}); {wanted}") from error
    columns = (table[name].combine_chunks().flatten() for name in ("ids", "similarities"))
    return tuple(column.to_numpy(zero_copy_only=False).reshape(len(rows), top_k) for column in columns)


def write_cache(folder: Path | str, epoch: int, start: int, cache: np.ndarray) -> None:
    """The rows (n, D) of the images from id `start` on, NaN where never visited, after `epoch` finished epochs."""
    path = cache_folder(Path(folder), epoch) / f"{start:09d}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: np.save(file, cache))


def drop_other_parts(folder: Path | str, epoch: int, starts: Sequence[int]) -> None:
    """Leave only the parts of a cache that begin at `starts`: another number of holders may have written it before."""
    for file in cache_folder(Path(folder), epoch).glob("[0-9]*.npy"):
        if int(file.stem) not in starts:
            file.unlink()


def read_cache(folder: Path | str, epoch: int, num_images: int, dim: int, rows: range) -> Iterator[np.ndarray]:
    """The rows (n, D) of the images of `rows`, part after part.

    Raises:
        InputError: a part is missing, damaged, or of other images or another `dim`.
    """
    path = cache_folder(Path(folder), epoch)
    wanted = f"expected the cache of {num_images} images, {dim} numbers each"
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; {wanted}")
    parts, stop = [], 0
    for file in sorted(path.glob("[0-9]*.npy")):
        try:
            part = np.load(file, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{file}: damaged ({error}); {wanted}") from error
        if part.ndim != 2 or part.shape[1] != dim or int(file.stem) != stop:
            raise InputError(f"{file}: an array of shape {part.shape} for the images from {stop} on; {wanted}")
        parts.append((stop, part))
        stop += len(part)
    if stop != num_images:
        raise InputError(f"{path}: parts of {stop} images; {wanted}")
    for start, part in parts:
        own = part[max(rows.start - start, 0) : max(rows.stop - start, 0)]
        if len(own):
            yield own
