"""The training loop: one run in this process, one epoch, one step, and the state to go on from.

The same code in a notebook, a test and every worker of a cluster. It knows no files and no cluster:
it takes a reporter, and sees other ranks only through `torch.distributed`.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ssl_core import distributed, methods
from ssl_core.batch import Batch
from ssl_core.data.loading import train_loader
from ssl_core.data.sources.base import Images
from ssl_core.data.views import normalise
from ssl_core.errors import DataError, InputError, Stopped, TrainingDiverged
from ssl_core.evaluation.base import check as check_evaluation
from ssl_core.evaluation.base import due, evaluate
from ssl_core.evaluation.collapse import collapse
from ssl_core.evaluation.features import Context
from ssl_core.evaluation.metrics import check_compared, names_by_layer
from ssl_core.methods import Method
from ssl_core.networks.batch_norm import synchronise_batch_norm
from ssl_core.networks.create import write_out_attention
from ssl_core.positives import base as positives
from ssl_core.schema.run import RunConfig
from ssl_core.seeds import Use, derive_seed
from ssl_core.training.optim import build_optimizer, set_rates

Record = dict[str, float]
"""The figures of one epoch by metric name, with `epoch` itself."""
NAMED_BROKEN = 5  # broken images named in one warning


class Reporter:
    """Who is told what happens, and may act on it; this one does nothing.

    Only rank 0 is told of steps and warnings, every rank of the rest. `state()` gives what
    `Pretraining.load_state_dict` takes; rank 0 calls it if it keeps a checkpoint.
    """

    def on_step(self, epoch: int, step: int, steps: int, images_per_second: float) -> None: ...

    def on_epoch(self, record: Record, state: Callable[[], dict[str, Any]]) -> None: ...

    def on_checkpoint(self, state: Callable[[], dict[str, Any]]) -> None:
        """Between two steps of an epoch: every `checkpoint.every_steps`, and before a stop."""

    def on_warning(self, message: str) -> None: ...

    def wants_stop(self) -> bool:
        """Asked before every step; what one rank wants, all do."""
        return False


class PrintReporter(Reporter):
    """One line an epoch on standard output: for notebooks."""

    def on_epoch(self, record: Record, state: Callable[[], dict[str, Any]]) -> None:
        shown = ("epoch", "loss", "knn/last", "knn/best", "rankme/last", "images_per_second")
        print("  ".join(f"{key} {record[key]:.4g}" for key in shown if key in record))

    def on_warning(self, message: str) -> None:
        print(f"warning: {message}")


@dataclass
class _Running:
    """An epoch under way, on this rank.

    Attributes:
        steps: done.
        totals: sums of the steps' figures.
        seconds, waited: spent on them, and on waiting for images.
    """

    steps: int = 0
    totals: dict[str, Tensor | float] = field(default_factory=dict)
    seconds: float = 0.0
    waited: float = 0.0

    def add(self, figures: dict[str, Tensor | float]) -> None:
        self.steps += 1
        for name, value in figures.items():
            self.totals[name] = self.totals.get(name, 0.0) + value


class Pretraining:
    """One pretraining run, seen from this rank.

    Args:
        config: what to train.
        images: what on.
        device: where; default: the CPU.
        loaders: loader processes; default: `data.workers`, or this process's threads less one.
        index: where neighbours are searched, if `positives` wants any; default: in this process.

    Attributes:
        method: the module that is trained; `method.encoder.model` is the timm model.
        positives: which image the second view of each is of.
        epoch: epochs done.
        step: steps done of the next one.
        history: a record for each finished epoch, and for the untrained network.
    """

    def __init__(
        self,
        config: RunConfig,
        images: Images,
        device: torch.device | str = "cpu",
        loaders: int | None = None,
        index: positives.Index | None = None,
    ):
        check_images(config, images)
        self.config, self.images, self.device = config, images, torch.device(device)
        if loaders is None:
            loaders = config.data.workers
        self.loaders = min(torch.get_num_threads() - 1, 8) if loaders is None else loaders
        torch.manual_seed(config.seed)
        self.method = methods.build(config)
        if distributed.world_size() > 1:
            synchronise_batch_norm(self.method)
        self.method.to(self.device)
        if self.device.type == "cpu" and config.optim.precision == "bf16":
            write_out_attention(self.method)
        self._trained: torch.nn.Module = self.method
        if distributed.world_size() > 1:
            self._trained = DistributedDataParallel(self.method)
        self.optimizer = build_optimizer(self.method, config.optim)
        self.positives = positives.build(config, images, self.method.index_dim, self.device, index)
        grid = self.method.student.grid if config.hides else None
        self.loader = train_loader(images.train, config, self.loaders, grid)
        self.steps_per_epoch = len(self.loader) // config.optim.accumulate
        self.epoch = 0
        self.history: list[Record] = []
        self._running = _Running()
        self._all_running: list[dict[str, Any]] = []  # of all ranks, at the last checkpoint within an epoch
        self.broken: set[tuple[str, int]] = set()  # (set, index), known to every rank
        self._met_broken: set[tuple[str, int]] = set()  # met by this rank in this epoch

    @property
    def step(self) -> int:
        return self._running.steps

    @property
    def total_steps(self) -> int:
        return self.config.optim.epochs * self.steps_per_epoch

    def run(self, reporter: Reporter) -> list[Record]:
        """Train from where the state stands to the last epoch; returns the history.

        Raises:
            Stopped: the reporter wanted so.
            TrainingDiverged: the loss or its gradient stopped being finite.
            DataError: too many images cannot be decoded.
        """
        if not self.history:
            self._finish_epoch({"epoch": 0.0}, reporter)
        while self.epoch < self.config.optim.epochs:
            record = self._train_epoch(self.epoch + 1, reporter)
            self.epoch += 1
            self._finish_epoch(record, reporter)
        return self.history

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on beside `positives.save`; the same on every rank.

        Generators are derived from seed, epoch, step and image. Within an epoch, the figures of its steps are those
        of the last checkpoint that the reporter was told of.
        """
        return {
            "epoch": self.epoch,
            "step": self.step,
            "running": self._all_running if self.step else [],
            "workers": distributed.world_size(),
            "history": self.history,
            "broken": [list(item) for item in sorted(self.broken)],
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> list[str]:
        """Go on from `state`; what will not be as in a run that was never interrupted."""
        self.epoch = state["epoch"]
        self.history = [dict(record) for record in state["history"]]
        self.broken = {(split, index) for split, index in state["broken"]}
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        workers, before, running = distributed.world_size(), state["workers"], state["running"]
        if running and workers == before:
            own = running[distributed.rank()]
            self._running = _Running(**own["figures"])
            self._met_broken = {(split, index) for split, index in own["broken"]}
        elif running:
            self._running = _mean_of([part["figures"] for part in running])
            self._met_broken = {(split, index) for part in running for split, index in part["broken"]}
        self._running.totals = {
            name: total.to(self.device) if isinstance(total, Tensor) else total
            for name, total in self._running.totals.items()
        }
        if workers == before:
            return []
        paths = ", and other paths are dropped at random" if self._drops_paths() else ""
        return [
            f"{before} worker(s) before, {workers} now, with the same batch of {self.config.optim.batch_size} images: "
            f"sums are added up in another order, so weights agree with an uninterrupted run's to rounding only{paths}"
        ]

    def _drops_paths(self) -> bool:
        return any(getattr(module, "drop_prob", 0) for module in self.method.modules())

    def evaluate(self, epoch: int) -> Record:
        """The figures that the configuration asks for at this epoch."""
        evaluators = due(self.config, self.images, epoch)
        if not evaluators:
            return {}
        encoder = self.method.encoder
        encoder.eval()
        context = Context(
            self._layer_features,
            encoder.depth,
            self.images,
            self.config,
            self.device,
            self.loaders,
            broken=self._met_broken,
        )
        metrics = evaluate(evaluators, context)
        encoder.train()
        return metrics

    def _layer_features(self, images: Tensor) -> list[Tensor]:
        with self._autocast():
            return self.method.layer_features(images)

    def _train_epoch(self, epoch: int, reporter: Reporter) -> Record:
        running, accumulate = self._running, self.config.optim.accumulate
        order = self.loader.batch_sampler
        order.epoch, order.start, order.partners = epoch, running.steps * accumulate, self.positives.partners(epoch)
        batches = iter(self.loader)
        started = time.perf_counter() - running.seconds
        while not self._stopped(reporter) and running.steps < self.steps_per_epoch:
            asked = time.perf_counter()
            micro_batches = [next(batches) for _ in range(accumulate)]
            running.waited += time.perf_counter() - asked
            running.add(self._step((epoch - 1) * self.steps_per_epoch + running.steps, micro_batches))
            running.seconds = time.perf_counter() - started
            if distributed.rank() == 0:
                rate = running.steps * self.config.optim.batch_size / running.seconds
                reporter.on_step(epoch, running.steps, self.steps_per_epoch, rate)
            every = self.config.checkpoint.every_steps
            if every and running.steps % every == 0 and running.steps < self.steps_per_epoch:
                self._checkpoint(reporter)
        self.positives.end_epoch(epoch)
        for _ in batches:  # an epoch's incomplete accumulation; leaves the loader at its end
            pass
        seconds = time.perf_counter() - started
        totals = running.totals
        means = torch.stack([torch.as_tensor(total, device=self.device) for total in totals.values()])
        means = distributed.mean_over_ranks(means / self.steps_per_epoch).tolist()
        record: Record = {"epoch": float(epoch), **dict(zip(totals, means, strict=True))}
        record["images_per_second"] = self.steps_per_epoch * self.config.optim.batch_size / seconds
        record["data_wait"] = running.waited / seconds
        self._running = _Running()
        return record

    def _stopped(self, reporter: Reporter) -> bool:
        """False; where a rank wants to stop, all do, and can go on from here."""
        if distributed.any_rank(reporter.wants_stop()):
            self._checkpoint(reporter)
            raise Stopped("asked to stop")
        return False

    def _checkpoint(self, reporter: Reporter) -> None:
        """Let the reporter keep the state between two steps."""
        self.positives.settle()
        running = self._running
        totals = {name: t.cpu() if isinstance(t, Tensor) else t for name, t in running.totals.items()}
        own = {"figures": vars(running) | {"totals": totals}, "broken": [list(item) for item in self._met_broken]}
        self._all_running = distributed.gather_objects(own)
        reporter.on_checkpoint(self.state_dict)

    def _step(self, step: int, micro_batches: list[Batch]) -> dict[str, Tensor | float]:
        """One optimizer step; its figures."""
        progress = step / self.total_steps
        rates = set_rates(self.optimizer, self.config.optim, step, self.steps_per_epoch)
        torch.manual_seed(derive_seed(Use.STEP, self.config.seed, step, distributed.rank()))  # for dropped paths
        parts: dict[str, Tensor | float] = {}
        index_features = []
        for number, batch in enumerate(micro_batches):
            if batch.broken:
                self._met_broken.update(("train", index) for index in batch.broken)
                self._check_broken()
            last = number == len(micro_batches) - 1
            # As many patches are seen of each image as of the poorest on any rank.
            even = {name: masks.even(distributed.least(masks.context.shape[1])) for name, masks in batch.masks.items()}
            batch = replace(batch, masks=even).to(self.device)
            batch = replace(batch, views={kind: normalise(x) for kind, x in batch.views.items()})
            with contextlib.ExitStack() as stack:
                if not last and distributed.world_size() > 1:
                    stack.enter_context(self._trained.no_sync())
                with self._autocast():
                    output = self._trained(batch, progress)
                (output.loss / len(micro_batches)).backward()
            for name, value in output.parts.items():
                parts[name] = parts.get(name, 0.0) + value / len(micro_batches)
            if output.index_features is not None:
                index_features.append(output.index_features)
        if index_features:
            self.positives.send(torch.cat([batch.ids for batch in micro_batches]), torch.cat(index_features))
        self.method.drop_frozen_gradients(progress)
        parts["grad_norm"] = self._clip(step, parts)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        momentum = self.method.update_teacher(progress)
        if momentum is not None:
            parts["momentum"] = momentum
        return parts | rates

    def _clip(self, step: int, parts: dict[str, Tensor | float]) -> Tensor:
        """Clip the gradient; its norm before. After averaging over ranks it is the same on all, and so is the error."""
        gradients = [p.grad for p in self.method.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.config.optim.clip_grad is not None:
            torch.nn.utils.clip_grads_with_norm_(self.method.parameters(), self.config.optim.clip_grad, norm)
        if not torch.isfinite(norm):
            epoch = step // self.steps_per_epoch + 1
            infinite = [name for name, value in parts.items() if not torch.isfinite(torch.as_tensor(value))]
            what = f"{', '.join(infinite)} is not finite" if infinite else "the gradient is not finite (the loss is)"
            remedies = ["a lower optim.lr", "longer optim.warmup_epochs", "optim.clip_grad=1"]
            if self.config.optim.precision != "fp32":
                remedies.append("optim.precision=fp32")
            raise TrainingDiverged(f"step {step + 1} (epoch {epoch}): {what}; try {', '.join(remedies)}")
        return norm.detach()

    def _finish_epoch(self, record: Record, reporter: Reporter) -> None:
        """Evaluate, merge what the ranks know of broken images, warn, record, report."""
        record |= self.evaluate(self.epoch)
        if self.epoch:
            record |= self.positives.figures(self.epoch)
        new = {item for part in distributed.gather_objects(self._met_broken) for item in part} - self.broken
        self.broken |= new
        self._met_broken.clear()
        record["broken_images"] = float(len(self.broken))
        self.history.append(record)
        if distributed.rank() == 0:
            if new:
                reporter.on_warning(self._describe_broken(sorted(new)))
            if (collapsed := collapse(record)) and self.epoch > 0:
                reporter.on_warning(f"epoch {self.epoch}: {collapsed}")
        self._check_broken()
        reporter.on_epoch(record, self.state_dict)

    def _describe_broken(self, new: list[tuple[str, int]]) -> str:
        named = [getattr(self.images, split).where(index) for split, index in new[:NAMED_BROKEN]]
        more = f" and {len(new) - NAMED_BROKEN} more" if len(new) > NAMED_BROKEN else ""
        return f"cannot decode {', '.join(named)}{more}; other images take their place"

    def _check_broken(self) -> None:
        """Stop if more training images are known to be broken than `data.max_broken` allows."""
        broken = sum(split == "train" for split, _ in self.broken | self._met_broken)
        limit, total = self.config.data.max_broken, len(self.images.train)
        if broken > limit * total:
            first = next(index for split, index in sorted(self.broken | self._met_broken) if split == "train")
            raise DataError(
                f"{broken} of {total} training images cannot be decoded, more than data.max_broken={limit:g} "
                f"allows; the first is {self.images.train.where(first)}"
            )

    def _autocast(self) -> contextlib.AbstractContextManager:
        if self.config.optim.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


def _mean_of(parts: list[dict[str, Any]]) -> _Running:
    """What stands for each rank's running epoch if there were other ranks before."""
    running = _Running(**parts[0])
    running.totals = {name: sum(part["totals"][name] for part in parts) / len(parts) for name in running.totals}
    return running


def metric_names(config: RunConfig, images: Images, method: Method) -> set[str]:
    """The metrics that a run logs, at the latest after its last epoch.

    `positives/same_class` is there where a pair of two images was drawn.
    """
    names = {*method.part_names(), "epoch", "lr", "weight_decay", "grad_norm", "images_per_second", "data_wait"}
    names |= {"broken_images", *names_by_layer(due(config, images, 0), method.encoder.depth)}
    if method.teacher is not None and method.teacher.follows:
        names.add("momentum")
    if config.positives.kind != "augment":
        names.add("positives/bootstrap_ratio")
        if images.train.labels is not None:
            names.add("positives/same_class")
    if config.positives.searches:
        names |= {f"positives/{name}" for name in ("gate_open", "self_similarity", "spread")}
        if config.positives.search == "ivf":
            names.add("positives/recall")
        if images.train.labels is not None:
            names |= {"positives/nn_top1", "positives/nn_top2"}
    return names


def check_best(config: RunConfig, images: Images, method: Method) -> None:
    """Whether `checkpoint.best` is a metric that says which checkpoint is better.

    Raises:
        InputError: it is not logged, or has no direction.
    """
    default = type(config.checkpoint).model_fields["best"].default
    if config.checkpoint.best != default:  # which some runs do not log; then no checkpoint is the best
        check_compared("checkpoint.best", config.checkpoint.best, metric_names(config, images, method), images.labelled)


def check_images(config: RunConfig, images: Images) -> None:
    """Whether the images are enough for one step, and allow the positives asked for.

    Raises:
        InputError: fewer training images than a batch; no labels, or too few images, for `positives`.
    """
    if len(images.train) < config.optim.batch_size:
        raise InputError(
            f"optim.batch_size: {config.optim.batch_size} is more than the {len(images.train)} images of data.train"
        )
    positives.check(config, images)
    check_evaluation(config, images)
