"""A sweep's end: its answer and its tables in the terminal; a page, pictures and the best recipe in its folder."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from orchestrator.runs.display import duration, say
from orchestrator.sweeps.answer import answer
from orchestrator.sweeps.file import Sweep, as_yaml, sweep_at
from orchestrator.sweeps.findings import Findings
from orchestrator.sweeps.page import render_page
from orchestrator.sweeps.pictures import draw_pictures
from orchestrator.sweeps.space import describe
from orchestrator.sweeps.tables import ablation_table, best_table
from orchestrator.sweeps.trials import Score, Trial, read_trials, seconds_of
from ssl_core.files import write_atomically
from ssl_core.schema.data import labels_file

BEST_FILE, REPORT_FILE = "best.yaml", "report.html"


class Report:
    """All that is said about a sweep.

    Args:
        trials: those that began, with their figures.
        seconds: that it took.
    """

    def __init__(self, sweep: Sweep, trials: Sequence[Trial], seconds: float):
        self.sweep, self.config, self.trials, self.seconds = sweep, sweep.config, list(trials), seconds
        self._found = Findings.of(self.config, self.trials)

    @property
    def best(self) -> Score | None:
        return self._found.best

    def value(self, metric: str) -> float:
        """The best setting's mean of a metric; NaN where nothing was measured."""
        return float("nan") if self.best is None else self.best.mean_of(metric)

    def answer(self) -> list[str]:
        """The best settings, how sure that is, and which settings matter: a sentence each."""
        return answer(self._found)

    def counts(self) -> str:
        """`12 trials: 5 finished, 7 stopped; 40 epochs, 3:10`."""
        statuses = list(dict.fromkeys(trial.status for trial in self.trials))
        each = ", ".join(f"{sum(t.status == status for t in self.trials)} {status.lower()}" for status in statuses)
        epochs = sum(trial.epoch for trial in self.trials)
        return f"{len(self.trials)} trials: {each}; {epochs} epochs in {duration(self.seconds)}"

    def table(self) -> Table:
        """The best settings; of an ablation, what each value does."""
        return (ablation_table if self.config.searcher.name == "ablation" else best_table)(self._found)

    def recipe(self) -> str:
        """The best settings as a recipe, with what they reached; empty where nothing was measured."""
        if self.best is None:
            return ""
        values = self.sweep.recipe_of(self.best.settings)
        values["name"] = f"{self.config.name}-best"
        data = self.sweep.run_config(self.best.settings).data
        values["data"] |= {"train": data.train} | ({"val": data.val} if data.val else {})  # absolute paths
        values["data"] |= {"labels": data.labels} if labels_file(data.labels) else {}
        said = "".join(f"# {line}\n" for line in self.answer())
        return (
            f"# The best of {self.counts()}.\n{said}#\n#   strata pretrain {BEST_FILE}\n"
            f"#   strata pretrain {BEST_FILE} optim.epochs=300 backbone.image_size=64 seed=1\n" + as_yaml(values)
        )

    def write(self, folder: Path) -> list[Path]:
        """The pictures, the page and the recipe into a sweep's folder; what was written."""
        pictures, recipe = draw_pictures(self._found, folder / "report"), self.recipe()
        page = render_page(self._found, pictures, self.counts(), self.sweep.dump(), recipe)
        files = list(pictures.values())
        for name, text in ((REPORT_FILE, page), (BEST_FILE, recipe)):
            if text:
                files.append(_write(folder / name, text))
        return files


def _write(file: Path, text: str) -> Path:
    write_atomically(file, lambda f: f.write(text.encode()))
    return file


def read_report(folder: Path) -> Report:
    """What is known of the sweep in a folder.

    Raises:
        InputError: it is no sweep's folder.
    """
    sweep = sweep_at(folder, "DIR")
    return Report(sweep, read_trials(folder), seconds_of(folder))


def show_report(report: Report, folder: Path, console: Console) -> None:
    """The end of a sweep in the terminal: the table, the answer, where things lie, what to do next."""
    console.print()
    console.print(report.table())
    console.print()
    for sentence in report.answer():
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    console.print(report.counts(), highlight=False)
    for trial in report.trials:
        if trial.status in ("FAILED", "COLLAPSED"):
            text = f"trial {trial.number} {trial.status.lower()}: {describe(trial.settings)}: {trial.reason}"
            console.print(text, highlight=False, markup=False, soft_wrap=True)
    for what, path in (("report", REPORT_FILE), ("pictures", "report"), ("trials", "trials")):
        say(console, "{what} {path}", what=f"{what:<9}", path=folder / path)
    if report.best is not None:
        best = shlex.quote(str(folder / BEST_FILE))
        say(console, "train with the best: [bold]strata pretrain {best}[/bold]", best=best)
    console.print("look at it: [bold]strata ui[/bold]")
