"""What hidden self-distillation does to every layer: paired seeds of a framework, plain and distilled.

Question: how good is each layer, by k-NN, after small-mocov3 and small-sd-mocov3, and after small-simclr
and small-sd-simclr, trained on the same images from the same weights? Every run trains on one thread in a
process of its own; the CPU-seconds that it took, loader included, are printed.

    python tests/bench/sdssl_quality.py --train photos30/train.parquet --val photos30/val.parquet

5 seeds take about 20 minutes on two cores. Any labelled images of about 32 pixels will do. The default paths hold
40-pixel patches of 30 photographs, a set that is not part of this repository.
"""

import argparse
import resource
from pathlib import Path

import numpy as np
from paired import Silent, interval, run_all
from rich.console import Console
from rich.table import Table

DATA = Path(__file__).parents[3] / "shared" / "data" / "photos30"
PAIRS = (("small-mocov3", "small-sd-mocov3"), ("small-simclr", "small-sd-simclr"))


def train(recipe: str, seed: int, overrides: list[str]) -> dict:
    """One run; k-NN by layer before and after, and its CPU-seconds."""
    import torch

    from ssl_core import recipes
    from ssl_core.data.sources import open_images
    from ssl_core.loop import Pretraining

    torch.set_num_threads(1)
    ends_only = "evaluation=[{kind: knn, every: 1000}]"
    config = recipes.load(recipe, [f"seed={seed}", ends_only, *overrides])
    run = Pretraining(config, open_images(config.data), loaders=0)
    before, after = (
        [record[f"knn/layer_{layer:02d}"] for layer in range(1, run.method.encoder.depth + 1)]
        for record in (lambda history: (history[0], history[-1]))(run.run(Silent()))
    )
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "recipe": recipe,
        "seed": seed,
        "before": before,
        "after": after,
        "cpu_seconds": used.ru_utime + used.ru_stime,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", default=str(DATA / "train.parquet"))
    parser.add_argument("--val", default=str(DATA / "val.parquet"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--limit", type=int, default=6000, help="training images")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, one thread each")
    parser.add_argument("--save", type=Path, help="write every run's figures here, one JSON object a line")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for all runs")
    arguments = parser.parse_args()
    overrides = [f"data.train={arguments.train}", f"data.val={arguments.val}", f"data.limit={arguments.limit}"]
    overrides += arguments.overrides

    runs = [(recipe, seed, overrides) for seed in range(arguments.seeds) for pair in PAIRS for recipe in pair]
    results = []
    for result in run_all(train, runs, arguments.jobs, arguments.save):
        results.append(result)
        last = f"last layer {result['before'][-1]:.1%} → {result['after'][-1]:.1%}"
        print(f"{result['recipe']} seed {result['seed']}: {last}, {result['cpu_seconds']:.0f} CPU-s", flush=True)
    for pair in PAIRS:
        show(pair, results)


def show(pair: tuple[str, str], results: list[dict]) -> None:
    plain, distilled = ([r for r in results if r["recipe"] == recipe] for recipe in pair)
    table = Table(title=f"{pair[1]} against {pair[0]}: k-NN (%), {len(plain)} paired seeds")
    for title in ("layer", "random", pair[0], pair[1], "paired difference, 95 %"):
        table.add_column(title, justify="right")
    random, a, b = (
        np.array([r[when] for r in arm]) for arm, when in ((plain, "before"), (plain, "after"), (distilled, "after"))
    )
    for layer in range(a.shape[1]):
        cells = [f"{100 * x[:, layer].mean():.1f} ± {100 * x[:, layer].std(ddof=1):.1f}" for x in (random, a, b)]
        table.add_row(str(layer + 1), *cells, interval(b[:, layer] - a[:, layer]))
    best = [f"{100 * x.max(axis=1).mean():.1f} ± {100 * x.max(axis=1).std(ddof=1):.1f}" for x in (random, a, b)]
    table.add_row("best", *best, interval(b.max(axis=1) - a.max(axis=1)))
    Console(width=110).print(table)
    seconds = [max(r["cpu_seconds"] for r in arm) for arm in (plain, distilled)]
    print(f"longest run: {seconds[0]:.0f} and {seconds[1]:.0f} CPU-seconds\n")


if __name__ == "__main__":
    main()
