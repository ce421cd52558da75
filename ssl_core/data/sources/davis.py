"""Videos with masks of objects, as DAVIS lays them out (Pont-Tuset et al., arXiv 1704.00675)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssl_core.data.sources.masks import images_below, read_list, read_numbers
from ssl_core.errors import DataError, InputError


@dataclass(frozen=True)
class Video:
    """The frames of a sequence, in order.

    Attributes:
        frames: image files.
        masks: for each frame the file of its mask; None where there is none (of test sequences all but the first).
    """

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path | None, ...]

    def mask(self, frame: int) -> np.ndarray | None:
        """Object numbers (H, W) uint8 of a frame, 0 for the background; None where it has no mask.

        Raises:
            DataError: the file cannot be read.
        """
        file = self.masks[frame]
        return None if file is None else read_numbers(file)

    @property
    def first_mask(self) -> np.ndarray:
        """What is given: object numbers (H, W) uint8 of the first frame."""
        first = self.mask(0)
        assert first is not None
        return first

    @property
    def objects(self) -> int:
        """How many there are in the first frame."""
        return int(self.first_mask.max())


def open_davis(root: Path, split: str = "val", year: str = "2017", resolution: str = "480p") -> list[Video]:
    """The sequences that `ImageSets/YEAR/SPLIT.txt` lists, from `JPEGImages/RESOLUTION` and `Annotations/RESOLUTION`.

    Raises:
        InputError: a list, a folder or the mask of a first frame is missing, or that mask shows no object.
    """
    if not root.is_dir():
        raise InputError(f"{root} is no folder")
    listed = root / "ImageSets" / year / f"{split}.txt"
    places = root / "JPEGImages" / resolution, root / "Annotations" / resolution
    for place in places:
        if not place.is_dir():
            raise InputError(f"{place} is missing; expected JPEGImages, Annotations and ImageSets, as DAVIS has them")
    return [_video(name, listed, *(place / name for place in places)) for name in read_list(listed)]


def _video(name: str, listed: Path, frames: Path, masks: Path) -> Video:
    if not frames.is_dir():
        raise InputError(f"{frames} is missing, and {listed} names it")
    files = [frames / file for file in images_below(frames)]
    if not files:
        raise InputError(f"no frames in {frames}")
    found = [masks / f"{file.stem}.png" for file in files]
    if not found[0].is_file():
        raise InputError(f"{found[0]}, the mask of {name}'s first frame, is missing")
    video = Video(name, tuple(files), tuple(file if file.is_file() else None for file in found))
    try:
        objects = video.objects
    except DataError as error:
        raise InputError(str(error)) from error
    if not objects:
        raise InputError(f"{found[0]} shows no object: it is 0 everywhere")
    return video
