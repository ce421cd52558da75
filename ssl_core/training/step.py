"""One optimizer step: batches in, weights moved, figures out."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ssl_core import distributed
from ssl_core.batch import Batch
from ssl_core.data.views import normalise
from ssl_core.methods.engine import Method, StepOutput
from ssl_core.positives.base import Positives
from ssl_core.schema.run import RunConfig
from ssl_core.seeds import Use, derive_seed
from ssl_core.training import health
from ssl_core.training.optim import build_optimizer, set_rates
from ssl_core.training.parallel import Parallel

Figures = dict[str, Tensor | float]
"""What a step says, by metric name; tensors stay on their device, so that no step waits for them."""


class OptimizerStep:
    """Trains `method`, a step a call.

    Attributes:
        optimizer: over what `method` trains.
        heads_alone: so many steps of a run leave the encoder as it is.

    Args:
        parallel: has wrapped the method; `trained` is what it gave to call.
        positives: is sent what stands for each image.
        broken: is told of images that could not be decoded.
        steps_per_epoch: optimizer steps.
    """

    def __init__(
        self,
        config: RunConfig,
        method: Method,
        parallel: Parallel,
        trained: Callable[[Batch, float], StepOutput],
        positives: Positives,
        broken: health.BrokenImages,
        steps_per_epoch: int,
    ):
        self.config, self.method, self.parallel, self.trained = config, method, parallel, trained
        self.positives, self.broken, self.steps_per_epoch = positives, broken, steps_per_epoch
        self.optimizer = build_optimizer(method, config.optim)
        self.heads_alone = round(config.optim.warm_heads * steps_per_epoch)
        self._device = next(method.parameters()).device

    def __call__(self, step: int, batches: Sequence[Batch]) -> Figures:
        """The mean gradient of `batches`, and one step of the optimizer.

        Args:
            step: of the whole run, from 0.
            batches: this rank's, as the loader gives them; each has its own forward and backward pass.

        Raises:
            DataError: too many images cannot be decoded.
            TrainingDiverged: the gradient is not finite.
        """
        optim = self.config.optim
        progress = step / (optim.epochs * self.steps_per_epoch)
        rates = set_rates(self.optimizer, optim, step, self.steps_per_epoch)
        torch.manual_seed(derive_seed(Use.STEP, self.config.seed, step, distributed.rank()))  # for dropped paths
        figures, index_features = self._accumulate(batches, progress)
        if index_features:
            self.positives.send(torch.cat([batch.ids for batch in batches]), torch.cat(index_features))
        self.method.drop_frozen_gradients(progress)
        if step < self.heads_alone:
            for parameter in self.method.student.parameters():
                parameter.grad = None
        norm = self.parallel.clip(optim.clip_grad)
        figures["grad_norm"] = norm
        where = f"step {step + 1} (epoch {step // self.steps_per_epoch + 1})"
        health.check_finite(norm, figures, optim, where)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        momentum = self.method.update_teacher(progress)
        if momentum is not None:
            figures["momentum"] = momentum
        return figures | rates

    def _accumulate(self, batches: Sequence[Batch], progress: float) -> tuple[Figures, list[Tensor]]:
        """The mean gradient of `batches`: the means of their figures, and what stands for their images."""
        figures: Figures = {}
        index_features: list[Tensor] = []
        for number, batch in enumerate(batches):
            if batch.broken:
                self.broken.meet(batch.broken)
            with self.parallel.accumulating(last=number == len(batches) - 1):
                with self.parallel.autocast():
                    output = self.trained(self._prepared(batch), progress)
                (output.loss / len(batches)).backward()
            for name, value in output.parts.items():
                figures[name] = figures.get(name, 0.0) + value / len(batches)
            if output.index_features is not None:
                index_features.append(output.index_features)
        return figures, index_features

    def _prepared(self, batch: Batch) -> Batch:
        """On the device, normalised; as many patches are seen of each image as of the poorest on any rank."""
        masks = {name: mask.even(distributed.least(mask.context.shape[1])) for name, mask in batch.masks.items()}
        batch = replace(batch, masks=masks).to(self._device)
        return replace(batch, views={kind: normalise(x) for kind, x in batch.views.items()})
