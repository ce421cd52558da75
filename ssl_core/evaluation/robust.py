"""Accuracy under corruptions: blur, noise, JPEG and low contrast, each in three strengths.

They are those of ImageNet-C (Hendrycks and Dietterich, 2019), severities 1, 3 and 5, made here of any images.
"""

import io
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from ssl_core.data.loading import EvalImages, Item, read_or_replace
from ssl_core.data.sources.base import Images, Source
from ssl_core.data.views import NOMINAL_SIZE, to_tensor
from ssl_core.errors import InputError
from ssl_core.evaluation.base import Evaluator, own_layers
from ssl_core.evaluation.features import Context, chosen_labels, once_labelled
from ssl_core.evaluation.knn import knn_predict
from ssl_core.evaluation.linear import linear_predict
from ssl_core.schema.evaluation import RobustConfig
from ssl_core.seeds import Use, derive_seed

STRENGTHS: dict[str, tuple[float, float, float]] = {
    "blur": (1.0, 3.0, 6.0),  # sigma in pixels, at 224 px
    "noise": (0.08, 0.18, 0.38),  # deviation, of white
    "jpeg": (25, 15, 7),  # quality
    "contrast": (0.4, 0.2, 0.05),  # what is left of it
}
WAYS = [(kind, strength) for kind, strengths in STRENGTHS.items() for strength in strengths]


class Robust(Evaluator[RobustConfig]):
    def __init__(self, config: RobustConfig, context: Context):
        super().__init__(config, context)
        train, val = context.images.train, context.images.val
        assert val is not None and val.labels is not None and train.labels is not None, "only such are due"  # noqa: PT018
        self.classes = len(train.classes)
        self.bank, self.bank_labels = context.labelled("train", config.max_train)
        rows, own = context.chosen("val", config.max_val, labelled=True), own_layers(config, context)
        backbone = context.config.backbone
        self.queries: dict[int, list[Tensor]] = {layer: [] for layer in own}
        for number, (kind, strength) in enumerate(WAYS):
            images = Corrupted(val, backbone.image_size, backbone.channels, kind, strength, config.seed)
            ids, features = context.of("val", images, rows.tolist())
            kept = once_labelled(ids, val.labels)
            self.labels = val.labels[ids[kept]]
            for layer in own:
                self.queries[layer].append(features[layer][torch.from_numpy(kept)])
            context.tell("corrupting", number + 1, len(WAYS))

    @classmethod
    def check(cls, config: RobustConfig, images: Images) -> None:
        classes = len(np.unique(chosen_labels(images.train, config.max_train)))
        if classes < 2:
            raise InputError(f"data.train: its labelled images are of {classes} class; expected two or more")

    def measure(self, layer: int) -> dict[str, float]:
        config = self.config
        knn = self._right(layer, partial(knn_predict, k=config.k, temperature=config.temperature))
        linear = self._right(layer, partial(linear_predict, l2=config.l2))
        self.outcomes[layer] = knn.mean(axis=0)
        return _by_kind("robust_knn", knn) | _by_kind("robust_linear", linear)

    def _right(self, layer: int, predict: Callable[..., Tensor]) -> np.ndarray:
        """Whether each image is known in each of the ways, (ways, N); classifiers are fitted once."""
        device = self.context.device
        queries = torch.cat(self.queries[layer]).to(device)
        bank, labels = self.bank[layer].to(device), torch.from_numpy(self.bank_labels).to(device)
        predicted = predict(queries, bank, labels, self.classes).cpu().numpy()
        return predicted.reshape(len(WAYS), -1) == self.labels


class Corrupted(EvalImages):
    """index → the fixed crop of an image, corrupted; noise is drawn by seed, image and strength."""

    def __init__(self, source: Source, image_size: int, channels: int, kind: str, strength: float, seed: int):
        super().__init__(source, image_size, channels)
        self.kind, self.strength, self.seed = kind, strength, seed

    def __getitem__(self, index: int) -> Item:
        image, index, broken = read_or_replace(self.source, index, self.channels)
        drawn = derive_seed(Use.CORRUPTIONS, self.seed, index, WAYS.index((self.kind, self.strength)))
        corrupted = corrupt(self.view(image), self.kind, self.strength, drawn)
        return Item(index, index, {"global": to_tensor(corrupted)[None]}, broken)


def corrupt(image: Image.Image, kind: str, strength: float, seed: int) -> Image.Image:
    """A grey or RGB image, corrupted in a way that `STRENGTHS` names; `seed` is the noise's."""
    if kind == "blur":
        return image.filter(ImageFilter.GaussianBlur(strength * image.width / NOMINAL_SIZE))
    if kind == "jpeg":
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(strength))
        return Image.open(file).convert(image.mode)
    x = np.asarray(image).astype(np.float64)
    if kind == "noise":
        x = x + 255 * strength * np.random.default_rng(seed).normal(size=x.shape)
    else:
        mean = x.mean(axis=(0, 1), keepdims=True)  # of each channel
        x = (x - mean) * strength + mean
    return Image.fromarray(x.round().clip(0, 255).astype(np.uint8))


def _by_kind(name: str, right: np.ndarray) -> dict[str, float]:
    """The mean of all ways (ways, N), and that of each kind of corruption."""
    found = {name: float(right.mean())}
    for kind in STRENGTHS:
        found[f"{name}_{kind}"] = float(right[[way == kind for way, _ in WAYS]].mean())
    return found
