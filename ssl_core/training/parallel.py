"""How a method is spread over ranks: where its module lives, when gradients are averaged, what is clipped and kept.

One process, or as many as `torch.distributed` has joined, each with a whole copy (DDP). A way that shards the weights
answers the same questions.
"""

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ssl_core import distributed
from ssl_core.networks.batch_norm import synchronise_batch_norm
from ssl_core.networks.create import write_out_attention
from ssl_core.schema.optim import OptimConfig


class Parallel(Protocol):
    """What training asks of a way to spread a method over ranks."""

    def wrap(self, method: nn.Module) -> Callable[..., Any]:
        """Bring the method to its device, in place; what to call for a forward pass.

        The optimizer is built afterwards, over `method.parameters()`.
        """

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """In which precision forward passes compute."""

    def accumulating(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Around the passes of one of a step's batches: gradients are averaged over ranks in the last one's."""

    def clip(self, most: float | None) -> Tensor:
        """Scale the gradients so that their norm is at most `most`; the norm before, the same on all ranks."""

    def state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Weights (`method`) and the optimizer's state (`optimizer`), whole; all ranks ask together."""

    def load(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Go on from what `state` gave, on any number of ranks."""


class OneProcess:
    """A method in this process alone.

    Args:
        device: where it trains.
        precision: of forward passes; weights, gradients and sums stay fp32.
    """

    def __init__(self, device: torch.device, precision: str = "fp32"):
        self.device, self.precision = device, precision

    def wrap(self, method: nn.Module) -> Callable[..., Any]:
        self.method = method.to(self.device)
        if self.device.type == "cpu" and self.precision == "bf16":
            write_out_attention(method)
        return method

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def accumulating(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def clip(self, most: float | None) -> Tensor:
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.method.parameters() if p.grad is not None])
        if most is not None:
            torch.nn.utils.clip_grads_with_norm_(self.method.parameters(), most, norm)
        return norm.detach()

    def state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        return {"method": self.method.state_dict(), "optimizer": optimizer.state_dict()}

    def load(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        self.method.load_state_dict(state["method"])
        optimizer.load_state_dict(state["optimizer"])


class DataParallel(OneProcess):
    """A copy of the method on every rank; backward passes average the gradients, and batch norm sees all ranks."""

    def wrap(self, method: nn.Module) -> Callable[..., Any]:
        synchronise_batch_norm(method)
        super().wrap(method)
        self._copies = DistributedDataParallel(method)
        return self._copies

    def accumulating(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if last else self._copies.no_sync()


def choose(config: OptimConfig, device: torch.device) -> Parallel:
    """The way for the ranks that there are."""
    kind = DataParallel if distributed.world_size() > 1 else OneProcess
    return kind(device, config.precision)
