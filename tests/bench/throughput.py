"""Steady throughput of two workers under Ray Train against the same loop under torchrun, in turn.

Both train MoCo v3 on the same images with the same threads, write no checkpoints but the last, and do not evaluate. An
epoch's images per second are those of the training loop: what comes before it does not count, nor does the first
epoch.

    python tests/bench/throughput.py

3 rounds take about 6 minutes on two cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

WORKERS = 2
WORDS = [
    "data.train=bundled:digits",
    "data.limit=1024",
    "data.workers=0",
    "backbone.image_size=64",
    "optim.epochs=4",
    "optim.warmup_epochs=0",
    "optim.batch_size=64",
    "evaluation=[]",
    "checkpoint.every_epochs=4",
    f"scaling.workers={WORKERS}",
    "scaling.cpus_per_worker=1",
]


def train_rank(file: str) -> None:
    """What torchrun runs."""
    import torch
    import torch.distributed as dist

    from ssl_core import recipes
    from ssl_core.data.sources import open_images
    from ssl_core.training.loop import Pretraining

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    config = recipes.load("small-mocov3", WORDS)
    run = Pretraining(config, open_images(config.data), loaders=0)
    run.run()
    if dist.get_rank() == 0:
        Path(file).write_text("".join(json.dumps(record) + "\n" for record in run.history))
    dist.barrier()
    os._exit(0)  # gloo's threads may outlive the interpreter


def rate(file: Path) -> float:
    """Images per second, the median of the epochs after the first."""
    records = [json.loads(line) for line in file.read_text().splitlines()]
    return statistics.median(record["images_per_second"] for record in records if record["epoch"] > 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank:
        train_rank(arguments.rank)
        return
    env = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    env["PYTHONPATH"] = str(Path(__file__).parents[2])
    # As the workers of a Ray that Strata starts: threads that wait for others do not eat the CPU.
    env |= {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"}
    ratios = []
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(WORKERS)]
            torchrun += [str(Path(__file__).absolute()), "--rank", str(folder / "torchrun.jsonl")]
            strata = [sys.executable, "-m", "orchestrator", "pretrain", "small-mocov3", *WORDS, "--output", "run"]
            for command in (torchrun, strata):
                subprocess.run(command, cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL)
            peer, ours = rate(folder / "torchrun.jsonl"), rate(folder / "run" / "metrics.jsonl")
        ratios.append(ours / peer)
        print(f"torchrun {peer:.1f}, under Ray Train {ours:.1f} images/s: {ratios[-1]:.3f}", flush=True)
    print(f"median {statistics.median(ratios):.3f} (aim ≥ 0.98)")


if __name__ == "__main__":
    main()
