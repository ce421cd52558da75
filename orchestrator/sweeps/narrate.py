"""What is told of a sweep: the table in the terminal, MLflow's runs, pictures.

Pictures are drawn by a thread of its own, and MLflow is written to by another: neither delays a decision.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator.runs.display import warn
from orchestrator.sweeps.book import TrialBook
from orchestrator.sweeps.display import SweepDisplay
from orchestrator.sweeps.file import SWEEP_FILE
from orchestrator.sweeps.plan import Plan, images_of
from orchestrator.sweeps.report import Report
from orchestrator.sweeps.space import label
from orchestrator.sweeps.trials import MLFLOW_STATUS, Trial, title
from orchestrator.tracking.courier import Courier
from orchestrator.tracking.mlflow import Tracker, source_tags, track_run
from ssl_core.pictures.run import draw_plots
from ssl_core.schema.run import RunConfig
from ssl_core.training.history import History


class Narrator:
    """Tells of trials what the book says of them."""

    def __init__(self, plan: Plan, book: TrialBook, console: Console):
        self.plan, self.book, self.console, self.config = plan, book, console, book.config
        self._trackers: dict[str, Tracker] = {}
        self._logged: dict[str, list[dict[str, float]]] = {}  # records of a trial, by its id
        self._background = ThreadPoolExecutor(1)
        self._courier = Courier(lambda message: warn(console, message))
        self.parent = self._open_parent()
        for trial in book.trials:
            folder = book.folder_of(trial)
            for line in History.damaged(folder):
                warn(console, f"{folder / 'metrics.jsonl'}: line {line} is damaged, and left out")
            if trial.ended:
                self._track(trial)
                if not self._trackers[trial.id].ended:
                    self._submit(self._finish, trial)
        self.display = SweepDisplay(console, plan)

    def begin(self, trial: Trial) -> None:
        """It is heard of for the first time in this session."""
        self._track(trial)
        self._trackers[trial.id].begin()

    def show(self, trial: Trial) -> None:
        self.display.update(self.book.trials, trial)

    def log(self, trial: Trial) -> None:
        """Its figures, from the first that is new. MLflow's page compares runs by the metric that they logged first."""
        before, first = self._logged.get(trial.id, []), self.config.metric
        known = sum(1 for _ in takewhile(lambda pair: pair[0] is pair[1], zip(before, trial.records, strict=False)))
        self._logged[trial.id] = trial.records
        self._trackers[trial.id].log(*({m: r[m] for m in first if m in r} | r for r in trial.records[known:]))

    def end(self, trial: Trial) -> None:
        """What became of it, with pictures."""
        self._submit(self._finish, trial)

    def stop(self, failed: bool) -> None:
        """The sweep was stopped, and goes on when it is resumed."""
        self._submit(self.parent.finish, "FAILED" if failed else "KILLED")
        self._background.shutdown(wait=True)
        self._courier.close(self.book.job.folder, stopped=True)

    def report(self) -> Report:
        """Write the report, log it as the sweep's, and end its MLflow run."""
        report = Report(self.plan.sweep, self.book.trials, self.book.seconds)
        folder = self.book.job.folder
        files = self._background.submit(report.write, folder).result()  # matplotlib takes one thread only
        self._background.shutdown(wait=True)
        self._log_report(report, files)
        self._courier.close(folder)
        return report

    def _log_report(self, report: Report, files: list[Path]) -> None:
        self.parent.log_files((file, "report" if file.suffix == ".png" else None) for file in files)
        if report.best is not None:
            self.parent.tag("answer", " ".join(report.answer()))
            self.parent.describe("\n\n".join(report.answer()))
            self.parent.summarise({f"best/{metric}": report.value(metric) for metric in self.config.metric})
            for key, value in report.best.settings.items():
                self.parent.tag(f"best.{key}", str(label(value)))
        self.parent.finish("FINISHED" if report.best is not None else "FAILED")

    def _open_parent(self) -> Tracker:
        c, folder = self.config, self.book.job.folder
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
        tags = {"kind": "sweep", "folder": str(folder), **source_tags("strata sweep")}
        tracker = Tracker(self.plan.config.tracking, folder, c.name, params, tags, courier=self._courier)
        tracker.open()
        tracker.log_files([(folder / SWEEP_FILE, None)])
        return tracker

    def _track(self, trial: Trial) -> None:
        job = self.book.job
        run = job.run(trial)
        run.output.mkdir(parents=True, exist_ok=True)
        tags = {"kind": "trial", "trial": str(trial.number), "varied": ", ".join(self.config.space)}
        tags |= {f"varied.{key}": str(label(value)) for key, value in trial.settings.items()}
        options: dict[str, Any] = {"name": f"{trial.number}: {title(trial)}", "parent": job.folder}
        config = self._with_credentials(run.config)
        tracker = track_run(config, run.output, tags, courier=self._courier, **options)
        tracker.log_data(config, images_of(config.data.model_dump_json()))
        self._trackers[trial.id] = tracker
        self._courier.wake(tracker)  # an earlier session may have left it something to deliver

    def _with_credentials(self, config: RunConfig) -> RunConfig:
        """A trial's configuration, which was read from a file, with those that the sweep was given for its store."""
        own = {key: getattr(config.tracking, key) for key in ("experiment", "tags")}
        return config.model_copy(update={"tracking": self.plan.config.tracking.model_copy(update=own)})

    def _finish(self, trial: Trial) -> None:
        tracker, folder = self._trackers.get(trial.id), self.book.folder_of(trial)
        if tracker is None:
            return  # it never ran in this session
        self.log(trial)
        tracker.tag("status", trial.status)
        if trial.reason:
            tracker.tag("reason", trial.reason)
        files: list[tuple[Path, str | None]] = [(folder / "config.yaml", None), (folder / "metrics.jsonl", None)]
        if trial.status == "FINISHED":
            files += [(path, "plots") for path in draw_plots(trial.records, folder / "plots")]
        tracker.log_files([(file, where) for file, where in files if file.exists()])
        tracker.finish(MLFLOW_STATUS.get(trial.status, "KILLED"))

    def _submit(self, function: Callable[..., None], *arguments: Any) -> None:
        def call() -> None:
            try:
                function(*arguments)
            except Exception as error:  # the sweep goes on: its figures are in files
                warn(self.console, f"pictures: {type(error).__name__}: {error}")

        self._background.submit(call)
