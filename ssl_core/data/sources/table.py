"""Tables that people write about images: CSV with any separator, with column names or without, and Parquet."""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from ssl_core.data.sources.labels import as_label_type, from_text
from ssl_core.data.sources.names import looks_like_image
from ssl_core.errors import InputError

SAMPLE = 100  # rows that the separator is told by
SPACES = " "
SEPARATORS = ("\t", ";", ",", SPACES)
LONGEST = 40  # characters of a cell in a message


@dataclass(frozen=True)
class Table:
    """Columns in their order, by name; where the file names none, by number from 1."""

    path: Path
    columns: dict[str, pa.ChunkedArray]
    headed: bool

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def find(self, given: str, key: str) -> str:
        """The column of this name, or else of this number from 1.

        Raises:
            InputError: there is none.
        """
        if given in self.columns:
            return given
        names = list(self.columns)
        if self.headed and given.isdecimal() and 1 <= int(given) <= len(names):
            return names[int(given) - 1]
        raise InputError(f"{key}: {self.path} has no column {given!r} ({self.listed()})")

    def listed(self) -> str:
        """Its columns, for messages."""
        if self.headed:
            return f"columns: {', '.join(self.columns)}"
        firsts = (f"{name} ({self.text(name)[0][:LONGEST]!r}, …)" for name in self.columns)
        return f"columns, by number: {', '.join(firsts)}"

    def text(self, name: str) -> list[str]:
        """A column as text, "" where there is nothing."""
        return ["" if value is None else str(value).strip() for value in self.columns[name].to_pylist()]

    def labels(self, name: str) -> pa.ChunkedArray:
        """A column as integers, numbers with a fraction, or text, and null for none.

        Raises:
            InputError: it holds several values in one place.
        """
        column = self.columns[name]
        if self.path.suffix.lower() != ".parquet":
            return from_text(column)
        found = as_label_type(column)
        if found is None:
            raise InputError(f"{self.path}: column {name!r} holds {column.type}, and a label is one number or word")
        return found


def read_table(path: Path, is_image: Callable[[str], bool], named: Sequence[str] = ()) -> Table:
    """What a CSV or Parquet file holds.

    Args:
        is_image: whether a cell names an image; such a row is no row of column names.
        named: columns that are asked for by name.

    Raises:
        InputError: it is no such table.
    """
    try:
        if path.suffix.lower() == ".parquet":
            return _read_parquet(path)
        return _read_csv(path, _decode(path, path.read_bytes()), is_image, named)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_parquet(path: Path) -> Table:
    try:
        with path.open("rb") as file:
            table = pq.read_table(file, use_threads=False)
    except pa.ArrowException as error:
        raise InputError(f"{path}: not a Parquet file: {' '.join(str(error).split())}") from error
    if twice := _twice(table.column_names):
        raise InputError(f"{path}: two columns are called {twice!r}; rename one")
    if not table.num_rows or not table.num_columns:
        raise InputError(f"{path}: no rows")
    return Table(path, dict(zip(table.column_names, table.columns, strict=True)), headed=True)


def _decode(path: Path, data: bytes) -> str:
    """UTF-8 or UTF-16, or else what Windows writes in the west; without the mark at its beginning."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = data.decode("utf-16", errors="replace")
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("cp1252", errors="replace")
    if "\0" in text:
        raise InputError(f"{path}: neither text nor Parquet; save it as CSV")
    if not text.strip():
        raise InputError(f"{path}: no rows")
    return text


def _read_csv(path: Path, text: str, is_image: Callable[[str], bool], named: Sequence[str]) -> Table:
    separator, width, short_header = _layout(path, text, is_image)
    if separator == SPACES:
        text, separator = _by_tabs(text), "\t"
    table = _parse(path, separator + text if short_header else text, separator, width)
    first = [str(column[0]).strip() for column in table.columns]
    headed = short_header or _is_header(first, is_image, named)
    if headed and (twice := _twice([name for name in first if name])):
        raise InputError(f"{path}: two columns are called {twice!r}; rename one")
    columns = {
        (name if headed and name else str(number)): column.slice(1) if headed else column
        for number, (name, column) in enumerate(zip(first, table.columns, strict=True), start=1)
    }
    if table.num_rows <= headed:
        raise InputError(f"{path}: no rows below the column names {', '.join(first)}")
    return Table(path, columns, headed)


def _layout(path: Path, text: str, is_image: Callable[[str], bool]) -> tuple[str, int, bool]:
    """The separator, how many columns there are, and whether the first row lacks the name of the first one.

    Raises:
        InputError: nothing separates several columns.
    """
    found = []
    for separator in SEPARATORS:
        rows = _some_rows(text, separator)
        width, rows_so = Counter(map(len, rows)).most_common(1)[0] if rows else (0, 0)
        if width < 2:
            continue
        short = separator == SPACES and len(rows) > 1 and len(rows[0]) == width - 1  # as R writes it
        regular = rows_so + short == len(rows)
        images = any(is_image(cell) or looks_like_image(cell) for row in rows for cell in row)
        found.append(((regular, images), separator, width, short))
    if not found:
        line = text.strip().splitlines()[0][:LONGEST]
        raise InputError(
            f"{path}: expected columns separated by a comma, a semicolon, tabs or spaces, with names of images and "
            f"labels; its first line is {line!r}"
        )
    _, separator, width, short = max(found, key=lambda one: one[0])  # the first of equals
    return separator, width, short


def _some_rows(text: str, separator: str) -> list[list[str]]:
    start = "\n".join(text[: 1 << 20].splitlines()[: 2 * SAMPLE])
    if separator == SPACES:
        start, separator = _by_tabs(start), "\t"
    try:
        return list(islice((row for row in csv.reader(io.StringIO(start), delimiter=separator) if row), SAMPLE))
    except csv.Error:
        return []


def _by_tabs(text: str) -> str:
    """Lines whose cells were aligned by spaces, with a tab between them; what is in quotation marks stays together."""
    return "\n".join("\t".join(re.findall(r'"[^"]*"|\S+', line)) for line in text.splitlines())


def _parse(path: Path, text: str, separator: str, width: int) -> pa.Table:
    """All rows as text.

    Raises:
        InputError: one has another number of columns, and which.
    """
    wrong: list[pyarrow.csv.InvalidRow] = []

    def refuse(row: pyarrow.csv.InvalidRow) -> str:
        wrong.append(row)
        return "error"

    names = [str(number) for number in range(width)]
    data = text.encode(errors="replace")
    try:
        return pyarrow.csv.read_csv(
            io.BytesIO(data),
            pyarrow.csv.ReadOptions(column_names=names, use_threads=False, block_size=len(data) + 1),
            pyarrow.csv.ParseOptions(delimiter=separator, newlines_in_values=True, invalid_row_handler=refuse),
            pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.large_string()), strings_can_be_null=False),
        )
    except pa.ArrowException as error:
        if wrong:
            row = wrong[0]
            number = "" if row.number is None else f" {row.number}"
            raise InputError(
                f"{path}: row{number} has {row.actual_columns} columns, expected {width}: {row.text[:LONGEST]!r}"
            ) from error
        raise InputError(f"{path}: not a CSV file: {' '.join(str(error).split())}") from error


def _is_header(cells: Sequence[str], is_image: Callable[[str], bool], named: Sequence[str]) -> bool:
    """Whether a first row holds names of columns: no image and no number is in it, or a name that is asked for."""
    if any(looks_like_image(cell) for cell in cells):
        return False
    if any(name in cells for name in named):
        return True
    return not any(_is_number(cell) or is_image(cell) for cell in cells)


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ".", 1))
    except ValueError:
        return False
    return True


def _twice(names: Sequence[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)
