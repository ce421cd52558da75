"""What the searches of an epoch say about it: sums over images, which several shards add up."""

from collections.abc import Sequence
from dataclasses import dataclass

from ssl_core.positives.neighbors.lists import Total

_SIGNIFICANT = 6  # digits of the spread that count: sums over shards differ in the last bits


@dataclass(frozen=True)
class Signals:
    """Sums over images, and how many were added.

    Attributes:
        self_similarity: inner products of an image's feature with its last one.
        spread: standard deviations of the similarities in a list.
        recall: of the exact neighbours of some steps, those that an approximate search found.
    """

    self_similarity: Total = (0.0, 0)
    spread: Total = (0.0, 0)
    recall: Total = (0.0, 0)

    @staticmethod
    def means(parts: Sequence["Signals"]) -> dict[str, float]:
        """The mean of each signal over all parts; without those that nothing was counted for."""
        means = {}
        for name in ("self_similarity", "spread", "recall"):
            totals = [getattr(part, name) for part in parts]
            if count := sum(n for _, n in totals):
                means[name] = float(f"{sum(total for total, _ in totals) / count:.{_SIGNIFICANT}g}")
        return means
