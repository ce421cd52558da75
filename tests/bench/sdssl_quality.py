"""What hidden self-distillation does to every layer: paired seeds of a framework, plain and distilled.

Question: how good is each layer, by k-NN, after small-mocov3 and small-sd-mocov3, and after small-simclr
and small-sd-simclr, trained on the same images from the same weights? Every run trains on one thread in a
process of its own; the CPU-seconds that it took, loader included, are printed.

    python tests/bench/sdssl_quality.py --train photos30/train.parquet --val photos30/val.parquet

5 seeds take about 20 minutes on two cores. Any labelled images of about 32 pixels will do. The default paths hold
40-pixel patches of 30 photographs, a set that is not part of this repository.
"""

import numpy as np
from paired import data_overrides, interval, make_parser, pretrain, run_all
from rich.console import Console
from rich.table import Table

PAIRS = (("small-mocov3", "small-sd-mocov3"), ("small-simclr", "small-sd-simclr"))


def train(recipe: str, seed: int, overrides: list[str]) -> dict:
    """One run; k-NN by layer before and after, and its CPU-seconds."""
    ends_only = "evaluation=[{kind: knn, every: 1000}]"
    run, history, cpu_seconds = pretrain(recipe, [f"seed={seed}", ends_only, *overrides])
    before, after = (
        [record[f"knn/layer_{layer:02d}"] for layer in range(1, run.method.encoder.depth + 1)]
        for record in (history[0], history[-1])
    )
    return {
        "recipe": recipe,
        "seed": seed,
        "before": before,
        "after": after,
        "cpu_seconds": cpu_seconds,
    }


def main() -> None:
    arguments = make_parser(__doc__, limit=6000).parse_args()
    overrides = [*data_overrides(arguments), *arguments.overrides]

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
