"""Strong distortions of images, whose copies are then to be found: what becomes of pictures that are passed on."""

import io
import string

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

GREY = (124, 116, 104)  # around a rotated image
LINES = 3  # of text


def distort(image: Image.Image, kind: str, generator: np.random.Generator, background: Image.Image) -> Image.Image:
    """A copy of an RGB image.

    Args:
        kind: crop (to 15 to 40 % of its area), jpeg (quality 3 to 10), blur (sigma 2 to 5 % of the shorter side),
            insertion (into `background`, over 30 to 50 % of its sides), text (three lines over it), rotation (by 20 to
            160 degrees either way).
        background: another RGB image.

    Raises:
        KeyError: no such kind.
    """
    if kind == "insertion":
        return _inserted(image, generator, background)
    return {"crop": _crop, "jpeg": _jpeg, "blur": _blur, "text": _text, "rotation": _rotation}[kind](image, generator)


def _crop(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    share = generator.uniform(0.15, 0.4) ** 0.5
    width, height = (max(1, round(share * side)) for side in image.size)
    left, top = (
        int(generator.integers(side - kept + 1)) for side, kept in zip(image.size, (width, height), strict=True)
    )
    return image.crop((left, top, left + width, top + height))


def _jpeg(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(generator.integers(3, 11)))
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
