"""Sweeps of runs that take a second, and what they leave."""

import json
from pathlib import Path

import yaml
from mlflow import MlflowClient
from rich.console import Console

from orchestrator.sweeps.file import Sweep, sweep_at
from orchestrator.sweeps.plan import make_plan
from orchestrator.sweeps.trials import Trial, read_trials
from orchestrator.sweeps.watch import new_sweep, run_sweep
from tests.orchestrator.conftest import TINY

OVERRIDES = {key: yaml.safe_load(value) for key, value in (word.split("=") for word in TINY)}
EVALUATION = [{"kind": "knn", "every": 1, "k": 5}, {"kind": "geometry", "every": 1}]


def write_sweep(folder: Path, images: Path, **changes) -> Path:
    """A sweep of runs that take a second, as YAML; `changes` are keys of it."""
    values = {
        "recipe": "small-sd-mocov3",
        "overrides": {
            **OVERRIDES,
            "data.train": str(images / "train"),
            "data.val": str(images / "val"),
            "evaluation": EVALUATION,
            **changes.pop("overrides", {}),
        },
        "space": {"distill.alpha": {"choice": [0.0, 0.5, 1.0]}},
        "metric": "rankme/last",  # k-NN is perfect on such images
        "searcher": "grid",
        "scheduler": "none",
        **changes,
    }
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    return file


def sweep_of(folder: Path, space: dict, **keys) -> Sweep:
    """A sweep on bundled images that is not run."""
    values = {"recipe": "small-sd-mocov3", "overrides": {"data.train": "bundled:digits"}, "space": space, **keys}
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    return Sweep(file)


def run(file: Path, output: Path) -> tuple[list[Trial], str]:
    """A sweep to its end: its trials, and what it printed."""
    console = Console(record=True, width=160, force_terminal=False)
    sweep = Sweep(file)
    run_sweep(make_plan(sweep), new_sweep(sweep, output), console)
    return read_trials(output), console.export_text()


def go_on(output: Path, trials: int) -> list[Trial]:
    """The sweep in `output` resumed, to have so many settings; all its trials."""
    file = output / "sweep.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"trials": trials}))
    run_sweep(make_plan(sweep_at(output, "SWEEP")), output, Console(quiet=True))
    return read_trials(output)


def mlflow_runs(output: Path) -> tuple[object, list]:
    """The sweep's MLflow run, and those of its trials."""
    known = json.loads((output / "mlflow.json").read_text())
    client = MlflowClient(known["uri"])
    parent = client.get_run(known["run_id"])
    below = f"tags.mlflow.parentRunId = '{known['run_id']}'"
    return parent, client.search_runs([parent.info.experiment_id], below, max_results=100)
