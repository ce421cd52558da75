"""What checkpoints within an epoch cost: the time that one takes, as a part of the minute between two of them.

A real run of MoCo v3 on ViT-S/16, plain and with AdaSim's index (which writes what has changed since its last
checkpoint), writes one every few steps into a folder of its own; training waits meanwhile. The first one of a run
does not count, for it makes the folders.

    python tests/bench/checkpoint_cost.py --folder DISK

About 3 minutes on two cores.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from ssl_core import recipes
from ssl_core.data.sources import open_images
from ssl_core.training.checkpoints import CheckpointStore
from ssl_core.training.events import CheckpointDue, Event, Listener
from ssl_core.training.loop import Pretraining

WORDS = [
    "data.train=bundled:digits",
    "data.limit=512",
    "data.workers=0",
    "backbone.name=vit_small_patch16_224",
    "backbone.image_size=64",
    "backbone.kwargs.embed_dim=384",
    "backbone.kwargs.depth=12",
    "backbone.kwargs.num_heads=6",
    "backbone.patch_size=16",
    "optim.batch_size=32",
    "optim.epochs=1",
    "optim.warmup_epochs=0",
    "checkpoint.every_steps=2",
    "evaluation=[]",
]


class Timed(Listener):
    """Writes checkpoints as every run does, and takes their time."""

    def __init__(self, run: Pretraining, folder: Path):
        self.run, self.store, self.seconds = run, CheckpointStore(folder, run.config), []

    def on(self, event: Event) -> None:
        if isinstance(event, CheckpointDue):
            began = time.perf_counter()
            self.store.keep_within_epoch(self.run)
            self.seconds.append(time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to write; default: the folder for temporary files")
    folder = parser.parse_args().folder
    for recipe in ("small-mocov3", "small-adasim-sd-mocov3"):
        config = recipes.load(recipe, WORDS)
        run = Pretraining(config, open_images(config.data), loaders=0)
        with tempfile.TemporaryDirectory(dir=folder) as name:
            timed = Timed(run, Path(name))
            run.run(timed)
            size = max(file.stat().st_size for file in Path(name).rglob("*.pt"))
        took = statistics.median(timed.seconds[1:])
        print(f"{recipe}: {took:.2f} s for {size / 1e6:.0f} MB: {took / 60:.2%} of a minute (aim ≤ 2 %)", flush=True)


if __name__ == "__main__":
    main()
