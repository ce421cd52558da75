"""A sweep from its YAML to its answer: Ray Tune decides, trials train, and this process watches and writes down.

Each trial's figures lie in its own folder first; the table, MLflow and the report are made from them.
"""

import logging
import signal
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ray import tune
from rich.console import Console

from orchestrator.cluster.connect import connected, environment
from orchestrator.cluster.room import nodes
from orchestrator.cluster.seen import check_seen
from orchestrator.errors import WorkFailed
from orchestrator.runs.display import warn
from orchestrator.runs.folder import new_folder
from orchestrator.sweeps.display import SweepDisplay
from orchestrator.sweeps.file import SWEEP_FILE, Sweep
from orchestrator.sweeps.plan import Plan, share_of
from orchestrator.sweeps.report import Report, show_report
from orchestrator.sweeps.space import label
from orchestrator.sweeps.trial import FAILURE, OUT_OF_MEMORY, TUNE, Job, make_trainable, repeat_of
from orchestrator.sweeps.trials import MLFLOW_STATUS, Trial, read_trials, seconds_of, title, write_seconds
from orchestrator.sweeps.tuner import make_tuner
from orchestrator.tracking.courier import Courier
from orchestrator.tracking.mlflow import Tracker, software_tags, track_run
from ssl_core.evaluation.collapse import collapse
from ssl_core.files import remove_tree, write_atomically
from ssl_core.pictures.run import draw_plots
from ssl_core.training.history import History

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
    share, at_once = share_of(plan, nodes())
    with environment(ENVIRONMENT), connected():
        check_seen(folder, plan.config.paths)
        folder.mkdir(parents=True, exist_ok=True)
        remove_tree(folder / TUNE)
        if not (folder / SWEEP_FILE).exists():
            write_atomically(folder / SWEEP_FILE, lambda file: file.write(plan.sweep.dump().encode()))
        job = Job(Sweep(folder / SWEEP_FILE), folder, share)
        watcher = _Watcher(plan, job, console)
        trainable = make_trainable(job)
        known = list(watcher.trials)
        tuner = make_tuner(plan, trainable, share, at_once, folder / TUNE, _Callback(), _Stopper(), known)
        with watcher:
            tuner.fit()
        if watcher.interrupted:
            raise KeyboardInterrupt
    remove_tree(folder / TUNE)
    report = watcher.report()
    show_report(report, folder, console)
    if report.best is None:
        raise WorkFailed(f"no trial came to an end; {folder / 'trials'} and the table say why")


class _Watcher:
    """Hears of every trial from Tune, keeps the table, the trials' files and MLflow up to date, and says when to stop.

    Pictures are drawn by a thread of its own, and MLflow is written to by another: neither delays a decision.
    """

    active: "_Watcher | None" = None  # whom Tune's callback and stopper, which it writes to a file, report to

    def __init__(self, plan: Plan, job: Job, console: Console):
        self.plan, self.job, self.folder, self.console = plan, job, job.folder, console
        self.config = plan.sweep.config
        self.trials = read_trials(self.folder)
        self._of: dict[str, Trial] = {}  # by the names that Tune gives them in this session
        self._earlier = list(self.trials)  # trials of other sessions that this one has not begun again
        self._before, self._started = seconds_of(self.folder), time.monotonic()
        self._reasons: dict[str, str] = {}
        self._budget: str | None = None
        self._trackers: dict[str, Tracker] = {}
        self._background = ThreadPoolExecutor(1)
        self._courier = Courier(lambda message: warn(self.console, message))
        self.parent = self._open_parent()
        for trial in self.trials:
            if trial.ended:
                self._track(trial)
                if not self._trackers[trial.id].ended:
                    self._submit(self._finish, trial)
        self.display = SweepDisplay(console, plan)

    @property
    def interrupted(self) -> bool:
        """Whether there is more to do that no budget forbids."""
        ended = sum(trial.ended for trial in self.trials)
        return self._budget is None and ended < self.plan.runs

    def __enter__(self) -> "_Watcher":
        _Watcher.active = self
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:  # Tune itself answers to Ctrl-C
            self._before_term = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        self.display.__enter__()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self.display.__exit__()
        if self._main:
            signal.signal(signal.SIGTERM, self._before_term)
        self._close_trials()
        if kind is not None or self.interrupted:
            self._submit(self.parent.finish, "FAILED" if kind and issubclass(kind, Exception) else "KILLED")
            self._background.shutdown(wait=True)
            self._courier.close(self.folder, stopped=True)
        _Watcher.active = None

    def on_start(self, tune_trial: Any) -> None:
        trial = self._known(tune_trial)
        if trial.ended:
            return  # in an earlier session: it only says again what came of it
        trial.proposed = tune_trial.config["trial"]["settings"]
        trial.settings = self.config.decode(trial.proposed)
        trial.status, trial.reason, trial.started = "RUNNING", "", time.time()
        trial.write(self.job.folder_of(trial))
        self.display.update(self.trials, trial)

    def _known(self, tune_trial: Any) -> Trial:
        """The trial; its MLflow run begins when it is first heard of."""
        id, config = tune_trial.trial_id, tune_trial.config
        if id not in self._of:
            trial = self._begun_earlier(config)
            if trial is None:
                proposed, epochs = config["trial"]["settings"], self.job.run_config(config).optim.epochs
                number, settings = len(self.trials) + 1, self.config.decode(proposed)
                trial = Trial(number, settings, proposed, repeat_of(config), epochs)
                self.trials.append(trial)
            self._of[id] = trial
            self.job.name(id, trial)
            if not trial.ended:
                self._track(trial)
                self._trackers[trial.id].begin()
        return self._of[id]

    def _begun_earlier(self, config: dict[str, Any]) -> Trial | None:
        """The trial of an earlier session that a proposal means."""
        wanted = (config["trial"]["settings"], repeat_of(config))
        found = next((trial for trial in self._earlier if (trial.proposed, trial.repeat) == wanted), None)
        if found is not None:
            self._earlier.remove(found)
        return found

    def on_result(self, tune_trial: Any) -> None:
        trial = self._of[tune_trial.trial_id]
        if trial.ended:
            return
        trial.records = History.read(self.job.folder_of(trial))
        self._log(trial)
        self.display.update(self.trials, trial)

    def on_end(self, tune_trial: Any, failed: bool) -> None:
        trial = self._known(tune_trial)
        if not trial.ended:
            own = self.job.folder_of(trial) / FAILURE
            said = own.read_text() if own.exists() else None
            self._end(trial, said or (_reason(tune_trial) if failed else None))

    def _end(self, trial: Trial, failure: str | None = None) -> None:
        """Say, write down and log what became of a trial."""
        trial.records = History.read(self.job.folder_of(trial))
        if failure is not None:
            trial.status, trial.reason = "FAILED", failure
        elif trial.id in self._reasons:
            trial.status, trial.reason = "COLLAPSED", self._reasons[trial.id]
        elif trial.epoch >= trial.epochs:
            trial.status, trial.reason = "FINISHED", ""
        else:
            why = self._budget or f"{self.config.scheduler.name}: others were better"
            trial.status, trial.reason = "STOPPED", f"{why} (epoch {trial.epoch})"
        trial.stopped = time.time()
        trial.write(self.job.folder_of(trial))
        write_seconds(self.folder, self.seconds)
        self._drop_weights()
        self._submit(self._finish, trial)
        self.display.update(self.trials, trial)

    def wants_stop(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether a trial has collapsed."""
        limits = self.config.collapse
        said = collapse(result, limits.std, limits.rankme) if limits else None
        if said:
            self._reasons[self._of[trial_id].id] = f"epoch {result['epoch']}: {said}"
        return said is not None

    def wants_stop_all(self) -> bool:
        """Whether the budget is spent."""
        budget = self.config.budget
        if budget.hours and self.seconds > 3600 * budget.hours:
            self._budget = f"budget.hours: {budget.hours:g} are over"
        if budget.epochs and sum(trial.epoch for trial in self.trials) >= budget.epochs:
            self._budget = f"budget.epochs: {budget.epochs} are spent"
        return self._budget is not None

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._started

    def _close_trials(self) -> None:
        """Write down how trials stand that Tune has not ended."""
        for trial in self.trials:
            if trial.ended:
                continue
            if self._budget:
                self._end(trial)
            else:
                trial.status, trial.reason = "KILLED", "the sweep was stopped"
                trial.write(self.job.folder_of(trial))
                self._submit(self._finish, trial)
        write_seconds(self.folder, self.seconds)

    def report(self) -> Report:
        """Write the report, log it as the sweep's, and end its MLflow run."""
        report = Report(self.plan.sweep, self.trials, self.seconds)
        files = self._background.submit(report.write, self.folder).result()  # matplotlib takes one thread only
        self._background.shutdown(wait=True)
        self._log_report(report, files)
        self._courier.close(self.folder)
        return report

    def _log_report(self, report: Report, files: list[Path]) -> None:
        self.parent.log_files((file, "report" if file.suffix == ".png" else None) for file in files)
        if report.best is not None:
            self.parent.tag("answer", " ".join(report.answer()))
            self.parent.summarise({f"best/{metric}": report.value(metric) for metric in self.config.metric})
            for key, value in report.best.settings.items():
                self.parent.tag(f"best.{key}", str(label(value)))
        self.parent.finish("FINISHED" if report.best is not None else "FAILED")

    def _drop_weights(self) -> None:
        """Of the trials that have ended only the best keep their weights."""
        metric, sign = self.config.metric[0], -1 if self.config.mode[0] == "max" else 1

        def worth(trial: Trial) -> tuple[bool, float]:
            return trial.status != "FINISHED", sign * trial.value(metric)

        sound = [t for t in self.trials if t.status in ("FINISHED", "STOPPED") and t.value(metric) is not None]
        best = {trial.id for trial in sorted(sound, key=worth)[: self.config.keep_weights]}
        for trial in self.trials:
            if trial.ended and trial.id not in best:
                for name in ("checkpoints", "neighbors"):
                    remove_tree(self.job.folder_of(trial) / name)
                (self.job.folder_of(trial) / "model.safetensors").unlink(missing_ok=True)

    def _open_parent(self) -> Tracker:
        c = self.config
        params = {
            "recipe": c.recipe,
            "metric": ", ".join(c.metric),
            "mode": ", ".join(c.mode),
            "searcher": c.searcher.name,
            "scheduler": c.scheduler.name,
            "trials": self.plan.runs,
            "repeats": c.repeats,
            **{f"space.{key}": str(dimension) for key, dimension in c.space.items()},
        }
        tags = {"kind": "sweep", "folder": str(self.folder), **software_tags()}
        tracker = Tracker(self.plan.config.tracking, self.folder, c.name, params, tags, courier=self._courier)
        tracker.open()
        tracker.log_files([(self.folder / SWEEP_FILE, None)])
        return tracker

    def _submit(self, function: Any, *arguments: Any) -> None:
        self._background.submit(_told(function, self.console), *arguments)

    def _track(self, trial: Trial) -> None:
        run = self.job.run(trial)
        run.output.mkdir(parents=True, exist_ok=True)
        tags = {"kind": "trial", "trial": str(trial.number), "varied": ", ".join(self.config.space)}
        tags |= {f"varied.{key}": str(label(value)) for key, value in trial.settings.items()}
        name = f"{trial.number}: {title(trial)}"
        self._trackers[trial.id] = track_run(
            run.config, run.output, tags, name=name, parent=self.folder, courier=self._courier
        )
        self._courier.wake(self._trackers[trial.id])  # an earlier session may have left it something to deliver

    def _log(self, trial: Trial) -> None:
        # MLflow's page compares runs by the metric that they logged first.
        first = self.config.metric
        self._trackers[trial.id].log(*({m: r[m] for m in first if m in r} | r for r in trial.records))

    def _finish(self, trial: Trial) -> None:
        tracker, folder = self._trackers.get(trial.id), self.job.folder_of(trial)
        if tracker is None:
            return  # it never ran in this session
        self._log(trial)
        tracker.tag("status", trial.status)
        if trial.reason:
            tracker.tag("reason", trial.reason)
        files: list[tuple[Path, str | None]] = [(folder / "config.yaml", None), (folder / "metrics.jsonl", None)]
        if trial.status == "FINISHED":
            files += [(path, "plots") for path in draw_plots(trial.records, folder / "plots")]
        tracker.log_files([(file, where) for file, where in files if file.exists()])
        tracker.finish(MLFLOW_STATUS.get(trial.status, "KILLED"))


def _told(function: Any, console: Console) -> Any:
    """`function`, whose failure in another thread is said."""

    def call(*arguments: Any) -> None:
        try:
            function(*arguments)
        except Exception as error:  # the sweep goes on: its figures are in files
            warn(console, f"pictures: {type(error).__name__}: {error}")

    return call


def _reason(tune_trial: Any) -> str:
    """Why a trial's process ended, in a line, as Ray says it."""
    log = Path(tune_trial.error_file or "")
    lines = [line.strip() for line in log.read_text().splitlines() if line.strip()] if log.is_file() else []
    said = next((line for line in reversed(lines) if "Error" in line or "died" in line), "its process ended")
    short_of_memory = any("OutOfMemoryError" in line or "running low on memory" in line for line in lines)
    return f"{said[:300]}{OUT_OF_MEMORY if short_of_memory else ''}"


class _Callback(tune.Callback):
    """Passes on what Tune tells; holds nothing itself, since Tune writes it to a file."""

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        _Watcher.active.on_start(trial)

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        _Watcher.active.on_result(trial)

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        _Watcher.active.on_end(trial, failed=False)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        _Watcher.active.on_end(trial, failed=True)


class _Stopper(tune.Stopper):
    """Asks whom the callback tells."""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return _Watcher.active.wants_stop(trial_id, result)

    def stop_all(self) -> bool:
        return _Watcher.active is not None and _Watcher.active.wants_stop_all()
