"""The neighbour index behind Ray: actors that each hold a range of images, fed by every worker, waited for by none.

A worker sends its part of a step to all shards and goes on. A shard takes a step when it has the parts
of all ranks, in the order of steps, so what it finds does not depend on the order of arrival. When an
epoch ends the shards merge what each found for the images of every other, write the epoch's
neighbours down, and draw the next epoch's partners, while the workers evaluate.

The driver owns the actors: they survive their workers and go with the driver.
"""

import itertools
import os
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor

from orchestrator.cluster.ray_private import usable_cpus
from ssl_core import distributed
from ssl_core.files import as_path
from ssl_core.positives.neighbors import saving
from ssl_core.positives.neighbors.files import drop_other_parts, write_epoch
from ssl_core.positives.neighbors.index import NeighborIndex
from ssl_core.positives.neighbors.partners import Found, find_partners, index_options
from ssl_core.positives.neighbors.signals import Signals
from ssl_core.schema.positives import PositivesConfig
from ssl_core.schema.scaling import ScalingConfig

IN_FLIGHT = 8  # steps that a worker may be ahead of the slowest shard
NICENESS = 5  # where training wants the CPU too, it comes first


class IndexLost(RuntimeError):
    """An index actor died: what it held is in the last checkpoint."""


@ray.remote
class IndexShard:
    """The rows and windows of the images in one range.

    Args:
        positives: the `positives` section, as a dict.
        rows: first image and the one behind the last.
        world: ranks that send a part of every step.
        folder: where neighbours are written.
    """

    def __init__(
        self, positives: dict, num_images: int, dim: int, rows: tuple[int, int], world: int, folder: str, gpu: bool
    ):
        if not gpu:
            os.nice(NICENESS)
        self.config = PositivesConfig.model_validate(positives)
        self.world, self.folder = world, as_path(folder)
        options = index_options(self.config)
        device = "cuda" if gpu else "cpu"
        self.index = NeighborIndex(num_images, dim, rows=range(*rows), device=device, **options)
        self._device, self._node = device, ray.get_runtime_context().get_node_id()
        self._parts: dict[int, dict[int, tuple[np.ndarray, np.ndarray]]] = {}
        self._next = 0
        self._published: Any = None

    def node(self) -> str:
        return self._node

    def share_cpus(self, *nodes: str) -> None:
        """Take this shard's part of the CPUs here; `nodes` are those that the shards are on, its own among them."""
        if self._device == "cpu":
            torch.set_num_threads(threads_each(cpus_here(), nodes.count(self._node)))

    def add(self, step: int, rank: int, ids: np.ndarray, features: np.ndarray) -> None:
        """One rank's part of a step, (B,) and (B, D) float32; steps are numbered from 0 through the epoch."""
        self._parts.setdefault(step, {})[rank] = (ids, features)
        while len(self._parts.get(self._next, ())) == self.world:
            parts = [part for _, part in sorted(self._parts.pop(self._next).items())]
            every_id, every_feature = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
            self.index.update(every_id, torch.from_numpy(every_feature).to(self._device))
            self._next += 1

    def partial(self, start: int, stop: int) -> Any:
        """What this shard found in the epoch for the images of a range."""
        return self.index.partial(start, stop)

    def end_epoch(self, *parts: Any) -> Signals:
        """Merge what all shards found for the images of this one."""
        if self._parts:
            raise RuntimeError(f"steps {sorted(self._parts)} miss a rank's part")
        self._next = 0
        self.index.end_epoch(parts)
        return self.index.signals

    def signals(self) -> Signals:
        return self.index.signals

    def find(self, seed: int, *shards: Signals) -> tuple[Found, dict[str, float]]:
        means = Signals.means(shards)
        return find_partners(self.index, self.config, means, seed), means

    def lists(self) -> tuple[np.ndarray, np.ndarray]:
        """The finished epoch's neighbours of this shard's images: ids and similarities, (n, K)."""
        return self.index.lists()

    def write(self, *lists: tuple[np.ndarray, np.ndarray]) -> None:
        """One file of the finished epoch's neighbours, from all shards' lists."""
        ids, similarities = (np.concatenate(arrays) for arrays in zip(*lists, strict=True))
        write_epoch(self.folder, self.index.epoch, ids, similarities)

    def save(self, step: int) -> None:
        if step:
            saving.save_steps(self.index, self.folder, step)
        else:
            saving.save_cache(self.index, self.folder)

    def load(self, epoch: int, step: int) -> None:
        """Go on after `epoch` epochs and `step` steps."""
        saving.load(self.index, self.folder, epoch, step)
        self._next = step

    def publish(self, references: list) -> None:
        """Keep a reference for the ranks that ask (in a list, so that Ray does not fetch what it stands for)."""
        self._published = references

    def published(self) -> list:
        return self._published


def start_shards(
    positives: PositivesConfig, scaling: ScalingConfig, num_images: int, dim: int, folder: Path
) -> list[Any]:
    """The actors of a run, by range of images; they start in the background."""
    options = {"num_cpus": 0, "num_gpus": scaling.index_gpus, "max_concurrency": 1}
    actor: Any = IndexShard  # as Ray's decorator makes it
    shards = [
        actor.options(**options).remote(
            positives.model_dump(mode="json"),
            num_images,
            dim,
            rows,
            scaling.workers,
            str(folder),
            scaling.index_gpus > 0,
        )
        for rows in ranges(num_images, min(scaling.index_shards, num_images))
    ]
    nodes = [shard.node.remote() for shard in shards]
    for shard in shards:
        shard.share_cpus.remote(*nodes)
    return shards


def cpus_here() -> int:
    """CPUs that this process may use: of a container its own, not its host's."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, usable_cpus()))


def threads_each(cpus: int, shards: int) -> int:
    """Threads of each of the shards on a node: they leave half of its CPUs to training."""
    return max(1, cpus // 2 // shards)


def ranges(num_images: int, shards: int) -> list[tuple[int, int]]:
    """Which images each shard holds: the first and the one behind the last."""
    return list(itertools.pairwise(np.linspace(0, num_images, shards + 1).astype(int).tolist()))


class ShardedIndex:
    """The index as one training rank sees it (`ssl_core.positives.neighbors.local.Index`)."""

    def __init__(self, shards: list[Any], num_images: int):
        self.shards = shards
        self.rank = distributed.rank()
        self._ranges = ranges(num_images, len(shards))
        self._step = 0
        self._in_flight: deque[list] = deque()
        self._copying: tuple[np.ndarray, Tensor, torch.cuda.Event] | None = None
        self._finding: list = []

    def send(self, ids: np.ndarray, features: Tensor) -> None:
        """Hand over this rank's part of a step; wait only if the shards are `IN_FLIGHT` steps behind.

        Raises:
            IndexLost: a shard is gone.
        """
        features = features.float()
        if features.device.type == "cpu":
            self._hand_over(ids, features.numpy())
            return
        # A copy from a GPU is not waited for either: it is handed over with the next step.
        self._finish_copy()
        pinned = torch.empty(features.shape, pin_memory=True).copy_(features, non_blocking=True)
        done = torch.cuda.Event()
        done.record()
        self._copying = (ids, pinned, done)

    def flush(self) -> None:
        """Wait until the shards have taken all that this rank has sent."""
        self._finish_copy()
        while self._in_flight:
            _get(self._in_flight.popleft())

    def end_epoch(self, seed: int) -> None:
        self.flush()
        self._step = 0
        distributed.barrier()  # all ranks' parts have been taken
        if self.rank == 0:
            # First everything is asked for: a shard that has ended its epoch has no part of it left.
            parts = [[other.partial.remote(start, stop) for other in self.shards] for start, stop in self._ranges]
            self._find(seed, [s.end_epoch.remote(*own) for s, own in zip(self.shards, parts, strict=True)])

    def _find(self, seed: int, stats: list) -> None:
        self._finding = [shard.find.remote(seed, *stats) for shard in self.shards]
        self._written = self.shards[0].write.remote(*[shard.lists.remote() for shard in self.shards])

    def collect(self) -> tuple[Found, dict[str, float]]:
        if self.rank == 0:
            found, means = zip(*_get(self._finding), strict=True)
            _get(self._written)
            whole = Found(
                np.concatenate([part.partners for part in found]),
                sum(part.gate_open for part in found),
                np.concatenate([part.nearest for part in found]),
            )
            self._own = ray.put((whole, means[0]))  # this rank keeps it alive while the others read it in place
            _get(self.shards[0].publish.remote([self._own]))
        distributed.barrier()
        (reference,) = _get(self.shards[0].published.remote())
        return _get(reference)

    def settle(self) -> None:
        self.flush()
        distributed.barrier()

    def save(self, folder: Path, epoch: int, step: int) -> None:
        """The rows, or what some steps changed; each epoch's neighbours are written when it ends."""
        if not epoch and not step:
            return
        _get([shard.save.remote(step) for shard in self.shards])
        if not step:
            drop_other_parts(folder, epoch, [start for start, _ in self._ranges])

    def load(self, folder: Path, epoch: int, step: int, seed: int) -> None:
        self._step = step
        if self.rank == 0:
            _get([shard.load.remote(epoch, step) for shard in self.shards])
            if epoch:
                self._find(seed, [shard.signals.remote() for shard in self.shards])
        distributed.barrier()  # nobody sends before

    def _finish_copy(self) -> None:
        if self._copying is not None:
            ids, pinned, done = self._copying
            self._copying = None
            done.synchronize()
            self._hand_over(ids, pinned.numpy())

    def _hand_over(self, ids: np.ndarray, features: np.ndarray) -> None:
        part: tuple = (ids, features)
        if len(self.shards) > 1:
            part = tuple(ray.put(array) for array in part)  # into the object store once, not once a shard
        self._in_flight.append([shard.add.remote(self._step, self.rank, *part) for shard in self.shards])
        self._step += 1
        while len(self._in_flight) > IN_FLIGHT:
            _get(self._in_flight.popleft())


def _get(references: Any) -> Any:
    try:
        return ray.get(references)
    except ray.exceptions.RayActorError as error:
        raise IndexLost("an index actor is gone") from error
