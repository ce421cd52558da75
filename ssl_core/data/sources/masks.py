"""Images with masks of classes, for segmentation: PASCAL VOC's folders, ADE20K's, or two folders of equal names."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from ssl_core.data.sources.decode import decode, suffixes
from ssl_core.data.sources.walk import files_below
from ssl_core.errors import DataError, InputError

IGNORE = 255
"""In a mask: a pixel that is of no class, and is not measured."""
MASK_SUFFIX = ".png"
ADE = {"train": "training", "val": "validation"}
PROBES = 4  # masks looked at before work starts


class MaskedImages:
    """An ordered set of images, each with a mask of class numbers.

    Args:
        pairs: files of image and mask.
        classes: how many; None: as many as the masks say.
        zero_is_nothing: 0 in a file is no class (`IGNORE`), 1 the first, as ADE20K has it.
    """

    def __init__(self, pairs: Sequence[tuple[Path, Path]], classes: int | None = None, zero_is_nothing: bool = False):
        self.pairs, self._classes, self._zero_is_nothing = list(pairs), classes, zero_is_nothing

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> tuple[Image.Image, Image.Image]:
        """An image as it is to be seen, and its mask of the same size: mode L, class numbers from 0, and `IGNORE`.

        Raises:
            DataError: the two do not fit each other, or the mask holds something else.
        """
        return self.image(index), self.mask(index)

    def image(self, index: int) -> Image.Image:
        """The image alone, of the size of its mask.

        Raises:
            DataError: the two do not fit each other.
        """
        image_file, mask_file = self.pairs[index]
        try:
            image = decode(image_file.read_bytes())
        except Exception as error:
            raise DataError(f"{image_file} cannot be read: {error}") from error
        width, height = self._size_of_mask(index)
        if image.size != (width, height):
            raise DataError(
                f"{mask_file} has {width} × {height} pixels, and {image_file} {image.width} × {image.height}"
            )
        return image

    def mask(self, index: int) -> Image.Image:
        """The mask alone.

        Raises:
            DataError: it holds something else.
        """
        numbers, file = self._numbers(index), self.pairs[index][1]
        if self._classes is not None and (wrong := numbers[(numbers >= self._classes) & (numbers != IGNORE)]).size:
            raise DataError(f"{file}: class {int(wrong[0])}, expected 0 to {self._classes - 1}, or {IGNORE} for none")
        return Image.fromarray(numbers)

    def _size_of_mask(self, index: int) -> tuple[int, int]:
        """Width and height, by what the file begins with."""
        try:
            with Image.open(self.pairs[index][1]) as mask:
                return mask.size
        except Exception:
            height, width = self._numbers(index).shape  # says what is wrong with it
            return width, height

    def where(self, index: int) -> str:
        """What to call an image in a message."""
        return str(self.pairs[index][0])

    @cached_property
    def classes(self) -> int:
        """How many classes there are; where the layout does not say it, all masks are read for it."""
        if self._classes is not None:
            return self._classes
        most = 0
        for index in range(len(self)):
            numbers = self._numbers(index).astype(np.int64)
            most = max(most, int(numbers[numbers != IGNORE].max(initial=-1)) + 1)
        return most

    def _numbers(self, index: int) -> np.ndarray:
        """Class numbers of a mask (H, W) uint8."""
        numbers = read_numbers(self.pairs[index][1])
        return numbers - np.uint8(1) if self._zero_is_nothing else numbers  # 0 comes round to 255


def open_masks(images: Path, split: str = "val", masks: Path | None = None, classes: int | None = None) -> MaskedImages:
    """Images and masks as PASCAL VOC or ADE20K lays them out below `images`; or two folders with equal names.

    VOC: `JPEGImages`, `SegmentationClass`, and `ImageSets/Segmentation/{train,val}.txt`; 21 classes, 255 is ignored.
    ADE20K: `images` and `annotations`, each with `training` and `validation`; 150 classes, 0 is ignored and class
    numbers are one less than in the files. Two folders: 255 is ignored.

    Args:
        split: `train` or `val`, or another that VOC's folder has a list of; of two folders none is taken out.
        masks: the folder of PNG masks beside that of `images`.
        classes: how many, where the layout's own number is not right.

    Raises:
        InputError: a folder, a list, an image's mask or a mask's image is missing, or a mask is a picture.
    """
    for folder in (images, masks):
        if folder is not None and not folder.is_dir():
            raise InputError(f"{folder} is no folder")
    if masks is not None:
        found = MaskedImages(_pairs(images, masks), classes)
    elif (images / "SegmentationClass").is_dir():
        found = MaskedImages(_voc(images, split), classes or 21)
    elif (images / "annotations").is_dir():
        part = ADE.get(split, split)
        pairs = _pairs(_there(images / "images" / part), _there(images / "annotations" / part))
        found = MaskedImages(pairs, classes or 150, zero_is_nothing=True)
    else:
        raise InputError(
            f"{images}: expected SegmentationClass, JPEGImages and ImageSets/Segmentation, as PASCAL VOC has them; or "
            "images and annotations, as ADE20K has them; or name the folder of masks besides"
        )
    for index in np.linspace(0, len(found) - 1, min(PROBES, len(found))).astype(int).tolist():
        try:
            found.read(index)
        except DataError as error:
            raise InputError(str(error)) from error
    return found


def read_numbers(file: Path) -> np.ndarray:
    """What a PNG mask holds, (H, W) uint8: grey values, or numbers into its palette.

    Raises:
        DataError: it cannot be read, or is a picture in colours.
    """
    try:
        with Image.open(file, formats=("PNG",)) as mask:
            mode, numbers = mask.mode, np.asarray(mask)
    except Exception as error:
        raise DataError(f"{file}: no PNG mask: {error}") from error
    if mode == "1":
        return numbers.astype(np.uint8)
    if mode not in ("L", "P"):
        raise DataError(f"{file}: a picture of mode {mode}; expected class numbers, as a grey or palette PNG of 8 bits")
    return numbers


def images_below(folder: Path) -> list[str]:
    """Paths of the image files of a folder, at any depth, in order."""
    return [name for name in files_below(folder) if Path(name).suffix.lower() in suffixes()]


def _there(folder: Path) -> Path:
    if not folder.is_dir():
        raise InputError(f"{folder} is missing")
    return folder


def _pairs(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    """Files of equal paths, but for the suffix."""
    mask_of = {
        name.removesuffix(MASK_SUFFIX): masks / name for name in files_below(masks) if name.endswith(MASK_SUFFIX)
    }
    names = images_below(images)
    stems = [str(Path(name).with_suffix("")) for name in names]
    if not names:
        raise InputError(f"no images in {images}")
    for stem, name in zip(stems, names, strict=True):
        if stem not in mask_of:
            raise InputError(f"{images / name} has no mask {masks / stem}{MASK_SUFFIX}")
    if alone := sorted(mask_of.keys() - set(stems)):
        raise InputError(f"{mask_of[alone[0]]} has no image in {images}")
    if len(set(stems)) < len(stems):
        raise InputError(f"{images}: two images have one name but for the suffix, and so one mask")
    return [(images / name, mask_of[stem]) for stem, name in zip(stems, names, strict=True)]


def _voc(root: Path, split: str) -> list[tuple[Path, Path]]:
    listed, folder = root / "ImageSets" / "Segmentation" / f"{split}.txt", _there(root / "JPEGImages")
    image_of = {str(Path(name).with_suffix("")): folder / name for name in images_below(folder)}
    pairs = []
    for name in read_list(listed):
        mask = root / "SegmentationClass" / f"{name}{MASK_SUFFIX}"
        if name not in image_of or not mask.is_file():
            missing = mask if name in image_of else folder / f"{name}.jpg"
            raise InputError(f"{missing} is missing, and {listed} names it")
        pairs.append((image_of[name], mask))
    return pairs


def read_list(file: Path) -> list[str]:
    """The first word of each line of a list of names.

    Raises:
        InputError: there is no such file, or it names none.
    """
    try:
        names = [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        there = sorted(other.stem for other in file.parent.glob("*.txt"))
        raise InputError(f"{file} is missing" + (f"; there are {', '.join(there)}" if there else "")) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    if not names:
        raise InputError(f"{file} names nothing")
    return names
