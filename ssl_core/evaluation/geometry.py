"""Signals of a representation that need no labels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_core.evaluation.base import Evaluator
from ssl_core.evaluation.features import Context
from ssl_core.schema.evaluation import GeometryConfig

NOTHING = 1e-10  # of the largest variance: what features in single precision are known to


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
            **spectrum(features),
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


def spectrum(features: Tensor) -> dict[str, float]:
    """What the variances λ₁ ≥ λ₂ ≥ … of features (N, D) along their principal axes say.

    Returns:
        `alpha_req`: α of λ_i ∝ i^−α, by least squares in logarithms (Agrawal et al., 2022, Sec. 2): near 1 is even
        and smooth, far above 1 are few directions, far below it all alike. `stable_rank`: Σ λ_i / λ₁.
    """
    x = features.double() - features.double().mean(dim=0)
    variances = torch.linalg.svdvals(x).square()
    first = variances[0].item()
    if first <= 0.0:
        return {"alpha_req": 0.0, "stable_rank": 0.0}
    kept = variances[variances > NOTHING * first]  # less is rounding of features
    place, height = torch.arange(1, len(kept) + 1, device=x.device).double().log(), kept.log()
    place, height = place - place.mean(), height - height.mean()
    alpha = 0.0 if len(kept) < 2 else -(place @ height / place.square().sum()).item()
    return {"alpha_req": alpha, "stable_rank": variances.sum().item() / first}


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
