"""Class numbers from columns of labels, which may differ in their types."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ssl_core.errors import InputError

MISSING = -1  # how unlabelled images are written in columns of numbers
NO_NUMBER = ("", "nan", "NaN", "NA", "N/A", "null", "NULL", "None")
"""What stands in a column of numbers for none."""
NO_WORD = ("", "nan", "NaN")
FEW = 20  # classes that are numbers with a fraction; more of them are a quantity


class Classes(NamedTuple):
    """Class names, and the class number of every image, −1 of those without a label."""

    names: list[str]
    labels: np.ndarray


class Quantity(ValueError):
    """Labels that are a measured quantity rather than classes."""


def as_label_type(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Integers, numbers with a fraction, or text; nulls where there is no label. None of what is no single value."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return as_label_type(column.cast(kind.value_type))
    if pa.types.is_nested(kind):
        return None
    if pa.types.is_null(kind):
        return column
    if pa.types.is_integer(kind):
        return column.cast(pa.int64(), safe=False)
    if pa.types.is_floating(kind):
        return _whole(column.cast(pa.float64()))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.large_string())
    # Dates, truth, bytes: by the words that Python has for them.
    words = [None if value is None else str(value) for value in column.to_pylist()]
    return pa.chunked_array([pa.array(words, pa.large_string())])


def from_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of text as `as_label_type` makes it: numbers, decimal commas too, if all that is there are such."""
    column = pc.utf8_trim_whitespace(column)
    there = _without(column, NO_NUMBER)
    for text in (there, pc.replace_substring(there, ",", ".", max_replacements=1)):
        try:
            numbers = text.cast(pa.float64())
        except pa.ArrowInvalid:
            continue
        return _whole(numbers)
    return _without(column, NO_WORD).cast(pa.large_string())


def number_classes(columns: Sequence[pa.ChunkedArray], above: float | None = None) -> Classes | None:
    """Classes of the rows of all columns.

    Args:
        columns: as `as_label_type` makes them.
        above: two classes: numbers up to this, and those above it.

    Returns:
        None where no row has a label.

    Raises:
        Quantity: they are numbers with a fraction, and too many different ones to be classes.
        InputError: `above` is given, and they are words.
    """
    kinds = {column.type for column in columns}
    common = next((kind for kind in (pa.large_string(), pa.float64(), pa.int64()) if kind in kinds), None)
    if common is None:
        return None
    column = pa.chunked_array([chunk for part in columns for chunk in part.cast(common, safe=False).chunks], common)
    there = column.is_valid().to_numpy(zero_copy_only=False).astype(bool)
    values = column.drop_null().to_numpy(zero_copy_only=False)
    if common != pa.large_string() and set(np.unique(values)) != {MISSING, 1}:  # −1 and 1 are two classes
        there[there] = values != MISSING
        values = values[values != MISSING]
    if not len(values):
        return None
    labels = np.full(len(column), MISSING, np.int64)
    if above is not None:
        if common == pa.large_string():
            raise InputError(f"data.label_above: expected labels that are numbers, and there is {str(values[0])!r}")
        labels[there] = values > above
        return Classes(names_above(above), labels)
    classes, labels[there] = np.unique(values, return_inverse=True)
    if common == pa.float64() and len(classes) > FEW:
        raise Quantity(
            f"{len(classes)} different numbers with a fraction, from {classes[0]:g} to {classes[-1]:g}: a quantity, no "
            "classes; data.label_above=NUMBER makes two of them, data.labels=none does without"
        )
    return Classes([str(name) for name in classes.tolist()], labels)


def names_above(above: float) -> list[str]:
    """The two classes of `data.label_above`."""
    return [f"at most {above:g}", f"above {above:g}"]


def _without(column: pa.ChunkedArray, words: Sequence[str]) -> pa.ChunkedArray:
    return pc.if_else(pc.is_in(column, pa.array(words, column.type)), pa.scalar(None, column.type), column)


def _whole(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Integers, where all numbers are such; what is not a number is no label."""
    numbers = pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column)
    try:
        return numbers.cast(pa.int64())
    except pa.ArrowInvalid:  # some have a fraction, or are too large
        return numbers
