"""Whom each image is paired with in the next epoch, by what an index has found in the last ones."""

from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
import torch

from ssl_core.positives.neighbors.index import NeighborIndex
from ssl_core.schema.positives import PositivesConfig

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class IndexOptions(TypedDict):
    """Arguments of a `NeighborIndex`."""

    top_k: int
    window: int
    support: Literal["topk", "union"]
    unvisited: Literal["skip", "zeros"]
    stale: Literal["drop", "repeat"]
    search: Literal["exact", "ivf"]
    probes: int
    dtype: torch.dtype


@dataclass(frozen=True)
class Found:
    """What one part of the index (a range of images) has found when an epoch ends.

    Attributes:
        partners: (n,) int32, for the next epoch.
        gate_open: how many of the n images may have another partner than themselves.
        nearest: (n, 2) int32: first and second of each list, the image itself included; −1 for none.
    """

    partners: np.ndarray
    gate_open: int
    nearest: np.ndarray


def find_partners(index: NeighborIndex, config: PositivesConfig, means: dict[str, float], seed: int) -> Found:
    """The next epoch's partners of the images that `index` holds.

    Args:
        means: `Signals.means` over all shards.
        seed: of the draw; the same on all shards.
    """
    ids = np.arange(index.rows.start, index.rows.stop, dtype=np.int32)
    nearest = np.full((len(ids), 2), -1, np.int32)
    if index.epoch:
        first = index.lists()[0][:, :2]
        nearest[:, : first.shape[1]] = first
    if config.kind == "nearest":
        other = index.nearest()[:, 0] if index.epoch else np.full(len(ids), -1, np.int32)
        return Found(np.where(other < 0, ids, other), int((other >= 0).sum()), nearest)
    draw = index.draw(tau_of(config, means), seed)
    return Found(draw.partners, int(draw.gate.sum()), nearest)


def tau_of(config: PositivesConfig, means: dict[str, float]) -> float:
    """The temperature of a draw; by `tau_scale`, τ counts in units of the spread that `Signals.means` gives."""
    return config.tau * (means.get("spread", 1.0) if config.tau_scale == "spread" else 1.0)


def index_options(config: PositivesConfig) -> IndexOptions:
    """What `positives` says about a `NeighborIndex`. The nearest neighbour needs a list of two, of one epoch."""
    nearest = config.kind == "nearest"
    return {
        "top_k": max(config.top_k, 2) if nearest else config.top_k,
        "window": 1 if nearest else config.window,
        "support": config.support,
        "unvisited": config.unvisited,
        "stale": config.stale,
        "search": config.search,
        "probes": config.probes,
        "dtype": PRECISIONS[config.cache.precision],
    }
