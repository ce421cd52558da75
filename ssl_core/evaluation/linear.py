"""A linear probe: multinomial logistic regression on frozen features, trained to its optimum."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_core.evaluation.base import Classifies
from ssl_core.schema.evaluation import LinearConfig
from ssl_core.seeds import Use, derive_seed

STEPS = 200  # of L-BFGS, at most
SMALLEST = 1e-6  # deviation of a feature that says nothing
LOGITS = 1 << 27  # of images × classes, at most, for the solver that sees all at once; it holds four such tensors
LOGITS_AT_ONCE = 1 << 24  # of the solver in batches, and of predictions
BATCH, EPOCHS, LEAST_STEPS = 4096, 10, 500  # of the solver in batches


class LinearProbe(Classifies[LinearConfig]):
    chosen_by = "l2"

    def measure(self, layer: int) -> dict[str, float]:
        return self.classify(layer, "linear", linear_predict)


def linear_predict(queries: Tensor, bank: Tensor, bank_labels: Tensor, classes: int, l2: float = 1e-3) -> Tensor:
    """The class of each query (B,) by the linear classifier that fits `bank` best, as `fit_linear` has it."""
    logits = fit_linear(bank, bank_labels, classes, l2)
    return torch.cat([logits(part).argmax(dim=1) for part in queries.split(max(1, LOGITS_AT_ONCE // classes))])


def fit_linear(bank: Tensor, bank_labels: Tensor, classes: int, l2: float = 1e-3) -> Callable[[Tensor], Tensor]:
    """The linear classifier that fits `bank` best: features (B, D) → logits (B, classes).

    It minimises mean cross-entropy + l2 / 2 · ‖weights‖² on features that have mean 0 and deviation 1 in the bank;
    scikit-learn's `LogisticRegression(C=1 / (l2 · N))` has the same optimum. No image is augmented. Nothing is random
    where all logits can be held at once; else the optimum is approached in batches.

    Args:
        bank: (N, D).
        bank_labels: (N,) int64.
    """
    mean, deviation = bank.float().mean(dim=0), bank.float().std(dim=0, correction=0).clamp_min(SMALLEST)
    if len(bank) * classes <= LOGITS:
        weight, bias = optimum((bank.float() - mean) / deviation, bank_labels, classes, l2)
    else:
        weight, bias = near_optimum(bank, bank_labels, classes, l2, mean, deviation)

    @torch.no_grad()
    def logits(queries: Tensor) -> Tensor:
        return F.linear((queries.float() - mean) / deviation, weight, bias)

    return logits


def optimum(x: Tensor, labels: Tensor, classes: int, l2: float) -> tuple[Tensor, Tensor]:
    """Weight (C, D) and bias (C,) of the classifier that fits standardised features (N, D) best, by L-BFGS."""
    weight = torch.zeros(classes, x.shape[1], device=x.device, requires_grad=True)
    bias = torch.zeros(classes, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=STEPS, tolerance_grad=1e-5, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(x, weight, bias), labels) + l2 / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(objective)
    return weight.detach(), bias.detach()


@torch.no_grad()
def near_optimum(
    bank: Tensor, labels: Tensor, classes: int, l2: float, mean: Tensor, deviation: Tensor
) -> tuple[Tensor, Tensor]:
    """The same to within a small gap, in batches: no memory beyond a batch's grows with the images.

    Gradient descent, preconditioned by what the objective's curvature is where nothing is known but how frequent a
    class is: p(1 − p) times the features' covariance, which is diagonal along its own directions, plus l2. The steps
    become shorter by a cosine, until the batches' noise is gone.

    Args:
        bank: features (N, D) as they are; `mean` and `deviation` (D,) standardise them.
        labels: (N,) int64.

    Returns:
        Weight (C, D) and bias (C,), for standardised features.
    """
    variances, directions = _directions(bank, mean, deviation)
    frequent = torch.bincount(labels, minlength=classes).float().clamp_min(1) / len(labels)
    curvature = (frequent * (1 - frequent)).clamp_min(1 / len(labels))
    pace = 1 / (curvature[:, None] * variances + l2)
    weight, bias = torch.zeros_like(pace), frequent.log()
    draws = torch.Generator().manual_seed(derive_seed(Use.PROBE))
    size = min(BATCH, max(1, LOGITS_AT_ONCE // classes))
    steps = max(LEAST_STEPS, EPOCHS * -(-len(bank) // size))
    step = 0
    while step < steps:
        for rows in torch.randperm(len(bank), generator=draws).split(size)[: steps - step]:
            rows = rows.to(bank.device)
            x = ((bank[rows].float() - mean) / deviation) @ directions
            wrong = F.linear(x, weight, bias).softmax(dim=1)
            wrong[torch.arange(len(rows), device=bank.device), labels[rows]] -= 1
            length = 0.25 * (1 + math.cos(math.pi * step / steps))
            weight -= length * pace * (wrong.T @ x / len(rows) + l2 * weight)
            bias -= length / curvature * wrong.mean(dim=0)
            step += 1
    return weight @ directions.T, bias


def _directions(bank: Tensor, mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
    """Variances (D,) of standardised features along the axes of their covariance, and these axes (D, D), a column each.

    None is less than a millionth of the largest: along such an axis there is nothing but rounding.
    """
    covariance = torch.zeros(bank.shape[1], bank.shape[1], device=bank.device)
    for part in bank.split(1 << 14):
        x = (part.float() - mean) / deviation
        covariance += x.T @ x / len(bank)
    variances, directions = torch.linalg.eigh(covariance)
    return variances.clamp_min(1e-6 * max(variances[-1].item(), SMALLEST)), directions
