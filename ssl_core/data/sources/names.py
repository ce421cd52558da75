"""Which image a file means by a name: a path, a file's name, or one without its suffix."""

import os
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from ssl_core.data.sources.base import Source
from ssl_core.data.sources.decode import suffixes

NONE, SEVERAL = -1, -2
"""In the place of an image's index: there is no such image; there are several."""


class Names:
    """The images of a source, by what they are called.

    Args:
        paths: of the images, relative to `root`.
        root: their folder; None where they lie in none.
    """

    def __init__(self, paths: Sequence[str], root: Path | None = None):
        self.paths = [plain(path) for path in paths]
        self.root = root

    @classmethod
    def of(cls, source: Source) -> "Names":
        """Of any source, as it calls its images."""
        return cls([source.name(index) for index in range(len(source))])

    def __len__(self) -> int:
        return len(self.paths)

    def know(self, name: str) -> bool:
        """Whether an image may be meant."""
        return without_suffix(_last(plain(name))) in self._stems

    def find(self, names: Sequence[str]) -> np.ndarray:
        """The images' indices (N,), `NONE`, or `SEVERAL`.

        All names are read in one way, that which finds most images: as paths below the folder; as paths that begin with
        the folder's own name; as paths whose end is that of an image; as files' names; and so without suffixes.
        """
        best, most = np.full(len(names), NONE, np.int64), 0
        for way in self._ways([plain(name) for name in names]):
            found = np.array(way, np.int64)
            count = len(np.unique(found[found >= 0]))
            if count > most or (not most and (found == SEVERAL).any()):
                best, most = found, count
            if most == min(len(self), len(names)):
                break
        return best

    def _ways(self, names: Sequence[str]) -> Iterator[list[int]]:
        for form in (str, without_suffix):
            asked = [form(name) for name in names]
            whole = _index([form(path) for path in self.paths])
            yield [whole.get(name, NONE) for name in asked]
            yield [whole.get(self._below_root(name), NONE) for name in asked]
            yield [_by_end(name, whole) for name in asked]
            last = _index([form(_last(path)) for path in self.paths])
            yield [last.get(_last(name), NONE) for name in asked]

    def _below_root(self, name: str) -> str:
        """A path without the last folders of the root, which it begins with."""
        return next((name[len(start) :] for start in self._starts if name.startswith(start)), "")

    @cached_property
    def _starts(self) -> list[str]:
        if self.root is None:
            return []
        parts = Path(os.path.abspath(self.root)).parts
        ends = ["/".join(parts[place:]) for place in range(1, len(parts))]
        return [f"{plain(start)}/" for start in (Path(*parts).as_posix(), *ends)]

    @cached_property
    def _stems(self) -> set[str]:
        return {without_suffix(_last(path)) for path in self.paths}


def plain(name: str) -> str:
    """A name with the separators, the accents and the start that paths have here."""
    name = unicodedata.normalize("NFC", name.strip())
    if "\\" in name and "/" not in name:
        name = name.replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    return name


def looks_like_image(name: str) -> bool:
    """Whether a name has the suffix of an image file."""
    return os.path.splitext(name.strip())[1].lower() in suffixes()


def without_suffix(name: str) -> str:
    start, suffix = os.path.splitext(name)
    return start if suffix.lower() in suffixes() else name


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _index(keys: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for number, key in enumerate(keys):
        found[key] = SEVERAL if key in found else number
    return found


def _by_end(name: str, index: dict[str, int]) -> int:
    """The image whose whole path the name ends with."""
    while "/" in name:
        name = name.partition("/")[2]
        if name in index:
            return index[name]
    return NONE
