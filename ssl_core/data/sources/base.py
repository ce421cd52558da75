"""What a source of images is: an ordered set that is read by index, with labels or without.

Sources are cheap to pickle and open their files in the process that reads them.
"""

import errno
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from ssl_core.errors import DataError

WAITS = (0.1, 1.0, 5.0)
"""Seconds before each further try to read what the system kept from being read."""
OF_THE_FILE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG})
"""What the system says where a file is gone, or is no file: this image is missing, and all others can be read."""
NO_USE_IN_WAITING = frozenset({errno.EACCES, errno.EPERM})


PARTS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing"})
"""What folders and files of a part of a data set are called."""


class BrokenImage(ValueError):
    """An image that cannot be decoded; others may take its place."""


class Source(ABC):
    """An ordered set of images, some of which may turn out to be broken."""

    labels: np.ndarray | None = None
    """(len,) int64 class numbers into `classes`, −1 for an image without one; None where no image has any."""
    classes: Sequence[str] = ()
    block_ends: np.ndarray | None = None
    """Ends of the runs of images that are read together (row groups); None where any image is as near as another."""
    total_bytes: int = 0
    """What reading all blocks takes."""
    remarks: tuple[str, ...] = ()
    """What was found, but can hardly be meant: files left out, labels that are none."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> Image.Image:
        """The image as it is to be seen.

        Raises:
            OSError: with the system's `errno` where it cannot be read.
            Exception: any other where it cannot be decoded.
        """

    @abstractmethod
    def where(self, index: int) -> str:
        """What to call the image in a message."""

    def name(self, index: int) -> str:
        """What files about the set may call the image: its path below the set's folder, where it has one."""
        return self.where(index)


def read_image(source: Source, index: int, then: Callable[[Image.Image], Image.Image] | None = None) -> Image.Image:
    """An image, and what `then` makes of it. What keeps it from being read is sorted here, whoever raises what.

    A file that the system will not give (too many open files, a lost mount, a time-out) is asked for again.

    Raises:
        BrokenImage: the image cannot be decoded.
        DataError: it cannot be read, of which the image may know nothing.
        MemoryError: there is no room for it.
    """
    waits = iter(WAITS)
    while True:
        try:
            image = source.read(index)
            return image if then is None else then(image)
        except (MemoryError, DataError):
            raise
        except Exception as error:
            if not _was_kept_from_reading(error):
                raise BrokenImage(str(error) or type(error).__name__) from error
            hopeless = isinstance(error, OSError) and error.errno in NO_USE_IN_WAITING
            wait = None if hopeless else next(waits, None)
            if wait is None:
                raise DataError(f"{source.where(index)} cannot be read: {error}; mend that, then go on") from error
            time.sleep(wait)


def _was_kept_from_reading(error: Exception) -> bool:
    """Whether the system refused the bytes. Decoders raise OSError too, but without a number."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    return isinstance(error, OSError) and error.errno is not None and error.errno not in OF_THE_FILE


def parts_taken_together(names: Iterable[str]) -> tuple[str, ...]:
    """A remark, where folders or files are called after several parts of a data set."""
    found = sorted({name for name in names if name.lower() in PARTS})
    if len(found) < 2:
        return ()
    return (f"what is called {' and '.join(found)} is taken together; name one of them alone, if that is not meant",)


class Subset(Source):
    """Some images of another source."""

    def __init__(self, source: Source, indices: np.ndarray):
        self.source, self.indices = source, indices
        self.classes, self.remarks = source.classes, source.remarks
        if source.labels is not None and (source.labels[indices] >= 0).any():
            self.labels = source.labels[indices]
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

    def name(self, index: int) -> str:
        return self.source.name(int(self.indices[index]))


@dataclass(frozen=True)
class Images:
    """What a run trains on, and what it is measured on.

    Attributes:
        remarks: what can hardly be meant, each with its key.
    """

    train: Source
    val: Source | None
    remarks: tuple[str, ...] = ()

    @property
    def measured(self) -> Literal["train", "val"]:
        """The set that signals without labels are measured of: val, or train where there is none."""
        return "train" if self.val is None else "val"

    @property
    def labelled(self) -> bool:
        """k-NN can be measured: both sets have labels."""
        return self.val is not None and self.val.labels is not None and self.train.labels is not None
