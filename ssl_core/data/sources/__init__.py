"""Where images come from: a folder, Parquet files, what comes with Strata, or another package's sources.

A source answers `len`, `read(index)` → a PIL image, and `labels` (class numbers, or None). `data.train=SCHEME:NAME` is
opened by the function that a package gives at the entry point `strata.sources` of the scheme's name: it takes the name
and the split (`train` or `val`) and returns a `Source`.
"""

from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np

from ssl_core.data.sources.base import BROKEN, Images, Source, Subset
from ssl_core.data.sources.bundled import DIGITS, bundled
from ssl_core.data.sources.folder import FolderSource
from ssl_core.data.sources.parquet import ParquetSource
from ssl_core.errors import InputError
from ssl_core.files import as_path, is_local
from ssl_core.schema.data import DataConfig, scheme_of

GROUP = "strata.sources"
PROBES = 32  # images decoded before work starts, to see that they are images at all
LIMIT_SEED = 0  # `data.limit` picks the same images whatever the run's seed


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
    named = scheme_of(paths) if isinstance(paths, str) else None
    source = _open_files(paths, key, config) if named is None else _open_named(*named, key)
    if config.labels == "none":
        source.labels, source.classes = None, ()
    return source


def _open_named(scheme: str, name: str, key: str) -> Source:
    """What `SCHEME:NAME` means: `bundled:…`, or a source of another package's."""
    if scheme == "bundled":
        return bundled(name, key)
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if scheme not in found:
        there = ", ".join(f"{known}:" for known in ("bundled", *sorted(found)))
        raise InputError(f"data.{key}: {scheme}:{name}: no source of this name; there are {there}, folders and Parquet")
    source = found[scheme].load()(name, key)
    _probe(source, key)
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
