"""Which labelled images are fitted to, and which a setting is chosen on: seeded draws that keep the classes' shares.

No choice may look at val. Whoever has one to make takes a part of train for it from here.
"""

import numpy as np

from ssl_core.seeds import Use, derive_seed

HELD_OUT = 0.2
"""The share of what a probe may see that its settings are chosen on."""


def held_out(labels: np.ndarray, share: float = HELD_OUT, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A part to fit to and a part to choose on, stratified: of each class about `share` is in the second.

    At least one image of each class is in the first, and one in the second where the class has two.

    Args:
        labels: (N,) class numbers; an image without one (−1) is in neither part.

    Returns:
        Row numbers of either part, ascending.

    Raises:
        ValueError: no class has two images.
    """
    fit, choose = [], []
    for rows in _shuffled(labels, seed):
        count = min(max(round(share * len(rows)), 1), len(rows) - 1)
        fit.append(rows[count:])
        choose.append(rows[:count])
    if not sum(map(len, choose)):
        raise ValueError("no class has two images, one to fit to and one to choose on")
    return np.sort(np.concatenate(fit)), np.sort(np.concatenate(choose))


def per_class(labels: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Row numbers, ascending, of `count` images of each class, or of all that it has; a larger draw holds a smaller."""
    return np.sort(np.concatenate([rows[:count] for rows in _shuffled(labels, seed)]))


def share_per_class(labels: np.ndarray, share: float) -> int:
    """How many images of each class are `share` of the labels, as many of one as of another (SimCLR, Sec. 2)."""
    return round(share * int((labels >= 0).sum()) / max(len(np.unique(labels[labels >= 0])), 1))


def smallest_class(labels: np.ndarray) -> int:
    """How many images the class has that has fewest; 0 where no image has a label."""
    counts = np.unique(labels[labels >= 0], return_counts=True)[1]
    return int(counts.min()) if len(counts) else 0


def _shuffled(labels: np.ndarray, seed: int) -> list[np.ndarray]:
    """The rows of each class, ascending by class, in an order that its own images alone decide."""
    return [
        np.random.default_rng(derive_seed(Use.SPLITS, seed, int(label))).permutation(np.flatnonzero(labels == label))
        for label in np.unique(labels[labels >= 0])
    ]
