"""Labels through a video against a naive loop; J and F against DAVIS' own words; a square that moves; bad input."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ssl_core.data.sources.davis import open_davis
from ssl_core.errors import DataError, InputError
from ssl_core.evaluation.video import VideoSegmentation, boundary, outline, propagate, region, to_pixels
from ssl_core.schema.evaluation import VideoConfig
from ssl_core.schema.run import RunConfig
from tests.conftest import tiny_config
from tests.ssl_core.evaluation.pictured import context_of


def naive(features: Tensor, first: Tensor, frames: int, radius: int, top_k: int, temperature: float) -> Tensor:
    found = [first]
    count, height, width, _ = features.shape
    for frame in range(1, count):
        labels = torch.zeros_like(first)
        for row in range(height):
            for column in range(width):
                near = []
                for source in {0, *range(max(1, frame - frames), frame)}:
                    for y in range(max(0, row - radius), min(height, row + radius + 1)):
                        for x in range(max(0, column - radius), min(width, column + radius + 1)):
                            cosine = (features[frame, row, column] @ features[source, y, x]).item()
                            near.append((math.exp(cosine / temperature), found[source][y, x]))
                near.sort(key=lambda pair: -pair[0])
                total = sum(weight for weight, _ in near[:top_k])
                labels[row, column] = sum(weight / total * label for weight, label in near[:top_k])
        found.append(labels)
    return torch.stack(found)


@pytest.mark.parametrize(("frames", "radius", "top_k"), [(2, 1, 5), (7, 2, 3), (1, 12, 5)])
def test_labels_are_those_of_a_loop(frames: int, radius: int, top_k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(5, 4, 3, 6, generator=generator), dim=-1)
    first = torch.rand(4, 3, 2, generator=generator)
    found = propagate(features, first, frames, radius, top_k, 0.1)
    torch.testing.assert_close(found, naive(features, first, frames, radius, top_k, 0.1), rtol=1e-4, atol=1e-5)


def davis_outline(seg: np.ndarray) -> np.ndarray:
    """`seg2bmap` of DAVIS' evaluation, word for word."""
    e, s, se = (np.zeros_like(seg) for _ in range(3))
    e[:, :-1] = seg[:, 1:]
    s[:-1, :] = seg[1:, :]
    se[:-1, :-1] = seg[1:, 1:]
    b = (seg ^ e) | (seg ^ s) | (seg ^ se)
    b[-1, :] = seg[-1, :] ^ e[-1, :]
    b[:, -1] = seg[:, -1] ^ s[:, -1]
    b[-1, -1] = 0
    return b


def naive_boundary(predicted: np.ndarray, truth: np.ndarray) -> float:
    radius = math.ceil(0.008 * np.linalg.norm(truth.shape))
    edges = [np.argwhere(davis_outline(mask)) for mask in (predicted, truth)]
    near = [
        np.mean([min(((a - b) ** 2).sum() for b in other) <= radius**2 for a in own])
        for own, other in (edges, edges[::-1])
    ]
    return 2 * near[0] * near[1] / (near[0] + near[1])


def blob(seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    found = np.zeros((90, 120), bool)
    for _ in range(3):
        top, left = generator.integers(0, 80, 2)
        found[top : top + 25, left : left + 40] = True
    return found


def test_outlines_and_f_are_those_of_davis() -> None:
    noise = np.random.default_rng(0).random((9, 7)) < 0.5
    assert np.array_equal(outline(noise), davis_outline(noise))
    truth, near = blob(1), np.roll(blob(1), (1, 3), axis=(0, 1))
    assert boundary(near, truth) == pytest.approx(naive_boundary(near, truth))
    assert 0.1 < boundary(near, truth) < 0.99
    assert boundary(truth, truth) == 1.0
    nothing = np.zeros_like(truth)
    assert (boundary(nothing, truth), boundary(truth, nothing), boundary(nothing, nothing)) == (0.0, 0.0, 1.0)


def test_j_is_the_share_in_common() -> None:
    one, other = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    one[:2], other[1:3] = True, True
    assert region(one, other) == pytest.approx(4 / 12)
    assert region(one & False, other & False) == 1.0


def test_pixels_get_the_label_that_is_relatively_strongest() -> None:
    labels = torch.zeros(2, 2, 2)
    labels[..., 0] = torch.tensor([[1.0, 0.9], [0.9, 0.6]])
    labels[..., 1] = 1 - labels[..., 0]
    found = to_pixels(labels, (6, 6))
    assert (found[0, 0], found[-1, -1]) == (0, 1), "0.4 is the most that the object ever has"
    assert not to_pixels(torch.ones(2, 2, 2) * torch.tensor([0.7, 0.3]), (3, 3)).any()


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    """A bright square that goes to the right, and a grey one that goes down, seven frames long; one lacks its mask."""
    for folder in ("JPEGImages/480p/squares", "Annotations/480p/squares", "ImageSets/2017"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/2017/val.txt").write_text("squares\n")
    ground = np.random.default_rng(0).integers(0, 40, (48, 64), dtype=np.uint8)
    for frame in range(7):
        mask = np.zeros((48, 64), np.uint8)
        mask[4:20, 4 + 4 * frame : 20 + 4 * frame] = 1
        mask[20 + 2 * frame : 32 + 2 * frame, 44:56] = 7  # numbers need not be dense
        image = np.where(mask == 1, 250, np.where(mask == 7, 130, ground)).astype(np.uint8)
        Image.fromarray(image).convert("RGB").save(tmp_path / f"JPEGImages/480p/squares/{frame:05d}.jpg", quality=95)
        if frame != 3:
            Image.fromarray(mask).save(tmp_path / f"Annotations/480p/squares/{frame:05d}.png")
    return tmp_path


def config_of(davis: Path) -> RunConfig:
    own = {"kind": "video", "name": "davis", "data": {"davis": str(davis)}, "layers": [1]}
    return tiny_config("simclr", backbone={"image_size": 48, "patch_size": 4}, evaluation=[own])


def test_squares_that_move_are_followed(davis: Path) -> None:
    config = config_of(davis)
    evaluator = VideoSegmentation(config.evaluation[0], context_of(config))
    found = evaluator.measure(0)
    assert found["video"] == pytest.approx((found["video_j"] + found["video_f"]) / 2)
    assert 0.5 < found["video_j"] < 1
    assert evaluator.outcomes[0].shape == (2,)
    (video,) = evaluator.videos
    still = [region(video.first_mask == name, video.mask(frame) == name) for name in (1, 7) for frame in (1, 2, 4, 5)]
    assert found["video_j"] > 1.1 * np.mean(still), "better than a mask that stays where it is"


def test_bad_videos_are_refused(davis: Path) -> None:
    with pytest.raises(InputError, match="data: missing; video needs videos with masks"):
        VideoSegmentation.check(VideoConfig(), context_of(tiny_config("simclr")).images)
    config = config_of(davis)
    images = context_of(config).images
    evaluator = VideoSegmentation(config.evaluation[0], context_of(config))
    (davis / "JPEGImages/480p/squares/00002.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"00002\.jpg cannot be read"):
        evaluator.measure(0)
    for frame in (1, 2, 4, 5, 6):
        (davis / f"Annotations/480p/squares/{frame:05d}.png").unlink()
    assert open_davis(davis)
    with pytest.raises(InputError, match=r"data\.davis: squares has no mask but that of the first frame"):
        VideoSegmentation.check(config.evaluation[0], images)
