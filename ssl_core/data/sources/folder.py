"""Image files below a folder."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from ssl_core.data.sources.base import Source


class FolderSource(Source):
    """Image files at any depth below a folder; the first folder level names the classes if all files have one."""

    def __init__(self, root: Path):
        suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
        self.root = root
        self.paths = sorted(
            os.path.relpath(os.path.join(folder, file), root)
            for folder, _, files in os.walk(root, followlinks=True)
            for file in files
            if os.path.splitext(file)[1].lower() in suffixes and not file.startswith(".")
        )
        tops = [path.partition(os.sep)[0] if os.sep in path else None for path in self.paths]
        if None not in tops and len(set(tops)) > 1:
            self.classes, labels = np.unique(np.array(tops), return_inverse=True)
            self.classes, self.labels = self.classes.tolist(), labels.astype(np.int64)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Image.Image:
        with Image.open(self.root / self.paths[index]) as image:
            image.load()
            return image

    def where(self, index: int) -> str:
        return str(self.root / self.paths[index])
