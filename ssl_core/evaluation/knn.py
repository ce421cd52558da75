"""Weighted k-nearest-neighbour classification (Wu et al., 2018; the protocol of DINO and SDSSL)."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_core.evaluation.base import Classifies
from ssl_core.schema.evaluation import KnnConfig
from ssl_core.search import top_k

QUERIES = 4096  # at once; bounds memory


class Knn(Classifies[KnnConfig]):
    chosen_by = "k"

    def measure(self, layer: int) -> dict[str, float]:
        return self.classify(layer, "knn", partial(knn_predict, temperature=self.config.temperature))


def knn_predict(
    queries: Tensor, bank: Tensor, bank_labels: Tensor, classes: int, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """The class of each query by its `k` nearest rows of `bank`, each voting exp(cos / temperature).

    Args:
        queries: (B, D) features; bank: (N, D); both are L2-normalised here.
        bank_labels: (N,) int64.

    Returns:
        (B,) class numbers.
    """
    bank = F.normalize(bank.float(), dim=1)
    predictions = []
    for part in F.normalize(queries.float(), dim=1).split(QUERIES):
        similarities, ids = top_k(part, bank, min(k, len(bank)))
        votes = torch.zeros(len(part), classes, device=part.device)
        votes.scatter_add_(1, bank_labels[ids], (similarities / temperature).exp())
        predictions.append(votes.argmax(dim=1))
    return torch.cat(predictions)
