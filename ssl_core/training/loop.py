"""The training loop: one run in this process, an epoch at a time.

The same code in a notebook, a test and every worker of a cluster. It knows no files and no cluster: it tells listeners
what happens, and sees other ranks only through `torch.distributed`.
"""

import time
from typing import Any

import torch
from torch import Tensor

from ssl_core import distributed, methods
from ssl_core.data.loading import EpochOrder, loader_count, train_loader
from ssl_core.data.sources.base import Images
from ssl_core.errors import Stopped
from ssl_core.evaluation.base import due, evaluate
from ssl_core.evaluation.features import Context
from ssl_core.networks.layers import Layers, Want
from ssl_core.positives import base as positives
from ssl_core.schema.run import RunConfig
from ssl_core.training import parallel, state
from ssl_core.training.checks import check_images
from ssl_core.training.events import CheckpointDue, Ended, EpochEnded, Listener, Record, Started, Stepped, Warned, tell
from ssl_core.training.health import BrokenImages, warnings
from ssl_core.training.step import OptimizerStep


class Pretraining:
    """One pretraining run, seen from this rank.

    Args:
        config: what to train.
        images: what on.
        device: where; default: the CPU.
        loaders: loader processes; default: `data.workers`, or this process's threads less one.
        index: where neighbours are searched, if `positives` wants any; default: in this process.
        fresh: start from `backbone.weights`, where there are such; else a state is going to be loaded.

    Attributes:
        method: the module that is trained; `method.encoder.model` is the timm model.
        parallel: how it is spread over ranks.
        positives: which image the second view of each is of.
        broken: images that could not be decoded.
        train_step: (step of the run, batches) → figures.
        epoch: epochs done.
        step: steps done of the next one.
        running: the next epoch, as far as it has come.
        history: a record for each finished epoch, and for the untrained network.
    """

    def __init__(
        self,
        config: RunConfig,
        images: Images,
        device: torch.device | str = "cpu",
        loaders: int | None = None,
        index: positives.Index | None = None,
        fresh: bool = True,
    ):
        check_images(config, images)
        self.config, self.images, self.device = config, images, torch.device(device)
        self.loaders = loader_count(config.data.workers if loaders is None else loaders)
        torch.manual_seed(config.seed)
        self.method = methods.build(config, fresh=fresh)
        self.parallel = parallel.choose(config.optim, self.device)
        trained = self.parallel.wrap(self.method)
        self.positives = positives.build(config, images, self.method.index_dim, self.device, index)
        grid = self.method.student.grid if config.hides else None
        self.loader = train_loader(images.train, config, self.loaders, grid)
        self.steps_per_epoch = len(self.loader) // config.optim.accumulate
        self.broken = BrokenImages(config, images)
        self.train_step = OptimizerStep(
            config, self.method, self.parallel, trained, self.positives, self.broken, self.steps_per_epoch
        )
        self.epoch = 0
        self.history: list[Record] = []
        self.running = state.Running()

    @property
    def step(self) -> int:
        return self.running.steps

    @property
    def total_steps(self) -> int:
        return self.config.optim.epochs * self.steps_per_epoch

    def run(self, *listeners: Listener) -> list[Record]:
        """Train from where the state stands to the last epoch; returns the history.

        Raises:
            Stopped: a listener wanted so.
            TrainingDiverged: the loss or its gradient stopped being finite.
            DataError: too many images cannot be decoded.
        """
        tell(listeners, _started(self))
        if not self.history:
            self._finish_epoch({"epoch": 0.0}, listeners)
        while self.epoch < self.config.optim.epochs:
            record = self._train_epoch(self.epoch + 1, listeners)
            self.epoch += 1
            self._finish_epoch(record, listeners)
        tell(listeners, Ended(finished=True))
        return self.history

    def state_dict(self) -> dict[str, Any]:
        """What `state.capture` says: all ranks call it together."""
        return state.capture(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> list[str]:
        """Go on from a state; what will not be as in a run that was never interrupted.

        Raises:
            InputError: it is of a former layout, or of another run.
        """
        return state.restore(self, state_dict)

    def evaluate(self, epoch: int) -> Record:
        """The figures that the configuration asks for at this epoch."""
        evaluators = due(self.config, self.images, epoch)
        if not evaluators:
            return {}
        encoder = self.method.encoder
        encoder.eval()
        context = Context(self._features, encoder, self.images, self.config, self.device, self.loaders, self.broken.met)
        metrics = evaluate(evaluators, context)
        encoder.train()
        return metrics

    def _features(self, images: Tensor, want: Want) -> Layers:
        with self.parallel.autocast():
            return self.method.features(images, want)

    def _train_epoch(self, epoch: int, listeners: tuple[Listener, ...]) -> Record:
        running, accumulate = self.running, self.config.optim.accumulate
        order = self.loader.batch_sampler
        assert isinstance(order, EpochOrder)
        order.epoch, order.start, order.partners = epoch, running.steps * accumulate, self.positives.partners(epoch)
        batches = iter(self.loader)
        started = time.perf_counter() - running.seconds
        while running.steps < self.steps_per_epoch:
            self._stop_if_wanted(listeners)
            asked = time.perf_counter()
            micro_batches = [next(batches) for _ in range(accumulate)]
            running.waited += time.perf_counter() - asked
            running.add(self.train_step((epoch - 1) * self.steps_per_epoch + running.steps, micro_batches))
            running.seconds = time.perf_counter() - started
            rate = running.steps * self.config.optim.batch_size / running.seconds
            tell(listeners, Stepped(epoch, running.steps, self.steps_per_epoch, rate, time.time()))
            every = self.config.checkpoint.every_steps
            if every and running.steps % every == 0 and running.steps < self.steps_per_epoch:
                self._offer_checkpoint(listeners)
        self._stop_if_wanted(listeners)
        self.positives.end_epoch(epoch)
        for _ in batches:  # an epoch's incomplete accumulation; leaves the loader at its end
            pass
        record = running.record(epoch, self.config.optim.batch_size, time.perf_counter() - started)
        self.running = state.Running()
        return record

    def _stop_if_wanted(self, listeners: tuple[Listener, ...]) -> None:
        """Where a listener of any rank wants to stop, all ranks do, and can go on from here."""
        if distributed.any_rank(any(listener.wants_stop() for listener in listeners)):
            self._offer_checkpoint(listeners)
            tell(listeners, Ended(finished=False))
            raise Stopped("asked to stop")

    def _offer_checkpoint(self, listeners: tuple[Listener, ...]) -> None:
        """Let listeners keep the state between two steps."""
        self.positives.settle()
        tell(listeners, CheckpointDue(self.epoch, self.step))

    def _finish_epoch(self, record: Record, listeners: tuple[Listener, ...]) -> None:
        """Evaluate, merge what the ranks know of broken images, warn, record."""
        record |= self.evaluate(self.epoch)
        if self.epoch:
            record |= self.positives.figures(self.epoch)
        new = self.broken.merge()
        record["broken_images"] = float(len(self.broken.known))
        self.history.append(record)
        first = self.history[0] if self.config.backbone.weights is not None else None
        for message in warnings(record, self.broken, new, first):
            tell(listeners, Warned(message))
        self.broken.check()
        tell(listeners, EpochEnded(record))


def _started(run: Pretraining) -> Started:
    cpu = f"cpu ({torch.get_num_threads()} threads)"
    return Started(
        history=tuple(run.history),
        steps=run.steps_per_epoch,
        device=torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else cpu,
        workers=distributed.world_size(),
        loaders=run.loaders,
        trained=sum(p.numel() for p in run.method.parameters() if p.requires_grad),
        encoder=sum(p.numel() for p in run.method.encoder.parameters()),
    )
