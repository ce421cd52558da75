"""Parquet files with a column of image bytes."""

import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ssl_core.data.sources.base import Source, parts_taken_together
from ssl_core.data.sources.decode import decode
from ssl_core.data.sources.labels import Quantity, as_label_type, number_classes
from ssl_core.errors import InputError
from ssl_core.files import is_local

OPEN_FILES = 64  # that a process keeps open
BATCH_BYTES = 64 << 20  # read at once: an Arrow array of bytes holds less than 2 GiB


class ParquetSource(Source):
    """Parquet files with an image column, read by row group through a memory map.

    A process keeps the row groups it read last, up to `cache_bytes`, and the files it read last open.

    Args:
        label_column: None: no labels are looked for.
        label_above: labels are numbers, and make two classes: up to this, and above it.
        homes: for each file the folder that it belongs to, within which paths of images are followed; default: its own.
    """

    def __init__(
        self,
        files: Sequence[Path],
        image_column: str,
        label_column: str | None,
        cache_bytes: int,
        homes: Sequence[Path] | None = None,
        label_above: float | None = None,
    ):
        self.files, self.image_column, self.cache_bytes = list(files), image_column, cache_bytes
        self.homes = [file.parent for file in self.files] if homes is None else list(homes)
        rows: list[int] = []
        self._rows: list[int] = []  # of the files
        self._sizes: list[int] = []  # of the row groups' image columns
        self.groups: list[tuple[int, int]] = []  # (file, row group)
        labels: list[pa.ChunkedArray | None] = []
        for number, path in enumerate(self.files):
            with _as_input(path), _open_parquet(path) as file:
                leaves = _image_leaves(file.schema_arrow, image_column, path)
                self._rows.append(file.metadata.num_rows)
                for group in range(file.num_row_groups):
                    meta = file.metadata.row_group(group)
                    rows.append(meta.num_rows)
                    self._sizes.append(sum(meta.column(leaf).total_uncompressed_size for leaf in leaves))
                    self.groups.append((number, group))
                if label_column is not None:
                    labels.append(_read_column(file, label_column, path))
        self.block_ends: np.ndarray = np.cumsum(rows, dtype=np.int64)
        self.total_bytes = sum(self._sizes)
        self.remarks = parts_taken_together(_parts(self.files, self.homes))
        if label_column is not None and any(column is not None for column in labels):
            self._label(label_column, labels, label_above)
        self._forget()

    def _label(self, name: str, columns: list[pa.ChunkedArray | None], above: float | None) -> None:
        plain: list[pa.ChunkedArray] = []
        for path, column, rows in zip(self.files, columns, self._rows, strict=True):
            if column is None:
                plain.append(pa.chunked_array([pa.nulls(rows)]))
                continue
            found = as_label_type(column)
            if found is None:
                self.remarks += (
                    f"no labels: column {name!r} of {path} holds {column.type}, and a label is one number or word",
                )
                return
            plain.append(found)
        try:
            numbered = number_classes(plain, above)
        except Quantity as error:
            self.remarks += (f"no labels: column {name!r} holds {error}",)
            return
        if numbered is None:
            self.remarks += (f"no labels: column {name!r} holds nothing but null and −1",)
            return
        self.classes, self.labels = numbered
        if missing := int((self.labels < 0).sum()):
            self.remarks += (
                f"{missing} of {len(self.labels)} images have no label (null or −1 in column {name!r}); what needs "
                "labels leaves them out",
            )

    def column(self, name: str) -> list[str | None]:
        """What a column says of every image, as text.

        Raises:
            InputError: a file has no such column, or it holds several values in one place.
        """
        words: list[str | None] = []
        for path in self.files:
            with _as_input(path), _open_parquet(path) as file:
                column = _read_column(file, name, path)
                plain = None if column is None else as_label_type(column)
            if plain is None:
                raise InputError(f"{path}: no column {name!r} of numbers or words; set data.split.column")
            words += [None if value is None else str(value) for value in plain.to_pylist()]
        return words

    def _forget(self) -> None:
        """Nothing is read yet."""
        self._cache: OrderedDict[int, pa.ChunkedArray] = OrderedDict()
        self._cached_bytes = 0
        self._open: OrderedDict[int, pq.ParquetFile] = OrderedDict()

    def __getstate__(self) -> dict[str, object]:
        kept = ("_cache", "_cached_bytes", "_open")
        return {name: value for name, value in self.__dict__.items() if name not in kept}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __len__(self) -> int:
        return int(self.block_ends[-1]) if len(self.block_ends) else 0

    def read(self, index: int) -> Image.Image:
        group, row = self._place(index)
        data, path = self._group(group)[row].as_py(), None
        if isinstance(data, dict):
            data, path = data["bytes"], data.get("path")
        if data is None and path:
            data = self._file_at(path, self.groups[group][0]).read_bytes()
        if data is None:
            raise ValueError("no bytes")
        return decode(data)

    def _place(self, index: int) -> tuple[int, int]:
        """Row group of an image, and row in it."""
        group = int(np.searchsorted(self.block_ends, index, side="right"))
        return group, index - (int(self.block_ends[group - 1]) if group else 0)

    def _file_at(self, path: str, number: int) -> Path:
        """The image file that a row names instead of holding its bytes; nothing outside of the set's folder is read."""
        file, home = self.files[number], self.homes[number]
        if is_local(file):
            within = home.resolve()
            for place in (file.parent, home):
                found = (place / path).resolve()
                if found.is_relative_to(within) and found.is_file():
                    return found
        raise ValueError(f"its row holds no bytes, but the path {path!r}, which is no file below {home}")

    def _group(self, group: int) -> pa.ChunkedArray:
        if group in self._cache:
            self._cache.move_to_end(group)
            return self._cache[group]
        number, within = self.groups[group]
        file = self._file(number)
        rows = file.metadata.row_group(within).num_rows
        batches = file.iter_batches(
            batch_size=max(1, BATCH_BYTES * rows // max(self._sizes[group], 1)),
            row_groups=[within],
            columns=[self.image_column],
            use_threads=False,
        )
        column = pa.chunked_array([batch.column(self.image_column) for batch in batches])
        self._cache[group] = column
        self._cached_bytes += column.nbytes
        while len(self._cache) > 1 and self._cached_bytes > self.cache_bytes:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return column

    def _file(self, number: int) -> pq.ParquetFile:
        """The file, opened if need be; the one that was not used for longest is closed for it."""
        if number not in self._open:
            if len(self._open) >= OPEN_FILES:
                self._open.popitem(last=False)[1].close(force=True)
            self._open[number] = _open_parquet(self.files[number])
        self._open.move_to_end(number)
        return self._open[number]

    def where(self, index: int) -> str:
        group, row = self._place(index)
        number, within = self.groups[group]
        before = group - within  # the file's first row group
        first, start = (int(self.block_ends[g - 1]) if g else 0 for g in (before, group))
        return f"{self.files[number]} row {row + start - first}"


def _parts(files: Sequence[Path], homes: Sequence[Path]) -> set[str]:
    """The words that files may be called after a part of a data set by: `train` of `train-00000-of-00002.parquet`."""
    folders = {part for file, home in zip(files, homes, strict=True) for part in file.relative_to(home).parts[:-1]}
    return folders | {re.split(r"[-_.]", file.name)[0] for file in files}


def _image_leaves(schema: pa.Schema, name: str, path: Path) -> range:
    """The numbers of the file's columns of bytes that make up its image column.

    Raises:
        InputError: there is no such column, or it holds something else.
    """
    place = _column(schema, name, path)
    if place is None:
        raise InputError(f"{path}: no column {name!r} (columns: {', '.join(schema.names)}); set data.image_column")
    kind = schema.field(place).type
    if not _holds_images(kind):
        raise InputError(f"{path}: column {name!r} holds {kind}, expected bytes or struct<bytes, path>")
    first = sum(_leaves(schema.field(before).type) for before in range(place))
    return range(first, first + _leaves(kind))


def _column(schema: pa.Schema, name: str, path: Path) -> int | None:
    """The number of the column of this name.

    Raises:
        InputError: there are two.
    """
    places = schema.get_all_field_indices(name)
    if len(places) > 1:
        raise InputError(f"{path}: {len(places)} columns are called {name!r}; rename all but one")
    return places[0] if places else None


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        inside = {field.name: field.type for field in kind}
        if "bytes" not in inside:
            return False
        return _is_bytes(inside["bytes"]) or (pa.types.is_null(inside["bytes"]) and "path" in inside)
    return _is_bytes(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    checks = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return any(check(kind) for check in checks)


def _leaves(kind: pa.DataType) -> int:
    """How many columns of a Parquet file an Arrow type takes."""
    if isinstance(kind, pa.BaseExtensionType):
        return _leaves(kind.storage_type)
    if not kind.num_fields:
        return 1
    return sum(_leaves(kind.field(number).type) for number in range(kind.num_fields))


def _read_column(file: pq.ParquetFile, name: str, path: Path) -> pa.ChunkedArray | None:
    """A column of labels or of parts, where there is one.

    Raises:
        InputError: it is damaged.
    """
    if _column(file.schema_arrow, name, path) is None:
        return None
    try:
        return file.read([name], use_threads=False)[name]
    except Exception as error:
        raise InputError(
            f"{path}: column {name!r} cannot be read: {_line(error)}; data.labels=none does without"
        ) from error


def _open_parquet(path: Path) -> pq.ParquetFile:
    return pq.ParquetFile(path, memory_map=True) if is_local(path) else pq.ParquetFile(path.open("rb"))


def _line(error: Exception) -> str:
    """What an error says, as one line."""
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _as_input(path: Path) -> Iterator[None]:
    """What keeps a file from being read before work starts is an error of the input."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        kept = isinstance(error, OSError) and error.errno is not None
        raise InputError(f"{path}: {'cannot be read' if kept else 'not a Parquet file'}: {_line(error)}") from error
