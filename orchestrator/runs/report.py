"""A run's page: one HTML file to pass on, with what was trained on what, how it went, what every layer is worth."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from orchestrator.evaluate.display import cells, headings, layers_shown, whole_lines
from orchestrator.pages import as_text
from orchestrator.pages import render as render_page
from orchestrator.runs.display import duration
from orchestrator.runs.folder import Run
from orchestrator.tracking.mlflow import attached
from ssl_core import recipes
from ssl_core.errors import DataError, InputError
from ssl_core.evaluation import results
from ssl_core.evaluation.best import choose
from ssl_core.evaluation.metrics import by_layer
from ssl_core.files import write_atomically
from ssl_core.pictures.run import draw_plots
from ssl_core.training.history import History
from ssl_core.use.opening import open_subject

REPORT_FILE, FOLDER = "report.html", "report"
TEMPLATE = "run.html"
TITLES = {
    "loss": "Loss and schedules",
    "before_after": "Every layer before and after",
    "positives": "Which images were pairs",
    "knn_by_layer": "k-NN accuracy of every layer over epochs",
}
"""Of a run's pictures, those with another title than their name."""

Record = Mapping[str, float]


@dataclass
class Table:
    """A table of the page: every layer by what was measured, the best of each marked."""

    title: str
    note: str = ""
    heads: list[str] = field(default_factory=list)
    rows: list[list[dict[str, Any]]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    pictures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What is known of a run: its configuration, figures, evaluations.

    Attributes:
        summary: what it wrote at its end; empty before.
        results: what `strata evaluate` has measured of it, by folder (`evaluation.results.read`).
    """

    run: Run
    records: Sequence[Record]
    summary: Mapping[str, Any]
    results: Mapping[Path, Mapping[str, Any]]

    @property
    def trained(self) -> Record | None:
        return self.records[-1] if len(self.records) > 1 else None

    def about(self) -> str:
        """What was trained, in a line."""
        config, backbone = self.run.config, self.run.config.backbone
        status = self.summary.get("status", "not ended yet").lower()
        epochs = f"{int(self.records[-1]['epoch']) if self.records else 0} of {config.optim.epochs} epochs"
        distilled = f" with hidden self-distillation (α {config.distill.alpha:g})" if config.distill else ""
        what = f"{config.method_name}{distilled}, {backbone.name} at {backbone.image_size} px, {epochs}, {status}"
        return f"{what}; images from {config.data.train}"

    def answer(self) -> list[str]:
        """What a reader wants to know first, a sentence each."""
        said = []
        first, last = self.records[0] if self.records else {}, self.trained
        if last is None:
            return ["Nothing has been trained yet."]
        for name, metric in by_layer(last).items():
            if f"{name}/last" in first and metric.name in ("knn", "linear", "rankme") and metric.higher:
                form = metric.form.format
                ends = f"{form(first[f'{name}/last'])} → {form(last[f'{name}/last'])}"
                best = f"{form(first[f'{name}/best'])} → {form(last[f'{name}/best'])}"
                said.append(f"{metric.title}: last layer {ends}, best layer {best}.")
        chosen = choose(self.measured | dict(last))
        if chosen is not None:
            said.append(f"Take {chosen}.")
        return said or [f"Loss {first.get('loss', last['loss']):.3f} → {last['loss']:.3f}."]

    @cached_property
    def measured(self) -> dict[str, float]:
        """The metrics of layers that `strata evaluate` has found of the run's weights."""
        if not self.run.model_file.is_file() or not self.results:
            return {}
        digest = open_subject(str(self.run.output)).digest
        found: dict[str, float] = {}
        for known in self.results.values():
            found |= results.figures(known, digest)
        return found

    def warnings(self) -> list[str]:
        """What should not be overlooked."""
        from ssl_core.data.sources import open_images
        from ssl_core.evaluation.collapse import collapse, images_measured

        last = self.trained
        said = []
        if last is not None and collapse(last, images=None):
            try:
                measured = images_measured(self.run.config, open_images(self.run.config.data))
            except InputError:
                measured = None  # they are not there any more
            if collapsed := collapse(last, images=measured):
                said.append(f"In the end {collapsed}.")
        if broken := self.summary.get("broken_images"):
            said.append(f"{broken} images could not be decoded.")
        return said

    def tables(self) -> list[Table]:
        """The run's own figures, and each evaluation's."""
        found = []
        if self.trained is not None and by_layer(self.trained):
            found.append(_table("Every layer after training", self.trained))
        for folder, known in self.results.items():
            table = _table(f"strata evaluate: {folder.name}", results.figures(known))
            about = known["of"]
            table.note = f"weights {about['weights'][:8]}, epoch {about['epoch']}; {_images_of(about)}"
            entries = [entry for entry in known["results"].values() if entry["of"] == about]
            whole = {name: value for entry in entries for name, value in entry["whole"].items()}
            table.lines = whole_lines(whole)
            table.pictures = {path.stem: as_text(path) for path in sorted((folder / "plots").glob("*.png"))}
            found.append(table)
        return found

    def commands(self) -> str:
        """What can be done with the run, as it is typed."""
        folder = shlex.quote(str(self.run.output))
        lines = [f"strata pretrain --resume {folder}"] if self.summary.get("status") != "FINISHED" else []
        lines += [
            f"strata evaluate {folder}                          # what every layer is worth; --list says what else",
            f"strata export {folder} --format timm --layer best # for timm, Hugging Face, ONNX, torch",
            f"strata embed {folder} IMAGES --output X.parquet   # features of other images",
            f"strata pretrain {shlex.quote(str(self.run.config_file))} optim.epochs=…",
            "strata ui",
        ]
        return "\n".join(lines)

    def settings(self) -> str:
        changed = [row for row in recipes.rows(self.run.config) if row.changed]
        return "\n".join(f"{row.key}={recipes.typed(row.value)}" for row in changed)

    def versions(self) -> str:
        """What ran it, for whoever repeats it."""
        known = self.summary
        said = [f"{name} {number}" for name, number in known.get("versions", {}).items()]
        if known.get("git_revision"):
            said.append(f"revision {known['git_revision'][:12]}")
        if known.get("seconds"):
            said.append(f"{duration(known['seconds'])} on {known.get('device')}, {known.get('workers')} worker(s)")
        return ", ".join(said)


def read_report(run: Run, tell: Callable[[str], None] = lambda _: None) -> Report:
    """What is known of a run by its folder.

    Args:
        tell: hears of files that cannot be read.
    """
    file = run.output / "summary.json"
    summary = json.loads(file.read_text()) if file.is_file() else {}
    measured = {}
    for known in sorted(run.output.glob(f"evaluation/*/{results.FILE}")):
        try:
            measured[known.parent] = results.read(known)
        except InputError as error:
            tell(f"left out: {error}")
    return Report(run, History.read(run.output), summary, measured)


def write_report(report: Report, tell: Callable[[str], None]) -> Path:
    """The page of a run, into its folder, and for MLflow.

    Args:
        tell: hears what the page lacks, and why.
    """
    run = report.run
    pictures = draw_plots(report.records, run.plots) if report.records else []
    shown = {TITLES.get(path.stem, path.stem.replace("_", " ")): path for path in pictures}
    for kind in ("neighbors", "masks"):
        newest = sorted(run.plots.glob(f"{kind}_*.png"))[-1:]
        shown |= {f"{kind} ({path.stem})": path for path in newest}
    try:
        shown |= _nearest(report)
    except (InputError, DataError) as error:
        tell(f"no pictures of nearest images: {error}")
    page = render(report, shown)
    target = run.output / REPORT_FILE
    write_atomically(target, lambda file: file.write(page.encode()))
    with attached(run.output, tell) as tracker:
        tracker.log_files([(target, None)])
    return target


def render(report: Report, pictures: Mapping[str, Path]) -> str:
    """The page's HTML; pictures become part of it."""
    return render_page(
        TEMPLATE,
        name=report.run.config.name,
        about=report.about(),
        answer=report.answer(),
        warnings=report.warnings(),
        tables=report.tables(),
        pictures={title: as_text(path) for title, path in pictures.items()},
        commands=report.commands(),
        settings=report.settings(),
        versions=report.versions(),
    )


def _nearest(report: Report) -> dict[str, Path]:
    """Pictures of the nearest and the worst images, by the layer to take.

    Raises:
        InputError: there are no weights yet, or the images are not there any more.
        DataError: they cannot be read.
    """
    from orchestrator.evaluate.plan import Wish, make_plan
    from orchestrator.evaluate.record import context_of
    from ssl_core.pictures.nearest import draw_nearest
    from ssl_core.use.subject import own_device

    plan = make_plan(str(report.run.output), Wish(kinds=("geometry",)))
    context = context_of(plan, own_device(), lambda *_: None)
    chosen = choose(report.measured | dict(report.trained or {}))
    layer = plan.subject.encoder.depth if chosen is None else chosen.layer
    return {
        title.capitalize(): path for title, path in draw_nearest(context, layer, report.run.output / FOLDER).items()
    }


def _table(title: str, metrics: Record) -> Table:
    rows: list[list[dict[str, Any]]] = []
    for layer in layers_shown(metrics):
        cells_of_row = ({"text": text, "best": best} for text, best in cells(metrics, layer))
        rows.append([{"text": str(layer), "best": False}, *cells_of_row])
    return Table(title, heads=["layer", *headings(metrics)], rows=rows)


def _images_of(about: Mapping[str, Any]) -> str:
    sets = [f"{about[split]['images']} images of {split}" for split in ("train", "val") if about.get(split)]
    return ", ".join(sets)
