"""From the bytes of an image file to its pixels, the right way up."""

import functools
import io

from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "QOI")
"""What is decoded: pictures, by decoders that start no other program and know their files by the first bytes."""


def decode(data: bytes) -> Image.Image:
    """The image, turned as its EXIF orientation says.

    Raises:
        Exception: it cannot be decoded; each format has its own.
    """
    with Image.open(io.BytesIO(data), formats=_formats()) as image:
        image.load()
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:  # damaged EXIF says nothing of the pixels
        pass
    return image


@functools.cache
def suffixes() -> frozenset[str]:
    """The suffixes (`.png`, …) of files that can be decoded."""
    formats = _formats()
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in formats)


def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this build of Pillow has."""
    if not all(kind in Image.OPEN for kind in FORMATS):
        Image.init()
    return tuple(kind for kind in FORMATS if kind in Image.OPEN)
