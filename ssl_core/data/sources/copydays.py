"""Copies of images, as Copydays lays them out (Douze et al., CIVR 2009): who is a copy of whom stands in the names."""

from pathlib import Path

from ssl_core.data.sources.masks import images_below
from ssl_core.errors import InputError

ORIGINAL = "original"
PARTS = (ORIGINAL, "strong", "jpeg", "crop")


def copydays(root: Path, part: str = ORIGINAL) -> list[tuple[Path, str]]:
    """The images of a part, each with its block: the original and its copies have one in common.

    An image's block is its name up to the last two digits: 200001.jpg is a copy of 200000.jpg, of block 2000.

    Args:
        part: `original`, `strong`, `jpeg` or `crop`, or a folder in the latter two, such as `jpeg/10`.

    Raises:
        InputError: the part is missing or empty, or an image is called otherwise; two originals are of one block.
    """
    folder = root / part
    if not folder.is_dir():
        there = ", ".join(name for name in PARTS if (root / name).is_dir()) or "none of them"
        raise InputError(
            f"{folder} is missing; expected {', '.join(PARTS)}, as Copydays has them, and there is {there}"
        )
    found = [(folder / name, _block(folder / name)) for name in images_below(folder)]
    if not found:
        raise InputError(f"no images in {folder}")
    if part == ORIGINAL and len({block for _, block in found}) < len(found):
        raise InputError(f"{folder}: two originals are of one block; expected 200000.jpg, 200100.jpg, …")
    return found


def _block(file: Path) -> str:
    if len(file.stem) < 3 or not file.stem.isdecimal():
        raise InputError(f"{file}: expected a name of digits, such as 200001.jpg: the block 2000 and two digits more")
    return file.stem[:-2]
