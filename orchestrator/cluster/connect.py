"""Which Ray cluster the run is on: one of its own on this machine, or one that it joins."""

import fcntl
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn

from orchestrator.cluster import token
from orchestrator.cluster.lifeline import lifeline
from orchestrator.cluster.ray_private import kill_own_ray, stay_on_loopback
from ssl_core.errors import InputError
from ssl_core.files import is_local, lock

LOOPBACK = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # then Ray's node has the loopback's address, and listens there alone
    **({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}),
}
LONGEST_TEMP = 18  # bytes of the folder in which a Ray has its own: 85 come to its sockets' names, and 107 is all
PREFIX, LOCK = "strata-", "in-use"  # of that folder's name, and the file in it that its process has locked
NEW = 60.0  # seconds for which a folder is left alone: its process may be about to lock it, or Ray's about to end
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

    if ray.is_initialized():
        yield
        return
    with _own_ray() if embedded() else _joined(os.environ["RAY_ADDRESS"]):
        yield


def end_at_once(status: int = 130) -> NoReturn:
    """End this process, and the Ray that it has started, without another word to anybody."""
    kill_own_ray()
    for folder in _own_folders:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(status)


_own_folders: list[str] = []  # of Rays that this process has started


@contextmanager
def _own_ray() -> Iterator[None]:
    """A Ray of our own: on the loopback, for whoever has its token, which nobody is told.

    Its files lie in a folder that only this user can look into, and go with it.
    """
    ours = {} if token.in_environment() else {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    stay_on_loopback()
    _remove_left_over()
    folder = tempfile.mkdtemp(prefix=PREFIX, dir=_short_folder())
    _own_folders.append(folder)
    inside = os.path.join(folder, "ray")  # Ray opens its own to everybody
    try:
        variables = {**INHERITED, **LOOPBACK, **ours}
        with _in_use(Path(folder)), _ray(variables, address="local", include_dashboard=False, _temp_dir=inside):
            yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _own_folders.remove(folder)


@contextmanager
def _in_use(folder: Path) -> Iterator[None]:
    """Lock a folder, for as long as the block runs and this process lives."""
    with (folder / LOCK).open("w") as file:
        lock(file.fileno(), wait=False)
        yield


def _remove_left_over() -> None:
    """Remove this user's folders of Rays whose process was killed: nobody holds their locks any more."""
    for held in Path(_short_folder()).glob(f"{PREFIX}*/{LOCK}"):
        try:
            if held.parent.lstat().st_uid != os.getuid() or time.time() - held.stat().st_mtime < NEW:
                continue
            with held.open("r") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # where there are no locks, nothing is removed
                shutil.rmtree(held.parent, ignore_errors=True)
        except OSError:  # it is in use, or gone
            continue


def _short_folder() -> str:
    """Where temporary folders go; /tmp, where that is too long for the sockets in it."""
    usual = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    return usual if len(os.fsencode(usual)) <= LONGEST_TEMP else "/tmp"


@contextmanager
def _joined(address: str) -> Iterator[None]:
    """The cluster at this address."""
    import ray

    known = token.has_token()
    with ExitStack() as stack:
        try:
            stack.enter_context(_ray({"RAY_AUTH_MODE": "token"} if known else {}, address=address))
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.AuthenticationError) as error:
            hint = "the token in use may be another one's" if known else f"no token was found; {token.HINT}"
            raise InputError(
                f"Ray: cannot connect to {address}: {str(error).splitlines()[0]}; either no cluster runs there, or it "
                f"wants a token ({hint})"
            ) from error
        yield


@contextmanager
def _ray(variables: dict[str, str], **options: Any) -> Iterator[None]:
    """`ray.init` in such an environment, and at the end `ray.shutdown`; they leave the handler of SIGTERM as it was.

    In the main thread Ray would put its own over ours. So it has a thread of its own, which it wants to the end.
    """
    import ray

    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)

    def put_back() -> None:
        """Beneath Python's handlers Ray has put one that ends the process after three seconds, with a trace of C++."""
        if main:
            signal.signal(signal.SIGTERM, handler)

    with ThreadPoolExecutor(1) as thread:
        try:
            with environment(variables):
                thread.submit(ray.init, log_to_driver=False, logging_level=logging.ERROR, **options).result()
            put_back()
            with lifeline(end_at_once):
                yield
        finally:
            thread.submit(ray.shutdown).result()
            put_back()


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

    store: Any = folder
    return {"storage_path": store.path, "storage_filesystem": PyFileSystem(FSSpecHandler(store.fs))}
