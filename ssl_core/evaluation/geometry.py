"""Signals of a representation that need no labels: pure functions of features."""

import torch
import torch.nn.functional as F
from torch import Tensor


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
