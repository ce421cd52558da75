"""Which Ray cluster the run is on, and whether it fits."""

import logging
import os
import secrets
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ssl_core.errors import InputError
from ssl_core.files import as_path, is_local
from ssl_core.schema.scaling import ScalingConfig


@dataclass(frozen=True)
class WorkerShare:
    """What one worker gets."""

    cpus: int
    gpus: float


TOKEN_FILE = Path.home() / ".ray" / "auth_token"
TOKEN_HINT = f"set RAY_AUTH_TOKEN, or put it into {TOKEN_FILE}"
NODE_GROUP = "ray.io/node-group"  # a node's label, where an autoscaler started it
UNLIMITED = 1000  # nodes, where an autoscaler's configuration names no number
LOOPBACK = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # then Ray's node has the loopback's address, and listens there alone
    **({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}),
}
INHERITED = {
    # Threads that wait for others should not eat a loader's CPU: GNU OpenMP spins for long by default.
    "GOMP_SPINCOUNT": "1000",
    "RAY_worker_niceness": "0",  # at Ray's 15 a run stands nearly still beside any other busy process
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",  # where a worker was lost, the others cannot part in order
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the future default; without it Ray warns
}
"""What the processes of a Ray that we start inherit; as a runtime environment it would cost actors new processes."""


def quiet() -> None:
    """Ray tells its story in its log files; our terminal is for the run."""
    import ray  # noqa: F401, for it sets these levels itself when it is imported

    for name in ("ray", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial's failure is a line of the sweep's table
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
    """Connect to the cluster that `RAY_ADDRESS` names, else start one on this machine; leave it as it was found.

    Raises:
        InputError: there is no such cluster, or it does not take our token.
    """
    quiet()
    import ray

    ours = not ray.is_initialized()
    if ours and embedded():
        _start()
    elif ours:
        _join(os.environ["RAY_ADDRESS"])
    try:
        yield
    finally:
        if ours:
            ray.shutdown()


def end_at_once() -> NoReturn:
    """End this process, and the Ray that it has started, without another word to anybody."""
    from ray._private import worker

    node = worker._global_node
    if node is not None:
        node.kill_all_processes(check_alive=False, allow_graceful=False)
    os._exit(130)


def _start() -> None:
    """A Ray of our own: on the loopback, for whoever has its token, which nobody is told."""
    import ray
    from ray._private import ray_constants

    token = {} if has_token() else {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    ray_constants.ENABLE_RAY_CLUSTER = False  # read from LOOPBACK when Ray was imported
    with environment({**INHERITED, **LOOPBACK, **token}):
        ray.init(address="local", log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)


def _join(address: str) -> None:
    import ray

    token = has_token()
    try:
        with environment({"RAY_AUTH_MODE": "token"} if token else {}):
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.AuthenticationError) as error:
        known = "the token in use may be another one's" if token else f"no token was found; {TOKEN_HINT}"
        raise InputError(
            f"Ray: cannot connect to {address}: {str(error).splitlines()[0]}; either no cluster runs there, or it "
            f"wants a token ({known})"
        ) from error


def has_token() -> bool:
    """Whether the user has a token for Ray clusters, as Ray looks for one."""
    env = os.environ
    return bool(env.get("RAY_AUTH_TOKEN") or env.get("RAY_AUTH_TOKEN_PATH") or TOKEN_FILE.exists())


def embedded() -> bool:
    """Whether runs start a Ray of their own on this machine."""
    return os.environ.get("RAY_ADDRESS", "local") == "local"


def nodes() -> list[dict[str, float]]:
    """The resources of every node that the cluster has or can start, or of this machine, where there is no cluster."""
    import ray

    if not ray.is_initialized() and embedded():
        import torch
        from ray._private.utils import get_num_cpus

        return [{"CPU": get_num_cpus(), "GPU": torch.cuda.device_count()}]
    with connected():
        return [*(node["Resources"] for node in alive_nodes()), *_startable_nodes()]


def alive_nodes() -> list[dict[str, Any]]:
    """The nodes of the connected cluster, as Ray describes them."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _startable_nodes() -> list[dict[str, float]]:
    """The resources of the nodes that the connected cluster's autoscaler can add."""
    from ray._private.state import state

    config = state.get_cluster_config()
    there = Counter(node["Labels"].get(NODE_GROUP) for node in alive_nodes())
    found: list[dict[str, float]] = []
    for group in config.node_group_configs if config else ():
        most = UNLIMITED if group.max_count < 0 else group.max_count
        found += [dict(group.resources)] * (most - there[group.name])
    return found


def ask_for(share: WorkerShare, workers: int) -> None:
    """Let the connected cluster's autoscaler, if it has one, keep room for so many workers; 0: as it likes."""
    from ray.autoscaler.sdk import request_resources

    bundle = {"CPU": share.cpus} | ({"GPU": share.gpus} if share.gpus else {})
    request_resources(bundles=[bundle] * workers)


def leaving_nodes() -> set[str]:
    """Ids of the connected cluster's nodes that were told to go: a spot machine's notice, an idle node."""
    from ray._private.state import state

    return set(state.get_draining_nodes())


def own_address() -> str:
    """What the other nodes of the connected cluster call this one; the loopback's, where all are on one machine."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    return next(node["NodeManagerAddress"] for node in alive_nodes() if node["NodeID"] == own)


def capacity(share: WorkerShare, nodes: list[dict[str, float]]) -> int:
    """How many workers with such a share the nodes hold."""

    def of(node: dict[str, float]) -> float:
        return min(node.get("CPU", 0) // share.cpus, node.get("GPU", 0) // share.gpus if share.gpus else float("inf"))

    return sum(int(of(node)) for node in nodes)


def room_beside(share: WorkerShare) -> int:
    """How many more workers with such a share the connected cluster holds, beside all that runs there now."""
    from ray._private.state import available_resources_per_node

    leaving = leaving_nodes()
    return capacity(share, [room for node, room in available_resources_per_node().items() if node not in leaving])


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
        cpus = max(1, min(int(total_cpus // scaling.bounds[1]), largest))
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


def ray_storage(folder: Path) -> dict[str, Any]:
    """How Ray Train and Tune are told of a folder."""
    if is_local(folder):
        return {"storage_path": str(folder)}
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return {"storage_path": folder.path, "storage_filesystem": PyFileSystem(FSSpecHandler(folder.fs))}


def on_each_node(function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """What `function(*arguments)` returns on every node of the connected cluster, by the node's address.

    A node that was just lost, and that Ray still takes for one of the cluster's, is left out.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(function)
    answers = {}
    for node in alive_nodes():
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        name = f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})"
        answers[name] = task.options(scheduling_strategy=there).remote(*arguments)
    found = {}
    for name, answer in answers.items():
        try:
            found[name] = ray.get(answer)
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError:
            continue
    return found


def check_seen(output: Path, paths: Sequence[str]) -> None:
    """Whether every node of the connected cluster sees a run's folder and its images' `paths` as this one does.

    Raises:
        InputError: which nodes do not.
    """
    if len(alive_nodes()) == 1:
        return
    output.mkdir(parents=True, exist_ok=True)
    marker = output / f".seen-{secrets.token_hex(4)}"
    marker.touch()
    here = [path for path in map(as_path, paths) if path.exists()]
    try:
        for node, missing in on_each_node(_unseen, [marker, *here]).items():
            if marker in missing:
                raise InputError(
                    f"--output: node {node} does not see {output}, or cannot write there; give a folder that all nodes "
                    "share (NFS, EFS, Filestore, …)"
                )
            if missing:
                raise InputError(f"data: node {node} does not see {missing[0]}; put the images where all nodes do")
    finally:
        marker.unlink()


def _unseen(paths: list[Path]) -> list[Path]:
    marker = paths[0]
    unwritable = is_local(marker) and not os.access(marker.parent, os.W_OK)
    return [path for path in paths if not path.exists() or (path is marker and unwritable)]
