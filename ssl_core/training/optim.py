"""The optimizer with the usual parameter groups; what its rates are at a step."""

from typing import Any

import torch
from timm.optim import create_optimizer_v2, param_groups_weight_decay

from ssl_core import schedules
from ssl_core.methods import Method
from ssl_core.networks.depth import below_heads
from ssl_core.networks.encoder import Encoder
from ssl_core.networks.heads import stacked_vectors
from ssl_core.schema.optim import OptimConfig

LR_BATCH = 256  # `optim.lr` is for a batch of this size


def build_optimizer(method: Method, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW, SGD or LARS over what `method` trains; no weight decay on biases and norms.

    `method.constant_lr_parameters()` are in groups of their own, marked `constant_lr`.

    LARS takes one trust ratio for each stacked weight of the hidden layers' heads.
    """
    groups = param_groups_weight_decay(method, config.weight_decay, no_weight_decay_list=stacked_vectors(method))
    constant = {id(p) for p in method.constant_lr_parameters()}
    for group in list(groups):
        kept = [p for p in group["params"] if id(p) in constant]
        if kept:
            group["params"] = [p for p in group["params"] if id(p) not in constant]
            groups.append({**group, "params": kept, "constant_lr": True})
    if config.layer_decay is not None:
        groups = _by_layer(groups, layer_scales(method.student, config.layer_decay))
    kinds: dict[str, dict[str, Any]] = {
        "adamw": {"betas": config.betas, "fused": True},
        "sgd": {"momentum": config.momentum, "nesterov": False},
        "lars": {"momentum": config.momentum},
    }
    return create_optimizer_v2(groups, opt=config.name, lr=0.0, weight_decay=0.0, **kinds[config.name])


def layer_scales(encoder: Encoder, decay: float) -> dict[int, float]:
    """What each parameter's rate is multiplied with, by its id: `decay` for each layer between it and the heads."""
    below = below_heads(encoder)
    return {id(x): decay ** below[name] for name, x in encoder.model.named_parameters()}


def _by_layer(groups: list[dict[str, Any]], scales: dict[int, float]) -> list[dict[str, Any]]:
    """The groups, parted by what their parameters' rates are multiplied with."""
    parted: list[dict[str, Any]] = []
    for group in groups:
        own: dict[float, list[Any]] = {}
        for parameter in group["params"]:
            own.setdefault(scales.get(id(parameter), 1.0), []).append(parameter)
        parted += [{**group, "params": params, "lr_scale": scale} for scale, params in own.items()]
    return parted


def set_rates(optimizer: torch.optim.Optimizer, config: OptimConfig, step: int, steps_per_epoch: int) -> dict:
    """Set learning rate and weight decay for `step` of the whole run; both, for the log.

    Groups marked `constant_lr` keep the peak from the first step on (SimSiam's predictors).
    """
    total = config.epochs * steps_per_epoch
    scale = config.batch_size / LR_BATCH
    warmup = round(config.warmup_epochs * steps_per_epoch)
    peak = config.lr * scale
    lr = schedules.warmup_cosine(step, total, warmup, peak, config.min_lr * scale)
    end = config.weight_decay if config.weight_decay_end is None else config.weight_decay_end
    weight_decay = schedules.cosine(step / total, config.weight_decay, end)
    for group in optimizer.param_groups:
        group["lr"] = (peak if group.get("constant_lr") else lr) * group.get("lr_scale", 1.0)
        # Groups without decay were built with 0 and stay there.
        if group.setdefault("decays", group["weight_decay"] > 0):
            group["weight_decay"] = weight_decay
    return {"lr": lr, "weight_decay": weight_decay}
