"""Losses of one direction: pure functions of predictions and targets, for any number of layers at once.

Shapes: L layers, B rows of this rank, M rows of all ranks, D dimensions, K classes. Every function
returns one loss a layer, (L,), the mean over the B rows, and computes in float32, under autocast too. Vectors that are
compared by their angle are normalised here.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec

import torch
import torch.nn.functional as F
from torch import Tensor

Parameters = ParamSpec("Parameters")


def in_float32(loss: Callable[Parameters, Tensor]) -> Callable[Parameters, Tensor]:
    """`loss` of float32 tensors, outside of any autocast: a bf16 matrix product would lose its logits' last digits."""
    exact: Callable[..., Tensor] = loss

    @functools.wraps(loss)
    def computed(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Tensor:
        (first, *_) = (x for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
        with torch.autocast(first.device.type, enabled=False):
            return exact(*map(_widened, args), **{name: _widened(x) for name, x in kwargs.items()})

    return computed


def _widened(x: object) -> object:
    return x.float() if isinstance(x, Tensor) and x.is_floating_point() else x


@in_float32
def info_nce(
    q_LBD: Tensor, other_MD: Tensor, first_row: int, temperature: float, same_MD: Tensor | None = None
) -> Tensor:
    """Cross-entropy of cos(q, keys) / temperature, the positive of row i being key `first_row` + i.

    Args:
        q_LBD: predictions for one view.
        other_MD: keys of the other view, from all ranks.
        first_row: where this rank's rows begin among the M.
        same_MD: further negatives: keys of the predictions' own view (SimCLR). A row's own key is left out.

    Returns:
        (L,) losses. SDSSL Eq. 2; SimCLR with `same_MD`, MoCo v3 without.
    """
    layers, rows, _ = q_LBD.shape
    q_LBD, other_MD = F.normalize(q_LBD, dim=-1), F.normalize(other_MD, dim=-1)
    logits = q_LBD @ other_MD.T / temperature
    positives = torch.arange(first_row, first_row + rows, device=q_LBD.device)
    if same_MD is not None:
        same = q_LBD @ F.normalize(same_MD, dim=-1).T / temperature
        own = F.one_hot(positives, same_MD.shape[0]).bool()
        logits = torch.cat([logits, same.masked_fill(own, -torch.inf)], dim=-1)
    loss = F.cross_entropy(logits.flatten(0, 1), positives.repeat(layers), reduction="none")
    return loss.view(layers, rows).mean(dim=1)


@in_float32
def cosine_distance(q_LBD: Tensor, z_BD: Tensor) -> Tensor:
    """2 − 2 cos(q, z): (L,). BYOL; SDSSL Eq. 1."""
    return 2.0 - 2.0 * F.cosine_similarity(q_LBD, z_BD, dim=-1).mean(dim=1)


@in_float32
def negative_cosine(q_LBD: Tensor, z_BD: Tensor) -> Tensor:
    """−cos(q, z): (L,). SimSiam Eq. 1."""
    return -F.cosine_similarity(q_LBD, z_BD, dim=-1).mean(dim=1)


@in_float32
def soft_cross_entropy(logits_LBK: Tensor, targets_BK: Tensor) -> Tensor:
    """Cross-entropy of softmax(logits) to target probabilities: (L,). DINO Eq. 1.

    As log Σ exp(logits) − ⟨targets, logits⟩, so that no (L, B, K) logarithm is kept for the backward pass.
    """
    return (torch.logsumexp(logits_LBK, dim=-1) - (targets_BK * logits_LBK).sum(dim=-1)).mean(dim=1)
