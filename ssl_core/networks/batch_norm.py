"""Batch normalisation over the batches of all ranks, on CPU and GPU alike (torch's own needs a GPU)."""

from collections.abc import Sequence

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from ssl_core import distributed
from ssl_core.errors import InputError


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over the batches of all ranks, on any device (torch's own needs a GPU)."""

    def _check_input_dim(self, x: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        axes = [0, *range(2, x.ndim)]
        mean, var = batch_moments(x, axes)
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            momentum = self.momentum or 0.0
            count = distributed.world_size() * x.numel() / x.shape[1]
            with torch.no_grad():
                self.running_mean.lerp_(mean.flatten(), momentum)
                self.running_var.lerp_(var.flatten() * (count / (count - 1)), momentum)
                self.num_batches_tracked.add_(1)
        x_hat = (x - mean) * torch.rsqrt(var + self.eps)
        if self.weight is None:
            return x_hat
        shape = [1, -1, *[1] * (x.ndim - 2)]
        return x_hat * self.weight.view(shape) + self.bias.view(shape)


class SyncBatchNormAct(SyncBatchNorm):
    """The same with what timm's `BatchNormAct2d` does behind it: dropping, then an activation."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def batch_moments(x: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over `axes` and over all ranks, with gradient; axes kept as 1.

    Every rank must hold the same number of elements. Exact in two passes, without E[x²] − E[x]².
    """
    var, mean = torch.var_mean(x.float(), dim=tuple(axes), correction=0, keepdim=True)
    if distributed.world_size() > 1:
        means, variances = distributed.all_gather_with_grad(torch.stack([mean, var])[None]).unbind(dim=1)
        mean = means.mean(dim=0)
        var = (variances + (means - mean) ** 2).mean(dim=0)
    return mean, var


def synchronise_batch_norm(module: nn.Module) -> nn.Module:
    """Replace every BatchNorm below `module` by one over all ranks, weights and names unchanged.

    Raises:
        InputError: a BatchNorm of another kind, which cannot be replaced one for one.
    """
    for name, child in module.named_children():
        known = type(child) in (nn.BatchNorm1d, nn.BatchNorm2d, BatchNormAct2d)
        if known and isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, _synchronised(child))
        elif isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, SyncBatchNorm):
            raise InputError(
                f"scaling.workers: {type(child).__name__} of this backbone cannot be synchronised; use one worker"
            )
        else:
            synchronise_batch_norm(child)
    return module


def _synchronised(norm: nn.modules.batchnorm._BatchNorm) -> SyncBatchNorm:
    kind = SyncBatchNormAct if isinstance(norm, BatchNormAct2d) else SyncBatchNorm
    sync = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    for name, child in norm.named_children():
        setattr(sync, name, child)
    sync.load_state_dict(norm.state_dict())
    sync.weight, sync.bias = norm.weight, norm.bias  # a teacher's stay without gradient
    return sync.train(norm.training)
