"""What the benchmarks of quality share: runs in processes of their own, intervals of paired differences."""

import json
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from scipy import stats


class Silent:
    """A reporter that says nothing."""

    def on_step(self, *_: object) -> None: ...
    def on_epoch(self, *_: object) -> None: ...
    def on_warning(self, message: str) -> None: ...


def run_all(train: Callable[..., dict], runs: Iterable[tuple], jobs: int, save: Path | None) -> Iterator[dict]:
    """`train(*run)` for every run, `jobs` at once, in order; each result goes into `save`, a JSON object a line."""
    # A fresh process for each run, so that the CPU time is its own.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
        for future in [pool.submit(train, *run) for run in runs]:
            result = future.result()
            if save:
                with open(save, "a") as file:
                    file.write(json.dumps(result) + "\n")
            yield result


def interval(differences: np.ndarray) -> str:
    """Mean and half-width of the 95 % interval of paired differences (t distribution), in points."""
    half = stats.t.ppf(0.975, len(differences) - 1) * stats.sem(differences)
    return f"{100 * differences.mean():+.1f} ± {100 * half:.1f}"
