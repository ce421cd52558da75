"""What early stopping saves: epochs that ASHA spends on a grid of 24 settings against running all of it to the end.

Both are real sweeps of the same settings and seed. It says whether ASHA ends with the grid's best setting, and how far
behind it is if not, for settings may differ by less than noise.

    python tests/bench/asha_saving.py --train TRAIN.parquet --val VAL.parquet

About 15 minutes on two cores.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from paired import make_parser

from orchestrator.sweeps.space import describe
from orchestrator.sweeps.trials import Trial, ranking, read_trials

SPACE = {
    "optim.lr": {"choice": [2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3]},
    "framework.temperature": {"choice": [0.05, 0.1, 0.2, 0.5]},
}
EVALUATION = [{"kind": "knn", "every": 1, "max_val": 2000}, {"kind": "geometry", "every": 9}]


def run(folder: Path, arguments: object, scheduler: object) -> list[Trial]:
    overrides = {
        "data.train": arguments.train,
        "data.val": arguments.val,
        "data.limit": arguments.limit,
        "optim.epochs": 9,
        "evaluation": EVALUATION,
    }
    values = {"recipe": "small-simclr", "overrides": overrides, "space": SPACE, "searcher": "grid"}
    (folder / "sweep.yaml").write_text(yaml.safe_dump({**values, "scheduler": scheduler, "keep_weights": 0}))
    command = [sys.executable, "-m", "orchestrator", "sweep", "sweep.yaml", "--output", "out", *arguments.overrides]
    env = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    subprocess.run(command, cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL)
    return read_trials(folder / "out")


def main() -> None:
    arguments = make_parser(__doc__, limit=1000).parse_args()
    results = {}
    for name, scheduler in {"all": "none", "asha": "asha"}.items():
        with tempfile.TemporaryDirectory() as folder:
            results[name] = run(Path(folder), arguments, scheduler)
        print(f"{name}: {sum(trial.epoch for trial in results[name])} epochs", flush=True)
    epochs = {name: sum(trial.epoch for trial in trials) for name, trials in results.items()}
    whole, found = (ranking(results[name], "knn/last", "max") for name in ("all", "asha"))
    place = next(place for place, score in enumerate(whole, 1) if score.settings == found[0].settings)
    behind = 100 * (whole[0].mean - whole[place - 1].mean)
    print(f"best of all: {describe(whole[0].settings)}: {whole[0].mean:.1%}")
    print(f"asha's best: {describe(found[0].settings)}: place {place} of {len(whole)}, {behind:.1f} points behind")
    print(f"epochs: {epochs['asha']} of {epochs['all']}, {epochs['asha'] / epochs['all']:.0%} (aim ≤ 40 %)")


if __name__ == "__main__":
    main()
