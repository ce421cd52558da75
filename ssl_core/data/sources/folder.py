"""Image files below a folder."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ssl_core.data.sources.base import Source, parts_taken_together
from ssl_core.data.sources.decode import decode

COMPANIONS = frozenset(
    {".txt", ".md", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".html", ".htm", ".pdf", ".py", ".sh"}
)
"""Suffixes of files that describe images, and that nobody takes for such."""
NAMED = 5  # kinds of files in one remark


class FolderSource(Source):
    """Image files; the first folder level names the classes if all files have one.

    Args:
        paths: of the files, relative to `root`.
        known: class names that a single folder is one of; by itself it would be no class.
        labelled: whether folders name classes.
    """

    def __init__(self, root: Path, paths: Sequence[str], known: Sequence[str] = (), labelled: bool = True):
        self.root, self.paths = root, list(paths)
        tops = [path.partition(os.sep)[0] if os.sep in path else None for path in self.paths]
        self.remarks = parts_taken_together({top for top in tops if top is not None})
        if labelled:
            self._label(tops, set(known))

    def _label(self, tops: list[str | None], known: set[str]) -> None:
        named = [top for top in tops if top is not None]
        folders = set(named)
        if len(named) < len(tops):
            if len(folders) > 1:
                stray, count = self.paths[tops.index(None)], len(tops) - len(named)
                self.remarks += (f"no labels: {count} of {len(tops)} images are in no class folder, such as {stray}",)
            return
        if len(folders) > 1 or (folders and folders <= known):
            classes, labels = np.unique(np.array(named), return_inverse=True)
            self.classes, self.labels = classes.tolist(), labels.astype(np.int64)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Image.Image:
        return decode((self.root / self.paths[index]).read_bytes())

    def where(self, index: int) -> str:
        return str(self.root / self.paths[index])

    def name(self, index: int) -> str:
        return self.paths[index]


def left_out(paths: Iterable[str], taken: frozenset[str]) -> str:
    """How many files are neither taken nor usual beside images, by suffix: `60 files .heic`; "" for none."""
    suffixes = (os.path.splitext(path)[1].lower() for path in paths)
    kinds = Counter(suffix for suffix in suffixes if suffix not in taken | COMPANIONS)
    said = [
        f"{count} {'files' if count > 1 else 'file'} {suffix or 'without a suffix'}"
        for suffix, count in kinds.most_common(NAMED)
    ]
    return ", ".join(said) + (", …" if len(kinds) > NAMED else "")
