"""Low-shot classification by ridge regression in closed form: the protocol of big_vision's `fewshot_lsr`.

Features have mean 0 and deviation 1 in the few images, a constant stands for the bias, targets are ±1, and
W = (XᵀX + l2 · I)⁻¹ XᵀY. Here the weight of the squared weights is chosen, on images of train that none is drawn from.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from ssl_core.data.sources.base import Images
from ssl_core.errors import InputError
from ssl_core.evaluation.base import Evaluator
from ssl_core.evaluation.features import Context, chosen_labels
from ssl_core.evaluation.splits import held_out, per_class, smallest_class
from ssl_core.schema.evaluation import LowshotConfig

SHOTS: tuple[int, ...] = (1, 2, 5, 10, 25)
BIAS = 100.0  # the constant: so large that its weight is hardly held back
SMALLEST = 1e-5  # added to deviations


class Lowshot(Evaluator[LowshotConfig]):
    def __init__(self, config: LowshotConfig, context: Context):
        super().__init__(config, context)
        self.bank, self.bank_labels = context.labelled("train", config.max_train)
        self.queries, self.labels = context.labelled("val", config.max_val)
        self.shots = possible(config, self.bank_labels)
        self.classes = len(context.images.train.classes)
        self.drawn_from, self.choose = held_out(self.bank_labels, seed=config.seed)
        self.chosen: dict[int, dict[int, float]] = {}

    @classmethod
    def check(cls, config: LowshotConfig, images: Images) -> None:
        possible(config, chosen_labels(images.train, config.max_train))

    def measure(self, layer: int) -> dict[str, float]:
        device = self.context.device
        bank, queries = self.bank[layer].to(device), self.queries[layer].to(device)
        bank_labels, labels = (torch.from_numpy(x).to(device) for x in (self.bank_labels, self.labels))
        choose = torch.from_numpy(self.choose).to(device)
        found, fared, self.chosen[layer] = {}, [], {}
        for shots in self.shots:
            rows = [torch.from_numpy(self.draw(shots, draw)).to(device) for draw in range(self.config.draws)]
            ridges = [Ridge(bank[row], bank_labels[row], self.classes) for row in rows]
            l2 = best_l2(ridges, bank[choose], bank_labels[choose], self.config.l2)
            right = torch.stack([(ridge.predict(queries, l2) == labels).float() for ridge in ridges])
            fared.append(right.mean(dim=0))
            accuracies = right.mean(dim=1).double().cpu().numpy()
            found[f"lowshot_{shots}"] = float(accuracies.mean())
            if len(accuracies) > 1:
                found[f"lowshot_{shots}_interval"] = interval(accuracies)
            self.chosen[layer][shots] = l2
        self.outcomes[layer] = torch.stack(fared).mean(dim=0).cpu().numpy()
        return {"lowshot": float(self.outcomes[layer].mean()), **found}

    def draw(self, shots: int, draw: int) -> np.ndarray:
        """The rows of the bank that one draw takes, none of which l2 is chosen on."""
        seed = self.config.seed * self.config.draws + draw + 1
        return self.drawn_from[per_class(self.bank_labels[self.drawn_from], shots, seed)]


def possible(config: LowshotConfig, labels: np.ndarray) -> list[int]:
    """The shots that each class of train has images for, beside those that are held out.

    Raises:
        InputError: a number of shots that was asked for is none of them, or none is.
    """
    least = smallest_class(labels)
    there = 0 if least < 2 else smallest_class(labels[held_out(labels, seed=config.seed)[0]])
    wanted = sorted(set(config.shots or SHOTS))
    found = [shots for shots in wanted if shots <= there]
    if not found or (config.shots is not None and found != wanted):
        raise InputError(
            f"shots: the class of train with fewest images has {least}, of which {there} can be drawn and the others "
            f"are held out to choose l2 on; {', '.join(map(str, wanted))} were asked for"
        )
    return found


class Ridge:
    """The ridge regressions of one set of images, for any l2 from one decomposition.

    Args:
        x: features (N, D).
        labels: (N,) int64, below `classes`.
    """

    def __init__(self, x: Tensor, labels: Tensor, classes: int):
        self.mean = x.double().mean(dim=0)
        self.deviation = x.double().std(dim=0, correction=0) + SMALLEST
        x, y = self._standardised(x), 2.0 * F.one_hot(labels, classes).double() - 1.0
        if len(x) >= x.shape[1]:
            self.eigenvalues, self.left = torch.linalg.eigh(x.T @ x)
            self.right = self.left.T @ (x.T @ y)
        else:  # Xᵀ (XXᵀ + l2 · I)⁻¹ Y is the same, and smaller
            self.eigenvalues, vectors = torch.linalg.eigh(x @ x.T)
            self.left, self.right = x.T @ vectors, vectors.T @ y

    def weights(self, l2: float) -> Tensor:
        """(D + 1, C), the last row for the constant."""
        return (self.left / (self.eigenvalues + l2)) @ self.right

    def predict(self, queries: Tensor, l2: float) -> Tensor:
        """The class (B,) of each of some features (B, D)."""
        return (self._standardised(queries) @ self.weights(l2)).argmax(dim=1)

    def _standardised(self, x: Tensor) -> Tensor:
        return F.pad((x.double() - self.mean) / self.deviation, (0, 1), value=BIAS)


def best_l2(ridges: Sequence[Ridge], queries: Tensor, labels: Tensor, among: Sequence[float]) -> float:
    """The one by which these regressions know most of held-out images; of equal ones, the largest."""

    def accuracy(l2: float) -> float:
        right = [(ridge.predict(queries, l2) == labels).double().mean() for ridge in ridges]
        return torch.stack(right).mean().item()

    return max(sorted(set(among), reverse=True), key=accuracy) if len(set(among)) > 1 else among[0]


def interval(values: np.ndarray) -> float:
    """Half of the 95 % interval of the mean of a few draws (Student's t)."""
    return float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
