"""Copies of images: distorted strongly, as pictures that are passed on are, or lightly, as what is stored twice is."""

import io
import string
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

from ssl_core.data.sources.base import Source
from ssl_core.data.views import to_channels
from ssl_core.seeds import Use, derive_seed

GREY = (124, 116, 104)  # around a rotated image
LINES = 3  # of text
LIGHT_KINDS = ("jpeg", "smaller", "crop", "brightness")
"""What two files of one picture differ by."""


class Distorted(Source):
    """Copies of each image of a source, one of each kind; each a function of (use, image, kind).

    Args:
        names: (N,) what its images are called by their seeds.
        change: an RGB image, a kind and a generator → the copy.
    """

    def __init__(
        self,
        source: Source,
        names: np.ndarray,
        kinds: Sequence[str],
        change: Callable[[Image.Image, str, np.random.Generator], Image.Image],
        use: Use,
    ):
        self.source, self.names, self.kinds, self.change, self.use = source, names, kinds, change, use

    def __len__(self) -> int:
        return len(self.source) * len(self.kinds)

    def read(self, index: int) -> Image.Image:
        number, kind = divmod(index, len(self.kinds))
        generator = np.random.default_rng(derive_seed(self.use, int(self.names[number]), kind))
        return self.change(to_channels(self.source.read(number), 3), self.kinds[kind], generator)

    def where(self, index: int) -> str:
        number, kind = divmod(index, len(self.kinds))
        return f"{self.source.where(number)}, {self.kinds[kind]}"


def lightly(image: Image.Image, kind: str, generator: np.random.Generator) -> Image.Image:
    """A copy of an RGB image that nobody would call another one.

    Args:
        kind: jpeg (quality 50 to 90), smaller (to 60 to 90 % of its sides), crop (of up to 3 % at each side),
            brightness (by up to 10 %).
    """
    if kind == "jpeg":
        return _coded(image, int(generator.integers(50, 91)))
    if kind == "smaller":
        share = generator.uniform(0.6, 0.9)
        return image.resize((max(1, round(share * image.width)), max(1, round(share * image.height))))
    if kind == "brightness":
        return ImageEnhance.Brightness(image).enhance(generator.uniform(0.9, 1.1))
    left, top, right, bottom = (
        int(share * side) for share, side in zip(generator.uniform(0, 0.03, 4), 2 * image.size, strict=True)
    )
    return image.crop((left, top, image.width - right, image.height - bottom))


def distort(
    image: Image.Image, kind: str, generator: np.random.Generator, background: Callable[[], Image.Image]
) -> Image.Image:
    """A copy of an RGB image.

    Args:
        kind: crop (to 15 to 40 % of its area), jpeg (quality 3 to 10), blur (sigma 2 to 5 % of the shorter side),
            insertion (into `background`, over 30 to 50 % of its sides), text (three lines over it), rotation (by 20 to
            160 degrees either way).
        background: gives another RGB image, where it is needed.

    Raises:
        KeyError: no such kind.
    """
    if kind == "insertion":
        return _inserted(image, generator, background())
    return {"crop": _crop, "jpeg": _jpeg, "blur": _blur, "text": _text, "rotation": _rotation}[kind](image, generator)


def _crop(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    share = generator.uniform(0.15, 0.4) ** 0.5
    width, height = (max(1, round(share * side)) for side in image.size)
    left, top = (
        int(generator.integers(side - kept + 1)) for side, kept in zip(image.size, (width, height), strict=True)
    )
    return image.crop((left, top, left + width, top + height))


def _jpeg(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    return _coded(image, int(generator.integers(3, 11)))


def _coded(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def _blur(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(generator.uniform(0.02, 0.05) * min(image.size)))


def _inserted(image: Image.Image, generator: np.random.Generator, background: Image.Image) -> Image.Image:
    ground = background.resize(image.size)
    share = generator.uniform(0.3, 0.5)
    small = image.resize([max(1, round(share * side)) for side in image.size])
    left, top = (int(generator.integers(whole - part + 1)) for whole, part in zip(ground.size, small.size, strict=True))
    ground.paste(small, (left, top))
    return ground


def _text(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    found = image.copy()
    draw = ImageDraw.Draw(found)
    for _ in range(LINES):
        font = ImageFont.load_default(max(6, int(generator.uniform(0.15, 0.25) * image.height)))
        words = "".join(generator.choice(list(string.ascii_uppercase), 8))
        place = int(generator.uniform(-0.1, 0.2) * image.width), int(generator.uniform(0.0, 0.8) * image.height)
        draw.text(place, words, fill=tuple(generator.integers(0, 256, 3).tolist()), font=font)
    return found


def _rotation(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    angle = generator.uniform(20.0, 160.0) * generator.choice([-1.0, 1.0])
    return image.rotate(angle, Image.Resampling.BILINEAR, expand=True, fillcolor=GREY)
