"""What benchmarks of steps share: arms in processes of their own that take turns, their time and their peak memory."""

import multiprocessing
import resource
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from typing import Any


def take_turns(train: Callable[..., None], arms: Iterable[tuple], rounds: int) -> tuple[list[list[float]], list[float]]:
    """Seconds of every round and peak memory of each arm, after one round to warm up.

    Args:
        train: is called as `train(pipe, *arm)` in a fresh process, so that its peak is its own; it calls `serve`.
    """
    spawn = multiprocessing.get_context("spawn")
    processes, pipes = [], []
    for arm in arms:
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=train, args=(theirs, *arm), daemon=True)
        process.start()
        processes.append(process)
        pipes.append(ours)
    seconds = [[_ask(pipe, "round") for pipe in pipes] for _ in range(rounds + 1)][1:]
    memory = [_ask(pipe, "memory") for pipe in pipes]
    for process in processes:
        process.join()
    return [list(arm) for arm in zip(*seconds, strict=True)], memory


def _ask(pipe: Connection, what: str) -> Any:
    pipe.send(what)
    return pipe.recv()


def serve(pipe: Connection, step: Callable[[int], object], steps: int, device: str, imported: int) -> None:
    """One arm: a round of `steps` steps whenever it is asked (CPU time; on a GPU wall time), then its peak memory.

    Args:
        imported: the process's peak before it built anything, from `peak_rss`; on a GPU what torch allocates counts.
    """
    import torch

    cuda = torch.device(device).type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    while pipe.recv() == "round":
        if cuda:
            torch.cuda.synchronize()
        started = clock()
        for number in range(steps):
            step(number)
        if cuda:
            torch.cuda.synchronize()
        pipe.send(clock() - started)
    pipe.send(torch.cuda.max_memory_allocated() if cuda else peak_rss() - imported)


def peak_rss() -> int:
    """Of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
