"""Images that a tiny encoder can tell apart."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def draw_stripes(root: Path, each: Mapping[str, int]) -> Path:
    """PNG images of stripes `across` or `down`, in folders of these names, below folders with so many of each."""
    generator = np.random.default_rng(0)
    for folder, count in each.items():
        for label in ("across", "down"):
            (root / folder / label).mkdir(parents=True)
            for number in range(count):
                wave = np.sin(np.arange(32) / generator.uniform(0.5, 2.0)) * 100 + 128
                pixels = np.tile(wave, (32, 1)) + generator.normal(0, 10, (32, 32))
                pixels = pixels if label == "across" else pixels.T
                image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                image.save(root / folder / label / f"{number}.png")
    return root
