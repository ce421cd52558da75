"""Segmentation by frozen patch tokens: each patch is classified, by a linear map or by the nearest patches of train.

The protocol of CAPI and DINOv2. A patch's class in train is the one that most of its pixels have. Classes of patches
are made as large as the image, bilinearly, and measured by every pixel of the crop that the encoder sees. The k of k-NN
is chosen on a fifth of train's images.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ssl_core.data.sources.base import Images, Source
from ssl_core.data.sources.masks import IGNORE, MaskedImages, open_masks
from ssl_core.data.views import CentreView
from ssl_core.errors import InputError
from ssl_core.evaluation.base import Evaluator
from ssl_core.evaluation.features import Context, chosen
from ssl_core.evaluation.linear import fit_linear
from ssl_core.evaluation.splits import held_out
from ssl_core.networks.layers import Want
from ssl_core.schema.evaluation import SegmentationConfig
from ssl_core.schema.evaluation.dense import MasksConfig
from ssl_core.search import top_k
from ssl_core.seeds import Use, derive_seed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUERIES = 4096  # patches at once; bounds memory
FEWEST = 2  # images of train: one to fit to, one to choose on

Predict = Callable[[Tensor], Tensor]
"""Patch features (P, D) → scores of classes (P, C)."""


class ImagesOf(Source):
    """The images of pairs of image and mask."""

    def __init__(self, pairs: MaskedImages):
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> Image.Image:
        return self.pairs.image(index)

    def where(self, index: int) -> str:
        return self.pairs.where(index)


class Segmentation(Evaluator[SegmentationConfig]):
    def __init__(self, config: SegmentationConfig, context: Context):
        super().__init__(config, context)
        self.train, self.val = _open(config)
        self.classes = self.train.classes
        own = Images(ImagesOf(self.train), ImagesOf(self.val))
        self.looking = Context(
            context.look, context.encoder, own, context.config, context.device, context.loaders, tell=context.tell
        )
        self.per_class: dict[int, dict[str, np.ndarray]] = {}
        self.chosen_k: dict[int, int] = {}

    @classmethod
    def check(cls, config: SegmentationConfig, images: Images) -> None:
        _open(config)

    def measure(self, layer: int) -> dict[str, float]:
        patches, labels, image = self._bank(layer + 1)
        device = self.context.device
        labels = labels.to(device)
        k = self.chosen_k[layer] = choose_k(self.config, patches.to(device), labels, image, self.classes)
        classifiers: dict[str, Predict] = {
            "segmentation": fit_linear(patches.to(device), labels, self.classes, self.config.l2),
            "segmentation_knn": nearest_patches(patches.to(device), labels, self.classes, k, self.config.temperature),
        }
        confusion = {name: torch.zeros(self.classes, self.classes, dtype=torch.int64) for name in classifiers}
        for tokens, mask in self._patches("val", self.config.max_val, layer + 1):
            for name, predict in classifiers.items():
                scores = torch.cat([predict(part) for part in tokens.split(QUERIES)])
                confusion[name] += confusion_of(segment(scores, mask.shape[0]).cpu(), mask, self.classes)
        self.per_class[layer] = {name: ious(matrix).numpy() for name, matrix in confusion.items()}
        return {name: float(np.nanmean(values)) for name, values in self.per_class[layer].items()}

    def pictures(self) -> dict[str, "Figure"]:
        from ssl_core.pictures.layers import class_picture

        if not self.per_class:
            return {}
        last = max(self.per_class)
        names = {"segmentation": "linear", "segmentation_knn": f"k-NN, k = {self.chosen_k[last]}"}
        values = {names[name]: value for name, value in self.per_class[last].items()}
        return {"classes": class_picture(values, f"IoU of every class, layer {last + 1}")}

    def _bank(self, layer: int) -> tuple[Tensor, Tensor, np.ndarray]:
        """Patches of train (N, D) that have a class, their classes (N,), and which image each is of (N,)."""
        count = min(self.config.max_train, len(self.train))
        share = max(1, self.config.max_patches // count)
        features, labels, image = [], [], []
        for number, (tokens, mask) in enumerate(self._patches("train", count, layer)):
            of_patches = patch_classes(mask, round(len(tokens) ** 0.5), self.classes)
            rows = np.flatnonzero(of_patches.numpy() != IGNORE)
            generator = np.random.default_rng(derive_seed(Use.PATCHES, number))
            rows = np.sort(generator.permutation(rows)[:share])
            features.append(tokens[torch.from_numpy(rows)].cpu())
            labels.append(of_patches[torch.from_numpy(rows)])
            image.append(np.full(len(rows), number))
        found = torch.cat(labels)
        if not len(found):
            raise InputError(f"evaluation: {self.config.named('segmentation')}: no patch of train is of any class")
        return torch.cat(features), found, np.concatenate(image)

    def _patches(self, split: str, limit: int, layer: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Patch features (P, D) and the mask (H, W) int64 of each image that can be decoded, as the encoder sees it."""
        pairs = self.train if split == "train" else self.val
        indices = chosen(getattr(self.looking.images, split), limit)
        view = CentreView(self.context.config.backbone.image_size, mask=True)
        done = 0
        for used, _, found in self.looking.batches(split, indices, Want(patches=(layer,))):
            asked = indices[done : done + len(used)]
            done += len(used)
            for index, wanted, tokens in zip(used, asked, found.patches[layer].float(), strict=True):
                if index == wanted:  # another image stands in for a broken one
                    mask = np.asarray(view(pairs.mask(int(index))))
                    yield tokens, torch.from_numpy(mask.astype(np.int64))


def choose_k(config: SegmentationConfig, patches: Tensor, labels: Tensor, image: np.ndarray, classes: int) -> int:
    """The k of `config` whose mIoU is the best for patches (N, D) of a part of train's images, by those of the rest.

    Args:
        image: (N,) which image each patch is of.
    """
    there = np.unique(image)
    if len(config.k) == 1 or len(there) < FEWEST:
        return config.k[0]
    choose = there[held_out(np.zeros(len(there), np.int64))[1]]
    asked = torch.from_numpy(np.isin(image, choose)).to(patches.device)
    found = {}
    for k in config.k:
        predict = nearest_patches(patches[~asked], labels[~asked], classes, k, config.temperature)
        predictions = torch.cat([predict(part).argmax(dim=1) for part in patches[asked].split(QUERIES)])
        found[k] = ious(confusion_of(predictions.cpu(), labels[asked].cpu(), classes)).nanmean().item()
    return max(found, key=lambda k: found[k])


def nearest_patches(bank: Tensor, labels: Tensor, classes: int, k: int, temperature: float) -> Predict:
    """A patch's score of a class: the share of the votes of its k nearest patches of `bank` (N, D) by cosine
    similarity, each weighing exp(cos / temperature)."""
    bank = F.normalize(bank.float(), dim=1)

    def predict(queries: Tensor) -> Tensor:
        similarities, rows = top_k(F.normalize(queries.float(), dim=1), bank, min(k, len(bank)))
        votes = torch.zeros(len(queries), classes, device=queries.device)
        return votes.scatter_add_(1, labels[rows], (similarities / temperature).softmax(dim=1))

    return predict


def patch_classes(mask: Tensor, side: int, classes: int) -> Tensor:
    """The class (side², ) that most pixels of each patch of a square mask (H, H) have; IGNORE where most have none."""
    known = torch.where(mask < classes, mask, classes)
    shares = F.one_hot(known, classes + 1).permute(2, 0, 1)[None].float()
    found = F.adaptive_avg_pool2d(shares, side)[0].flatten(1).argmax(dim=0)
    return torch.where(found == classes, IGNORE, found)


def segment(scores: Tensor, size: int) -> Tensor:
    """Classes (size, size) of pixels by the scores (side², C) of patches, interpolated bilinearly."""
    side = round(len(scores) ** 0.5)
    maps = scores.T.unflatten(1, (side, side))[None]
    return F.interpolate(maps, size=(size, size), mode="bilinear", align_corners=False)[0].argmax(dim=0)


def confusion_of(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """(C, C) how many of each true class (rows) were taken for each; those of no class are left out."""
    counted = truth < classes
    pairs = truth[counted] * classes + predicted[counted]
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)


def ious(confusion: Tensor) -> Tensor:
    """Intersection over union of each class (C,) float64; NaN for one that is not there, and was never predicted."""
    right = confusion.diagonal().double()
    return right / (confusion.sum(dim=0) + confusion.sum(dim=1) - right)


def _open(config: SegmentationConfig) -> tuple[MaskedImages, MaskedImages]:
    """Train and val.

    Raises:
        InputError: none are named, they cannot be read, or their classes differ.
    """
    if config.data is None:
        raise InputError("data: missing; segmentation needs images and masks: {train: FOLDER, …}, and a name")
    return _opened(config.data)


@lru_cache(maxsize=8)  # all masks may have to be read to know how many classes there are
def _opened(data: MasksConfig) -> tuple[MaskedImages, MaskedImages]:
    if data.train_masks is not None and (data.val is None or data.val_masks is None):
        raise InputError("data.val: missing; with train_masks, name val and val_masks too")
    train = _open_one(data, "train", data.train, data.train_masks)
    val = _open_one(data, "val", data.val or data.train, data.val_masks)
    if len(train) < FEWEST:
        raise InputError(f"data.train: {len(train)} image; segmentation needs {FEWEST}, one of them to choose k on")
    if val.classes > train.classes:
        raise InputError(
            f"data.val: class {val.classes - 1} in its masks, and train has classes 0 to {train.classes - 1}; if "
            "that is meant, set data.classes"
        )
    return train, val


def _open_one(data: MasksConfig, split: str, images: str, masks: str | None) -> MaskedImages:
    try:
        return open_masks(Path(images), split, None if masks is None else Path(masks), data.classes)
    except InputError as error:
        raise InputError(f"data.{split}: {error}") from error
