"""Every searcher with its schedulers, on a real Ray instance: a sweep that ends, and goes on with more settings."""

from pathlib import Path

import pytest

from tests.orchestrator.sweeps.small import go_on, mlflow_runs, run, write_sweep

pytestmark = pytest.mark.usefixtures("ray_session")

RARE = pytest.mark.searchers  # what others are like, and few people take


@pytest.mark.parametrize(
    "searcher",
    [
        {"searcher": "optuna", "repeats": 2},
        pytest.param({"searcher": {"name": "optuna", "sampler": "cmaes"}, "scheduler": "median"}, marks=RARE),
        pytest.param({"searcher": "hyperopt"}, marks=RARE),
        pytest.param({"searcher": "bohb", "scheduler": "bohb"}, marks=RARE),
        pytest.param({"searcher": "random", "scheduler": "hyperband"}, marks=RARE),
        {"searcher": "random", "scheduler": "pbt"},
    ],
    ids=lambda changes: "-".join(str(value) for value in changes.values()),
)
def test_searchers_and_schedulers_also_when_a_sweep_goes_on(searcher: dict, folders: Path, tmp_path: Path) -> None:
    space = {"distill.alpha": {"uniform": [0.0, 1.0]}, "optim.lr": {"loguniform": [1e-4, 1e-2]}}
    if "cmaes" not in str(searcher):
        space["distill.layers"] = {"choice": ["all", {"every": 2}]}
    if "cmaes" not in str(searcher) and searcher.get("scheduler") != "pbt":
        space |= {
            "positives.kind": {"choice": ["augment", "adasim"]},
            "positives.tau": {"uniform": [0.1, 0.4], "when": {"positives.kind": "adasim"}},
        }
    if searcher["searcher"] == "bohb":
        pytest.importorskip("hpbandster")
    if searcher["searcher"] == "hyperopt":
        pytest.importorskip("hyperopt")
    file = write_sweep(tmp_path, folders, **{"space": space, "trials": 2, **searcher})
    before, _ = run(file, tmp_path / "sweep")
    assert len(before) == 2 * searcher.get("repeats", 1)

    # A new searcher and scheduler are told again what the first trials were and found; nothing of it is trained again.
    trials = go_on(tmp_path / "sweep", 3)
    for old, new in zip(before, trials, strict=False):
        assert (old.settings, old.repeat, old.status, old.records) == (
            new.settings,
            new.repeat,
            new.status,
            new.records,
        )
    assert len(trials) == 3 * searcher.get("repeats", 1)
    assert {trial.status for trial in trials} <= {"FINISHED", "STOPPED"}
    assert len({str(trial.settings) for trial in trials}) == 3
    _, children = mlflow_runs(tmp_path / "sweep")
    assert len(children) == len(trials)
    for trial in trials:
        assert 0 <= trial.settings["distill.alpha"] <= 1
        assert ("positives.tau" in trial.settings) == (trial.settings.get("positives.kind") == "adasim")
