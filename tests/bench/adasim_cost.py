"""What does AdaSim add to a training step, with the neighbour index in an actor, as the number of images grows?

    python tests/bench/adasim_cost.py                          # 1 and 2 workers, N to 1.28M: 10 minutes
    python tests/bench/adasim_cost.py --workers 1 --images 50000 --device cuda --index-gpus 0.1 --batch 256

Workers (one thread each) train the same network with and without an index and take turns; the table has the wall
time of a step with it over one without. The index is a real actor whose cache of N random rows is full. A step with
the index includes what its messages cost and any waiting for a slower index; where workers take all CPUs, the index
competes with them.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import ray
from rich.console import Console
from rich.table import Table

from orchestrator.cluster.connect import connected
from orchestrator.index.actors import ShardedIndex, start_shards
from ssl_core.positives.neighbors.files import write_cache, write_epoch
from ssl_core.schema.positives import PositivesConfig
from ssl_core.schema.scaling import ScalingConfig

POSITIVES = PositivesConfig(kind="adasim", window=1, top_k=10)
CHUNK = 1 << 16


@ray.remote(num_cpus=0)
class Worker:
    """One training rank with two runs: `plain`, and one that feeds the index."""

    def __init__(self, rank: int, store: str, args: argparse.Namespace, workers: int):
        import torch
        import torch.distributed as dist

        from ssl_core.schema.run import RunConfig

        torch.set_num_threads(1)
        if workers > 1:
            backend = "nccl" if args.device == "cuda" else "gloo"
            dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=workers)
        self.args, self.rank, self.workers = args, rank, workers
        backbone = {"name": args.model, "image_size": args.image_size, "patch_size": args.patch_size}
        self._config = RunConfig.model_validate(
            {
                "data": {"train": "bundled:digits"},
                "backbone": backbone,
                "framework": {"name": "mocov3", "hidden_dim": args.hidden_dim},
                "positives": POSITIVES.model_dump(),
                "optim": {"batch_size": args.batch * workers, "precision": args.precision},
                "scaling": {"workers": workers},
            }
        )
        self.runs = {"plain": self._run(self._config.model_copy(update={"positives": PositivesConfig()}), None)}
        views = torch.randint(256, (2, args.batch, 3, args.image_size, args.image_size), dtype=torch.uint8)
        self._views = views.pin_memory() if args.device == "cuda" else views

    def _run(self, config, index):
        from ssl_core.data.sources import open_images
        from ssl_core.training.loop import Pretraining

        return Pretraining(config, open_images(config.data), self.args.device, loaders=0, index=index)

    def dim(self) -> int:
        return self.runs["plain"].method.index_dim

    def attach(self, shards: list, images: int) -> None:
        """A second run, that feeds these shards."""
        self.images, self.index = images, ShardedIndex(shards, images)
        self.runs["adasim"] = self._run(self._config, self.index)

    def round(self, arm: str, steps: int) -> tuple[float, int]:
        """Seconds of a step; bytes that this rank sends with each."""
        import torch

        from ssl_core import distributed
        from ssl_core.batch import Batch

        run = self.runs[arm]
        generator = np.random.default_rng(self.rank)
        distributed.barrier()
        started = time.perf_counter()
        for _ in range(steps):
            ids = torch.from_numpy(generator.integers(self.images, size=self.args.batch))
            run.train_step(run.total_steps // 2, [Batch(ids, {"global": self._views})])
        if arm == "adasim":
            self.index.flush()
        if self.args.device == "cuda":
            torch.cuda.synchronize()
        seconds = (time.perf_counter() - started) / steps
        return seconds, self.args.batch * (4 * self.dim() + ids.element_size())


def fill(folder: Path, images: int, dim: int) -> None:
    """A folder with the state of an index whose every row was visited."""
    generator = np.random.default_rng(0)
    rows = np.empty((images, dim), np.float32)
    for start in range(0, images, CHUNK):
        part = generator.normal(size=rows[start : start + CHUNK].shape).astype(np.float32)
        rows[start : start + CHUNK] = part / np.linalg.norm(part, axis=1, keepdims=True)
    write_cache(folder, 1, 0, rows)
    ids = generator.integers(images, size=(images, POSITIVES.top_k), dtype=np.int32)
    write_epoch(folder, 1, ids, np.zeros(ids.shape, np.float32))


def measure(workers: int, images: int, args: argparse.Namespace) -> tuple[float, float, int]:
    """Seconds of a plain step; the median ratio; bytes of a step over all workers."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        group = [Worker.remote(rank, str(folder / "store"), args, workers) for rank in range(workers)]
        dim = ray.get(group[0].dim.remote())
        fill(folder, images, dim)
        scaling = ScalingConfig(workers=workers, index_shards=args.shards, index_gpus=args.index_gpus)
        shards = start_shards(POSITIVES, scaling, images, dim, folder)
        ray.get([shard.load.remote(1) for shard in shards])
        ray.get([worker.attach.remote(shards, images) for worker in group])
        ratios, plain_seconds, sent = [], [], 0
        for number in range(args.rounds + 1):
            seconds = {}
            for arm in ("plain", "adasim"):
                results = ray.get([worker.round.remote(arm, args.steps) for worker in group])
                seconds[arm] = max(s for s, _ in results)
                sent = sum(size for _, size in results)
            if number:  # the first warms up
                ratios.append(seconds["adasim"] / seconds["plain"])
                plain_seconds.append(seconds["plain"])
        for actor in (*group, *shards):
            ray.kill(actor)
    return statistics.median(plain_seconds), statistics.median(ratios), sent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[50_000, 200_000, 1_280_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--index-gpus", type=float, default=0.0)
    parser.add_argument("--batch", type=int, default=32, help="images a step and worker, two views each (%(default)s)")
    parser.add_argument("--model", default="vit_tiny_patch16_224", help="timm model (%(default)s)")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--patch-size", type=int, default=8)
    parser.add_argument("--hidden-dim", type=int, default=512)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="a round (%(default)s)")
    args = parser.parse_args()

    table = Table("workers", "N", "plain step", "with the index", "sent a step", title="AdaSim / plain")
    with connected():
        for workers in args.workers:
            for images in args.images:
                seconds, ratio, sent = measure(workers, images, args)
                row = (
                    str(workers),
                    f"{images:,}",
                    f"{1000 * seconds:.0f} ms",
                    f"× {ratio:.3f}",
                    f"{sent / 1024:.0f} KiB",
                )
                print(*row, flush=True)
                table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
