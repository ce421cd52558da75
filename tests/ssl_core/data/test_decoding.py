"""Image files as cameras and instruments write them: turned, deep, of floats, thin, damaged."""

import contextlib
import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from torchvision.transforms import v2

from ssl_core.data.loading import read_or_replace
from ssl_core.data.sources.base import BrokenImage, read_image
from ssl_core.data.sources.decode import decode, suffixes
from ssl_core.data.views import CentreView, to_channels
from tests.conftest import make_folder, make_image
from tests.ssl_core.data.test_sources import open_all, open_train

RAMP = np.linspace(0.0, 1.0, 200, dtype=np.float32).reshape(10, 20)
PLAIN = np.rint(RAMP * 255)


def written(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_images_are_seen_the_right_way_up(kind: str, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = written(make_image(3).resize((24, 16)), kind, exif=exif)
    with Image.open(io.BytesIO(data)) as stored:
        expected = ImageOps.exif_transpose(stored)
    assert expected.size == ((24, 16) if orientation < 5 else (16, 24))
    assert np.array_equal(np.asarray(decode(data)), np.asarray(expected))


def test_damaged_exif_costs_no_image():
    image = make_image(1)
    assert np.array_equal(np.asarray(decode(written(image, "PNG", exif=b"Exif\0\0II*\0nonsense"))), np.asarray(image))


def grey(pixels: np.ndarray) -> np.ndarray:
    data = written(Image.fromarray(pixels), "TIFF")
    return np.asarray(to_channels(decode(data), 1)).astype(float)


@pytest.mark.parametrize(
    "stored",
    [RAMP, RAMP * 1.02, RAMP * 255, RAMP * 65535, RAMP * 2 - 1, RAMP * 1.04 - 0.02],
    ids=["1", "over 1", "255", "65535", "-1 … 1", "resampled"],
)
@pytest.mark.parametrize("spoilt", [None, np.nan, np.inf, -np.inf])
def test_floats_come_out_in_their_range(stored: np.ndarray, spoilt: float | None):
    stored = stored.copy()
    if spoilt is not None:
        stored[0, 0] = spoilt
    assert np.abs(grey(stored) - PLAIN).ravel()[1:].max() <= 6


def test_an_image_without_a_finite_value_is_broken(tmp_path: Path):
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "a.tif")
    make_image(1).save(tmp_path / "b.png")
    assert read_or_replace(open_train(tmp_path), 0, 3)[1:] == (1, [0])


def test_integers_have_one_range_whatever_they_hold():
    for kind in (np.uint16, np.int32):
        found = [grey(np.full((4, 4), value, kind))[0, 0] for value in (200, 300, 30000, 65535)]
        assert found == [1, 1, 117, 255]


def test_deep_images_that_are_all_but_black_are_remarked_on(tmp_path: Path):
    for name, brightest in (("dark", 4095), ("bright", 65535)):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.fromarray((RAMP * brightest).astype(np.uint16)).save(tmp_path / name / f"{number}.png")
    (remark,) = open_all(tmp_path / "dark").remarks
    assert "data.train: images of 16 bits" in remark
    assert "4095 of 65535 (12 bits)" in remark
    assert open_all(tmp_path / "bright").remarks == ()


@pytest.mark.parametrize("size", [(5, 300), (300, 5), (1, 40), (40, 1000), (700, 30), (33, 541)])
def test_a_thin_image_is_cut_before_it_is_enlarged_to_the_same_pixels(size: tuple[int, int]):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8))
    found = np.asarray(CentreView(56)(image)).astype(int)
    expected = np.asarray(v2.Compose([v2.Resize(64), v2.CenterCrop(56)])(image)).astype(int)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 2
    assert np.abs(found - expected).mean() < 0.1


def test_what_is_cut_off_is_not_made_larger():
    image = Image.new("RGB", (1, 1_000_000))  # enlarged, it would be of 65 G pixels
    assert CentreView(224)(image).size == (224, 224)


def test_deep_images_become_shallow_in_parts():
    image = Image.fromarray(np.full((4000, 4000), 30000, np.uint16))
    tracemalloc.start()
    to_channels(image, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 4000 * 4000, "the whole of it as float64"
    whole = Image.new("RGB", (10, 10))
    assert to_channels(whole, 3) is whole, "copied"


@pytest.mark.parametrize("cut", [20, 100, -60])
@pytest.mark.parametrize("kind", ["AVIF", "PNG", "JPEG", "WEBP", "TIFF", "JPEG2000"])
def test_whatever_a_decoder_says_the_image_is_broken(tmp_path: Path, kind: str, cut: int):
    data = bytearray(written(make_image(2, size=64), kind))
    data[cut : cut + 20 if cut > 0 else None] = b"\x41" * 20
    make_folder(tmp_path, ["b.png"])
    (tmp_path / "a.png").write_bytes(bytes(data[: len(data) - 10]))
    source = open_train(tmp_path)
    with contextlib.suppress(BrokenImage):
        read_image(source, 0)


def test_images_start_no_other_program(tmp_path: Path):
    make_folder(tmp_path, ["b.png"])
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    source = open_train(tmp_path)
    with pytest.raises(BrokenImage, match="identify"):
        read_image(source, 0)
    assert {".png", ".jpg", ".jpeg", ".webp", ".tif", ".bmp", ".gif"} <= suffixes()
    assert not suffixes() & {".eps", ".h5", ".mpg", ".fits", ".wmf", ".psd", ".dds"}
