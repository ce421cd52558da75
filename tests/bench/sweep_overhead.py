"""What a sweep adds to a trial: its time in a sweep against the same loop alone, with one worker and with two.

A trial's time in the sweep runs from the end of the trial before it to its own end, so that all that lies between
them counts; the first trial, which pays for starting, does not. Alone, the loop runs in a process that has run it
before, on two gloo ranks for two workers. All have the same threads, and one run at a time.

    python tests/bench/sweep_overhead.py

About 4 minutes on two cores.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from orchestrator.sweeps.trials import read_trials
from ssl_core import recipes
from ssl_core.data.sources import open_images
from ssl_core.schema.run import RunConfig
from ssl_core.training.checkpoints import CheckpointStore
from ssl_core.training.events import EpochEnded, Event, Listener
from ssl_core.training.loop import Pretraining

sys.path.append(str(Path(__file__).parents[2]))
from tests.gloo import Ranks

OVERRIDES = {"data.limit": 1000, "data.workers": 0, "optim.epochs": 2}
TRIALS = 5


class Keeps(Listener):
    """Writes checkpoints, as every run does."""

    def __init__(self, run: Pretraining, folder: Path):
        self.run, self.store = run, CheckpointStore(folder, run.config)

    def on(self, event: Event) -> None:
        if isinstance(event, EpochEnded):
            self.store.keep(self.run)


def train(config: dict, threads: int) -> float:
    """The loop alone; its seconds."""
    import torch

    torch.set_num_threads(threads)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        checked = RunConfig.model_validate(config)
        run = Pretraining(checked, open_images(checked.data), loaders=0)
        run.run(Keeps(run, Path(folder)))
    return time.perf_counter() - began


def alone(workers: int) -> float:
    words = [f"{key}={value}" for key, value in OVERRIDES.items()]
    config = recipes.load("demo", [*words, f"scaling.workers={workers}"]).model_dump(mode="json")
    ranks: Callable = Ranks(workers)
    try:
        times = [max(ranks(train, config, 2 // workers)) for _ in range(3)]
    finally:
        ranks.close()
    return statistics.median(times[1:])


def in_sweep(workers: int) -> float:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        space = {"distill.alpha": {"choice": [1.0 - number / 10 for number in range(TRIALS)]}}
        values = {"recipe": "demo", "overrides": {**OVERRIDES, "scaling.workers": workers}, "space": space}
        values |= {"searcher": "grid", "scheduler": "none", "resources": {"cpus": 2}}
        (folder / "sweep.yaml").write_text(yaml.safe_dump(values))
        command = [sys.executable, "-m", "orchestrator", "sweep", "sweep.yaml", "--output", "out"]
        env = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
        subprocess.run(command, cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL)
        ends = sorted(trial.stopped for trial in read_trials(folder / "out"))
    return statistics.median(later - before for before, later in itertools.pairwise(ends))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    for workers in parser.parse_args().workers:
        aim = 2.5 if workers == 1 else 15.0
        own, swept = alone(workers), in_sweep(workers)
        times = f"the loop alone {own:.1f} s, a trial {swept:.1f} s"
        print(f"{workers} worker(s): {times}: {swept - own:+.1f} s (aim ≤ {aim})", flush=True)


if __name__ == "__main__":
    main()
