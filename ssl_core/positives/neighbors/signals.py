"""What the searches of an epoch say about it: sums over images, which several shards add up."""

from collections.abc import Sequence
from dataclasses import dataclass

from ssl_core.positives.neighbors.index import NeighborIndex

_SIGNIFICANT = 6  # digits of the spread that count: sums over shards differ in the last bits


@dataclass(frozen=True)
class Signals:
    """Sums over images that the epoch's searches leave, to be added over shards: each (sum, count)."""

    self_similarity: tuple[float, int]
    spread: tuple[float, int]
    recall: tuple[float, int] = (0.0, 0)

    @staticmethod
    def means(parts: Sequence["Signals"]) -> dict[str, float]:
        """The mean of each signal over all parts; without those that nothing was counted for."""
        means = {}
        for name in ("self_similarity", "spread", "recall"):
            totals = [getattr(part, name) for part in parts]
            if count := sum(n for _, n in totals):
                means[name] = float(f"{sum(total for total, _ in totals) / count:.{_SIGNIFICANT}g}")
        return means


def signals(index: NeighborIndex) -> Signals:
    """What `index` counted in its last finished epoch."""
    return Signals(index.self_similarity_total, index.spread_total, index.recall_total)
