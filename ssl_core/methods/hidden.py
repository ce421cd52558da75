"""Hidden self-distillation (SDSSL, Jang et al., 2021): hidden layers learn from the last one's targets.

    total = loss_L + α(t) · mean over hidden l of loss_l + β · sum over all l of loss(pred_l(sg h_l))   (Eq. 6)

A weighting of layers over any objective that has a loss for each of them. The predictor's own term has the same value
as the main one, only its gradient stops at h_l. So one predictor pass serves both: weight layer l by a_l + β and scale
the gradient into h_l by a_l / (a_l + β) (`networks.heads.scale_for_predictor`), with a_l = α / (L − 1) for hidden
layers and 1 for the last.
"""

import torch
from torch import Tensor

from ssl_core import schedules
from ssl_core.objectives.base import Objective
from ssl_core.schema.distill import DistillConfig
from ssl_core.schema.layers import chosen_layers
from ssl_core.schema.types import EveryN


def is_active(config: DistillConfig | None, predictor: bool) -> bool:
    """Whether the section changes anything: α > 0, or β > 0 in a framework with a predictor."""
    return config is not None and (config.alpha > 0 or (config.beta > 0 and predictor))


def select_layers(layers: str | list[int] | EveryN, depth: int) -> list[int]:
    """The hidden layers (numbered from 1, ascending, without the last) that `distill.layers` names.

    Raises:
        InputError: a layer that the backbone does not have.
    """
    return [layer for layer in chosen_layers(layers, depth, "distill.layers") if layer != depth]


def layer_weights(config: DistillConfig, progress: float, hidden: int, device: torch.device) -> tuple[float, Tensor]:
    """α at this progress in [0, 1], and a_l of the hidden layers and the last: (hidden + 1,)."""
    alpha = config.alpha if config.anneal == "none" else schedules.cosine(progress, 0.0, config.alpha)
    weights = torch.full((hidden + 1,), alpha / max(hidden, 1), device=device)
    weights[-1] = 1.0
    return alpha, weights


def weighted(losses: Tensor, alpha: float, beta: float) -> tuple[Tensor, dict[str, Tensor | float]]:
    """The total of the losses (L,) of hidden layers and, behind them, the last; its parts, by name below `loss/`."""
    last, hidden = losses[-1], losses[:-1]
    parts: dict[str, Tensor | float] = {"last": last.detach()}
    total, predictor = last, last
    if len(hidden):
        parts["hidden"] = hidden.mean().detach()
        total, predictor = total + alpha * hidden.mean(), predictor + hidden.sum()
    if beta:
        parts["predictor"] = predictor.detach()
        total = total + beta * predictor
    return total, parts


class Weighting:
    """How the losses of a run's layers add up, with the section or without it.

    Args:
        config: None where it changes nothing.
        hidden: how many hidden layers learn.
    """

    def __init__(self, config: DistillConfig | None, hidden: int):
        self.config, self.hidden = config, hidden

    def at(self, progress: float, device: torch.device) -> tuple[float, Tensor | None]:
        """α, and a_l of the layers that learn; None where the last one learns alone."""
        return (0.0, None) if self.config is None else layer_weights(self.config, progress, self.hidden, device)

    def beta_of(self, objective: Objective) -> float:
        """The weight of its predictors' own loss."""
        return self.config.beta if self.config is not None and objective.has_predictor else 0.0

    def weigh(self, objective: Objective, losses: Tensor, alpha: float) -> tuple[Tensor, dict[str, Tensor | float]]:
        """An objective's loss from those of its layers (L,), and its parts by name below `loss/`."""
        if self.config is not None and objective.config.layered:
            return weighted(losses, alpha, self.beta_of(objective))
        return (objective.weights * losses).sum(), dict(objective.parts(losses.detach()))
