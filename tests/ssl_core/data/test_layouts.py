"""Published layouts of sets with masks, videos and copies, in small."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_core.data.sources.copydays import copydays
from ssl_core.data.sources.davis import open_davis
from ssl_core.data.sources.masks import IGNORE, MaskedImages, open_masks
from ssl_core.errors import DataError, InputError
from tests.conftest import make_folder

SIZE = 20  # of the images that the tests draw


def write_mask(file: Path, corner: int, rest: int = 0, size: tuple[int, int] = (SIZE, SIZE), mode: str = "P") -> Path:
    """A mask of one number, with another in its upper left quarter."""
    numbers = np.full(size, rest, np.uint8)
    numbers[: size[0] // 2, : size[1] // 2] = corner
    mask = Image.fromarray(numbers.astype(bool) if mode == "1" else numbers)
    if mode == "P":
        mask.putpalette(bytes(range(255, -1, -1)) * 3)  # colours unlike the numbers
    file.parent.mkdir(parents=True, exist_ok=True)
    (mask if mode in ("P", "L", "1") else mask.convert(mode)).save(file)
    return file


def numbers_of(found: MaskedImages, index: int) -> list[int]:
    image, mask = found.read(index)
    assert (image.size, mask.size, mask.mode) == ((SIZE, SIZE), (SIZE, SIZE), "L")
    return np.unique(np.asarray(mask)).tolist()


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    make_folder(tmp_path / "JPEGImages", ["a.jpg", "b.jpg", "c.jpg", "unused.jpg"])
    for name, number in (("a", 1), ("b", 20), ("c", 255)):
        write_mask(tmp_path / "SegmentationClass" / f"{name}.png", number)
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("b\n")
    (lists / "val.txt").write_text("c\na\n\n")
    return tmp_path


def test_voc_has_lists_and_palettes(voc: Path):
    found = open_masks(voc, "val")
    assert (len(found), found.classes) == (2, 21)
    assert [Path(found.where(index)).name for index in range(2)] == ["c.jpg", "a.jpg"]
    assert [numbers_of(found, index) for index in range(2)] == [[0, IGNORE], [0, 1]]
    mask = np.asarray(found.read(1)[1])
    assert (mask[0, 0], mask[-1, -1]) == (1, 0)
    assert numbers_of(open_masks(voc, "train"), 0) == [0, 20]
    with pytest.raises(InputError, match=r"b\.png: class 20, expected 0 to 1, or 255"):
        open_masks(voc, "train", classes=2)


def test_what_voc_lacks_is_named(voc: Path):
    with pytest.raises(InputError, match=r"test\.txt is missing; there are train, val"):
        open_masks(voc, "test")
    (voc / "SegmentationClass" / "a.png").unlink()
    with pytest.raises(InputError, match=r"SegmentationClass/a\.png is missing, and .*val\.txt names it"):
        open_masks(voc)
    (voc / "JPEGImages" / "c.jpg").unlink()
    with pytest.raises(InputError, match=r"JPEGImages/c\.jpg is missing, and .*val\.txt names it"):
        open_masks(voc)
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text("\n")
    with pytest.raises(InputError, match=r"val\.txt names nothing"):
        open_masks(voc)


def test_ade_numbers_its_classes_from_one(tmp_path: Path):
    for part, corner in (("training", 150), ("validation", 1)):
        make_folder(tmp_path / "images" / part, ["x.jpg"])
        write_mask(tmp_path / "annotations" / part / "x.png", corner, mode="L")
    val, train = open_masks(tmp_path), open_masks(tmp_path, "train")
    assert val.classes == 150
    assert (numbers_of(val, 0), numbers_of(train, 0)) == ([0, IGNORE], [149, IGNORE])
    write_mask(tmp_path / "annotations" / "validation" / "x.png", 151, mode="L")
    with pytest.raises(InputError, match=r"x\.png: class 150, expected 0 to 149"):
        open_masks(tmp_path)
    with pytest.raises(InputError, match=r"images/test is missing"):
        open_masks(tmp_path, "test")


def test_two_folders_pair_by_name_and_count_their_classes(tmp_path: Path):
    images, masks = tmp_path / "images", tmp_path / "masks"
    make_folder(images, ["a/1.jpg", "a/2.png"])
    write_mask(masks / "a" / "1.png", 255)
    write_mask(masks / "a" / "2.png", 6, 3)
    found = open_masks(images, masks=masks)
    assert (found.classes, numbers_of(found, 0), numbers_of(found, 1)) == (7, [0, IGNORE], [3, 6])
    write_mask(masks / "a" / "3.png", 1)
    with pytest.raises(InputError, match=r"a/3\.png has no image in .*images"):
        open_masks(images, masks=masks)
    make_folder(images, ["a/3.png", "b.png"])
    with pytest.raises(InputError, match=r"b\.png has no mask .*masks/b\.png"):
        open_masks(images, masks=masks)
    (images / "b.png").rename(images / "a" / "3.jpg")
    with pytest.raises(InputError, match="two images have one name but for the suffix"):
        open_masks(images, masks=masks)


def test_a_mask_that_does_not_fit_is_refused(tmp_path: Path):
    images, masks = make_folder(tmp_path / "images", ["1.png"]), tmp_path / "masks"
    write_mask(masks / "1.png", 1, size=(10, 30))
    with pytest.raises(InputError, match=r"1\.png has 30 × 10 pixels, and .*1\.png 20 × 20"):
        open_masks(images, masks=masks)
    write_mask(masks / "1.png", 1, mode="RGB")
    with pytest.raises(InputError, match=r"1\.png: a picture of mode RGB; expected class numbers"):
        open_masks(images, masks=masks)
    (masks / "1.png").write_bytes(b"no")
    with pytest.raises(InputError, match=r"masks/1\.png: no PNG mask"):
        open_masks(images, masks=masks)
    write_mask(masks / "1.png", 1)
    found = open_masks(images, masks=masks)
    (images / "1.png").write_bytes(b"no")
    with pytest.raises(DataError, match=r"images/1\.png cannot be read"):
        found.read(0)
    write_mask(masks / "1.png", 1, mode="1")
    assert np.unique(found._numbers(0)).tolist() == [0, 1]


def test_no_layout_at_all_is_said(tmp_path: Path):
    with pytest.raises(InputError, match="expected SegmentationClass, JPEGImages"):
        open_masks(make_folder(tmp_path, ["1.png"]))
    for folders in ((tmp_path / "none", None), (tmp_path, tmp_path / "none")):
        with pytest.raises(InputError, match="none is no folder"):
            open_masks(folders[0], masks=folders[1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images in"):
        open_masks(tmp_path / "empty", masks=tmp_path)


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    for name, last in (("bear", 2), ("car", 1)):
        make_folder(tmp_path / "JPEGImages" / "480p" / name, [f"{n:05d}.jpg" for n in range(3)])
        for frame in range(last + 1):
            write_mask(tmp_path / "Annotations" / "480p" / name / f"{frame:05d}.png", frame + 1)
    lists = tmp_path / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("car\nbear\n")
    return tmp_path


def test_davis_has_sequences_of_frames_and_masks(davis: Path):
    car, bear = open_davis(davis)
    assert (car.name, bear.name, car.objects) == ("car", "bear", 1)
    assert [file.name for file in bear.frames] == ["00000.jpg", "00001.jpg", "00002.jpg"]
    assert [int(bear.mask(frame).max()) for frame in range(3)] == [1, 2, 3]
    assert (car.mask(1).max(), car.mask(2)) == (2, None)
    assert car.first_mask.shape == (SIZE, SIZE)


def test_what_davis_lacks_is_named(davis: Path):
    with pytest.raises(InputError, match=r"test\.txt is missing; there are val"):
        open_davis(davis, "test")
    with pytest.raises(InputError, match=r"JPEGImages/1080p is missing; expected JPEGImages, Annotations"):
        open_davis(davis, resolution="1080p")
    with pytest.raises(InputError, match=r"none is no folder"):
        open_davis(davis / "none")
    first = davis / "Annotations" / "480p" / "bear" / "00000.png"
    write_mask(first, 0)
    with pytest.raises(InputError, match=r"00000\.png shows no object"):
        open_davis(davis)
    first.write_bytes(b"no")
    with pytest.raises(InputError, match=r"00000\.png: no PNG mask"):
        open_davis(davis)
    first.unlink()
    with pytest.raises(InputError, match=r"00000\.png, the mask of bear's first frame, is missing"):
        open_davis(davis)
    for file in (davis / "JPEGImages" / "480p" / "bear").iterdir():
        file.unlink()
    with pytest.raises(InputError, match=r"no frames in .*bear"):
        open_davis(davis)
    (davis / "JPEGImages" / "480p" / "bear").rmdir()
    with pytest.raises(InputError, match=r"bear is missing, and .*val\.txt names it"):
        open_davis(davis)


def test_copydays_tells_copies_by_their_names(tmp_path: Path):
    make_folder(tmp_path / "original", ["200000.jpg", "200100.jpg"])
    make_folder(tmp_path / "strong", ["200001.jpg", "200101.jpg", "200102.jpg"])
    make_folder(tmp_path / "jpeg", ["10/200000.jpg", "75/200000.jpg"])
    originals = copydays(tmp_path)
    assert [(file.name, block) for file, block in originals] == [("200000.jpg", "2000"), ("200100.jpg", "2001")]
    assert [block for _, block in copydays(tmp_path, "strong")] == ["2000", "2001", "2001"]
    assert [block for _, block in copydays(tmp_path, "jpeg")] == ["2000", "2000"]
    assert len(copydays(tmp_path, "jpeg/10")) == 1
    with pytest.raises(InputError, match=r"crop is missing; expected original, .*there is original, strong, jpeg"):
        copydays(tmp_path, "crop")
    make_folder(tmp_path / "strong", ["cat.jpg"])
    with pytest.raises(InputError, match=r"cat\.jpg: expected a name of digits, such as 200001\.jpg"):
        copydays(tmp_path, "strong")
    make_folder(tmp_path / "original", ["200001.jpg"])
    with pytest.raises(InputError, match="two originals are of one block"):
        copydays(tmp_path)
    (tmp_path / "crop").mkdir()
    with pytest.raises(InputError, match="no images in"):
        copydays(tmp_path, "crop")
