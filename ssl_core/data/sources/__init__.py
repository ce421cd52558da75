"""Where images come from: a folder, Parquet files, what comes with Strata, or another package's sources.

A source answers `len`, `read(index)` → a PIL image, and `labels` (class numbers, or None). `data.train=SCHEME:NAME` is
opened by the function that a package gives at the entry point `strata.sources` of the scheme's name: it takes the name
and the split (`train` or `val`) and returns a `Source`.
"""

import os
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np

from ssl_core.data.sources.base import BrokenImage, Images, Source, Subset, read_image
from ssl_core.data.sources.bundled import DIGITS, bundled
from ssl_core.data.sources.decode import suffixes
from ssl_core.data.sources.folder import FolderSource, left_out
from ssl_core.data.sources.label_file import LabelFiles
from ssl_core.data.sources.labels import names_above
from ssl_core.data.sources.parquet import ParquetSource
from ssl_core.data.sources.split import split
from ssl_core.data.sources.walk import files_below, is_hidden
from ssl_core.errors import DataError, InputError
from ssl_core.files import as_path, is_local
from ssl_core.schema.data import DataConfig, labels_file, scheme_of

GROUP = "strata.sources"
PROBES = 32  # images decoded before work starts, to see that they are images at all
DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I")
"""Pillow's modes of images with more than 8 bits a pixel."""
DEEP_PROBES = 8
DARK_BITS = 12
PARQUET = ".parquet"
LABEL_COLUMN = "label"  # of Parquet, unless another is named
Column = Callable[[str], Sequence[str | None]]
"""What a column says of every image."""
LIMIT_SEED = 0  # `data.limit` picks the same images whatever the run's seed


def open_images(config: DataConfig) -> Images:
    """Open and check what `data` names.

    Raises:
        InputError: a missing or empty path, no images, labels in `val` that `train` lacks.
    """
    files = LabelFiles(config)
    train, column = _open(config.train, "train", config, files)
    remarks = [f"data.train: {remark}" for remark in train.remarks]
    # The digits bring their own validation split.
    val_path = DIGITS if config.val is None and config.train == DIGITS else config.val
    val: Source | None = None
    if config.split is not None:
        train, val, said = split(train, config.split, column)
        remarks += [f"data.split: {remark}" for remark in said]
    elif val_path is not None:
        val, _ = _open(val_path, "val", config, files, known=train.classes)
        remarks += [f"data.val: {remark}" for remark in val.remarks]
    remarks += files.remarks
    if val is not None:
        if val.labels is not None and train.labels is not None:
            _number_as(val, train.classes)
        elif val.labels is not None or train.labels is not None:
            bare, other = ("val", "train") if val.labels is None else ("train", "val")
            remarks.append(f"data.{bare}: no labels, and data.{other} has some: nothing is measured by labels")
    if config.limit is not None and config.limit < len(train):
        chosen = np.random.default_rng(LIMIT_SEED).choice(len(train), config.limit, replace=False)
        train = Subset(train, np.sort(chosen))
    return Images(train, val, tuple(remarks))


def _number_as(val: Source, classes: Sequence[str]) -> None:
    """Give the classes of `val` the numbers that they have in `train`.

    Raises:
        InputError: it has classes that are not among them.
    """
    assert val.labels is not None
    unknown = sorted(set(val.classes) - set(classes))
    if unknown:
        names = ", ".join(unknown[:5]) + (", …" if len(unknown) > 5 else "")
        raise InputError(
            f"data.val: {len(unknown)} labels that data.train lacks ({names}); "
            "k-NN could never be right on them. If they are no classes, set data.labels=none"
        )
    number = {name: label for label, name in enumerate(classes)}
    numbers = np.array([number[name] for name in val.classes], np.int64)
    val.labels = np.where(val.labels < 0, val.labels, numbers[val.labels])
    val.classes = classes


def _open(
    paths: str | Sequence[str], key: str, config: DataConfig, files: LabelFiles, known: Sequence[str] = ()
) -> tuple[Source, Column]:
    """A set of images, some of which can be decoded at least, and its columns.

    Args:
        key: `train` or `val`.
        known: classes that a single folder may be one of.
    """
    named = scheme_of(paths) if isinstance(paths, str) else None
    source = _open_files(paths, key, config, known) if named is None else _open_named(*named, key)
    column: Column = source.column if isinstance(source, ParquetSource) else _no_column
    if labels_file(config.labels) is not None:
        if not isinstance(source, FolderSource):
            raise InputError(
                f"data.labels: a file of labels is about a folder of images, and data.{key} is none; Parquet has "
                "data.label_column; set data.labels=auto"
            )
        rows = files.of(source)
        rows.label(source, config.label_above)
        column = rows.column
    elif config.labels == "none":
        source.labels, source.classes = None, ()
    _check_above(config.label_above, source, key)
    return source, column


def _check_above(above: float | None, source: Source, key: str) -> None:
    """See that there were numbers for `data.label_above`, and that it was used.

    Raises:
        InputError: the labels are class folders, or there are none.
    """
    if above is None or list(source.classes) == names_above(above):
        return
    if source.labels is not None or key == "train":
        there = "there are no labels" if source.labels is None else "the labels are no numbers"
        raise InputError(
            f"data.label_above: data.{key}: {there}; it is for a column of numbers, of Parquet or of a file of labels"
        )


def _no_column(name: str) -> list[str | None]:
    raise InputError(f"data.split.column: {name}: there are columns in Parquet, or in a file of labels (data.labels)")


def _open_named(scheme: str, name: str, key: str) -> Source:
    """What `SCHEME:NAME` means: `bundled:…`, or a source of another package's."""
    if scheme == "bundled":
        return bundled(name, key)
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if scheme not in found:
        there = ", ".join(f"{known}:" for known in ("bundled", *sorted(found)))
        raise InputError(f"data.{key}: {scheme}:{name}: no source of this name; there are {there}, folders and Parquet")
    source: Source = found[scheme].load()(name, key)
    _probe(source, key)
    return source


def _open_files(paths: str | Sequence[str], key: str, config: DataConfig, known: Sequence[str]) -> Source:
    roots = [as_path(path) for path in ([paths] if isinstance(paths, str) else paths)]
    for root in roots:
        if not root.exists():
            raise InputError(f"data.{key}: {root} does not exist (looked from {Path.cwd()})")
        if not (root.is_dir() or root.is_file()):
            raise InputError(f"data.{key}: {root} is neither a file nor a folder")
    is_folder = len(roots) == 1 and is_local(roots[0]) and roots[0].is_dir()
    names = files_below(roots[0]) if is_folder else []
    images = [name for name in names if os.path.splitext(name)[1].lower() in suffixes()]
    source: Source
    if images:  # Parquet beside images is about them
        source = FolderSource(roots[0], images, known, labelled=config.labels == "auto")
        if others := left_out((name for name in names if name != config.labels), suffixes()):
            source.remarks += (f"left out of {roots[0]}, a folder of images: {others}",)
    else:
        source = _open_parquet(roots, key, config, left_out(names, frozenset()) if is_folder else None)
    _probe(source, key)
    return source


def _open_parquet(roots: Sequence[Path], key: str, config: DataConfig, others: str | None) -> ParquetSource:
    """The Parquet files that are named, and those of folders.

    Args:
        others: what else there is in a folder that could have had images.
    """
    files = [(file, root if root.is_dir() else root.parent) for root in roots for file in _parquet_below(root)]
    where = ", ".join(map(str, roots))
    if not files and others is not None:
        raise InputError(f"data.{key}: no images in {where}" + (f"; there are {others}" if others else ""))
    if not files or any(file.suffix != PARQUET for file, _ in files):
        raise InputError(
            f"data.{key}: expected one folder of images, or Parquet (of an object store: Parquet alone); got {where}"
        )
    label_column = (config.label_column or LABEL_COLUMN) if config.labels == "auto" else None
    paths, homes = zip(*files, strict=True)
    source = ParquetSource(paths, config.image_column, label_column, config.cache_mb << 20, homes, config.label_above)
    if not len(source):
        raise InputError(f"data.{key}: no images in {where}")
    return source


def _parquet_below(root: Path) -> list[Path]:
    """The Parquet files of a folder, or the file that is named itself."""
    if not root.is_dir():
        return [root]
    if is_local(root):
        return sorted(root / name for name in files_below(root) if name.endswith(PARQUET))
    found = [file for file in root.rglob(f"*{PARQUET}") if not any(map(is_hidden, file.relative_to(root).parts))]
    folders = {folder for file in found for folder in file.parents}
    return sorted(file for file in found if file not in folders)


def _probe(source: Source, key: str) -> None:
    """See that at least one of a few images spread over the set can be decoded, and what range those have.

    Raises:
        InputError: none can, or one cannot be read.
    """
    error: str | None = None
    spread = [int(index) for index in np.linspace(0, len(source) - 1, min(PROBES, len(source)))]
    for place, index in enumerate(spread):
        try:
            image = read_image(source, index)
        except BrokenImage as e:
            error = error or f"{source.where(index)}: {e}"
        except DataError as e:
            raise InputError(f"data.{key}: {e}") from e
        else:
            if image.mode in DEEP:
                source.remarks += _darkness(source, spread[place:])
            return
    raise InputError(f"data.{key}: none of {len(spread)} images tried can be decoded: {error}")


def _darkness(source: Source, indices: Sequence[int]) -> tuple[str, ...]:
    """A remark, where images of 16 bits use so few of them that they come out all but black."""
    brightest = 0
    for index in indices[:DEEP_PROBES]:
        try:
            image = read_image(source, index)
        except (BrokenImage, DataError):
            continue
        if image.mode not in DEEP:
            return ()
        brightest = max(brightest, int(np.asarray(image).max(initial=0)))
    bits = brightest.bit_length()
    if bits > DARK_BITS:
        return ()
    return (
        f"images of 16 bits, and the brightest pixel tried is {brightest} of 65535 ({bits} bits): they are seen as all "
        "but black; stretch them to the whole range",
    )
