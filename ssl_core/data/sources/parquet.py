"""Parquet files with a column of image bytes."""

import io
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ssl_core.data.sources.base import Source
from ssl_core.errors import InputError
from ssl_core.files import is_local


class ParquetSource(Source):
    """Parquet files with an image column, read by row group through a memory map.

    A process keeps the row groups it read last, up to `cache_bytes`.
    """

    def __init__(self, files: Sequence[Path], image_column: str, label_column: str, cache_bytes: int):
        self.files, self.image_column, self.cache_bytes = list(files), image_column, cache_bytes
        rows, sizes, labels = [], [], []
        self.groups: list[tuple[int, int]] = []  # (file, row group)
        for number, path in enumerate(self.files):
            file = _open_parquet(path)
            schema = file.schema_arrow
            if image_column not in schema.names:
                raise InputError(
                    f"{path}: no column {image_column!r} (columns: {', '.join(schema.names)}); set data.image_column"
                )
            kind = schema.field(image_column).type
            is_struct = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
            inner = kind.field("bytes").type if is_struct else kind
            if not (pa.types.is_binary(inner) or pa.types.is_large_binary(inner)):
                raise InputError(f"{path}: column {image_column!r} holds {kind}, expected bytes or struct<bytes, path>")
            has_labels = label_column in schema.names
            for group in range(file.num_row_groups):
                meta = file.metadata.row_group(group)
                rows.append(meta.num_rows)
                sizes.append(
                    sum(
                        meta.column(c).total_uncompressed_size
                        for c in range(meta.num_columns)
                        if meta.column(c).path_in_schema.split(".")[0] == image_column
                    )
                )
                self.groups.append((number, group))
            labels.append(file.read([label_column])[label_column] if has_labels else None)
        self.block_ends = np.cumsum(rows, dtype=np.int64)
        self.total_bytes = int(sum(sizes))
        if labels and all(column is not None for column in labels):
            self._set_labels(pa.chunked_array([chunk for column in labels for chunk in column.chunks]))
        self._cache: OrderedDict[int, pa.Array] = OrderedDict()
        self._open: dict[int, pq.ParquetFile] = {}

    def _set_labels(self, column: pa.ChunkedArray) -> None:
        if column.null_count:
            return
        values = column.combine_chunks()
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        classes, labels = np.unique(np.asarray(values.to_numpy(zero_copy_only=False)), return_inverse=True)
        self.classes, self.labels = [str(name) for name in classes.tolist()], labels.astype(np.int64)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_cache": OrderedDict(), "_open": {}}

    def __len__(self) -> int:
        return int(self.block_ends[-1]) if len(self.block_ends) else 0

    def read(self, index: int) -> Image.Image:
        group = int(np.searchsorted(self.block_ends, index, side="right"))
        start = int(self.block_ends[group - 1]) if group else 0
        data = self._group(group)[index - start].as_py()
        data = data["bytes"] if isinstance(data, dict) else data
        if data is None:
            raise ValueError("no bytes")
        image = Image.open(io.BytesIO(data))
        image.load()
        return image

    def _group(self, group: int) -> pa.Array:
        if group in self._cache:
            self._cache.move_to_end(group)
            return self._cache[group]
        number, within = self.groups[group]
        if number not in self._open:
            self._open[number] = _open_parquet(self.files[number])
        table = self._open[number].read_row_group(within, columns=[self.image_column], use_threads=False)
        column = table[self.image_column].combine_chunks()
        self._cache[group] = column
        while len(self._cache) > 1 and sum(c.nbytes for c in self._cache.values()) > self.cache_bytes:
            self._cache.popitem(last=False)
        return column

    def where(self, index: int) -> str:
        group = int(np.searchsorted(self.block_ends, index, side="right"))
        number, _ = self.groups[group]
        first = next(g for g, (n, _) in enumerate(self.groups) if n == number)
        return f"{self.files[number]} row {index - (int(self.block_ends[first - 1]) if first else 0)}"


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, memory_map=True) if is_local(path) else pq.ParquetFile(path.open("rb"))
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a Parquet file: {error}") from error
