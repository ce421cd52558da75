"""When a representation has collapsed: it says the same of all images."""

from collections.abc import Mapping

from ssl_core.data.sources.base import Images
from ssl_core.schema.evaluation import GeometryConfig
from ssl_core.schema.run import RunConfig

COLLAPSED_STD, COLLAPSED_RANK = 0.05, 1.5
FEWEST = 10  # images that it can be told from: features of one span one direction, whatever was learned


def images_measured(config: RunConfig, images: Images) -> int:
    """Of how many images a run measures the signals that tell a collapse."""
    most = [e.max_images for e in config.evaluation if isinstance(e, GeometryConfig) and e.name is None]
    return min([len(getattr(images, images.measured)), *most])


def collapse(
    metrics: Mapping[str, float], images: int | None, std: float = COLLAPSED_STD, rankme: float = COLLAPSED_RANK
) -> str | None:
    """A sentence that names a collapse of the last layer, where the metrics show one.

    Args:
        images: how many were measured (`images_measured`); fewer than `FEWEST` show none. None where it is not known.
        std, rankme: below these a representation says next to nothing.
    """
    if images is not None and images < FEWEST:
        return None
    found, rank = metrics.get("std/last", 1.0), metrics.get("rankme/last", float("inf"))
    if found < std:
        return f"the last layer has collapsed: all images get nearly the same feature (std {found:.3f} of 1)"
    if rank < rankme:
        return f"the last layer has collapsed to one direction (RankMe {rank:.2f})"
    return None
