"""Which Ray cluster the run is on, and whether it fits."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ssl_core.config import ScalingConfig
from ssl_core.errors import InputError


@dataclass(frozen=True)
class WorkerShare:
    """What one worker gets."""

    cpus: int
    gpus: float


INHERITED = {
    # Threads that wait for others should not eat a loader's CPU: GNU OpenMP spins for long by default.
    "GOMP_SPINCOUNT": "1000",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon a finished or failed worker is noticed
    "RAY_worker_niceness": "0",  # at Ray's 15 a run stands nearly still beside any other busy process
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the future default; without it Ray warns
}
"""What the processes of a Ray that we start inherit; as a runtime environment it would cost actors new processes."""


def quiet() -> None:
    """Ray tells its story in its log files; our terminal is for the run."""
    for name in ("ray", "ray.train", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="ray")


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Set what the user has not set, for a while."""
    ours = {key: value for key, value in values.items() if key not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for key in ours:
            del os.environ[key]


@contextmanager
def connected() -> Iterator[None]:
    """Connect to the cluster that `RAY_ADDRESS` names, else start one on this machine; leave it as it was found."""
    quiet()
    import ray

    ours = not ray.is_initialized()
    if ours:
        options = {"include_dashboard": False} if embedded() else {}
        try:
            with environment(INHERITED):
                ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
        except (ConnectionError, RuntimeError) as error:
            address = os.environ.get("RAY_ADDRESS")
            raise InputError(f"Ray: cannot connect to RAY_ADDRESS={address}: {error}") from error
    try:
        yield
    finally:
        if ours:
            ray.shutdown()


def embedded() -> bool:
    """Whether runs start a Ray of their own on this machine."""
    return os.environ.get("RAY_ADDRESS", "local") == "local"


def nodes() -> list[dict[str, float]]:
    """The resources of every node: of the cluster, or of this machine, where Ray is not started for it."""
    import ray

    if not ray.is_initialized() and embedded():
        import torch
        from ray._private.utils import get_num_cpus

        return [{"CPU": get_num_cpus(), "GPU": torch.cuda.device_count()}]
    with connected():
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def capacity(share: WorkerShare, nodes: list[dict[str, float]]) -> int:
    """How many workers with such a share the nodes hold."""

    def of(node: dict[str, float]) -> float:
        return min(node.get("CPU", 0) // share.cpus, node.get("GPU", 0) // share.gpus if share.gpus else float("inf"))

    return sum(int(of(node)) for node in nodes)


def worker_share(scaling: ScalingConfig, indexed: bool = False) -> WorkerShare:
    """CPUs and GPUs of each worker on the connected cluster.

    Args:
        indexed: the run has index actors, which may want a part of the GPUs.

    Raises:
        InputError: the cluster cannot hold the workers, or the index.
    """
    there = nodes()
    total_cpus = sum(node.get("CPU", 0) for node in there)
    gpus = scaling.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if any(node.get("GPU", 0) for node in there) else 0.0
    cpus = scaling.cpus_per_worker
    if cpus is None:
        largest = max((int(node.get("CPU", 0)) for node in there), default=0)
        cpus = max(1, min(int(total_cpus // scaling.workers), largest))
    share = WorkerShare(cpus, gpus)
    check_fit(scaling, share, indexed, there)
    return share


def check_fit(scaling: ScalingConfig, share: WorkerShare, indexed: bool, nodes: list[dict[str, float]]) -> None:
    """Whether the nodes hold the workers of a run, and its index.

    Raises:
        InputError: they do not.
    """
    total_cpus, total_gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
    fits = capacity(share, nodes)
    if fits < scaling.workers:
        need = f"{share.cpus} CPUs" + (f" and {share.gpus:g} GPUs" if share.gpus else "")
        raise InputError(
            f"scaling.workers: {scaling.workers} workers of {need} each do not fit: the cluster's {len(nodes)} node(s) "
            f"with {total_cpus:g} CPUs and {total_gpus:g} GPUs hold {fits}"
        )
    index_gpus = scaling.index_shards * scaling.index_gpus if indexed else 0.0
    if index_gpus and scaling.workers * share.gpus + index_gpus > total_gpus:
        raise InputError(
            f"scaling.index_gpus: {scaling.index_shards} index actor(s) with {scaling.index_gpus:g} GPUs each do not "
            f"fit beside {scaling.workers} workers with {share.gpus:g}: the cluster has {total_gpus:g}; "
            f"they can share one, such as scaling.gpus_per_worker=0.9 scaling.index_gpus=0.1"
        )
