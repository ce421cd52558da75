"""Which masked method learns the better features: MAE, I-JEPA, or Bootleg with few or all of the teacher's layers?

Paired seeds of small-mae, small-ijepa and small-bootleg on a ViT of 8 layers: Bootleg predicts layers 2, 4, 6 and 8
(4 targets) or all of them. All see the same images in the same order for as many epochs, from encoders of the same
weights (MAE's has a class token more). k-NN and a linear probe on the mean of the patch tokens, of the last layer and
of the best. Every run trains on one thread in a process of its own; CPU-seconds are printed.

    python tests/bench/masked_quality.py --train photos30/train.parquet --val photos30/val.parquet

5 seeds take about 40 minutes on two cores. Any labelled images of about 32 pixels will do. The default paths hold
40-pixel patches of 30 photographs, a set that is not part of this repository.
"""

import numpy as np
from paired import data_overrides, interval, make_parser, pretrain, run_all
from rich.console import Console
from rich.table import Table

ARMS = {
    "mae": ("small-mae", []),
    "ijepa": ("small-ijepa", []),
    "bootleg, 4 targets": ("small-bootleg", ["framework.targets={every: 2}"]),
    "bootleg, all": ("small-bootleg", ["framework.targets=all"]),
}
FIGURES = ("knn/last", "knn/best", "linear/last", "linear/best")
BASE = "ijepa"


def train(arm: str, seed: int, overrides: list[str]) -> dict:
    """One run: accuracies before and after, and its CPU-seconds."""
    recipe, own = ARMS[arm]
    ends_only = "evaluation=[{kind: knn, every: 1000, max_val: 3000}, {kind: linear, every: 1000, max_val: 3000}]"
    deep = "backbone.kwargs.depth=8"
    _, history, cpu_seconds = pretrain(recipe, [f"seed={seed}", ends_only, deep, *own, *overrides])
    before, after = ({name: record[name] for name in FIGURES} for record in (history[0], history[-1]))
    return {"arm": arm, "seed": seed, "before": before, "after": after, "cpu_seconds": cpu_seconds}


def main() -> None:
    parser = make_parser(__doc__, limit=6000)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    arguments = parser.parse_args()
    overrides = [*data_overrides(arguments), *arguments.overrides]

    runs = [(arm, seed, overrides) for seed in range(arguments.seeds) for arm in arguments.arms]
    results = []
    for result in run_all(train, runs, arguments.jobs, arguments.save):
        results.append(result)
        said = ", ".join(f"{name} {result['before'][name]:.1%} → {result['after'][name]:.1%}" for name in FIGURES)
        print(f"{result['arm']} seed {result['seed']}: {said}, {result['cpu_seconds']:.0f} CPU-s", flush=True)
    show(results, arguments.arms)


def show(results: list[dict], arms: list[str]) -> None:
    of = {arm: sorted((r for r in results if r["arm"] == arm), key=lambda r: r["seed"]) for arm in arms}
    table = Table(title=f"accuracies (%), {len(of[arms[0]])} paired seeds; below: against {BASE}, 95 %")
    for title in ("method", *FIGURES, "CPU-s"):
        table.add_column(title, justify="left" if title == "method" else "right")
    untrained = [[r["before"][name] for r in of[BASE]] for name in FIGURES]
    table.add_row("random weights", *(_mean(np.array(values)) for values in untrained))
    for arm in arms:
        values = [np.array([r["after"][name] for r in of[arm]]) for name in FIGURES]
        table.add_row(arm, *map(_mean, values), f"{np.mean([r['cpu_seconds'] for r in of[arm]]):.0f}")
        if arm != BASE:
            base = [np.array([r["after"][name] for r in of[BASE]]) for name in FIGURES]
            table.add_row("", *(interval(a - b) for a, b in zip(values, base, strict=True)))
    Console(width=120).print(table)


def _mean(values: np.ndarray) -> str:
    return f"{100 * values.mean():.1f} ± {100 * values.std(ddof=1):.1f}"


if __name__ == "__main__":
    main()
