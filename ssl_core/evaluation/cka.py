"""Linear CKA of layers: how alike their features are, whatever their width, rotation and scale (SDSSL, Fig. 6).

Kornblith et al., 2019, with the unbiased HSIC of Song et al., 2012, as Nguyen et al., 2021, Eq. 3, use it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssl_core import distributed
from ssl_core.data.sources.base import Images
from ssl_core.errors import InputError
from ssl_core.evaluation.base import Evaluator
from ssl_core.evaluation.features import Context
from ssl_core.evaluation.metrics import layers_measured
from ssl_core.schema.evaluation import CkaConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST = 4  # images that the unbiased HSIC is defined for
NOTHING = 1e-12  # of the features' fourth moment: an HSIC with itself below this is rounding


class Cka(Evaluator[CkaConfig]):
    """Of every two layers, of val's images, or of train's where there is no val."""

    def __init__(self, config: CkaConfig, context: Context):
        super().__init__(config, context)
        self.layers = layers_measured(config, context.depth)
        if len(self.layers) < 2:
            raise InputError(f"evaluation: layers of {config.named('cka')}: two layers at least can be compared")
        split = context.images.measured
        wanted = [layer - 1 for layer in self.layers]
        _, features = context.features(split, config.max_images, on_rank_0=wanted)
        if distributed.rank() == 0:
            own = [features[layer].to(context.device) for layer in wanted]
            self.matrix = cka_matrix(own, own).cpu()

    @classmethod
    def check(cls, config: CkaConfig, images: Images) -> None:
        count = len(getattr(images, images.measured))
        if count < FEWEST:
            raise InputError(
                f"cka needs {FEWEST} images at least, in val or, where there is none, in train; got {count}"
            )

    def whole(self) -> dict[str, float]:
        return {"cka_neighbours": self.matrix.diagonal(1).mean().item(), "cka_ends": self.matrix[0, -1].item()}

    def pictures(self) -> dict[str, "Figure"]:
        from ssl_core.pictures.layers import cka_picture

        names = [str(layer) for layer in self.layers]
        return {"layers": cka_picture(self.matrix.numpy(), names, names, "linear CKA of every two layers")}


def cka_matrix(features_a: Sequence[Tensor], features_b: Sequence[Tensor]) -> Tensor:
    """Linear CKA of every layer of one network with every layer of another, or of the same.

    It is near 0 for features that have nothing in common (and may lie a little below, because it is unbiased), 1 for
    features that are the same up to rotation, shift and scale. A layer that says the same of all images has 0 with all.

    Args:
        features_a, features_b: (N, D_l) each, of the same N images in the same order.

    Returns:
        (La, Lb) float64.

    Raises:
        ValueError: fewer than four images, or not as many in both.
    """
    counts = {len(x) for x in (*features_a, *features_b)}
    if len(counts) != 1 or min(counts) < FEWEST:
        raise ValueError(f"CKA compares layers on the same images, {FEWEST} at least; got {sorted(counts)}")
    first = [_centred(x) for x in features_a]
    same = features_a is features_b
    second = first if same else [_centred(x) for x in features_b]
    own_a = [_own(x) for x in first]
    own_b = own_a if same else [_own(x) for x in second]
    found = torch.zeros(len(first), len(second), dtype=torch.float64)
    for row, (x, own_x) in enumerate(zip(first, own_a, strict=True)):
        for column, (y, own_y) in enumerate(zip(second, own_b, strict=True)):
            if same and column < row:
                found[row, column] = found[column, row]
            elif own_x > 0 and own_y > 0:
                shared = own_x if x is y else unbiased_hsic(x, y)
                found[row, column] = shared / (own_x * own_y) ** 0.5
    return found


def unbiased_hsic(x: Tensor, y: Tensor) -> float:
    """The unbiased HSIC (Song et al., 2012, Eq. 5) of the linear kernels XXᵀ and YYᵀ of features (N, D) and (N, E).

    With K and L for the kernels without their diagonals it is
    [tr(KL) + (1ᵀK1)(1ᵀL1) / (N−1)(N−2) − 2 · 1ᵀKL1 / (N−2)] / N(N−3). All of it follows from XᵀY and from sums over
    images, so no N × N matrix is needed, and none of minibatches.
    """
    n = len(x)
    a, b = x.square().sum(dim=1), y.square().sum(dim=1)  # the diagonals
    k1, l1 = x @ x.sum(dim=0) - a, y @ y.sum(dim=0) - b
    trace = _squared_norm_of_product(x, y) - a @ b
    value = trace + k1.sum() * l1.sum() / ((n - 1) * (n - 2)) - 2.0 * (k1 @ l1) / (n - 2)
    return (value / (n * (n - 3))).item()


def _squared_norm_of_product(x: Tensor, y: Tensor) -> Tensor:
    """‖XᵀY‖², the smaller way round: over features, or over images."""
    if len(x) < max(x.shape[1], y.shape[1]):
        return ((x @ x.T) * (y @ y.T)).sum()
    return (x.T @ y).square().sum()


def _own(x: Tensor) -> float:
    """The HSIC of features with themselves; 0 where they say the same of all images, up to rounding."""
    found, scale = unbiased_hsic(x, x), x.square().sum(dim=1).mean().item() ** 2
    return found if found > NOTHING * scale else 0.0


def _centred(x: Tensor) -> Tensor:
    """In float64 around their mean and of length 1 on average, which changes no CKA, and keeps sums exact."""
    x = x.double()
    centred = x - x.mean(dim=0)
    length = centred.square().sum(dim=1).mean().sqrt()
    size = x.square().sum(dim=1).mean().sqrt()
    return centred / length if length > 1e-7 * size else torch.zeros_like(x)
