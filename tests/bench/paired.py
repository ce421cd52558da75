"""What the benchmarks of quality share: their options, runs in processes of their own, intervals of differences."""

import argparse
import json
import multiprocessing
import resource
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

DATA = Path(__file__).parents[3] / "shared" / "data" / "photos30"


def make_parser(description: str, limit: int) -> argparse.ArgumentParser:
    """The options that all have; `limit` is the default number of training images."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", default=str(DATA / "train.parquet"))
    parser.add_argument("--val", default=str(DATA / "val.parquet"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--limit", type=int, default=limit, help="training images (%(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, one thread each")
    parser.add_argument("--save", type=Path, help="write every run's figures here, one JSON object a line")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for all runs")
    return parser


def data_overrides(arguments: argparse.Namespace) -> list[str]:
    return [f"data.train={arguments.train}", f"data.val={arguments.val}", f"data.limit={arguments.limit}"]


def pretrain(recipe: str, overrides: list[str]) -> tuple[Any, list[dict[str, float]], float]:
    """A finished run on one thread, without loader processes; its history; CPU-seconds of this process."""
    import torch

    from ssl_core import recipes
    from ssl_core.data.sources import open_images
    from ssl_core.training.loop import Pretraining

    torch.set_num_threads(1)
    config = recipes.load(recipe, overrides)
    run = Pretraining(config, open_images(config.data), loaders=0)
    history = run.run()
    used = resource.getrusage(resource.RUSAGE_SELF)
    return run, history, used.ru_utime + used.ru_stime


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
