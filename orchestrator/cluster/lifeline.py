"""What a process says and does when the Ray that it is connected to is lost.

Ray itself would let it wait a minute, and then end it with a trace of C++ that names no remedy.
"""

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchestrator.cluster.ray_private import lost_processes, runs_own_ray

EVERY = 0.5  # seconds between looks
PATIENCE = 45.0  # seconds for which a cluster's head may be away: it may come back, and Ray ends us after sixty
LOST = "what was written down stays, and --resume goes on from the newest checkpoint"


@contextmanager
def lifeline(end: Callable[[int], object]) -> Iterator[None]:
    """While the block runs: say so when the connected Ray is lost, and `end` this process with status 1."""
    import ray

    address, own = ray.get_runtime_context().gcs_address, runs_own_ray()
    over = threading.Event()

    def watch() -> None:
        away = 0.0
        while not over.wait(EVERY):
            lost = lost_processes()
            away = 0.0 if own or _answers(address) else away or time.monotonic()
            if lost:
                why = f"Ray's {' and '.join(lost)} on this machine ended"
            elif away and time.monotonic() - away > PATIENCE:
                why = f"the head of the Ray cluster at {address} has not answered for {PATIENCE:.0f} s"
            else:
                continue
            if not over.is_set():
                print(f"error: {why}; {LOST}", file=sys.stderr, flush=True)
                end(1)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _answers(address: str) -> bool:
    """Whether somebody listens there."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=EVERY):
            return True
    except OSError:
        return False
