"""Images that are made when they are read: `data.train=stripes:200` are two hundred of them, with their direction."""

import numpy as np
from PIL import Image

from ssl_core.data.sources.base import Source
from ssl_core.errors import InputError


class Stripes(Source):
    classes = ("across", "down")

    def __init__(self, count: int, seed: int):
        self.count, self.seed = count, seed
        self.labels = np.arange(count, dtype=np.int64) % 2

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> Image.Image:
        width = np.random.default_rng((self.seed, index)).uniform(0.5, 2.0)
        wave = np.tile(np.sin(np.arange(32) / width) * 100 + 128, (32, 1))
        return Image.fromarray((wave if self.labels[index] else wave.T).astype(np.uint8))

    def where(self, index: int) -> str:
        return f"stripes image {index}"


def stripes(name: str, split: str) -> Stripes:
    if not name.isdigit():
        raise InputError(f"data.{split}: stripes:{name}: expected a number of images, such as stripes:200")
    return Stripes(int(name), seed=0 if split == "train" else 1)
