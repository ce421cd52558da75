"""Class numbers from label columns of Parquet files, which may differ in their types."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MISSING = -1  # how unlabelled images are written in columns of numbers


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


def number_classes(columns: Sequence[pa.ChunkedArray]) -> tuple[list[str], np.ndarray] | None:
    """Class names, and the class number of every row of all columns, −1 of those without a label.

    Args:
        columns: as `as_label_type` makes them.

    Returns:
        None where no row has a label.
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
    classes, numbers = np.unique(values, return_inverse=True)
    labels = np.full(len(column), MISSING, np.int64)
    labels[there] = numbers
    return [str(name) for name in classes.tolist()], labels


def _whole(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Integers, where all numbers are such; what is not a number is no label."""
    numbers = pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column)
    try:
        return numbers.cast(pa.int64())
    except pa.ArrowInvalid:  # some have a fraction, or are too large
        return numbers
