"""What a cluster has room for: what each worker gets, how many fit, and what else could be started."""

from collections import Counter
from dataclasses import dataclass

from orchestrator.cluster.connect import alive_nodes, connected, embedded
from orchestrator.cluster.ray_private import autoscaler_groups, free_resources, leaving_nodes, usable_cpus
from ssl_core.errors import InputError
from ssl_core.schema.scaling import ScalingConfig

NODE_GROUP = "ray.io/node-group"  # a node's label, where an autoscaler started it
UNLIMITED = 1000  # nodes, where an autoscaler's configuration names no number


@dataclass(frozen=True)
class WorkerShare:
    """What one worker gets."""

    cpus: int
    gpus: float


def nodes() -> list[dict[str, float]]:
    """The resources of every node that the cluster has or can start, or of this machine, where there is no cluster."""
    import ray

    if not ray.is_initialized() and embedded():
        import torch

        return [{"CPU": usable_cpus(), "GPU": torch.cuda.device_count()}]
    with connected():
        return [*(node["Resources"] for node in alive_nodes()), *_startable_nodes()]


def _startable_nodes() -> list[dict[str, float]]:
    """The resources of the nodes that the connected cluster's autoscaler can add."""
    there = Counter(node["Labels"].get(NODE_GROUP) for node in alive_nodes())
    found: list[dict[str, float]] = []
    for group in autoscaler_groups():
        most = UNLIMITED if group.max_count < 0 else group.max_count
        found += [dict(group.resources)] * (most - there[group.name])
    return found


def ask_for(share: WorkerShare, workers: int) -> None:
    """Let the connected cluster's autoscaler, if it has one, keep room for so many workers; 0: as it likes."""
    from ray.autoscaler.sdk import request_resources

    bundle = {"CPU": share.cpus} | ({"GPU": share.gpus} if share.gpus else {})
    request_resources(bundles=[bundle] * workers)


def capacity(share: WorkerShare, nodes: list[dict[str, float]]) -> int:
    """How many workers with such a share the nodes hold."""

    def of(node: dict[str, float]) -> float:
        return min(node.get("CPU", 0) // share.cpus, node.get("GPU", 0) // share.gpus if share.gpus else float("inf"))

    return sum(int(of(node)) for node in nodes)


def room_beside(share: WorkerShare) -> int:
    """How many more workers with such a share the connected cluster holds, beside all that runs there now."""
    leaving = leaving_nodes()
    return capacity(share, [room for node, room in free_resources().items() if node not in leaving])


def worker_share(scaling: ScalingConfig, indexed: bool = False) -> WorkerShare:
    """CPUs and GPUs of each worker on the connected cluster.

    Args:
        indexed: the run has index actors, which may want a part of the GPUs.

    Raises:
        InputError: the cluster cannot hold the workers, or the index.
    """
    there = nodes()
    gpus = scaling.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if any(node.get("GPU", 0) for node in there) else 0.0
    cpus = scaling.cpus_per_worker
    if cpus is None:
        cpus = fair_cpus(gpus, scaling.bounds[1], there)
    share = WorkerShare(cpus, gpus)
    check_fit(scaling, share, indexed, there)
    return share


def fair_cpus(gpus: float, workers: int, nodes: list[dict[str, float]]) -> int:
    """The most CPUs with which so many workers fit, node by node; where they do not, with which the most of them do."""
    possible = min(workers, capacity(WorkerShare(1, gpus), nodes))
    largest = max((int(node.get("CPU", 0)) for node in nodes), default=1)
    return next((n for n in range(largest, 1, -1) if capacity(WorkerShare(n, gpus), nodes) >= max(possible, 1)), 1)


def check_fit(scaling: ScalingConfig, share: WorkerShare, indexed: bool, nodes: list[dict[str, float]]) -> None:
    """Whether the nodes hold the workers of a run, and its index.

    Raises:
        InputError: they do not.
    """
    total_cpus, total_gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
    fits = capacity(share, nodes)
    workers = scaling.bounds[0]
    if fits < workers:
        need = f"{share.cpus} CPUs" + (f" and {share.gpus:g} GPUs" if share.gpus else "")
        raise InputError(
            f"scaling.workers: {workers} workers of {need} each do not fit: the cluster's {len(nodes)} node(s) "
            f"with {total_cpus:g} CPUs and {total_gpus:g} GPUs hold {fits}"
        )
    index_gpus = scaling.index_shards * scaling.index_gpus if indexed else 0.0
    if index_gpus and workers * share.gpus + index_gpus > total_gpus:
        raise InputError(
            f"scaling.index_gpus: {scaling.index_shards} index actor(s) with {scaling.index_gpus:g} GPUs each do not "
            f"fit beside {workers} workers with {share.gpus:g}: the cluster has {total_gpus:g}; "
            f"they can share one, such as scaling.gpus_per_worker=0.9 scaling.index_gpus=0.1"
        )
