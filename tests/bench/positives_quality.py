"""What it does to a representation whom an image is paired with: paired seeds of four kinds of positives.

Question: how good is the last layer, by k-NN, when the second view is of the image itself (augment), of its nearest
neighbour (nearest), of one that AdaSim draws (adasim: published τ and K in a window of 2 epochs; adasim-wide: lists of
50 in a window of 3, and τ in units of the similarities' spread), or of a random image of its class (labels: an upper
bound, no method), with everything else the same? Every run trains on one thread in a process of its own.

    python tests/bench/positives_quality.py --train photos30/train.parquet --val photos30/val.parquet

3 frameworks × 4 kinds × 5 seeds take about half an hour on two cores. Any labelled images of about 32 pixels will do.
The default paths hold 40-pixel patches of 30 photographs, a set that is not part of this repository.
"""

import argparse

import numpy as np
from paired import data_overrides, interval, make_parser, pretrain, run_all
from rich.console import Console
from rich.table import Table

KINDS = {
    "augment": [],
    "nearest": ["positives.kind=nearest"],
    "adasim": ["positives.kind=adasim", "positives.window=2"],
    "adasim-wide": [
        "positives.kind=adasim",
        "positives.window=3",
        "positives.top_k=50",
        "positives.tau_scale=spread",
        "positives.tau=0.5",
    ],
    "labels": ["positives.kind=labels"],
}
FIGURES = ("bootstrap_ratio", "gate_open", "same_class", "nn_top2", "self_similarity", "spread")


def train(recipe: str, kind: str, seed: int, overrides: list[str]) -> dict:
    """One run: k-NN of the last and best layer before and after, what became of the pairs, CPU-seconds."""
    ends_only = "evaluation=[{kind: knn, every: 1000, max_val: 3000}]"
    _, history, cpu_seconds = pretrain(recipe, [f"seed={seed}", ends_only, *overrides, *KINDS[kind]])
    return {
        "recipe": recipe,
        "kind": kind,
        "seed": seed,
        "before": history[0]["knn/last"],
        "after": history[-1]["knn/last"],
        "best": history[-1]["knn/best"],
        **{name: history[-1].get(f"positives/{name}") for name in FIGURES},
        "mean_bootstrap_ratio": float(np.mean([r.get("positives/bootstrap_ratio", 0.0) for r in history[1:]])),
        "cpu_seconds": cpu_seconds,
    }


def main() -> None:
    parser = make_parser(__doc__, limit=2000)
    parser.add_argument("--recipes", nargs="+", default=["small-dino", "small-simsiam", "small-mocov3"])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["augment", "nearest", "adasim", "labels"])
    arguments = parser.parse_args()
    overrides = data_overrides(arguments)
    overrides += ["optim.epochs=10", "optim.batch_size=64", *arguments.overrides]

    results = []
    runs = [
        (recipe, kind, seed, overrides)
        for recipe in arguments.recipes
        for seed in range(arguments.seeds)
        for kind in arguments.kinds
    ]
    for result in run_all(train, runs, arguments.jobs, arguments.save):
        results.append(result)
        print(
            f"{result['recipe']} {result['kind']} seed {result['seed']}: {result['before']:.1%} → "
            f"{result['after']:.1%}, other image {result['mean_bootstrap_ratio']:.1%}, "
            f"{result['cpu_seconds']:.0f} CPU-s",
            flush=True,
        )
    show(results, arguments)


def show(results: list[dict], arguments: argparse.Namespace) -> None:
    table = Table(title=f"last layer's k-NN (%), {arguments.seeds} paired seeds")
    for title in ("recipe", "positives", "random", "trained", "against augment, 95 %", "other image", "same class"):
        table.add_column(title, justify="left" if title in ("recipe", "positives") else "right")
    for recipe in arguments.recipes:
        runs = {kind: [r for r in results if (r["recipe"], r["kind"]) == (recipe, kind)] for kind in arguments.kinds}
        plain = np.array([r["after"] for r in runs.get("augment", [])])
        for kind, own in runs.items():
            after, before = (np.array([r[when] for r in own]) for when in ("after", "before"))
            same = [r["same_class"] for r in own if r["same_class"] is not None]
            table.add_row(
                recipe,
                kind,
                *(f"{100 * x.mean():.1f} ± {100 * x.std(ddof=1):.1f}" for x in (before, after)),
                "" if kind == "augment" or not len(plain) else interval(after - plain),
                f"{100 * np.mean([r['mean_bootstrap_ratio'] for r in own]):.1f} %",
                f"{100 * np.mean(same):.0f} %" if same else "",
            )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
