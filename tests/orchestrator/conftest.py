"""One Ray instance for the session, small image folders, and runs that take seconds."""

import contextlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from moto.server import ThreadedMotoServer

from ssl_core.files import as_path
from tests.images import draw_stripes

TINY = [
    "optim.epochs=2",
    "optim.batch_size=16",
    "optim.warmup_epochs=0",
    "backbone.kwargs.embed_dim=32",
    "backbone.kwargs.depth=2",
    "framework.hidden_dim=32",
    "framework.output_dim=16",
    "data.workers=0",
]
"""Overrides that turn a small recipe into one of seconds."""


@pytest.fixture(scope="session", autouse=True)
def _store(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every test's MLflow runs go to one store of the session, not to the user's."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture(scope="session")
def bucket() -> Iterator[Path]:
    """A bucket of an S3 server on this machine."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        bucket = as_path("s3://strata")
        bucket.fs.mkdir("strata")
        yield bucket
    server.stop()


@pytest.fixture(scope="session")
def ray_session(bucket: Path) -> Iterator[None]:
    """A Ray instance that all in-process runs share; its processes can reach `bucket`."""
    from orchestrator.cluster.connect import connected

    with connected():
        yield


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`train/` and `val/`: 96 and 32 PNG images in two class folders, stripes across or down."""
    return draw_stripes(tmp_path_factory.mktemp("images"), {"train": 48, "val": 16})


@pytest.fixture
def strata(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Run the `strata` program in a folder of its own."""

    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "orchestrator", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)

    return run


def ray_processes(name: str) -> list[int]:
    """Ray's actors of this name among the processes that this one has started."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    lines = [line.split(maxsplit=2) for line in listed.splitlines()]
    parents = {int(pid): int(parent) for pid, parent, _ in lines}

    def ours(pid: int) -> bool:
        return pid == os.getpid() or (pid in parents and ours(parents[pid]))

    return [int(pid) for pid, _, args in lines if args.startswith(f"ray::{name}") and ours(int(pid))]


def listening(session_id: int) -> set[str]:
    """On which addresses the processes of a session wait for others to connect."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == session_id:
                found |= {c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    return {address.removeprefix("::ffff:") for address in found}


def assert_session_ends(session_id: int) -> None:
    """Wait until no process of a session runs, but for Ray's agents, which notice a killed driver a minute later."""

    def running() -> list[str]:
        listed = subprocess.run(["ps", "-eo", "sess=,stat=,args="], capture_output=True, text=True, check=True).stdout
        lines = [line.split(maxsplit=2) for line in listed.splitlines()]
        return [args for s, state, args in lines if s == str(session_id) and "Z" not in state and "Agent" not in args]

    deadline = time.monotonic() + 30
    while running() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert running() == []
