"""What a source of images is: an ordered set that is read by index, with labels or without.

Sources are cheap to pickle and open their files in the process that reads them.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

BROKEN = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
"""What Pillow raises for files that it cannot decode."""


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
