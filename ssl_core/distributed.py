"""The few collectives that methods need; without a process group they do nothing."""

from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


def all_gather(x: Tensor) -> Tensor:
    """Concatenate `x` (B, …) of all ranks along the first axis, in rank order, without gradient: (W·B, …)."""
    if world_size() == 1:
        return x.detach()
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)


def gather_to(x: Tensor, owner: int) -> Tensor | None:
    """What `all_gather` gives, on one rank alone; None on the others."""
    if world_size() == 1:
        return x.detach()
    x = x.detach().contiguous()
    parts = [torch.empty_like(x) for _ in range(world_size())] if rank() == owner else None
    dist.gather(x, parts, dst=owner)
    return None if parts is None else torch.cat(parts)


def send(x: Tensor, source: int, target: int) -> Tensor | None:
    """The `x` of one rank on another one, where `x` says its shape; None on all others."""
    if world_size() == 1:
        return x.detach()
    if rank() == source:
        dist.send(x.detach().contiguous(), target)
    if rank() != target:
        return None
    received = torch.empty_like(x)
    dist.recv(received, source)
    return received


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = x.shape[0]
        return all_gather(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # Every rank's loss depends on every rank's rows: sum what they all say about ours.
        grad = grad.clone(memory_format=torch.contiguous_format)  # autograd may hand the same tensor to others
        dist.all_reduce(grad)
        return grad[rank() * ctx.rows : (rank() + 1) * ctx.rows]


def all_gather_with_grad(x: Tensor) -> Tensor:
    """Like `all_gather`, but a gradient reaches the rows of every rank: N ranks give the one-process gradient."""
    return x if world_size() == 1 else _AllGather.apply(x)


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean of `x` over ranks, without gradient."""
    x = x.detach().clone()
    if world_size() > 1:
        dist.all_reduce(x)
        x /= world_size()
    return x


def gather_objects(item: object) -> list:
    """A small Python object of every rank, in rank order."""
    if world_size() == 1:
        return [item]
    items: list = [None] * world_size()
    dist.all_gather_object(items, item)
    return items


def any_rank(wish: bool) -> bool:
    """Whether any rank says so; the same answer on all of them. No GPU waits for it."""
    return bool(-least(-int(wish)))


def least(number: int) -> int:
    """The smallest of all ranks' numbers. No GPU waits for it."""
    if world_size() == 1:
        return number
    said = torch.tensor([number], dtype=torch.int64)
    dist.all_reduce(said, dist.ReduceOp.MIN, group=_host_group(dist.group.WORLD))
    return int(said)


@lru_cache(maxsize=1)
def _host_group(world: dist.ProcessGroup) -> dist.ProcessGroup:
    """All ranks, for tensors in main memory, whatever the backend of `world`."""
    if dist.get_backend(world) == "gloo":
        return world
    ours = dist.new_group(backend="gloo")
    assert isinstance(ours, dist.ProcessGroup), "all ranks are in it"
    return ours


def barrier() -> None:
    """Wait for all ranks."""
    if world_size() > 1:
        dist.barrier()
