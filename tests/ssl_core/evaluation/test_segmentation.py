"""Segmentation of patches: figures against scikit-learn, the choice of k, masks in the encoder's crop, bad input."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix, jaccard_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from ssl_core.data.sources.masks import IGNORE
from ssl_core.data.views import CentreView
from ssl_core.errors import InputError
from ssl_core.evaluation.segmentation import (
    Segmentation,
    choose_k,
    confusion_of,
    ious,
    nearest_patches,
    patch_classes,
    segment,
)
from ssl_core.schema.evaluation import SegmentationConfig
from ssl_core.schema.run import RunConfig
from tests.conftest import tiny_config
from tests.ssl_core.evaluation.pictured import context_of


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_ious_are_sklearns() -> None:
    generator = np.random.default_rng(0)
    truth, predicted = generator.integers(0, 4, 500), generator.integers(0, 4, 500)
    truth[:60] = IGNORE
    predicted[truth == 2] = 2
    found = confusion_of(torch.from_numpy(predicted), torch.from_numpy(truth), 5)
    assert np.array_equal(found, confusion_matrix(truth[60:], predicted[60:], labels=range(5)))
    values = ious(found)
    assert values[:4].tolist() == pytest.approx(jaccard_score(truth[60:], predicted[60:], average=None).tolist())
    assert values[4].isnan(), "a class that is nowhere is not measured"


def test_scores_of_nearest_patches_are_sklearns() -> None:
    bank, queries = (torch.nn.functional.normalize(random(n, 6, seed=n), dim=1) for n in (60, 11))
    labels = torch.arange(60) % 3
    weights = lambda distances: np.exp((1 - distances**2 / 2) / 0.2)  # noqa: E731
    peer = KNeighborsClassifier(7, weights=weights).fit(bank, labels)
    found = nearest_patches(3 * bank, labels, 3, 7, 0.2)(5 * queries)
    assert found.numpy() == pytest.approx(peer.predict_proba(queries), abs=1e-5)


def test_a_patch_is_of_the_class_of_most_of_its_pixels() -> None:
    mask = torch.zeros(8, 8, dtype=torch.int64)
    mask[:4, 5:] = 2  # twelve of sixteen
    mask[4:, :1] = 1
    mask[4:, 4:] = IGNORE
    assert patch_classes(mask, 2, 3).tolist() == [0, 2, 0, IGNORE]
    scores = torch.nn.functional.one_hot(torch.tensor([0, 2, 1, 1]), 3).float()
    found = segment(scores, 8)
    assert [found[0, 0], found[0, -1], found[-1, 0], found[-1, -1]] == [0, 2, 1, 1]


def test_k_is_chosen_on_images_held_out() -> None:
    """Patches of an image are near each other, and its label may be wrong: k = 1 would be right if they were split."""
    image = np.repeat(np.arange(60), 6)
    classes = torch.arange(60) % 2
    wrong = torch.rand(60, generator=torch.Generator().manual_seed(1)) < 0.3
    labels = torch.where(wrong, 1 - classes, classes).repeat_interleave(6)
    means = 3.0 * torch.nn.functional.one_hot(classes, 4) + random(60, 4)
    patches = means.repeat_interleave(6, dim=0) + 1e-3 * random(360, 4, seed=2)
    assert choose_k(SegmentationConfig(k=(1, 100)), patches, labels, image, 2) == 100
    assert choose_k(SegmentationConfig(k=(3,)), patches, labels, image, 2) == 3


@pytest.mark.parametrize("size", [(40, 24), (24, 24), (3, 90)])
def test_a_mask_is_cropped_as_its_image(size: tuple[int, int]) -> None:
    numbers = np.zeros(size[::-1], np.uint8)
    numbers[:, size[0] // 2 :] = 200
    numbers[size[1] // 3 :] += 5
    image, mask = (CentreView(16, mask=mask)(Image.fromarray(numbers)) for mask in (False, True))
    assert set(np.unique(mask)) <= set(np.unique(numbers)), "numbers are not mixed"
    assert (np.abs(np.asarray(image).astype(int) - np.asarray(mask)) < 100).mean() > 0.93


@pytest.fixture
def squares(tmp_path: Path) -> dict[str, str]:
    """Bright squares on dark ground, with their masks, in folders of train and val."""
    for split, count in (("train", 12), ("val", 5)):
        for number in range(count):
            generator = np.random.default_rng((split == "val", number))
            top, left = generator.integers(2, 16, 2)
            mask = np.zeros((32, 32), np.uint8)
            mask[top : top + 14, left : left + 14] = 1
            image = generator.integers(0, 60, (32, 32, 3), dtype=np.uint8) + 180 * mask[..., None]
            mask[:2] = IGNORE
            for kind, pixels in (("images", image), ("masks", mask)):
                file = tmp_path / split / kind / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(file)
    own = {f"{split}_masks": str(tmp_path / split / "masks") for split in ("train", "val")}
    return own | {split: str(tmp_path / split / "images") for split in ("train", "val")}


def config_of(data: dict[str, str], **settings: object) -> RunConfig:
    own = {"kind": "segmentation", "name": "squares", "data": data, "k": [1, 5], **settings}
    return tiny_config("simclr", backbone={"image_size": 32, "patch_size": 4}, evaluation=[own])


def test_bright_squares_are_found_in_every_layer_asked_for(squares: dict[str, str]) -> None:
    config = config_of(squares, layers=[1, 3], max_patches=500)
    evaluator = Segmentation(config.evaluation[0], context_of(config))
    found = evaluator.measure(0)
    assert 0.6 < found["segmentation"] <= 1
    assert 0.6 < found["segmentation_knn"] <= 1
    assert found == Segmentation(config.evaluation[0], context_of(config)).measure(0)
    (axis,) = evaluator.pictures()["classes"].axes
    assert len(axis.patches) == 4, "two classes, two ways"
    patches, labels, image = evaluator._bank(1)
    assert np.bincount(image).max() <= 500 // 12
    assert len(patches) == len(labels) == len(image)


def test_the_choice_does_not_see_val(squares: dict[str, str]) -> None:
    config = config_of(squares)
    first = Segmentation(config.evaluation[0], context_of(config))
    found = first.measure(2)
    for file in Path(squares["val_masks"]).iterdir():
        Image.fromarray(np.random.default_rng(0).integers(0, 2, (32, 32), dtype=np.uint8)).save(file)
    other = Segmentation(config.evaluation[0], context_of(config))
    assert other.measure(2) != found
    assert other.chosen_k == first.chosen_k


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (None, "^data: missing; segmentation needs images and masks"),
        ({"val": None}, r"^data\.val: missing; with train_masks, name val and val_masks too"),
        ({"train": "/nowhere"}, r"^data\.train: /nowhere is no folder"),
        ({"classes": 1}, r"^data\.train: .*class 1, expected 0 to 0"),
    ],
)
def test_bad_data_is_refused(squares: dict[str, str], change: dict | None, text: str) -> None:
    own = SegmentationConfig() if change is None else SegmentationConfig(name="x", data=squares | change)
    with pytest.raises(InputError, match=text):
        Segmentation.check(own, context_of(tiny_config("simclr")).images)
