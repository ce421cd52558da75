"""An evaluation from its plan to its end: where it runs, what is written, shown and told to MLflow."""

import io
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from orchestrator.evaluate.display import Steps, layer_tables, whole_lines
from orchestrator.evaluate.plan import Plan
from orchestrator.paths import RUNS
from orchestrator.runs.display import duration, say, warn
from orchestrator.runs.folder import LOCK, check_writable, claimed, usable
from orchestrator.tracking.mlflow import Tracker, source_tags
from orchestrator.tracking.outbox import OUTBOX
from orchestrator.tracking.receipt import known_run
from orchestrator.tracking.store import Store
from ssl_core import recipes
from ssl_core.data.loading import loader_count
from ssl_core.errors import InputError
from ssl_core.evaluation.features import Context
from ssl_core.evaluation.measure import Told, measure
from ssl_core.evaluation.results import FILE, Found, Results, describe
from ssl_core.files import write_atomically
from ssl_core.pictures.evaluation import draw_evaluation
from ssl_core.training.health import describe_broken
from ssl_core.use.subject import own_device

OURS = (FILE, OUTBOX, LOCK, "duplicates.csv", "differences.json", "plots")  # of which a folder of results has some
FOLDER = "evaluation"  # in a run's folder: what was measured of it after training, a folder an evaluation


@dataclass(frozen=True)
class Evaluation:
    """What was measured of an encoder.

    Attributes:
        found: by each of its evaluators.
    """

    plan: Plan
    results: Results
    found: Sequence[Found]

    @property
    def folder(self) -> Path:
        return self.results.folder

    @property
    def metrics(self) -> dict[str, float]:
        """Under the names that they are logged by."""
        depth = self.plan.subject.encoder.depth
        return {name: value for found in self.found for name, value in found.metrics(depth).items()}


def folder_of(plan: Plan) -> Path:
    """Where the results of a plan belong: with their run; of other weights, with others of the same."""
    subject, name = plan.subject, plan.wish.name
    if subject.folder is None:
        return (RUNS / "evaluations" / f"{subject.name}-{subject.digest[:8]}" / name).absolute()
    at = "" if plan.wish.checkpoint is None else f"-epoch_{subject.epoch:04d}"
    return subject.folder / FOLDER / f"{name}{at}"


def evaluate(plan: Plan, output: Path | None, console: Console) -> Evaluation:
    """Measure what a plan says, as far as it is not known; what was found is in its folder, and in MLflow.

    Raises:
        InputError: the folder or the MLflow store cannot be used.
        WorkFailed: a worker failed; what was measured up to then is kept.
    """
    folder = (output or folder_of(plan)).absolute()
    check_folder(folder)
    subject = plan.subject
    about = describe(plan.config, plan.images, subject.name, subject.digest, subject.epoch)
    with claimed(folder, new=False):
        tracker = _tracker(plan, folder)
        deliver = partial(tracker.deliver_if_possible, lambda message: warn(console, message))
        results = Results(folder, about)
        if tracker.ended and results.have(plan.config.evaluation) and results.are_the_last:
            deliver()
            return Evaluation(plan, results, [results.of(config) for config in plan.config.evaluation])
        tracker.open()
        try:
            with Steps(console) as steps:
                context = context_of(plan, own_device(), steps.tell)
                found = _measured(plan, context, results, steps.tell)
        except BaseException:
            tracker.finish("FAILED")
            deliver()
            raise
        if context.broken:
            warn(console, describe_broken(sorted(context.broken), plan.config, plan.images))
        evaluation = Evaluation(plan, results, found)
        results.save()
        _write_down(evaluation, tracker)
        tracker.finish("FINISHED")
        deliver()
    return evaluation


def check_folder(folder: Path) -> None:
    """Whether results can be written to a folder, and nothing else is in it.

    Raises:
        InputError: it cannot be used.
    """
    with usable(folder):
        check_writable(folder)
        others = folder.exists() and any(folder.iterdir()) and not any((folder / name).exists() for name in OURS)
    if others:
        raise InputError(f"--output: {folder} holds something else than results; name another folder")


def _write_down(evaluation: Evaluation, tracker: Tracker) -> None:
    """The table, the pictures; and all of it for MLflow."""
    folder, table = evaluation.folder, _text(evaluation)
    write_atomically(folder / "table.txt", lambda file: file.write(table.encode()))
    pictures = draw_evaluation(evaluation.metrics, folder / "plots")
    pictures += [folder / name for found in evaluation.found for name in found.pictures]
    tracker.log({"epoch": float(evaluation.plan.subject.epoch or 0), **evaluation.metrics})
    tracker.log_files([(folder / FILE, None), (folder / "table.txt", None), *((path, "plots") for path in pictures)])


def _measured(plan: Plan, context: Context, results: Results, tell: Told) -> list[Found]:
    """In this process, or, on a cluster or with several workers, in those of Ray."""
    from orchestrator.cluster.connect import embedded

    if not results.have(plan.config.evaluation) and (plan.config.scaling.bounds[1] > 1 or not embedded()):
        from orchestrator.evaluate.workers import measure_on_ray

        measure_on_ray(plan, results.folder, results.about, tell)
        results.read_again()
    return measure(context, results, tell)


def context_of(plan: Plan, device: torch.device, tell: Told) -> Context:
    """What evaluators see of a plan's encoder and images."""
    subject, config = plan.subject, plan.config
    subject.to(device)
    loaders = loader_count(config.data.workers)
    return Context(subject.look, subject.encoder, plan.images, config, device, loaders, tell=tell)


def _tracker(plan: Plan, folder: Path) -> Tracker:
    """The MLflow run of an evaluation: a child of its pretraining's, where that is in the same store."""
    subject, config = plan.subject, plan.config
    store = Store.of(config.tracking)
    parent = (
        subject.folder if subject.folder is not None and known_run(subject.folder).get("uri") == store.uri else None
    )
    tags = {
        **source_tags(f"strata evaluate {shlex.quote(plan.what)}"),
        "weights": subject.digest,
        "of": plan.what,
        "folder": str(folder),
    }
    params = {
        key: value
        for key, value in recipes.flatten(config).items()
        if key.partition(".")[0] in ("data", "backbone", "evaluation", "seed")
    }
    name = f"evaluate {plan.wish.name}: {subject.name}"
    return Tracker(config.tracking, folder, name, params, tags, parent)


def _text(evaluation: Evaluation) -> str:
    """The table as a file has it."""
    text = io.StringIO()
    subject = evaluation.plan.subject
    _print(evaluation, f"{subject.name}, {subject.config.backbone.name}", Console(file=text, width=240))
    return text.getvalue()


def _print(evaluation: Evaluation, title: str, console: Console) -> None:
    """What was measured of the layers, and of the network as a whole."""
    for table in layer_tables(evaluation.metrics, title, console.width):
        console.print(table)
    for line in whole_lines(evaluation.metrics):
        console.print(line, highlight=False)


def show(evaluation: Evaluation, console: Console) -> None:
    """The end of an evaluation: the table, which layer to take, where things lie."""
    from ssl_core.evaluation.best import choose

    subject = evaluation.plan.subject
    epoch = "" if subject.epoch is None else f", epoch {subject.epoch}"
    _print(evaluation, f"{subject.name}{epoch}: {evaluation.plan.wish.name}", console)
    chosen = choose(evaluation.metrics)
    if chosen is not None:
        say(console, "best layer by {by}: [bold]{layer}[/bold]", by=chosen.by, layer=chosen.layer)
    seconds = sum(found.seconds for found in evaluation.found)
    say(console, "{took} of measuring; everything is in {folder}", took=duration(seconds), folder=evaluation.folder)
