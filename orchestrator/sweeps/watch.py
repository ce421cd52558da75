"""A sweep from its YAML to its answer: Ray Tune decides, trials train, and this process watches and writes down.

Each trial's figures lie in its own folder first; the table, MLflow and the report are made from them.
"""

import logging
import signal
import threading
import warnings
from pathlib import Path
from typing import Any

from ray import tune
from rich.console import Console

from orchestrator.cluster.connect import connected, environment
from orchestrator.cluster.room import nodes
from orchestrator.cluster.seen import check_seen
from orchestrator.errors import WorkFailed
from orchestrator.runs.folder import new_folder
from orchestrator.sweeps.book import Budget, TrialBook
from orchestrator.sweeps.file import SWEEP_FILE, Sweep
from orchestrator.sweeps.narrate import Narrator
from orchestrator.sweeps.plan import Plan, share_of
from orchestrator.sweeps.report import show_report
from orchestrator.sweeps.trial import MEASURED, TUNE, Job, make_trainable
from orchestrator.sweeps.trials import Trial
from orchestrator.sweeps.tuner import make_tuner
from orchestrator.sweeps.weights import WeightKeeper
from orchestrator.tracking.mlflow import check_store
from ssl_core.evaluation.collapse import collapse
from ssl_core.files import remove_tree, write_atomically

ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # figures are in metrics.jsonl
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # nobody reads it
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # no banner: the table is ours
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_RESULT_BUFFER_LENGTH": "0",
}


def new_sweep(sweep: Sweep, output: Path | None) -> Path:
    """A folder of the sweep's own: `output`, or strata-runs/NAME-TIME."""
    return new_folder(output, sweep.config.name)


def run_sweep(plan: Plan, folder: Path, console: Console) -> None:
    """Run the trials of a sweep, or go on with those of an interrupted one; show, write and log what they say.

    Raises:
        InputError: no trial fits the cluster, or the store cannot be used.
        WorkFailed: no trial came to an end.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM; everything so far is kept, and this function goes on with it.
    """
    warnings.filterwarnings("ignore", module=r"ray\.tune|optuna|hyperopt")
    logging.getLogger("hyperopt").setLevel(logging.CRITICAL)
    check_store(plan.config.tracking, folder)
    share, at_once = share_of(plan, nodes())
    with environment(ENVIRONMENT), connected():
        check_seen(folder, plan.config.paths)
        folder.mkdir(parents=True, exist_ok=True)
        remove_tree(folder / TUNE)
        if not (folder / SWEEP_FILE).exists():
            write_atomically(folder / SWEEP_FILE, lambda file: file.write(plan.sweep.dump().encode()))
        job = Job(Sweep(folder / SWEEP_FILE), folder, share)
        watcher = Watcher(plan, job, console)
        trainable = make_trainable(job)
        known = list(watcher.book.trials)
        tuner = make_tuner(plan, trainable, share, at_once, folder / TUNE, _Callback(), _Stopper(), known)
        with watcher:
            tuner.fit()
        if watcher.interrupted:
            raise KeyboardInterrupt
    remove_tree(folder / TUNE)
    report = watcher.narrator.report()
    show_report(report, folder, console)
    if report.best is None:
        raise WorkFailed(f"no trial came to an end; {folder / 'trials'} and the table say why")


class Watcher:
    """Hears of every trial from Tune, lets book and narrator know, and says when to stop."""

    active: "Watcher | None" = None  # whom Tune's callback and stopper, which it writes to a file, report to

    def __init__(self, plan: Plan, job: Job, console: Console):
        self.plan, self.config = plan, plan.sweep.config
        self.book, self.budget = TrialBook(job), Budget(plan.sweep.config)
        self.weights, self.narrator = WeightKeeper(self.book), Narrator(plan, self.book, console)
        self._collapsed: dict[str, str] = {}  # why, by the trial's id

    @property
    def interrupted(self) -> bool:
        """Whether there is more to do that no budget forbids."""
        return self.budget.spent is None and self.book.ended < self.plan.runs

    def __enter__(self) -> "Watcher":
        Watcher.active = self
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:  # Tune itself answers to Ctrl-C
            self._before_term = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        self.narrator.display.__enter__()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self.narrator.display.__exit__()
        if self._main:
            signal.signal(signal.SIGTERM, self._before_term)
        self._close_trials()
        if kind is not None or self.interrupted:
            self.narrator.stop(failed=kind is not None and issubclass(kind, Exception))
        Watcher.active = None

    def on(self, event: str, tune_trial: Any) -> None:
        """What Tune says of a trial: `start`, `result`, `complete` or `error`."""
        trial = self.book.find(tune_trial.trial_id)
        if trial is None:
            trial = self.book.enter(tune_trial)
            if not trial.ended:
                self.narrator.begin(trial)
        if trial.ended:
            return  # in an earlier session: it only says again what came of it
        if event == "start":
            self.book.start(trial, tune_trial)
            self.narrator.show(trial)
        elif event == "result":
            self.book.read(trial)
            self.narrator.log(trial)
            self.narrator.show(trial)
        else:
            self._end(trial, self.book.failure_of(trial, tune_trial, failed=event == "error"))

    def wants_stop(self, tune_id: str, result: dict[str, Any]) -> bool:
        """Whether a trial has collapsed."""
        limits = self.config.collapse
        said = collapse(result, result.get(MEASURED, 0), limits.std, limits.rankme) if limits else None
        trial = self.book.find(tune_id)
        if said and trial is not None:
            self._collapsed[trial.id] = f"epoch {result['epoch']}: {said}"
        return said is not None

    def wants_stop_all(self) -> bool:
        """Whether the budget is spent."""
        return self.budget.check(self.book)

    def _end(self, trial: Trial, failure: str | None = None) -> None:
        """Say, write down and log what became of a trial."""
        self.book.read(trial)
        if failure is not None:
            status, reason = "FAILED", failure
        elif trial.id in self._collapsed:
            status, reason = "COLLAPSED", self._collapsed[trial.id]
        elif trial.epoch >= trial.epochs:
            status, reason = "FINISHED", ""
        else:
            why = self.budget.spent or f"{self.config.scheduler.name}: others were better"
            status, reason = "STOPPED", f"{why} (epoch {trial.epoch})"
        self.book.end(trial, status, reason)
        self.weights.tidy()
        self.narrator.end(trial)
        self.narrator.show(trial)

    def _close_trials(self) -> None:
        """Write down how trials stand that Tune has not ended."""
        for trial in self.book.trials:
            if trial.ended:
                continue
            if self.budget.spent:
                self._end(trial)
            else:
                self.book.stop(trial)
                self.narrator.end(trial)
        self.book.write_seconds()


class _Callback(tune.Callback):
    """Passes on what Tune tells; holds nothing itself, since Tune writes it to a file."""

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        _tell("start", trial)

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        _tell("result", trial)

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        _tell("complete", trial)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        _tell("error", trial)


def _tell(event: str, trial: Any) -> None:
    if Watcher.active is not None:
        Watcher.active.on(event, trial)


class _Stopper(tune.Stopper):
    """Asks whom the callback tells."""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return Watcher.active is not None and Watcher.active.wants_stop(trial_id, result)

    def stop_all(self) -> bool:
        return Watcher.active is not None and Watcher.active.wants_stop_all()
