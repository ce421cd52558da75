"""Bootleg (Lowe et al., 2026, arXiv 2603.15553): predict several layers of the EMA teacher at once.

Each target layer has a head of its own on the predictor's one pass, and is normalised token by token, so that none
outweighs the others. With the last layer alone it is I-JEPA.
"""

import torch
from torch import Tensor

from ssl_core.errors import InputError
from ssl_core.methods.masked import LatentTargets
from ssl_core.networks.encoder import chosen_layers


class Bootleg(LatentTargets):
    def choose_layers(self, depth: int) -> list[int]:
        return chosen_layers(self.config.targets, depth, "framework.targets")

    def weigh(self, targets: int) -> Tensor:
        given = self.config.target_weights
        if given is None:
            return super().weigh(targets)
        if len(given) != targets:
            raise InputError(f"framework.target_weights: {len(given)} of them for target layers {self.target_layers}")
        return torch.tensor(given) / sum(given)
