"""Which trials a sweep has, how they stand, and when it has had enough: the trial book and the budget."""

import time
from pathlib import Path
from typing import Any

from orchestrator.sweeps.space import SweepConfig
from orchestrator.sweeps.trial import FAILURE, OUT_OF_MEMORY, Job, repeat_of
from orchestrator.sweeps.trials import Trial, read_trials, seconds_of, write_seconds
from ssl_core.training.history import HistoryReader


class TrialBook:
    """Every trial by the names that Tune gives them, and their files.

    Attributes:
        trials: all, in the order in which they began, those of earlier sessions first.
    """

    def __init__(self, job: Job):
        self.job, self.config = job, job.sweep.config
        self.trials = read_trials(job.folder)
        self._of: dict[str, Trial] = {}  # by the names that Tune gives them in this session
        self._earlier = list(self.trials)  # trials of other sessions that this one has not begun again
        self._figures: dict[str, HistoryReader] = {}  # of trials that run, by id
        self._before, self._started = seconds_of(job.folder), time.monotonic()

    @property
    def seconds(self) -> float:
        """How long the sweep has run, all its sessions together."""
        return self._before + time.monotonic() - self._started

    @property
    def ended(self) -> int:
        return sum(trial.ended for trial in self.trials)

    def find(self, tune_id: str) -> Trial | None:
        """A trial that Tune has named before."""
        return self._of.get(tune_id)

    def enter(self, tune_trial: Any) -> Trial:
        """A trial that Tune names for the first time in this session: one of an earlier session, or a new one."""
        trial = self._begun_earlier(tune_trial.config)
        if trial is None:
            proposed = tune_trial.config["trial"]["settings"]
            epochs = self.job.run_config(tune_trial.config).optim.epochs
            settings = self.config.decode(proposed)
            trial = Trial(len(self.trials) + 1, settings, proposed, repeat_of(tune_trial.config), epochs)
            self.trials.append(trial)
        self._of[tune_trial.trial_id] = trial
        self.job.name(tune_trial.trial_id, trial)
        return trial

    def start(self, trial: Trial, tune_trial: Any) -> None:
        """It runs, perhaps with settings that have changed since."""
        trial.proposed = tune_trial.config["trial"]["settings"]
        trial.settings = self.config.decode(trial.proposed)
        trial.status, trial.reason, trial.started = "RUNNING", "", time.time()
        trial.write(self.folder_of(trial))

    def read(self, trial: Trial) -> None:
        """Its figures, from where it writes them."""
        if trial.id not in self._figures:
            self._figures[trial.id] = HistoryReader(self.folder_of(trial))
        trial.records = self._figures[trial.id].read()

    def end(self, trial: Trial, status: str, reason: str) -> None:
        """Write down what became of it."""
        self._figures.pop(trial.id, None)
        trial.status, trial.reason, trial.stopped = status, reason, time.time()
        trial.write(self.folder_of(trial))
        self.write_seconds()

    def stop(self, trial: Trial) -> None:
        """Write down that it goes on when the sweep is resumed."""
        trial.status, trial.reason = "KILLED", "the sweep was stopped"
        trial.write(self.folder_of(trial))

    def write_seconds(self) -> None:
        write_seconds(self.job.folder, self.seconds)

    def folder_of(self, trial: Trial) -> Path:
        return self.job.folder_of(trial)

    def failure_of(self, trial: Trial, tune_trial: Any, failed: bool) -> str | None:
        """Why it ended badly: in its own words, or as Ray says it."""
        own = self.folder_of(trial) / FAILURE
        if own.exists():
            return own.read_text()
        return _reason(tune_trial) if failed else None

    def _begun_earlier(self, config: dict[str, Any]) -> Trial | None:
        """The trial of an earlier session that a proposal means."""
        wanted = (config["trial"]["settings"], repeat_of(config))
        found = next((trial for trial in self._earlier if (trial.proposed, trial.repeat) == wanted), None)
        if found is not None:
            self._earlier.remove(found)
        return found


class Budget:
    """How much a sweep may take.

    Attributes:
        spent: what is, in words; None while there is more.
    """

    def __init__(self, config: SweepConfig):
        self.config = config.budget
        self.spent: str | None = None

    def check(self, book: TrialBook) -> bool:
        """Whether it is spent."""
        if self.config.hours and book.seconds > 3600 * self.config.hours:
            self.spent = f"budget.hours: {self.config.hours:g} are over"
        if self.config.epochs and sum(trial.epoch for trial in book.trials) >= self.config.epochs:
            self.spent = f"budget.epochs: {self.config.epochs} are spent"
        return self.spent is not None


def _reason(tune_trial: Any) -> str:
    """Why a trial's process ended, in a line, as Ray says it."""
    log = Path(tune_trial.error_file or "")
    lines = [line.strip() for line in log.read_text().splitlines() if line.strip()] if log.is_file() else []
    said = next((line for line in reversed(lines) if "Error" in line or "died" in line), "its process ended")
    short_of_memory = any("OutOfMemoryError" in line or "running low on memory" in line for line in lines)
    return f"{said[:300]}{OUT_OF_MEMORY if short_of_memory else ''}"
