"""LiDAR (Thilak et al., 2024): effective rank of linear discriminant analysis, its classes the views of an image."""

import torch
from torch import Tensor

from ssl_core.data.sources.base import Images
from ssl_core.errors import InputError
from ssl_core.evaluation.base import Evaluator
from ssl_core.evaluation.features import Context
from ssl_core.schema.evaluation import LidarConfig

EPSILON = 1e-7


class Lidar(Evaluator[LidarConfig]):
    """Of val, or of train where there is none."""

    def __init__(self, config: LidarConfig, context: Context):
        super().__init__(config, context)
        split = context.images.measured
        self.views = context.views(split, config.max_images, config.views)

    @classmethod
    def check(cls, config: LidarConfig, images: Images) -> None:
        there = len(getattr(images, images.measured))
        if there < 2:
            raise InputError(f"max_images: images are compared with each other, and there is {there}")

    def measure(self, layer: int) -> dict[str, float]:
        return {"lidar": lidar(self.views[layer].to(self.context.device), self.config.delta)}


def lidar(views: Tensor, delta: float = 1e-4) -> float:
    """exp of the entropy of the eigenvalues of Σ_w^−½ Σ_b Σ_w^−½ (Sec. 4, Eq. 3 to 5).

    Σ_b is the covariance of images' means, Σ_w the mean covariance of an image's views, plus δ · I.

    Args:
        views: features (q, N, D) of q views of N images.
    """
    x = views.double()
    means = x.mean(dim=0)
    between = _covariance(means - means.mean(dim=0))
    within = _covariance((x - means).flatten(0, 1))
    within.diagonal().add_(delta)
    lower = torch.linalg.cholesky(within)
    half = torch.linalg.solve_triangular(lower, between, upper=False)
    whitened = torch.linalg.solve_triangular(lower, half.T, upper=False)  # L⁻¹ Σ_b L⁻ᵀ has the same eigenvalues
    values = torch.linalg.eigvalsh((whitened + whitened.T) / 2).clamp_min(0.0)
    p = values / values.sum().clamp_min(EPSILON) + EPSILON
    return torch.exp(-(p * p.log()).sum()).item()


def _covariance(x: Tensor) -> Tensor:
    return x.T @ x / len(x)
