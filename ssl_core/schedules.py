"""Every quantity that changes while training: pure functions of the step, so resuming needs nothing else.

Step `t` of `T` steps is at progress t / T, as in the published SDSSL code.
"""

import math


def cosine(progress: float, start: float, end: float) -> float:
    """From `start` at progress 0 to `end` at progress 1 along half a cosine."""
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * progress))


def linear(progress: float, start: float, end: float) -> float:
    """From `start` at progress 0 to `end` at progress 1."""
    return start + (end - start) * progress


def warmup_cosine(step: int, total: int, warmup: int, peak: float, end: float) -> float:
    """Linear from 0 to `peak` over `warmup` steps (reached at the last of them), then cosine to `end`."""
    if step < warmup:
        return peak * step / max(warmup - 1, 1)
    return cosine((step - warmup) / max(total - warmup, 1), peak, end)


def epoch_at(progress: float, epochs: int) -> int:
    """The epoch, from 0, that `progress` through `epochs` lies in."""
    return int(progress * epochs + 1e-6)  # t / T of an epoch's first step may come out a rounding error too small


def linear_by_epoch(epoch: int, warmup_epochs: int, start: float, end: float) -> float:
    """From `start` in epoch 0 linearly to `end` in the last of `warmup_epochs`, then `end` (DINO, as published)."""
    if epoch >= warmup_epochs:
        return end
    return start + (end - start) * epoch / max(warmup_epochs - 1, 1)
