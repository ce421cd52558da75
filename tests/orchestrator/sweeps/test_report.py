"""What is said of a sweep's trials: each seed counted once, whatever was measured."""

from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.sweeps.importance import comparable, importances, seed_share
from orchestrator.sweeps.report import BEST_FILE, Report
from orchestrator.sweeps.space import Settings
from orchestrator.sweeps.trials import Trial, difference, ranking
from tests.orchestrator.sweeps.small import sweep_of


def trial(number: int, settings: Settings, seed: int, *values: float, epochs: int = 0, **others: list[float]) -> Trial:
    """One whose k-NN accuracy took these values, from epoch 1; it was to train for `epochs`, by default as many."""
    records = [{"epoch": 0.0}, *({"epoch": float(e), "knn/last": value} for e, value in enumerate(values, 1))]
    for metric, rest in others.items():
        for record, value in zip(records[1:], rest, strict=False):
            record[metric.replace("_", "/")] = value
    epochs = epochs or len(values)
    status = "FINISHED" if epochs == len(values) else "STOPPED"
    return Trial(number, settings, settings, seed, epochs, status, records=records)


def shown(report: Report) -> str:
    console = Console(width=160)
    with console.capture() as captured:
        console.print(report.table())
    return captured.get()


A, B = {"distill.alpha": 0.0}, {"distill.alpha": 1.0}
SPACE = {"distill.alpha": {"choice": [0.0, 1.0]}}


def test_the_same_seed_of_the_same_setting_is_one_seed(tmp_path: Path) -> None:
    trials = [trial(number, A, 0, 0.4, 0.5) for number in (1, 2, 3)] + [trial(4, B, 0, 0.3, 0.4)]
    report = Report(sweep_of(tmp_path, SPACE), trials, 1.0)
    assert [score.values for score in ranking(trials, "knn/last", "max")] == [(0.5,), (0.4,)]
    assert "seeds)" not in shown(report) + " ".join(report.answer())
    assert "one seed says nothing about noise" in " ".join(report.answer())
    assert report.counts().startswith("4 trials")


def test_seeds_are_paired_once_each() -> None:
    trials = [trial(1, A, 0, 0.5), trial(2, A, 1, 0.7), trial(3, A, 1, 0.7), trial(4, B, 0, 0.4), trial(5, B, 1, 0.5)]
    best, second = ranking(trials, "knn/last", "max")
    assert best.mean == pytest.approx(0.6), "0.7 is there twice"
    lead, half = difference(best, second)
    assert lead == pytest.approx(0.15)
    assert half == pytest.approx(12.706 * 0.05, rel=1e-3)


def test_of_a_seed_the_trial_that_was_trained_furthest_counts() -> None:
    trials = [trial(1, A, 0, 0.9, epochs=3), trial(2, A, 0, 0.4, 0.5, epochs=3), trial(3, A, 0, 0.8, epochs=3)]
    assert [(score.values, score.whole) for score in ranking(trials, "knn/last", "max")] == [((0.5,), False)]


def test_what_matters_and_noise_are_told_of_seeds(tmp_path: Path) -> None:
    config = sweep_of(tmp_path, SPACE).config
    twins = [trial(number, s, 0, 0.4 + s["distill.alpha"] / 10) for number, s in enumerate([A, B] * 4)]
    assert importances(config, twins) == [], "there are two runs, not eight"
    assert seed_share(twins, comparable(twins, "knn/last")[1]) is None
    seeds = [trial(n, s, seed, 0.4 + s["distill.alpha"] / 10) for n, (s, seed) in
             enumerate([(s, seed) for s in (A, B) for seed in (0, 1, 2)] + [(A, 0)])]  # fmt: skip
    (importance,) = importances(config, seeds)
    assert importance.trials == 6
    assert len(comparable(seeds, "knn/last")[1]) == 6


def test_a_second_metric_that_was_not_measured_is_left_blank(tmp_path: Path) -> None:
    keys = {"metric": ["knn/last", "rankme/last"], "searcher": "grid", "scheduler": "none"}
    trials = [trial(1, A, 0, 0.4, 0.5, rankme_last=[1.0, 2.0]), trial(2, B, 0, 0.6, epochs=2)]
    report = Report(sweep_of(tmp_path, SPACE, **keys), trials, 1.0)
    assert "1 settings are beaten by none" in report.answer()[1]
    assert "nan" not in shown(report)
    written = {file.name for file in report.write(tmp_path / "sweep")}
    assert {"pareto.png", BEST_FILE} <= written
