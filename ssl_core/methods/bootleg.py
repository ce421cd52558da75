"""Bootleg (Lowe et al., 2026, arXiv 2603.15553): predict several layers of the EMA teacher at once.

Each target layer has a head of its own on the predictor's one pass, and is normalised token by token, so that none
outweighs the others. With the last layer alone it is I-JEPA.
"""

from ssl_core.backbones import chosen_layers
from ssl_core.methods.masked import LatentTargets


class Bootleg(LatentTargets):
    def choose_layers(self, depth: int) -> list[int]:
        return chosen_layers(self.config.targets, depth, "framework.targets")
