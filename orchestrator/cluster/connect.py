"""Which Ray cluster the run is on: one of its own on this machine, or one that it joins."""

import logging
import os
import secrets
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from orchestrator.cluster.ray_private import kill_own_ray, stay_on_loopback
from ssl_core.errors import InputError
from ssl_core.files import is_local

TOKEN_FILE = Path.home() / ".ray" / "auth_token"
TOKEN_HINT = f"set RAY_AUTH_TOKEN, or put it into {TOKEN_FILE}"
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
    kill_own_ray()
    os._exit(130)


def _start() -> None:
    """A Ray of our own: on the loopback, for whoever has its token, which nobody is told."""
    import ray

    token = {} if has_token() else {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    stay_on_loopback()
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


def alive_nodes() -> list[dict[str, Any]]:
    """The nodes of the connected cluster, as Ray describes them."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def own_address() -> str:
    """What the other nodes of the connected cluster call this one; the loopback's, where all are on one machine."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    return next(node["NodeManagerAddress"] for node in alive_nodes() if node["NodeID"] == own)


def ray_storage(folder: Path) -> dict[str, Any]:
    """How Ray Train and Tune are told of a folder."""
    if is_local(folder):
        return {"storage_path": str(folder)}
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return {"storage_path": folder.path, "storage_filesystem": PyFileSystem(FSSpecHandler(folder.fs))}
