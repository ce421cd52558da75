"""The files of a neighbour index: each finished epoch's lists, and the cache.

    epoch_0003.parquet                       the lists of the third epoch, a row an image
    cache_0003/000000000.npy                 the cache after it: rows of the images from this id on, NaN where never
                                             visited
    steps_0003/000000-000120.000000000.npz   what the first 120 steps of the epoch after it have changed, as the
                                             holder of the images from this id on knows it

No file is ever changed. One process writes a file of lists. Of the cache and of steps, each holder of a part writes
its own; whoever reads takes what it wants, however many parts there are.
"""

import re
import zipfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from ssl_core.errors import InputError
from ssl_core.files import as_path, is_local, remove, write_atomically

ROW_GROUP = 1 << 16  # images
_LISTS = r"epoch_\d{4,}\.parquet"
_PARTS = {"cache": r"\d{9,}\.npy", "steps": r"\d{6,}-\d{6,}\.\d{9,}\.npz"}  # by the name of the folder


def lists_file(folder: Path, epoch: int) -> Path:
    return folder / f"epoch_{epoch:04d}.parquet"


def cache_folder(folder: Path, epoch: int) -> Path:
    return folder / f"cache_{epoch:04d}"


def epochs_with_lists(folder: Path) -> set[int]:
    """Of which epochs the lists are written down."""
    return {_epoch(path) for path in folder.glob("epoch_*.parquet")}


def steps_folder(folder: Path, epoch: int) -> Path:
    return folder / f"steps_{epoch:04d}"


def needed_files(folder: Path, epoch: int, step: int, window: int) -> list[Path]:
    """What is read to go on after `epoch` finished epochs and `step` steps of the next."""
    lists = (lists_file(folder, number) for number in range(max(1, epoch - window + 1), epoch + 1))
    caches = sorted(cache_folder(folder, epoch).glob("[0-9]*.npy"))
    return [*(path for path in lists if path.exists()), *caches, *(path for *_, path in _steps(folder, epoch, step))]


def written_files(folder: Path) -> Iterator[Path]:
    """What an index has written there, and what is left of a write that was cut off: by name, nothing through links."""
    if _is_link(folder) or not folder.is_dir():
        return
    yield from (path for path in list(folder.iterdir()) if _is_named(path, _LISTS))
    for parts in _folders(folder):
        pattern = _PARTS[parts.name.partition("_")[0]]
        yield from (part for part in list(parts.iterdir()) if _is_named(part, pattern))


def _folders(folder: Path) -> list[Path]:
    """Those of caches and steps."""
    if _is_link(folder) or not folder.is_dir():
        return []
    named = (path for path in folder.iterdir() if re.fullmatch(r"(cache|steps)_\d{4,}", path.name))
    return [path for path in named if path.is_dir() and not _is_link(path)]


def drop_unneeded(folder: Path, needed: Collection[Path]) -> None:
    """Remove what an index has written there beside what is `needed`, and folders that are left empty."""
    for path in written_files(folder):
        if path not in needed:
            remove(path)
    for path in _folders(folder):
        if is_local(path) and not any(path.iterdir()):
            path.rmdir()


def _is_named(path: Path, pattern: str) -> bool:
    return re.fullmatch(rf"{pattern}|\.{pattern}\.partial", path.name) is not None


def _is_link(path: Path) -> bool:
    return is_local(path) and path.is_symlink()


def _steps(folder: Path, epoch: int, step: int) -> list[tuple[int, int, Path]]:
    """First and last step, and file, of what is written down of the first `step` steps after `epoch`, in order."""
    found = []
    for path in sorted(steps_folder(folder, epoch).glob("[0-9]*.npz")):
        first, last, _ = map(int, re.findall(r"\d+", path.name))
        if last <= step:
            found.append((first, last, path))
    return found


def _epoch(path: Path) -> int:
    return int(re.findall(r"\d+", path.name)[0])


def write_epoch(folder: Path | str, epoch: int, ids: np.ndarray, similarities: np.ndarray) -> None:
    """The lists of all images (N, K) of a finished epoch, counted from 1."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values, dtype).reshape(-1)), ids.shape[1])
        for name, values, dtype in (("ids", ids, np.int32), ("similarities", similarities, np.float32))
    }
    options = {"row_group_size": ROW_GROUP, "compression": "zstd", "use_dictionary": False}
    path = lists_file(as_path(folder), epoch)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: pq.write_table(pa.table(columns), file, **options))


def read_epoch(folder: Path | str, epoch: int, num_images: int, top_k: int, rows: range) -> tuple[np.ndarray, ...]:
    """The lists (ids, similarities) of the images of `rows`.

    Raises:
        InputError: the file is missing, damaged, or of other images or another `top_k`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = lists_file(as_path(folder), epoch)
    wanted = f"expected the neighbour lists of {num_images} images, {top_k} each"
    try:
        with path.open("rb") as opened, pq.ParquetFile(opened) as file:
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
    path = cache_folder(as_path(folder), epoch) / f"{start:09d}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: np.save(file, cache))


def drop_other_parts(folder: Path | str, epoch: int, starts: Sequence[int]) -> None:
    """Leave only the parts of a cache that begin at `starts`: another number of holders may have written it before."""
    cache = cache_folder(as_path(folder), epoch).name
    for file in written_files(as_path(folder)):
        if file.parent.name == cache and file.suffix == ".npy" and int(file.stem) not in starts:
            file.unlink()


def read_cache(folder: Path | str, epoch: int, num_images: int, dim: int, rows: range) -> Iterator[np.ndarray]:
    """The rows (n, D) of the images of `rows`, part after part.

    Raises:
        InputError: a part is missing, damaged, or of other images or another `dim`.
    """
    path = cache_folder(as_path(folder), epoch)
    wanted = f"expected the cache of {num_images} images, {dim} numbers each"
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; {wanted}")
    parts, stop = [], 0
    for file in sorted(path.glob("[0-9]*.npy")):
        try:
            part = _load(file)
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


def _load(file: Path) -> np.ndarray:
    """An array, of which only what is used is read where it lies on a disk."""
    if is_local(file):
        return np.load(file, mmap_mode="r")
    with file.open("rb") as opened:
        return np.load(opened)


def write_steps(folder: Path | str, epoch: int, first: int, last: int, rows: range, arrays: dict) -> None:
    """What changed from step `first` to `last` of the epoch after `epoch`, as the holder of `rows` knows it."""
    path = steps_folder(as_path(folder), epoch) / f"{first:06d}-{last:06d}.{rows.start:09d}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {**arrays, "rows": np.array([rows.start, rows.stop])}
    write_atomically(path, lambda file: np.savez(file, **arrays))


def read_steps(folder: Path | str, epoch: int, step: int, num_images: int) -> Iterator[list[dict[str, np.ndarray]]]:
    """The first `step` steps of the epoch after `epoch`: stretch after stretch, all holders' parts of it.

    Raises:
        InputError: a part is missing or damaged, or of other images.
    """
    stretches: dict[tuple[int, int], list[Path]] = {}
    for first, last, path in _steps(as_path(folder), epoch, step):
        stretches.setdefault((first, last), []).append(path)
    wanted = f"expected what {step} steps changed in an index of {num_images} images"
    where = steps_folder(as_path(folder), epoch)
    reached = 0
    for (first, last), paths in sorted(stretches.items()):
        parts = []
        for path in paths:
            try:
                with path.open("rb") as opened, np.load(opened) as file:
                    parts.append({name: file[name] for name in file.files})
            except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
                raise InputError(f"{path}: damaged ({error}); {wanted}") from error
        if first != reached or sum(int(np.diff(part["rows"])[0]) for part in parts) != num_images:
            raise InputError(f"{where}: steps {first} to {last} do not follow on, or miss a part; {wanted}")
        reached = last
        yield parts
    if reached != step:
        raise InputError(f"{where}: {reached} steps; {wanted}")


def drop_later(folder: Path | str, epoch: int, step: int) -> None:
    """Remove what is of later steps and epochs: they will be done again."""
    for path in written_files(as_path(folder)):
        of_epoch = _epoch(path if "epoch_" in path.name else path.parent)
        last = int(re.findall(r"\d+", path.name)[1]) if ".npz" in path.name else 0
        if (of_epoch, last) > (epoch, step if last else 0):
            path.unlink()
