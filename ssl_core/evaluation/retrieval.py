"""Image retrieval by class labels: mAP, mAP@R and recall at 1, 5 and 10, by cosine similarity.

As metric learning has it, each image of val is a query for all others of val (Musgrave et al., 2020); or, as hashing
has it, for train. Queries that nothing is right for are left out.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_core.data.sources.base import Images
from ssl_core.errors import InputError
from ssl_core.evaluation.base import Evaluator
from ssl_core.evaluation.features import Context, chosen_labels
from ssl_core.schema.evaluation import RetrievalConfig

SIMILARITIES = 1 << 24  # at once; bounds memory


class Retrieval(Evaluator[RetrievalConfig]):
    def __init__(self, config: RetrievalConfig, context: Context):
        super().__init__(config, context)
        self.queries, self.labels = context.labelled("val", config.max_val)
        self.alone = config.database == "val"
        self.database, self.database_labels = (
            (self.queries, self.labels) if self.alone else context.labelled("train", config.max_train)
        )
        _check_some_are_right(self.labels, self.database_labels, self.alone)

    @classmethod
    def check(cls, config: RetrievalConfig, images: Images) -> None:
        labels = chosen_labels(images.val, config.max_val)
        alone = config.database == "val"
        _check_some_are_right(labels, labels if alone else chosen_labels(images.train, config.max_train), alone)

    def measure(self, layer: int) -> dict[str, float]:
        device = self.context.device
        found = scores(
            self.queries[layer].to(device),
            torch.from_numpy(self.labels).to(device),
            None if self.alone else self.database[layer].to(device),
            None if self.alone else torch.from_numpy(self.database_labels).to(device),
        )
        self.outcomes[layer] = found["retrieval"].cpu().numpy()
        return {name: values.double().mean().item() for name, values in found.items()}


def _check_some_are_right(labels: np.ndarray, database: np.ndarray, alone: bool) -> None:
    """Whether there is a query that an image is right for.

    Raises:
        InputError: there is none.
    """
    if alone and len(labels) == len(np.unique(labels)):
        raise InputError(
            f"max_val: no class has two of the {len(labels)} images of val that are looked at: nothing could be found"
        )
    if not alone and not np.isin(labels, database).any():
        raise InputError("max_train: no class of val has an image in train, among those that are looked at")


def scores(
    queries: Tensor, labels: Tensor, database: Tensor | None = None, database_labels: Tensor | None = None
) -> dict[str, Tensor]:
    """How each query fared, (Q,), of those that some image is right for.

    Args:
        queries: features (B, D) of labels (B,).
        database: features (N, D) of labels (N,); default: the queries, each without itself.

    Returns:
        `retrieval`, average precision: the mean over right images of the share of right ones down to each;
        `retrieval_map_r`: of those among the R nearest, over R, the number of right ones; `retrieval_r1` …: 1 where
        one of the k nearest is right.
    """
    alone = database is None or database_labels is None
    bank = F.normalize((queries if database is None else database).float(), dim=1)
    bank_labels = labels if database_labels is None else database_labels
    parts = []
    step = max(1, SIMILARITIES // len(bank))
    for start in range(0, len(queries), step):
        part = F.normalize(queries[start : start + step].float(), dim=1)
        similar = part @ bank.T
        right = labels[start : start + step, None] == bank_labels
        if alone:
            own = torch.arange(len(part), device=part.device)
            similar[own, own + start] = -2.0  # behind all others
            right[own, own + start] = False
        some = right.any(dim=1)
        order = similar[some].argsort(dim=1, descending=True, stable=True)
        parts.append(_of_ranked(right[some].gather(1, order)))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _of_ranked(right: Tensor) -> dict[str, Tensor]:
    """Of which images are right (Q, N) from the nearest on, of queries with some."""
    count, place = right.sum(dim=1), torch.arange(1, right.shape[1] + 1, device=right.device)
    precision = right.cumsum(dim=1) / place * right
    within = precision * (place <= count[:, None])
    found = {"retrieval": precision.sum(dim=1) / count, "retrieval_map_r": within.sum(dim=1) / count}
    return found | {f"retrieval_r{k}": right[:, :k].any(dim=1).float() for k in (1, 5, 10)}
