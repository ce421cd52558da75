"""What a sweep holds of its trials: their figures as they come."""

import json
from pathlib import Path

import pytest

from orchestrator.cluster.room import WorkerShare
from orchestrator.sweeps.book import TrialBook
from orchestrator.sweeps.trial import Job
from orchestrator.sweeps.trials import Trial
from ssl_core.training.history import History
from tests.orchestrator.sweeps.small import sweep_of


def test_the_book_reads_what_a_trial_has_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = TrialBook(Job(sweep_of(tmp_path, {"distill.alpha": {"choice": [0.0, 1.0]}}), tmp_path, WorkerShare(1, 0.0)))
    trials = [Trial(number, {"distill.alpha": 0.0}, {"distill.alpha": 0.0}, 0, 40) for number in (1, 2)]
    histories = []
    for trial in trials:
        trial.write(book.folder_of(trial))
        histories.append(History(book.folder_of(trial)))
        histories[-1].begin([])
    parsed, loads = [], json.loads
    monkeypatch.setattr(json, "loads", lambda line: parsed.append(line) or loads(line))
    for epoch in range(40):
        for trial, history in zip(trials, histories, strict=True):
            history.add({"epoch": float(epoch), "knn/last": epoch / 100})
            book.read(trial)
            assert trial.records == history.records
    assert len(parsed) == 80, "an epoch's figures are read once"
    histories[0].begin(histories[1].records[:20])  # weights taken over
    book.read(trials[0])
    assert trials[0].epoch == 19
