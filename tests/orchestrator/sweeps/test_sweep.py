"""Whole sweeps on a real Ray instance and a real MLflow store: trials, their tree, and the end."""

import itertools
import json
import os
import signal
import threading
import time
import urllib.parse
from pathlib import Path

import pytest
from mlflow import MlflowClient
from rich.console import Console

from orchestrator.errors import WorkFailed
from orchestrator.runs.folder import new_run
from orchestrator.runs.record import pretrain
from orchestrator.sweeps.file import Sweep
from orchestrator.sweeps.plan import make_plan
from orchestrator.sweeps.report import BEST_FILE, REPORT_FILE
from orchestrator.sweeps.trials import Trial, read_trials
from orchestrator.sweeps.watch import new_sweep, run_sweep
from ssl_core import recipes
from tests.orchestrator.conftest import ray_processes
from tests.orchestrator.sweeps.small import mlflow_runs, run, write_sweep
from tests.orchestrator.tracking.browser import chromium, mlflow_page

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def grid(folders: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> tuple[Path, list[Trial], str]:
    folder = tmp_path_factory.mktemp("grid")
    space = {
        "distill.alpha": {"choice": [0.0, 1.0]},
        "positives.kind": {"choice": ["augment", "adasim"]},
        "positives.tau": {"choice": [0.1, 0.4], "when": {"positives.kind": "adasim"}},
    }
    file = write_sweep(folder, folders, space=space, repeats=2, keep_weights=3, overrides={"positives.window": 1})
    return folder / "sweep", *run(file, folder / "sweep")


def test_every_setting_is_tried_with_every_seed(grid) -> None:
    _, trials, _ = grid
    assert len(trials) == 2 * 6, "a condition that does not hold makes no further setting"
    assert {trial.status for trial in trials} == {"FINISHED"}
    tried = [(json.dumps(trial.settings), trial.repeat) for trial in trials]
    assert len(set(tried)) == len(tried)
    assert all(("positives.tau" in t.settings) == (t.settings["positives.kind"] == "adasim") for t in trials)


def test_a_trial_is_the_run_that_its_configuration_says(grid, tmp_path: Path) -> None:
    output, trials, _ = grid
    trial = next(t for t in trials if t.settings.get("positives.tau") == 0.4 and t.repeat == 1)
    config = recipes.load(output / "trials" / trial.id / "config.yaml")
    assert (config.seed, config.positives.tau, config.distill.alpha) == (1, 0.4, trial.settings["distill.alpha"])
    pretrain(new_run(config, tmp_path / "alone"), Console(quiet=True), started=0.0)
    alone = [json.loads(line) for line in (tmp_path / "alone" / "metrics.jsonl").read_text().splitlines()]
    for ours, theirs in zip(trial.records, alone, strict=True):
        assert {k: v for k, v in ours.items() if k not in ("images_per_second", "data_wait")} == pytest.approx(
            {k: v for k, v in theirs.items() if k not in ("images_per_second", "data_wait")}, rel=1e-4
        )


def test_mlflow_has_a_tree(grid) -> None:
    output, trials, _ = grid
    parent, children = mlflow_runs(output)
    assert parent.info.status == "FINISHED"
    assert "space.distill.alpha" in parent.data.params
    assert len(children) == len(trials)
    by_number = {child.data.tags["trial"]: child for child in children}
    for trial in trials:
        child = by_number[str(trial.number)]
        assert child.info.status == "FINISHED"
        assert child.data.params["distill.alpha"] == str(trial.settings["distill.alpha"])
        assert child.data.tags["varied.positives.kind"] == trial.settings["positives.kind"]
        assert child.data.metrics["rankme/last"] == trial.value("rankme/last")
    files = {file.path for file in MlflowClient().list_artifacts(parent.info.run_id)}
    assert {"sweep.yaml", BEST_FILE, REPORT_FILE, "report"} <= files


def test_only_the_best_keep_their_weights(grid) -> None:
    output, trials, _ = grid
    kept = [trial for trial in trials if (output / "trials" / trial.id / "model.safetensors").exists()]
    assert len(kept) == 3
    assert len(list(output.glob("trials/*/checkpoints"))) == 3
    assert all((output / "trials" / trial.id / "metrics.jsonl").exists() for trial in trials)


def test_the_end_names_the_best_and_says_how_sure_that_is(grid) -> None:
    output, _, printed = grid
    assert "best: α=" in printed
    assert "paired seeds" in printed
    assert "what matters" in printed
    for noise in ("WARNING", "Traceback", "raylet", "Configuration for experiment"):
        assert noise not in printed
    page = (output / REPORT_FILE).read_text()
    assert page.count("data:image/png;base64,") >= 5
    assert 'src="http' not in page


def test_the_best_recipe_runs(grid, tmp_path: Path) -> None:
    output, _, _ = grid
    config = recipes.load(output / BEST_FILE, ["optim.epochs=1"])
    pretrain(new_run(config, tmp_path / "again"), Console(quiet=True), started=0.0)
    assert (tmp_path / "again" / "model.safetensors").exists()


def test_a_report_can_be_made_anew_from_the_folder_or_from_mlflow(grid, strata) -> None:
    output, _, _ = grid
    known = json.loads((output / "mlflow.json").read_text())
    (output / REPORT_FILE).unlink()
    for given in (str(output), known["run_id"]):
        done = strata("report", given)
        assert done.returncode == 0, done.stderr
        assert "best: α=" in done.stdout
        assert (output / REPORT_FILE).exists()


COLLAPSES = {"std": 0.0, "rankme": 1e9}
"""A threshold that no trial reaches stands for the one at which a representation is lost."""


def test_a_trial_that_fails_ends_alone_with_its_reason_and_nine_images_tell_no_collapse(
    folders: Path, tmp_path: Path
) -> None:
    file = write_sweep(
        tmp_path,
        folders,
        space={"optim.lr": {"choice": [1e-2, 1e30]}},
        collapse=COLLAPSES,
        overrides={
            "optim.epochs": 3,
            "optim.clip_grad": None,
            "framework.temperature": 0.2,
            "evaluation": [{"kind": "geometry", "max_images": 9}],
        },
    )
    trials, printed = run(file, tmp_path / "sweep")
    by_rate = {trial.settings["optim.lr"]: trial for trial in trials}
    assert by_rate[1e-2].status == "FINISHED"
    assert by_rate[1e30].status == "FAILED"
    assert "try a lower optim.lr" in by_rate[1e30].reason
    assert "FAILED" in printed
    _, children = mlflow_runs(tmp_path / "sweep")
    assert sorted(child.info.status for child in children) == ["FAILED", "FINISHED"]
    assert "try a lower optim.lr" in next(c for c in children if c.info.status == "FAILED").data.tags["reason"]


def test_a_trial_that_collapses_is_ended(folders: Path, tmp_path: Path) -> None:
    space = {"distill.alpha": {"choice": [0.0, 0.5]}}
    file = write_sweep(tmp_path, folders, space=space, collapse=COLLAPSES, overrides={"optim.epochs": 3})
    with pytest.raises(WorkFailed, match="no trial"):
        run(file, tmp_path / "sweep")
    trials = read_trials(tmp_path / "sweep")
    assert {(trial.status, trial.epoch) for trial in trials} == {("COLLAPSED", 1)}
    assert all("RankMe" in trial.reason for trial in trials)
    parent, children = mlflow_runs(tmp_path / "sweep")
    assert {child.info.status for child in children} == {"KILLED"}
    assert parent.info.status == "FAILED"


def kill_a_trial(output: Path) -> None:
    """Kill the process of a trial that trains, once one has trained for two epochs."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        training = ray_processes("ResourceTrainable.train")
        if training and any(trial.epoch >= 2 for trial in read_trials(output)):
            os.kill(training[-1], signal.SIGKILL)
            return
        time.sleep(0.05)


@pytest.mark.parametrize("allowed", [0, 1])
def test_a_trial_whose_process_dies_goes_on_or_ends_alone_with_its_reason(
    allowed: int, folders: Path, tmp_path: Path
) -> None:
    space = {"distill.alpha": {"choice": [0.0, 0.2, 0.4]}}
    overrides = {"optim.epochs": 12, "scaling.max_failures": allowed}
    sweep = Sweep(write_sweep(tmp_path, folders, space=space, overrides=overrides))
    output = new_sweep(sweep, tmp_path / "sweep")
    killer = threading.Thread(target=kill_a_trial, args=[output], daemon=True)
    killer.start()
    run_sweep(make_plan(sweep), output, Console(quiet=True))
    assert not killer.is_alive()
    trials = read_trials(output)
    if allowed:
        assert [trial.status for trial in trials] == ["FINISHED"] * 3
        assert all([record["epoch"] for record in trial.records] == list(range(13)) for trial in trials)
        return
    assert sorted(trial.status for trial in trials) == ["FAILED"] + ["FINISHED"] * 2
    (failed,) = [trial for trial in trials if trial.status == "FAILED"]
    assert "died" in failed.reason
    _, children = mlflow_runs(output)
    assert sorted(child.info.status for child in children) == ["FAILED"] + ["FINISHED"] * 2


def test_a_trial_of_two_workers_is_a_ray_train_run(folders: Path, tmp_path: Path) -> None:
    found = {}
    for workers in (1, 2):
        (tmp_path / str(workers)).mkdir()
        file = write_sweep(
            tmp_path / str(workers),
            folders,
            space={"positives.kind": {"choice": ["adasim"]}},
            overrides={"scaling.workers": workers, "positives.window": 1},
        )
        (found[workers],), _ = run(file, tmp_path / str(workers) / "sweep")
        assert found[workers].status == "FINISHED"
    assert found[2].records[1]["loss"] == pytest.approx(found[1].records[1]["loss"], rel=1e-3)


def test_workers_and_index_of_a_stopped_trial_are_gone_soon(folders: Path, tmp_path: Path) -> None:
    overrides = {"scaling.workers": 2, "positives.window": 1, "optim.epochs": 200}
    space = {"positives.kind": {"choice": ["adasim"]}}
    file = write_sweep(tmp_path, folders, space=space, overrides=overrides, budget={"epochs": 2})
    (trial,), _ = run(file, tmp_path / "sweep")
    assert trial.status == "STOPPED"
    assert trial.epoch < 100
    deadline = time.monotonic() + 10
    actors = ("IndexShard", "RayTrainWorker", "Mailbox", "TrainController")
    while any(map(ray_processes, actors)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert {name: ray_processes(name) for name in actors} == {name: [] for name in actors}


def test_the_trials_compare_readably_on_mlflows_page(grid, tmp_path: Path) -> None:
    output, trials, _ = grid
    parent, _ = mlflow_runs(output)
    only_these = urllib.parse.quote(f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    uri = json.loads((output / "mlflow.json").read_text())["uri"]
    with mlflow_page(uri) as address, chromium() as page:
        page.goto(f"{address}/#/experiments/{parent.info.experiment_id}/runs?searchFilter={only_these}")
        page.locator(".ag-row button").first.click()  # unfolds the sweep
        rows = page.locator(".ag-row", has_text="α=")
        rows.first.wait_for()
        assert rows.count() == len(trials)
        for number in range(rows.count()):
            rows.nth(number).locator(".ag-selection-checkbox input").check()
        page.get_by_role("button", name="Compare", exact=True).click()
        plot = page.locator(".js-plotly-plot").first
        plot.locator(".axis-title").first.wait_for()
        titles = plot.locator(".axis-title")
        shown = [titles.nth(number).text_content() for number in range(titles.count())]
        boxes = [titles.nth(number).bounding_box() for number in range(titles.count())]
        frame = plot.bounding_box()
        page.screenshot(path=tmp_path / "compare.png")
    assert set(shown) == {"distill.alpha", "positives.kind", "positives.tau", "rankme/last"}
    assert frame["width"] > 400
    assert frame["height"] > 250
    boxes.sort(key=lambda box: box["x"])
    for left, right in itertools.pairwise(boxes):
        assert left["x"] + left["width"] <= right["x"], "two axes' titles overlap"
    assert (tmp_path / "compare.png").stat().st_size > 20_000
