"""Which of a network's parameters take part in an answer, found without data."""

import copy
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)
Answer = TypeVar("Answer")


def unreached(
    network: Network, ask: Callable[[Network], Answer], tensors: Callable[[Answer], Iterable[Tensor]]
) -> tuple[list[nn.Parameter], Answer]:
    """The parameters that no gradient of an answer reaches, and the answer, without data.

    Args:
        ask: a pass through a copy of the network on the device `meta`, so that what a model keeps from a pass is not
            kept by the real one.
        tensors: what of the answer has a gradient.
    """
    bare: dict[int, Tensor] = {id(x): torch.empty_like(x, device="meta") for x in network.buffers()}
    for x in network.parameters():
        bare[id(x)] = nn.Parameter(torch.empty_like(x, device="meta"), x.requires_grad)
    shadow = copy.deepcopy(network, dict(bare))
    with torch.random.fork_rng(devices=[]):
        answer = ask(shadow)
        torch.stack([x.float().sum() for x in tensors(answer)]).sum().backward()
    return [x for x in network.parameters() if bare[id(x)].grad is None], answer
