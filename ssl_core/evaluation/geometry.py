"""Signals of a representation that need no labels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_core.evaluation.base import Evaluator
from ssl_core.evaluation.features import Context
from ssl_core.schema.evaluation import GeometryConfig


class Geometry(Evaluator[GeometryConfig]):
    """All of them, of `Images.measured`."""

    def __init__(self, config: GeometryConfig, context: Context):
        super().__init__(config, context)
        split = context.images.measured
        _, self.features = context.features(split, config.max_images)
        self.pairs = context.pairs(split, config.max_images)

    def measure(self, layer: int) -> dict[str, float]:
        features, pair = (x[layer].to(self.context.device) for x in (self.features, self.pairs))
        aligned, uniform = alignment(*pair), uniformity(features)
        return {
            "std": feature_std(features),
            "rankme": rankme(features),
            "alignment": aligned,
            "uniformity": uniform,
            "uniformity_ratio": -uniform / max(aligned, 1e-12),
            "alignment_ratio": negative_alignment(features) / max(aligned, 1e-12),
        }


def feature_std(features: Tensor) -> float:
    """Mean deviation of L2-normalised features (N, D), times √D: 1 is even, 0 collapsed (SimSiam, Sec. 4.1)."""
    x = F.normalize(features.float(), dim=1)
    return (x.std(dim=0).mean() * x.shape[1] ** 0.5).item()


def rankme(features: Tensor, epsilon: float = 1e-7) -> float:
    """Effective rank of features (N, D): exp of the entropy of the singular values (Garrido et al., 2023, Eq. 2)."""
    singular = torch.linalg.svdvals(features.float())
    p = singular / singular.sum().clamp(min=epsilon) + epsilon
    return torch.exp(-(p * p.log()).sum()).item()


def alignment(x: Tensor, y: Tensor) -> float:
    """Mean squared distance of positive pairs (N, D), L2-normalised here; low is close (SDSSL Eq. 7)."""
    return (F.normalize(x.float(), dim=1) - F.normalize(y.float(), dim=1)).square().sum(dim=1).mean().item()


def uniformity(features: Tensor, t: float = 2.0) -> float:
    """log mean exp(−t · squared distance) over all pairs of features (N, D); low is spread out (SDSSL Eq. 8)."""
    x = F.normalize(features.float(), dim=1)
    return torch.pdist(x).square().mul(-t).exp().mean().log().item()


def negative_alignment(features: Tensor) -> float:
    """Mean squared distance over all pairs of features (N, D); high is far apart (SDSSL Eq. 9, γ = 2)."""
    return torch.pdist(F.normalize(features.float(), dim=1)).square().mean().item()
