"""Whole sweeps on a real Ray instance and a real MLflow store."""

import itertools
import json
import os
import shutil
import signal
import time
import urllib.parse
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from rich.console import Console

from orchestrator.plan import make_plan
from orchestrator.results import Trial, read_trials
from orchestrator.runs import WorkFailed, new_run
from orchestrator.sweep import new_sweep, run_sweep
from orchestrator.sweep_file import Sweep, sweep_at
from orchestrator.sweep_report import BEST_FILE, REPORT_FILE
from ssl_core import recipes
from tests.orchestrator.browser import chromium, mlflow_page
from tests.orchestrator.conftest import TINY, ray_processes

pytestmark = pytest.mark.usefixtures("ray_session")

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
    from orchestrator.pretrain import pretrain

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


def test_the_best_recipe_runs(grid, strata, tmp_path: Path) -> None:
    output, _, _ = grid
    done = strata("pretrain", str(output / BEST_FILE), "optim.epochs=1", "--output", str(tmp_path / "again"))
    assert done.returncode == 0, done.stderr
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


def test_a_trial_that_fails_or_collapses_ends_alone_with_its_reason(folders: Path, tmp_path: Path) -> None:
    space = {"optim.lr": {"choice": [1e-2, 1e30]}}
    file = write_sweep(
        tmp_path,
        folders,
        space=space,
        overrides={"optim.epochs": 3, "optim.clip_grad": None, "framework.temperature": 0.2},
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
    # A threshold between what the two settings reach stands for the one at which a representation is lost.
    file = write_sweep(tmp_path, folders, collapse={"std": 0.0, "rankme": 1e9}, overrides={"optim.epochs": 3})
    with pytest.raises(WorkFailed, match="no trial"):
        run(file, tmp_path / "sweep")
    trials = read_trials(tmp_path / "sweep")
    assert {(trial.status, trial.epoch) for trial in trials} == {("COLLAPSED", 1)}
    assert all("RankMe" in trial.reason for trial in trials)
    parent, children = mlflow_runs(tmp_path / "sweep")
    assert {child.info.status for child in children} == {"KILLED"}
    assert parent.info.status == "FAILED"


class KillsATrial(Console):
    """A console that kills a trial's process when another trial has ended."""

    killed = False

    def print(self, *objects, **options):
        super().print(*objects, **options)
        running = ray_processes("ResourceTrainable") if any(" FINISHED" in str(item) for item in objects) else []
        if not self.killed and running:
            os.kill(running[-1], signal.SIGKILL)
            self.killed = True


@pytest.mark.parametrize("allowed", [0, 1])
def test_a_trial_whose_process_dies_goes_on_or_ends_alone_with_its_reason(
    allowed: int, folders: Path, tmp_path: Path
) -> None:
    space = {"distill.alpha": {"choice": [0.0, 0.2, 0.4, 0.6]}}
    overrides = {"optim.epochs": 8, "scaling.max_failures": allowed}
    sweep = Sweep(write_sweep(tmp_path, folders, space=space, overrides=overrides))
    console = KillsATrial(file=open(os.devnull, "w"), width=160)  # noqa: SIM115
    run_sweep(make_plan(sweep), new_sweep(sweep, tmp_path / "sweep"), console)
    assert console.killed
    trials = read_trials(tmp_path / "sweep")
    if allowed:
        assert [trial.status for trial in trials] == ["FINISHED"] * 4
        assert all([record["epoch"] for record in trial.records] == list(range(9)) for trial in trials)
        return
    assert sorted(trial.status for trial in trials) == ["FAILED"] + ["FINISHED"] * 3
    (failed,) = [trial for trial in trials if trial.status == "FAILED"]
    assert "died" in failed.reason
    _, children = mlflow_runs(tmp_path / "sweep")
    assert sorted(child.info.status for child in children) == ["FAILED"] + ["FINISHED"] * 3


def test_asha_stops_trials_early(folders: Path, tmp_path: Path) -> None:
    space = {"optim.lr": {"choice": [1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7]}}
    scheduler = {"name": "asha", "grace": 1, "factor": 3}
    file = write_sweep(tmp_path, folders, space=space, scheduler=scheduler, overrides={"optim.epochs": 9})
    trials, _ = run(file, tmp_path / "sweep")
    stopped = [trial for trial in trials if trial.status == "STOPPED"]
    assert stopped
    assert all(trial.epoch < 9 for trial in stopped)
    assert any(trial.status == "FINISHED" for trial in trials)
    assert all("asha" in trial.reason for trial in stopped)


def test_the_budget_ends_a_sweep(folders: Path, tmp_path: Path) -> None:
    file = write_sweep(tmp_path, folders, budget={"epochs": 4}, overrides={"optim.epochs": 100})
    trials, printed = run(file, tmp_path / "sweep")
    assert 4 <= sum(trial.epoch for trial in trials) < 100
    assert {trial.status for trial in trials} == {"STOPPED"}
    assert all("budget.epochs" in trial.reason for trial in trials)
    assert "budget.epochs" in printed


@pytest.mark.parametrize(
    "searcher",
    [
        {"searcher": "optuna", "repeats": 2},
        {"searcher": {"name": "optuna", "sampler": "cmaes"}, "scheduler": "median"},
        {"searcher": "hyperopt"},
        {"searcher": "bohb", "scheduler": "bohb"},
        {"searcher": "random", "scheduler": "hyperband"},
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
    file = write_sweep(tmp_path, folders, **{"space": space, "trials": 3, **searcher})
    before, _ = run(file, tmp_path / "sweep")
    assert len(before) == 3 * searcher.get("repeats", 1)

    # A new searcher and scheduler are told again what the first trials were and found; nothing of it is trained again.
    trials = go_on(tmp_path / "sweep", 4)
    for old, new in zip(before, trials, strict=False):
        assert (old.settings, old.repeat, old.status, old.records) == (
            new.settings,
            new.repeat,
            new.status,
            new.records,
        )
    assert len(trials) == 4 * searcher.get("repeats", 1)
    assert {trial.status for trial in trials} <= {"FINISHED", "STOPPED"}
    assert len({str(trial.settings) for trial in trials}) == 4
    _, children = mlflow_runs(tmp_path / "sweep")
    assert len(children) == len(trials)
    for trial in trials:
        assert 0 <= trial.settings["distill.alpha"] <= 1
        assert ("positives.tau" in trial.settings) == (trial.settings.get("positives.kind") == "adasim")


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


@pytest.mark.parametrize("workers", [1, 2])
def test_pbt_hands_on_weights_and_settings(workers: int, folders: Path, tmp_path: Path) -> None:
    # Workers start anew after every round, which takes its time.
    epochs, trains = (4, [_damaged(folders, tmp_path)]) if workers == 1 else (2, [])
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
