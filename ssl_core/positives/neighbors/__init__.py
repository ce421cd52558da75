"""Which images are near which, by inner product of their features."""

from ssl_core.positives.neighbors.index import NeighborIndex

__all__ = ["NeighborIndex"]
