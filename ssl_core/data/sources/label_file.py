"""A file of labels beside a folder of images: which columns name images and labels, and which row is whose."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ssl_core.data.sources.folder import FolderSource
from ssl_core.data.sources.labels import Quantity, number_classes
from ssl_core.data.sources.names import NONE, SEVERAL, Names, looks_like_image
from ssl_core.data.sources.table import Table, read_table
from ssl_core.errors import InputError
from ssl_core.files import find_beside, is_file
from ssl_core.schema.data import DataConfig

NAME_COLUMNS = (
    *("filename", "filepath", "file", "path", "imagepath", "imagename", "imagefile", "image", "images", "img"),
    *("imgname", "imgpath", "imageid", "imgid", "id", "name"),
)
LABEL_COLUMNS = (
    *("label", "labels", "class", "classes", "target", "species", "category", "classname", "classid", "classlabel"),
    *("labelname", "labelid", "categoryname", "categoryid", "diagnosis", "y"),
)
"""What such columns are called, in small letters and without signs between the words."""
EXAMPLES = 3


class LabelFiles:
    """The files of labels of a run, each read once: one may be about the images of `train` and of `val`."""

    def __init__(self, config: DataConfig):
        self.config = config
        self._folders: list[Path] = []
        self._files: dict[Path, LabelFile] = {}

    def of(self, source: FolderSource) -> "Rows":
        """What the file says of the images of a folder; one in that folder comes before one in an earlier folder.

        Raises:
            InputError: there is no such file, or it says nothing of these images.
        """
        self._folders.insert(0, source.root)
        path, images = self.path(self._folders), Names(source.paths, source.root)
        same = path.resolve()
        try:
            if same not in self._files:
                self._files[same] = LabelFile(path, self.config, images)
            return Rows(self._files[same], self._files[same].rows(images))
        except InputError as error:
            about = "" if str(error).startswith("data.") else "data.labels: "
            raise InputError(f"{about}{error}") from error

    def path(self, folders: Sequence[Path]) -> Path:
        path = find_beside(self.config.labels, folders)
        if not is_file(path):
            raise InputError(
                f"data.labels: {self.config.labels}: no such file in {folders[0]} or {Path.cwd()}; expected auto, "
                "none, or the path of a CSV or Parquet file"
            )
        return path

    @property
    def remarks(self) -> tuple[str, ...]:
        """Which columns were taken, and rows that are about none of the images."""
        return tuple(f"data.labels: {remark}" for file in self._files.values() for remark in file.remarks)


class LabelFile:
    """A table, and what its columns are for.

    Attributes:
        values: the labels of its rows; None where no column holds any.
    """

    def __init__(self, path: Path, config: DataConfig, images: Names):
        named = [name for name in (config.name_column, config.label_column) if name is not None]
        self.table = read_table(path, images.know, named)
        self.name_column, self._of_first = _name_column(self.table, config, images)
        self.label_column = _label_column(self.table, self.name_column, config)
        self.names = self.table.text(self.name_column)
        self.values = None if self.label_column is None else self.table.labels(self.label_column)
        self._guessed = config.name_column is None or config.label_column is None
        self._found, self._several = (np.zeros(len(self.table), bool) for _ in range(2))

    def rows(self, images: Names) -> np.ndarray:
        """The row of each image, −1 of one without.

        Raises:
            InputError: no image has one, or one has several that do not agree.
        """
        known, self._of_first = self._of_first, None  # the images that the column was chosen by come first
        found = images.find(self.names) if known is None else known
        if not (found >= 0).any():
            raise InputError(_nothing_found(self.table, self.name_column, found, images))
        self._found |= found >= 0
        self._several |= found == SEVERAL
        there = np.flatnonzero(found >= 0)[::-1]
        rows = np.full(len(images), NONE, np.int64)
        rows[found[there]] = there  # the first of several
        self._check_that_rows_agree(found, rows, images)
        return rows

    def _check_that_rows_agree(self, found: np.ndarray, rows: np.ndarray, images: Names) -> None:
        if self.values is None:
            return
        there = np.flatnonzero(found >= 0)
        for row in there[rows[found[there]] != there]:
            first = rows[found[row]]
            if (one := self.values[first].as_py()) != (other := self.values[row].as_py()):
                raise InputError(
                    f"{self.table.path}: {images.paths[found[row]]} has several rows, with labels {one!r} and "
                    f"{other!r}; expected one row for an image"
                )

    @property
    def remarks(self) -> list[str]:
        said = []
        if self._guessed:
            labels = "no labels" if self.label_column is None else f"labels in column {self.label_column!r}"
            said.append(f"{self.table.path}: names of images are in column {self.name_column!r}, {labels}")
        several = self._several & ~self._found
        for which, what in ((~self._found & ~several, "name no image"), (several, "fit several images")):
            if which.any():
                example = self.names[int(which.argmax())]
                said.append(f"{which.sum()} of {len(which)} rows of {self.table.path} {what}, such as {example!r}")
        return said


@dataclass(frozen=True)
class Rows:
    """What a file of labels says of a folder's images.

    Attributes:
        rows: of each image (N,), −1 of one without.
    """

    file: LabelFile
    rows: np.ndarray

    def label(self, source: FolderSource, above: float | None) -> None:
        """Give the images the classes of their rows.

        Raises:
            InputError: the labels are no classes.
        """
        table, column, values = self.file.table, self.file.label_column, self.file.values
        if values is None:
            return
        try:
            numbered = number_classes([self._taken(values)], above)
        except Quantity as error:
            raise InputError(f"data.labels: {table.path}: column {column!r} holds {error}") from error
        if numbered is None:
            source.remarks += (f"no labels: column {column!r} of {table.path} says nothing of these images",)
            return
        source.classes, source.labels = numbered
        bare = (self.rows >= 0) & (source.labels < 0)
        for which, what in ((self.rows < 0, "no row"), (bare, "a row without a label")):
            if which.any():
                source.remarks += (
                    f"{which.sum()} of {len(which)} images have {what} in {table.path}, such as "
                    f"{source.paths[int(which.argmax())]}; what needs labels leaves them out",
                )

    def column(self, name: str) -> list[str | None]:
        """What a column says of each image; None of one without a row, or where it says nothing."""
        values = self.file.table.labels(self.file.table.find(name, "data.split.column"))
        return [None if value is None else str(value) for value in self._taken(values).to_pylist()]

    def _taken(self, values: pa.ChunkedArray) -> pa.ChunkedArray:
        return values.take(pa.array(self.rows, mask=self.rows < 0))


def _name_column(table: Table, config: DataConfig, images: Names) -> tuple[str, np.ndarray | None]:
    """The column that names images: one that is called so, or else any whose cells are names of images.

    Returns:
        What `images.find` says of it too, where that had to be known.

    Raises:
        InputError: there is none, or there are several that do not mean the same images.
    """
    if config.name_column is not None:
        return table.find(config.name_column, "data.name_column"), None
    of_others = {config.label_column, config.split.column if config.split is not None else None}
    left = [name for name in table.columns if name not in of_others and _word(name) not in LABEL_COLUMNS]
    said = [name for name in left if _word(name) in NAME_COLUMNS]
    said.sort(key=lambda name: NAME_COLUMNS.index(_word(name)))
    for among in (said, [name for name in left if name not in said]):
        found = {name: images.find(table.text(name)) for name in among}
        hits = {name: len(np.unique(indices[indices >= 0])) for name, indices in found.items()}
        fit = [name for name in among if hits[name] and 2 * hits[name] >= max(hits.values())]
        fit = [name for name in fit if any(map(looks_like_image, table.text(name)))] or fit
        if any(not np.array_equal(found[name], found[fit[0]]) for name in fit):
            raise InputError(
                f"data.name_column: {' and '.join(fit)} of {table.path} may both name images; set it to one of them "
                f"({table.listed()})"
            )
        if fit:
            return fit[0], found[fit[0]]
    column = (said or left or list(table.columns))[0]
    raise InputError(_nothing_found(table, column, images.find(table.text(column)), images))


def _label_column(table: Table, name_column: str, config: DataConfig) -> str | None:
    """The column that holds labels: one that is called so, or else the only one that is left.

    Raises:
        InputError: there is none, or several.
    """
    if config.label_column is not None:
        return table.find(config.label_column, "data.label_column")
    of_split = config.split.column if config.split is not None else None
    split = None if of_split is None else table.find(of_split, "data.split.column")
    left = [name for name in table.columns if name not in (name_column, split) and any(table.text(name))]
    fit = [name for name in left if _word(name) in LABEL_COLUMNS] or left
    if len(fit) == 1:
        return fit[0]
    if not fit and split is not None:
        return None
    which = f"{', '.join(fit)} may be it" if fit else f"there is none beside {name_column!r}"
    raise InputError(f"data.label_column: which column of {table.path} holds labels? {which} ({table.listed()})")


def _word(name: str) -> str:
    """A column's name in small letters, without what separates words: `Image_ID` is `imageid`."""
    return re.sub(r"[\W_]+", "", name).lower()


def _nothing_found(table: Table, column: str, found: np.ndarray, images: Names) -> str:
    """Why no image has a row, with names of both sides."""
    if (found == SEVERAL).any():
        several = table.text(column)[int((found == SEVERAL).argmax())]
        return (
            f"{table.path}: several images may be {several!r} of column {column!r}; expected paths below the images' "
            f"folder, such as {images.paths[0]!r}"
        )
    return (
        f"{table.path}: no image has a row: column {column!r} says {_some(table.text(column))}, and images are called "
        f"{_some(images.paths)} ({table.listed()}; data.name_column says which names them)"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:EXAMPLES]) + (", …" if len(names) > EXAMPLES else "")
