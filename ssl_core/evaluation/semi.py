"""Learning from a small share of the labels, class-balanced: SimCLR's protocol, with a linear probe on frozen features.

Whoever fits something else to so few labels asks `labelled_shares` for the same images.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssl_core.data.sources.base import Images
from ssl_core.errors import InputError
from ssl_core.evaluation.base import Evaluator
from ssl_core.evaluation.features import Context, chosen_labels
from ssl_core.evaluation.linear import linear_predict
from ssl_core.evaluation.lowshot import interval
from ssl_core.evaluation.splits import held_out, per_class, share_per_class, smallest_class
from ssl_core.schema.evaluation import SemiConfig

PERCENT: tuple[int, ...] = (1, 10)
FEWEST = 2  # images of a class: one to fit to, one to choose on


@dataclass(frozen=True)
class Share:
    """One draw of a share of the labels.

    Attributes:
        rows: which of them.
        fit, choose: a setting is chosen by fitting to the ones and asking about the others, all of `rows`.
    """

    percent: int
    draw: int
    rows: np.ndarray
    fit: np.ndarray
    choose: np.ndarray


def labelled_shares(config: SemiConfig, labels: np.ndarray) -> Iterator[Share]:
    """Each draw of each share that labels (N,) allow.

    Raises:
        InputError: a share that was asked for, or each of them, is less than two images of a class.
    """
    for percent in possible(config, labels):
        for draw in range(config.draws):
            seed = config.seed * config.draws + draw + 1
            rows = per_class(labels, share_per_class(labels, percent / 100), seed)
            fit, choose = held_out(labels[rows], seed=seed)
            yield Share(percent, draw, rows, rows[fit], rows[choose])


def possible(config: SemiConfig, labels: np.ndarray) -> list[int]:
    """The shares, in per cent, that are at least two images of each class.

    Raises:
        InputError: one that was asked for is none of them, or none is.
    """
    wanted = sorted(set(config.percent or PERCENT))
    few = {percent: min(share_per_class(labels, percent / 100), smallest_class(labels)) for percent in wanted}
    found = [percent for percent in wanted if few[percent] >= FEWEST]
    wrong = [percent for percent in wanted if percent not in found]
    if not found or (config.percent is not None and wrong):
        count = int((labels >= 0).sum())
        raise InputError(
            f"percent: {wrong[-1]} % of the {count} labels of train are {few[wrong[-1]]} images of its smallest class; "
            f"at least {FEWEST} are needed, one to fit to and one to choose on"
        )
    return found


class Semi(Evaluator[SemiConfig]):
    def __init__(self, config: SemiConfig, context: Context):
        super().__init__(config, context)
        self.bank, labels = context.labelled("train", config.max_train)
        self.queries, of_val = context.labelled("val", config.max_val)
        self.bank_labels, self.labels = torch.from_numpy(labels), torch.from_numpy(of_val)
        self.classes = len(context.images.train.classes)
        self.shares = list(labelled_shares(config, labels))
        self.chosen: dict[int, list[float]] = {}

    @classmethod
    def check(cls, config: SemiConfig, images: Images) -> None:
        possible(config, chosen_labels(images.train, config.max_train))

    def measure(self, layer: int) -> dict[str, float]:
        self.chosen[layer], right = [], dict[int, list[Tensor]]()
        for share in self.shares:
            right.setdefault(share.percent, []).append((self._predict(layer, share) == self.labels).double())
        found = {}
        for percent, draws in right.items():
            accuracies = torch.stack(draws).mean(dim=1).numpy()
            found[f"semi_{percent}"] = float(accuracies.mean())
            if len(draws) > 1:
                found[f"semi_{percent}_interval"] = interval(accuracies)
        self.outcomes[layer] = torch.stack(right[min(right)]).mean(dim=0).numpy()
        return found

    def _predict(self, layer: int, share: Share) -> Tensor:
        """Classes of val's images by the probe of one draw, its l2 chosen on its own labels alone."""
        bank, queries = self.bank[layer], self.queries[layer].to(self.context.device)

        def fitted_to(rows: np.ndarray, asked: Tensor, l2: float) -> Tensor:
            some = torch.from_numpy(rows)
            x, y = bank[some].to(self.context.device), self.bank_labels[some].to(self.context.device)
            return linear_predict(asked, x, y, self.classes, l2).cpu()

        def known(l2: float) -> int:
            choose = torch.from_numpy(share.choose)
            found = fitted_to(share.fit, bank[choose].to(self.context.device), l2)
            return int((found == self.bank_labels[choose]).sum())

        l2 = max(sorted(set(self.config.l2), reverse=True), key=known)
        self.chosen[layer].append(l2)
        return fitted_to(share.rows, queries, l2)
