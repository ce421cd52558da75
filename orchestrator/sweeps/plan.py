"""What a sweep is going to do, known before it starts: its settings checked as real runs, and what they cost."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.cluster.room import WorkerShare, capacity, check_fit
from orchestrator.runs.display import warn
from orchestrator.sweeps.file import Sweep
from orchestrator.sweeps.space import DEFAULT_TRIALS, Settings, describe
from ssl_core.data.sources import open_images
from ssl_core.data.sources.base import Images
from ssl_core.errors import InputError
from ssl_core.evaluation.metrics import check_compared
from ssl_core.schema.data import DataConfig
from ssl_core.schema.keys import fact, keys
from ssl_core.schema.run import RunConfig

if TYPE_CHECKING:
    from ssl_core.methods import Method

MOST_RUNS = 100_000  # that Ray Tune can be asked for at once
PROBED = 32  # settings at random that are checked where there is no list of all
TOLD = 8  # errors that are told at once
TIMED_BATCH, TIMED_STEPS = 32, 6  # what is trained to estimate the time


@dataclass(frozen=True)
class Plan:
    """A checked sweep.

    Attributes:
        planned: its settings in order; None where the searcher decides while it runs.
        settings: how many.
        examples: those that were checked, with their runs; the first trial's first.
        largest: of these runs, the one with the most workers.
        remarks: what can hardly be meant.
        checkpoint_bytes: size of the largest checkpoint.
    """

    sweep: Sweep
    planned: list[Settings] | None
    settings: int
    examples: list[tuple[Settings, RunConfig]]
    largest: RunConfig
    remarks: list[str]
    checkpoint_bytes: int

    @property
    def config(self) -> RunConfig:
        """The first trial's."""
        return self.examples[0][1]

    @property
    def runs(self) -> int:
        """Trials, each seed counted."""
        runs = self.settings * self.sweep.config.repeats
        return min(runs, self.sweep.config.budget.trials or runs)


def make_plan(sweep: Sweep) -> Plan:
    """Check every setting of a list, and a sample of a space, as real runs on the real images.

    Raises:
        InputError: with the file, line and key of what cannot work.
    """
    c = sweep.config
    planned = c.planned()
    count = len(planned) if planned is not None else c.trials or DEFAULT_TRIALS
    if count * c.repeats > MOST_RUNS:
        raise InputError(
            f"{sweep.where('repeats')}: repeats: {count:,} settings × {c.repeats:,} seeds are "
            f"{count * c.repeats:,} runs; expected at most {MOST_RUNS:,}"
        )
    errors: list[str] = []
    remarks: dict[str, None] = {}
    if count < (c.trials or 0):
        remarks[f"trials: {c.trials}, but there are {count} settings, each tried once; `repeats` adds seeds"] = None
    good: list[tuple[Settings, RunConfig]] = []
    size = 0
    for settings in planned if planned is not None and c.searcher.name != "random" else _probes(sweep, planned):
        try:
            config = sweep.run_config(settings)
            remarks |= dict.fromkeys(sweep.remarks(settings))
            size = max(size, _check(sweep, config, remarks))
        except InputError as error:
            message = _located(sweep, settings, str(error))
            if message not in errors:
                errors.append(message)
            if len(errors) == TOLD:
                break
        else:
            good.append((settings, config))
    if errors:
        raise InputError("\n".join(errors))
    if c.scheduler.name == "pbt":
        _check_changeable(sweep)
    largest = max((config for _, config in good), key=lambda config: config.scaling.workers)
    return Plan(sweep, planned, count, good, largest, list(remarks), size)


def share_of(plan: Plan, nodes: list[dict[str, float]]) -> tuple[WorkerShare, int]:
    """What a worker of a trial gets, and how many trials the nodes hold at once.

    Raises:
        InputError: not one.
    """
    given, scaling = plan.sweep.config.resources, plan.largest.scaling
    gpus = given.gpus / scaling.fixed if given.gpus is not None else scaling.gpus_per_worker
    richest = max(nodes, key=lambda node: node.get("GPU", 0))
    if gpus is None:
        gpus = 1.0 if richest.get("GPU", 0) else 0.0
    cpus = given.cpus // scaling.fixed if given.cpus is not None else scaling.cpus_per_worker
    if cpus is None:
        cpus = max(1, int(richest["CPU"] / richest["GPU"] * gpus)) if gpus and richest.get("GPU", 0) else 1
    share = WorkerShare(max(1, cpus), gpus)
    try:
        check_fit(scaling, share, plan.largest.positives.searches and scaling.fixed > 1, nodes)
    except InputError as error:
        raise InputError(f"no trial fits: {error}; `resources` says what a trial takes") from error
    return share, capacity(share, nodes) // scaling.fixed


def epochs_of(plan: Plan) -> tuple[int, int]:
    """Epochs of all trials together: expected with early stopping, and at most."""
    c, epochs = plan.sweep.config, plan.config.optim.epochs
    most = plan.runs * epochs
    expected = float(most)
    if c.scheduler.name in ("asha", "hyperband", "bohb"):
        done, expected, left = 0, 0.0, float(plan.runs)
        for rung in _rungs(c.scheduler.grace, c.scheduler.factor, epochs):
            expected += left * (rung - done)
            done, left = rung, left / c.scheduler.factor
    limit = c.budget.epochs or most
    return min(round(expected), limit), min(most, limit)


def show_plan(plan: Plan, console: Console, nodes: list[dict[str, float]]) -> None:
    """What `--dry-run` prints."""
    c = plan.sweep.config
    share, at_once = share_of(plan, nodes)
    expected, most = epochs_of(plan)
    workers = plan.largest.scaling.fixed
    per_worker = f"{share.cpus} CPU{'s' if share.cpus > 1 else ''}" + (f", {share.gpus:g} GPUs" if share.gpus else "")
    rows = {
        "searcher": c.searcher.name + (f" ({c.searcher.sampler})" if c.searcher.name == "optuna" else ""),
        "scheduler": c.scheduler.name,
        "metric": ", ".join(f"{metric} ({mode})" for metric, mode in zip(c.metric, c.mode, strict=True)),
        "trials": f"{plan.runs}: {plan.settings} settings × {c.repeats} seed{'s' if c.repeats > 1 else ''}",
        "of each": f"{workers} worker{'s' if workers > 1 else ''} with {per_worker}; {at_once} at once",
        "epochs": f"at most {most}" + (f", about {expected} with early stopping" if expected < most else ""),
        "hours": _estimate_hours(plan, share, at_once, expected),
        "disk": _estimate_disk(plan, at_once),
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in rows.items():
        table.add_row(key, value)
    for key, dimension in c.space.items():
        table.add_row(f"[bold]{key}[/bold]", escape(str(dimension)))
    console.print(table, highlight=False)
    console.print("\nfirst settings:" if plan.planned is not None else "\nsuch settings:")
    first = plan.planned[:5] if plan.planned is not None else [settings for settings, _ in plan.examples[:5]]
    for number, settings in enumerate(first, 1):
        console.print(f"  {number}  {describe(settings)}", highlight=False, markup=False, soft_wrap=True)
    for remark in plan.remarks:
        warn(console, remark)
    console.print("\n`strata show RECIPE` shows what is not varied; without --dry-run the sweep starts.")


def _probes(sweep: Sweep, planned: Sequence[Settings] | None) -> Iterator[Settings]:
    """The first settings, some at random, and the ends of every range."""
    c = sweep.config
    some = c.samples(PROBED, c.seed + 1)
    yield from (planned or some)[:PROBED]
    generator = np.random.default_rng(c.seed)
    for key, dimension in c.space.items():
        for value in dimension.probes():
            values = {other: d.sample(generator) for other, d in c.space.items()}
            for needed, allowed in dimension.when.items():
                values[needed] = allowed[0]
            yield c.active(values | {key: value})


def _check(sweep: Sweep, config: RunConfig, remarks: dict[str, None]) -> int:
    """Check one run as far as can be without training; the size of its checkpoint."""
    from ssl_core.positives.checks import remarks as remarks_on
    from ssl_core.training.checks import check_best, check_images, metric_names

    if not isinstance(config.scaling.workers, int):
        raise InputError(f"scaling.workers: {list(config.scaling.workers)}: a trial has a fixed number of them")
    images = images_of(config.data.model_dump_json())
    check_images(config, images)
    method, size = _build(config)
    check_best(config, images, method)
    names = metric_names(config, images, method)
    for metric, mode in zip(sweep.config.metric, sweep.config.mode, strict=True):
        found = check_compared(f"{sweep.where('metric')}: metric", metric, names, images.labelled)
        if (mode == "max") != found.higher:
            better = "higher" if found.higher else "lower"
            remarks[f"mode={mode}: {better} {metric} is better, and this looks for the opposite"] = None
    for remark in (*images.remarks, *remarks_on(config)):
        remarks[remark] = None
    scheduler, epochs = sweep.config.scheduler, config.optim.epochs
    if scheduler.grace > epochs:
        raise InputError(
            f"{sweep.where('scheduler', 'grace')}: scheduler.grace: {scheduler.grace} epochs are more "
            f"than the {epochs} of a trial"
        )
    if scheduler.name == "pbt" and scheduler.every >= epochs:
        raise InputError(
            f"{sweep.where('scheduler', 'every')}: scheduler.every: after {scheduler.every} epochs a trial of {epochs} "
            "is over, and nothing is ever taken over; expected fewer"
        )
    return size


@lru_cache(maxsize=8)
def images_of(data: str) -> Images:
    """The images of a `data` section, as JSON: most trials share them."""
    return open_images(DataConfig.model_validate_json(data))


_built: dict[str, tuple["Method", int]] = {}  # by what weights' shapes depend on


def _build(config: RunConfig) -> tuple["Method", int]:
    """The method without its weights, and bytes of a checkpoint; settings that change no shape cost nothing."""
    import torch

    from ssl_core import methods
    from ssl_core.networks.weights import check_weights

    shapes = [(key, value) for key, (value, fact) in keys(config).items() if fact.shapes]
    weights = config.distill and (config.distill.alpha > 0, config.distill.beta > 0)  # at 0 less is built and logged
    same = str([*shapes, weights, config.backbone.weights])
    if same not in _built:
        check_weights(config.backbone)
        with torch.device("meta"):  # shapes only
            method = methods.build(config)
        weights = sum(tensor.numel() for tensor in method.state_dict().values())
        trained = sum(parameter.numel() for parameter in method.parameters() if parameter.requires_grad)
        _built[same] = method, 4 * (weights + 2 * trained)
    return _built[same]


def _located(sweep: Sweep, settings: Settings, message: str) -> str:
    """The message with the file and line of a varied key that it is about, and with the settings."""
    if not message.startswith(str(sweep.file)):
        about = next((key for key in settings if key in message), None)
        if about:
            message = f"{sweep.where('space', about)}: {message}"
    return message


def _check_changeable(sweep: Sweep) -> None:
    """PBT changes settings in mid-run: at least one that can be."""
    if not changeable(sweep):
        config = sweep.run_config(sweep.config.samples(1, sweep.config.seed)[0])
        able = ", ".join(key for key, (_, fact) in keys(config).items() if fact.in_mid_run)
        raise InputError(
            f"{sweep.where('space')}: space: scheduler: pbt has nothing to change in mid-run; it can change {able}"
        )


def changeable(sweep: Sweep) -> list[str]:
    """Keys of the space that can change while a run goes on: no weights depend on them."""
    config = sweep.run_config(sweep.config.samples(1, sweep.config.seed)[0])
    facts = {key: fact(config, key) for key in sweep.config.space}
    return [key for key, found in facts.items() if found is not None and found.in_mid_run]


def _rungs(grace: int, factor: float, epochs: int) -> list[int]:
    rungs, rung = [], float(grace)
    while rung < epochs:
        rungs.append(int(rung))
        rung *= factor
    return [*rungs, epochs]


def _estimate_hours(plan: Plan, share: WorkerShare, at_once: int, epochs: int) -> str:
    import torch

    if share.gpus and not torch.cuda.is_available():
        return "not known: trials run on GPUs, and this machine has none"
    rate = _images_per_second(plan.config, share)
    images = len(images_of(plan.config.data.model_dump_json()).train)
    seconds = epochs * images / (rate * plan.config.scaling.fixed) / at_once
    limit = plan.sweep.config.budget.hours
    budget = f", at most {limit:g} h (budget)" if limit else ""
    return f"about {seconds / 3600:.2f} of training, at {rate:.0f} images/s a worker, without evaluation{budget}"


def _images_per_second(config: RunConfig, share: WorkerShare) -> float:
    """Measured: a few steps of the first trial, on this machine."""
    import torch

    from ssl_core.training.loop import Pretraining

    torch.set_num_threads(share.cpus)
    batch = min(config.optim.batch_size, TIMED_BATCH)
    values: dict[str, Any] = config.model_dump(mode="json")
    values["data"] |= {"limit": batch * TIMED_STEPS, "workers": 0}
    values["optim"] |= {"epochs": 1, "warmup_epochs": 0, "warm_heads": 0, "batch_size": batch, "accumulate": 1}
    values |= {"evaluation": [], "scaling": {}, "positives": {}}
    short = RunConfig.model_validate(values)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    history = Pretraining(short, open_images(short.data), device, loaders=0).run()
    return history[-1]["images_per_second"]


def _estimate_disk(plan: Plan, at_once: int) -> str:
    kept = plan.config.checkpoint.keep + 1
    running = at_once * (kept + 1) * plan.checkpoint_bytes
    best = min(plan.sweep.config.keep_weights, plan.runs) * kept * plan.checkpoint_bytes
    size = plan.checkpoint_bytes / 1e6
    return f"about {(running + best) / 1e9:.2f} GB of weights at most (a checkpoint has {size:.0f} MB)"
