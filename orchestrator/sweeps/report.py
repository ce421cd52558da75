"""A sweep's answer: the best settings and how sure that is, which settings matter; as text and one HTML page."""

import base64
import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import jinja2
import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from orchestrator.runs.display import duration, say
from orchestrator.sweeps.display import form
from orchestrator.sweeps.file import Sweep, sweep_at
from orchestrator.sweeps.importance import comparable, importances, seed_share
from orchestrator.sweeps.pictures import SweepPictures
from orchestrator.sweeps.published import CURVES
from orchestrator.sweeps.space import cell, describe, label, short
from orchestrator.sweeps.trials import Score, Trial, difference, pareto_front, ranking, read_trials, seconds_of
from ssl_core.evaluation.metrics import is_share
from ssl_core.files import write_atomically

BEST_FILE, REPORT_FILE = "best.yaml", "report.html"
SHOWN = 10  # settings in the table
TEMPLATE = Path(__file__).parent / "templates" / "report.html"


class Report:
    """All that is said about a sweep.

    Args:
        trials: those that began, with their figures.
        seconds: that it took.
    """

    def __init__(self, sweep: Sweep, trials: Sequence[Trial], seconds: float):
        self.sweep, self.config, self.seconds = sweep, sweep.config, seconds
        self.trials = list(trials)
        self.metric, self.mode = self.config.metric[0], self.config.mode[0]
        self.scores = ranking(self.trials, self.metric, self.mode)
        self.importances = importances(self.config, self.trials) if len(self.config.metric) == 1 else []
        self._pictures = SweepPictures(self.config, self.trials, self.scores, self.importances)
        self.keys = self._pictures.keys

    @property
    def best(self) -> Score | None:
        return self.scores[0] if self.scores else None

    def value(self, metric: str) -> float:
        """The best setting's mean of a metric."""
        return float(np.mean([trial.value(metric) for trial in self.best.trials]))

    def answer(self) -> list[str]:
        """The best settings, how sure that is, and which settings matter: a sentence each."""
        if self.best is None:
            return [f"no trial got as far as a first {self.metric}"]
        best = self.best
        early = "" if best.whole else ", stopped early"
        said = [f"best: {describe(best.settings)}: {self.metric} {self._mean(best)}{early}"]
        if len(self.config.metric) == 2:
            front = pareto_front(self.scores, self.config.metric, self.config.mode)
            said.append(f"{len(front)} settings are beaten by none in both {' and '.join(self.config.metric)}")
        elif len(self.scores) > 1:
            said.append(self._lead())
        for importance in self.importances:
            shares = ", ".join(f"{short(key)} {share:.0%}" for key, share in importance.shares.items())
            among = f", where {importance.among}" if importance.among else ""
            said.append(
                f"what matters (share of the variance over {importance.trials} trials after epoch {importance.epoch}"
                f"{among}): {shares}"
            )
        noise = seed_share(self.trials, comparable(self.trials, self.metric)[1])
        if self.importances and noise is not None:
            said.append(f"seeds alone make {noise:.0%} of that variance")
        return said

    def _lead(self) -> str:
        lead, half = difference(self.best, self.scores[1])
        form = "{:.1f}" if is_share(self.metric) else "{:.2g}"
        scale, unit = (100, " points") if is_share(self.metric) else (1, "")
        by = form.format(scale * abs(lead))
        if half is None:
            return f"it leads the next by {by}{unit}; one seed says nothing about noise: repeats=3 would"
        verdict = "more than noise" if abs(lead) > half else "within the noise: more repeats would tell"
        return f"it leads the next by {by} ± {form.format(scale * half)}{unit} (95 %, paired seeds): {verdict}"

    def _mean(self, score: Score) -> str:
        half = score.half_width
        if half is None:
            return form(self.metric, score.mean)
        seeds = f"({len(score.values)} seeds)"
        if is_share(self.metric):
            return f"{100 * score.mean:.1f} ± {100 * half:.1f} % {seeds}"
        return f"{score.mean:.4g} ± {half:.2g} {seeds}"

    def counts(self) -> str:
        """`12 trials: 5 finished, 7 stopped; 40 epochs, 3:10`."""
        statuses = list(dict.fromkeys(trial.status for trial in self.trials))
        each = ", ".join(f"{sum(t.status == status for t in self.trials)} {status.lower()}" for status in statuses)
        epochs = sum(trial.epoch for trial in self.trials)
        return f"{len(self.trials)} trials: {each}; {epochs} epochs in {duration(self.seconds)}"

    def table(self) -> Table:
        """The best settings."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("", justify="right")
        for key in self.keys:
            table.add_column(short(key), justify="right")
        for metric in self.config.metric:
            table.add_column(metric, justify="right")
        table.add_column("epoch", justify="right")
        for place, score in enumerate(self.scores[:SHOWN], 1):
            others = [form(m, float(np.mean([t.value(m) for t in score.trials]))) for m in self.config.metric[1:]]
            table.add_row(
                str(place),
                *(cell(score.settings[key]) if key in score.settings else "" for key in self.keys),
                self._mean(score),
                *others,
                f"{min(t.epoch for t in score.trials)}/{score.trials[0].epochs}",
            )
        return table

    def ablation(self) -> Table:
        """Every value of every setting against the first one, the others at theirs; and what the papers report."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for title in ("setting", "value", self.metric, "against the first, 95 %", "paper"):
            table.add_column(title, justify="left" if title == "setting" else "right")
        by_settings = {describe(score.settings): score for score in self.scores}
        first = {key: dimension.args[0] for key, dimension in self.config.space.items()}
        base = by_settings.get(describe(self.config.active(first)))
        for key, dimension in self.config.space.items():
            known = CURVES[key].values if key in CURVES else {}
            for number, value in enumerate(dimension.args):
                score = by_settings.get(describe(self.config.active(first | {key: value})))
                if score is None:
                    continue
                against = self._against(score, base) if number and base is not None else ""
                paper = f"{known[label(value)]:.1f}" if label(value) in known else ""
                table.add_row("" if number else short(key), cell(value), self._mean(score), against, paper)
        return table

    def _against(self, score: Score, base: Score) -> str:
        """The difference from `base`, paired by seed."""
        mean, half = difference(score, base)
        if is_share(self.metric):
            return f"{100 * mean:+.1f}" + (f" ± {100 * half:.1f}" if half is not None else "")
        return f"{mean:+.2g}" + (f" ± {half:.2g}" if half is not None else "")

    def best_recipe(self) -> str:
        """The best settings as a recipe, with what they reached."""
        values = self.sweep.recipe_of(self.best.settings)
        values["name"] = f"{self.config.name}-best"
        data = self.sweep.run_config(self.best.settings).data
        values["data"] |= {"train": data.train} | ({"val": data.val} if data.val else {})  # absolute paths
        said = "".join(f"# {line}\n" for line in self.answer())
        return (
            f"# The best of {self.counts()}.\n{said}#\n#   strata pretrain {BEST_FILE}\n"
            f"#   strata pretrain {BEST_FILE} optim.epochs=300 backbone.image_size=64 seed=1\n"
            + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        )

    def write(self, folder: Path) -> list[Path]:
        """The pictures, the page and the recipe into a sweep's folder; what was written."""
        pictures = self._pictures.draw(folder / "report")
        files = list(pictures.values())
        page = self._page(pictures)
        write_atomically(folder / REPORT_FILE, lambda file: file.write(page.encode()))
        files.append(folder / REPORT_FILE)
        if self.best is not None:
            recipe = self.best_recipe()
            write_atomically(folder / BEST_FILE, lambda file: file.write(recipe.encode()))
            files.append(folder / BEST_FILE)
        return files

    def _page(self, pictures: dict[str, Path]) -> str:
        environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        images = {title: base64.b64encode(path.read_bytes()).decode() for title, path in pictures.items()}
        rows = [
            [
                trial.number,
                trial.status.lower(),
                *(cell(trial.settings[key]) if key in trial.settings else "" for key in self.keys),
                trial.repeat,
                f"{trial.epoch}/{trial.epochs}",
                *(form(metric, trial.value(metric)) for metric in self.config.metric),
                trial.reason,
            ]
            for trial in self.trials
        ]
        heads = ["trial", "status", *map(short, self.keys), "seed", "epoch", *self.config.metric, "why it ended"]
        return environment.from_string(TEMPLATE.read_text()).render(
            name=self.config.name,
            made=f"{datetime.now():%Y-%m-%d %H:%M}",
            counts=self.counts(),
            answer=self.answer(),
            images=images,
            heads=heads,
            rows=rows,
            space=self.sweep.dump(),
            recipe=self.best_recipe() if self.best is not None else "",
            sources=[f"{short(key)}: {CURVES[key].source}" for key in self.keys if key in CURVES],
        )


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
    console.print(report.ablation() if report.config.searcher.name == "ablation" else report.table())
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
