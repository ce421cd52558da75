"""A linear probe: multinomial logistic regression on frozen features, trained to its optimum."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_core.evaluation.base import Classifies
from ssl_core.schema.evaluation import LinearConfig

STEPS = 200  # of L-BFGS, at most
SMALLEST = 1e-6  # deviation of a feature that says nothing


class LinearProbe(Classifies[LinearConfig]):
    def measure(self, layer: int) -> dict[str, float]:
        return {"linear": self.accuracy(layer, linear_predict, self.config.l2)}


def linear_predict(queries: Tensor, bank: Tensor, bank_labels: Tensor, classes: int, l2: float = 1e-3) -> Tensor:
    """The class of each query (B,) by the linear classifier that fits `bank` best, as `fit_linear` has it."""
    return fit_linear(bank, bank_labels, classes, l2)(queries).argmax(dim=1)


def fit_linear(bank: Tensor, bank_labels: Tensor, classes: int, l2: float = 1e-3) -> Callable[[Tensor], Tensor]:
    """The linear classifier that fits `bank` best: features (B, D) → logits (B, classes).

    It minimises mean cross-entropy + l2 / 2 · ‖weights‖² on features that have mean 0 and deviation 1 in the bank;
    scikit-learn's `LogisticRegression(C=1 / (l2 · N))` has the same optimum. Nothing is random, and no image augmented.

    Args:
        bank: (N, D).
        bank_labels: (N,) int64.
    """
    mean, deviation = bank.float().mean(dim=0), bank.float().std(dim=0, correction=0).clamp_min(SMALLEST)
    bank = (bank.float() - mean) / deviation
    weight = torch.zeros(classes, bank.shape[1], device=bank.device, requires_grad=True)
    bias = torch.zeros(classes, device=bank.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=STEPS, tolerance_grad=1e-5, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(bank, weight, bias), bank_labels) + l2 / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(objective)

    @torch.no_grad()
    def logits(queries: Tensor) -> Tensor:
        return F.linear((queries.float() - mean) / deviation, weight, bias)

    return logits
