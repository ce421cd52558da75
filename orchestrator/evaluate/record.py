"""An evaluation from its plan to its end: where it runs, what is written, shown and told to MLflow."""

import io
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from orchestrator.evaluate.display import Steps, layer_tables, whole_lines
from orchestrator.evaluate.plan import Plan
from orchestrator.paths import RUNS
from orchestrator.runs.display import duration, say, warn
from orchestrator.runs.folder import LOCK, check_writable, claimed
from orchestrator.tracking.faults import StoreAway, Undelivered
from orchestrator.tracking.mlflow import Tracker, source_tags
from orchestrator.tracking.outbox import OUTBOX
from orchestrator.tracking.receipt import known_run
from orchestrator.tracking.store import Store
from ssl_core import recipes
from ssl_core.errors import InputError
from ssl_core.evaluation.base import source_of
from ssl_core.evaluation.features import Context
from ssl_core.evaluation.measure import Told, measure
from ssl_core.evaluation.results import FILE, Found, Results, describe
from ssl_core.files import write_atomically
from ssl_core.pictures.evaluation import draw_evaluation

NAMED = 5  # broken images in a warning
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
        results = Results(folder, about)
        if tracker.ended and results.have(plan.config.evaluation) and results.are_the_last:
            _deliver(tracker, console)
            return Evaluation(plan, results, [results.of(config) for config in plan.config.evaluation])
        tracker.open()
        try:
            with Steps(console) as steps:
                results, found, broken = _measured(plan, folder, about, steps.tell)
        except BaseException:
            tracker.finish("FAILED")
            _deliver(tracker, console)
            raise
        if broken:
            warn(console, _broken(plan, broken))
        evaluation = Evaluation(plan, results, found)
        results.save()
        _write_down(evaluation, tracker)
        tracker.finish("FINISHED")
        _deliver(tracker, console)
    return evaluation


def _broken(plan: Plan, broken: Sequence[tuple[str, int]]) -> str:
    """A warning that names some images that cannot be decoded."""
    named = [source_of(name, plan.config, plan.images).where(index) for name, index in broken[:NAMED]]
    more = f" and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
    return f"cannot decode {', '.join(named)}{more}; other images take their place"


def check_folder(folder: Path) -> None:
    """Whether results can be written to a folder, and nothing else is in it.

    Raises:
        InputError: it cannot be used.
    """
    try:
        check_writable(folder)
        others = folder.exists() and any(folder.iterdir()) and not any((folder / name).exists() for name in OURS)
    except Exception as error:  # each kind of store has its own
        raise InputError(f"--output: {folder} cannot be used: {type(error).__name__}: {error}") from error
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


def _measured(
    plan: Plan, folder: Path, about: Mapping[str, Any], tell: Told
) -> tuple[Results, list[Found], list[tuple[str, int]]]:
    """In this process, or, on a cluster or with several workers, in those of Ray; with images met that are broken."""
    from orchestrator.cluster.connect import embedded

    results = Results(folder, about)
    if not results.have(plan.config.evaluation) and (plan.config.scaling.bounds[1] > 1 or not embedded()):
        from orchestrator.evaluate.workers import measure_on_ray

        measure_on_ray(plan, folder, about, tell)
        results = Results(folder, about)
    context = context_of(plan, own_device(), tell)
    found = measure(context, results, tell)
    return results, found, sorted(context.broken)


def context_of(plan: Plan, device: torch.device, tell: Told) -> Context:
    """What evaluators see of a plan's encoder and images."""
    subject, config = plan.subject, plan.config
    subject.encoder.to(device)
    loaders = config.data.workers
    if loaders is None:
        loaders = min(torch.get_num_threads() - 1, 8)
    return Context(subject.look, subject.encoder, plan.images, config, device, loaders, tell=tell)


def own_device() -> torch.device:
    """Where this process compares features."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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


def _deliver(tracker: Tracker, console: Console) -> None:
    try:
        tracker.deliver(lambda message: warn(console, message))
    except (StoreAway, Undelivered) as error:
        warn(console, f"{error}; later: strata sync {shlex.quote(str(tracker.folder))}")


def _text(evaluation: Evaluation) -> str:
    """The table as a file has it."""
    console = Console(file=io.StringIO(), width=240)
    subject = evaluation.plan.subject
    for table in layer_tables(evaluation.metrics, f"{subject.name}, {subject.config.backbone.name}", console.width):
        console.print(table)
    for line in whole_lines(evaluation.metrics):
        console.print(line, highlight=False)
    return console.file.getvalue()  # type: ignore[attr-defined]  # the StringIO above


def show(evaluation: Evaluation, console: Console) -> None:
    """The end of an evaluation: the table, which layer to take, where things lie."""
    from ssl_core.evaluation.best import choose

    metrics, subject = evaluation.metrics, evaluation.plan.subject
    epoch = "" if subject.epoch is None else f", epoch {subject.epoch}"
    for table in layer_tables(metrics, f"{subject.name}{epoch}: {evaluation.plan.wish.name}", console.width):
        console.print(table)
    for line in whole_lines(metrics):
        console.print(line, highlight=False)
    chosen = choose(metrics)
    if chosen is not None:
        say(console, "best layer by {by}: [bold]{layer}[/bold]", by=chosen.by, layer=chosen.layer)
    seconds = sum(found.seconds for found in evaluation.found)
    say(console, "{took} of measuring; everything is in {folder}", took=duration(seconds), folder=evaluation.folder)
