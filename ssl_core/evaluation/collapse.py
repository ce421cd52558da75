"""When a representation has collapsed: it says the same of all images."""

COLLAPSED_STD, COLLAPSED_RANK = 0.05, 1.5
FEWEST = 10  # images that it can be told from: features of one span one direction, whatever was learned


def collapse(
    metrics: dict[str, float],
    std: float = COLLAPSED_STD,
    rankme: float = COLLAPSED_RANK,
    images: int | None = None,
) -> str | None:
    """A sentence that names a collapse of the last layer, where the metrics show one.

    Args:
        std, rankme: below these a representation says next to nothing.
        images: how many were measured, where that is known.
    """
    if images is not None and images < FEWEST:
        return None
    found, rank = metrics.get("std/last", 1.0), metrics.get("rankme/last", float("inf"))
    if found < std:
        return f"the last layer has collapsed: all images get nearly the same feature (std {found:.3f} of 1)"
    if rank < rankme:
        return f"the last layer has collapsed to one direction (RankMe {rank:.2f})"
    return None
