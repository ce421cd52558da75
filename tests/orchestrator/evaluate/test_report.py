"""A run's page, in a real browser; and what becomes of it where something is missing."""

import shutil
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.evaluate.plan import Wish, make_plan
from orchestrator.evaluate.record import evaluate
from orchestrator.runs.folder import run_at
from orchestrator.runs.report import read_report, write_report
from orchestrator.tracking.receipt import known_run
from orchestrator.tracking.store import Store
from ssl_core import recipes
from tests.orchestrator.tracking.browser import chromium


@pytest.fixture(scope="module")
def page(runs: list[Path]) -> Path:
    """The page of a run that was evaluated."""
    evaluate(make_plan(str(runs[0]), Wish(words=("data.workers=0",))), None, Console(quiet=True))
    said: list[str] = []
    written = write_report(read_report(run_at(runs[0], "DIR"), said.append), said.append)
    assert said == []
    return written


def test_the_page_shows_layers_evaluations_and_images(page: Path) -> None:
    with chromium() as browser:
        browser.goto(page.as_uri())
        assert browser.title() == "seed-0: run"
        assert "Take layer" in browser.inner_text(".answer")
        heads = browser.locator("h2").all_inner_texts()
        for head in (
            "Every layer after training",
            "strata evaluate: quick",
            "Some images and the nearest to them",
            "Go on",
        ):
            assert head in heads
        assert browser.locator("tbody tr").count() >= 4, "two layers in each of two tables"
        widths = browser.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
        assert len(widths) >= 6
        assert min(widths) > 200, "every picture is one"
        assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing sticks out"


def test_mlflow_has_the_page(page: Path) -> None:
    client = Store.of().connect()
    files = client.list_artifacts(known_run(page.parent)["run_id"])
    assert "report.html" in {file.path for file in files}
    assert client.get_run(known_run(page.parent)["run_id"]).info.status == "FINISHED"


def test_without_its_images_the_page_says_what_it_lacks(runs: list[Path], tmp_path: Path) -> None:
    run = tmp_path / "moved"
    shutil.copytree(runs[1], run)
    config = recipes.load(run / "config.yaml", [f"data.train={tmp_path / 'gone'}"])
    (run / "config.yaml").write_text(recipes.dump(config))
    said: list[str] = []
    text = write_report(read_report(run_at(run, "DIR"), said.append), said.append).read_text()
    assert len(said) == 1
    assert "gone does not exist" in said[0]
    assert "Every layer after training" in text
    assert "the nearest to them" not in text


def test_a_run_that_has_not_begun_has_a_page_too(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(recipes.dump(recipes.load("small-simclr", ["data.train=bundled:digits"])))
    report = read_report(run_at(tmp_path, "DIR"))
    assert report.answer() == ["Nothing has been trained yet."]
    assert report.commands().startswith("strata pretrain --resume")
