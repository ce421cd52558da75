"""Real ranks for tests: W processes joined by gloo, kept from one test to the next because starting them is slow."""

import datetime
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PATIENCE = 120  # how long a rank waits for another one before its collective fails


class Ranks:
    """`world` processes of one gloo group. They start at the first call; a failed call ends them."""

    def __init__(self, world: int):
        self.world = world
        self._workers: list[tuple[mp.Process, Connection]] = []

    def __call__(self, function: Callable, *args: Any) -> list[Any]:
        """`function(*args)` on every rank; the results by rank. The function must be one that pickles by name.

        Raises:
            AssertionError: with the traceback of the rank that failed.
        """
        if not self._workers:
            self._start()
        for _, pipe in self._workers:
            pipe.send((function, args))
        results: dict[int, Any] = {}
        pipes = {pipe: rank for rank, (_, pipe) in enumerate(self._workers)}
        while pipes:  # whoever answers first: after a failure the others may wait for that rank in vain
            for pipe in wait(list(pipes)):
                rank = pipes.pop(pipe)
                try:
                    done, results[rank] = pipe.recv()
                except EOFError:
                    done, results[rank] = False, "the process died"
                if not done:
                    self.close()
                    raise AssertionError(f"rank {rank} of {self.world}:\n{results[rank]}")
        return [results[rank] for rank in range(self.world)]

    def close(self) -> None:
        for process, pipe in self._workers:
            pipe.close()
            process.terminate()
        for process, _ in self._workers:
            process.join()
        self._workers = []

    def _start(self) -> None:
        context = mp.get_context("spawn")
        store = Path(tempfile.mkdtemp()) / "store"
        for rank in range(self.world):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(rank, self.world, str(store), there), daemon=False)
            process.start()
            there.close()
            self._workers.append((process, here))


def _serve(rank: int, world: int, store: str, pipe: Connection) -> None:
    torch.set_num_threads(1)
    timeout = datetime.timedelta(seconds=PATIENCE)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=timeout)
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            break
        try:
            answer = (True, function(*args))
        except Exception:
            answer = (False, traceback.format_exc())
        pipe.send(answer)
    dist.destroy_process_group()
