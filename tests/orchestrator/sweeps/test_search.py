"""Searchers, schedulers and budgets of sweeps, on a real Ray instance and a real MLflow store."""

import json
import shutil
from pathlib import Path

import pytest

from tests.orchestrator.sweeps.small import run, write_sweep

pytestmark = pytest.mark.usefixtures("ray_session")


def test_asha_stops_trials_early(folders: Path, tmp_path: Path) -> None:
    space = {"optim.lr": {"choice": [1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7]}}
    scheduler = {"name": "asha", "grace": 1, "factor": 3}
    file = write_sweep(tmp_path, folders, space=space, scheduler=scheduler, overrides={"optim.epochs": 3})
    trials, _ = run(file, tmp_path / "sweep")
    stopped = [trial for trial in trials if trial.status == "STOPPED"]
    assert stopped
    assert all(trial.epoch < 3 for trial in stopped)
    assert any(trial.status == "FINISHED" for trial in trials)
    assert all("asha" in trial.reason for trial in stopped)


def test_the_budget_ends_a_sweep(folders: Path, tmp_path: Path) -> None:
    file = write_sweep(tmp_path, folders, budget={"epochs": 4}, overrides={"optim.epochs": 100})
    trials, printed = run(file, tmp_path / "sweep")
    assert 4 <= sum(trial.epoch for trial in trials) < 100
    assert {trial.status for trial in trials} == {"STOPPED"}
    assert all("budget.epochs" in trial.reason for trial in trials)
    assert "budget.epochs" in printed


def test_two_metrics_end_with_a_front(folders: Path, tmp_path: Path) -> None:
    file = write_sweep(
        tmp_path,
        folders,
        space={"distill.alpha": {"uniform": [0.0, 1.0]}},
        metric=["rankme/last", "images_per_second"],
        mode=["max", "max"],
        searcher={"name": "optuna", "sampler": "nsgaii"},
        trials=3,
    )
    trials, printed = run(file, tmp_path / "sweep")
    assert [trial.status for trial in trials] == ["FINISHED"] * 3
    assert "are beaten by none in both" in printed
    assert (tmp_path / "sweep" / "report" / "pareto.png").exists()


def _damaged(folders: Path, tmp_path: Path) -> str:
    """The training images, one in four cut short."""
    copy = tmp_path / "damaged"
    shutil.copytree(folders / "train", copy)
    for file in sorted(copy.rglob("*.png"))[::4]:
        file.write_bytes(file.read_bytes()[:100])
    return str(copy)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.searchers)])
def test_pbt_hands_on_weights_and_settings(workers: int, folders: Path, tmp_path: Path) -> None:
    # Workers start anew after every round, which takes its time.
    epochs, trains = (3, [_damaged(folders, tmp_path)]) if workers == 1 else (2, [])
    file = write_sweep(
        tmp_path,
        folders,
        space={
            "distill.alpha": {"uniform": [0.0, 1.0]},
            "optim.lr": {"grid": [1e-2, 1e-8]},
            "data.train": {"grid": [str(folders / "train"), *trains]},
        },
        searcher="random",
        scheduler={"name": "pbt", "every": 1, "quantile": 0.5},
        metric="loss",
        mode="min",
        trials=2 + 2 * len(trains),
        overrides={"optim.epochs": epochs, "scaling.workers": workers},
    )
    trials, _ = run(file, tmp_path / "sweep")
    # Trials on the damaged images fail, and the others go on without them.
    assert sorted(trial.status for trial in trials) == ["FAILED"] * 2 * len(trains) + ["FINISHED"] * 2
    assert all("cannot be decoded" in trial.reason for trial in trials if trial.status == "FAILED")
    trials = [trial for trial in trials if trial.status == "FINISHED"]
    handed = {t.id: tmp_path / "sweep" / "trials" / t.id / "taken_over.jsonl" for t in trials}
    takers = [trial for trial in trials if handed[trial.id].exists()]
    assert takers
    for taker in takers:
        for line in handed[taker.id].read_text().splitlines():
            origin = json.loads(line)
            giver = next(trial for trial in trials if trial.id == origin["trial"])
            assert giver.id != taker.id
        until = origin["epoch"]  # after the last one, its history up to there is the giver's
        assert [r["loss"] for r in taker.records[1 : until + 1]] == [r["loss"] for r in giver.records[1 : until + 1]]
        assert len(taker.records) == epochs + 1
        alphas = [trial.records[-1]["settings/distill.alpha"] for trial in (taker, giver)]
        assert alphas[0] != alphas[1], "nothing was perturbed"
        assert taker.settings["distill.alpha"] == alphas[0]
    assert trials[0].records[-1]["loss"] != trials[1].records[-1]["loss"]
