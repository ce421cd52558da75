"""The attentive probe: a learned query attends to frozen patch tokens (I-JEPA; V-JEPA, Sec. 4; CAPI, Sec. 4.1).

The fair probe of networks that learn no image-wide feature, such as masked ones. timm's pooling with a latent query,
its norm and MLP, and a linear classifier.
"""

from collections.abc import Mapping

import torch
from timm.layers import AttentionPoolLatent
from torch import Tensor, nn

from ssl_core.evaluation.frozen import TrainedProbes
from ssl_core.networks.layers import Layers, Want
from ssl_core.schema.evaluation import AttentiveConfig

HEAD_WIDTH = 64  # of attention, where it divides the feature's


class Attentive(TrainedProbes[AttentiveConfig]):
    def measure(self, layer: int) -> dict[str, float]:
        found = self.figures(layer)
        return {
            "attentive": found["accuracy"],
            "attentive_per_class": found["per_class"],
            "attentive_rate": self.config.rates[self.chosen[layer]],
        }

    def settings(self, layer: int) -> list[float]:
        return self.config.rates

    def want(self) -> Want:
        return Want(patches=tuple(self.layers))

    def of_layer(self, found: Layers, layer: int) -> Tensor:
        return found.patches[layer + 1]

    def probe(self, layer: int, number: int) -> nn.Module:
        return AttentiveHead(self.context.encoder.widths[layer], self.classes)

    def optimizer(self, probes: Mapping[int, Mapping[int, nn.Module]]) -> torch.optim.Optimizer:
        groups = [
            {"params": list(probe.parameters()), "lr": self.config.rates[number]}
            for of_layer in probes.values()
            for number, probe in of_layer.items()
        ]
        return torch.optim.AdamW(groups, weight_decay=self.config.weight_decay)


class AttentiveHead(nn.Module):
    """Tokens of an image → its class.

    Args:
        width: of a token.
    """

    def __init__(self, width: int, classes: int):
        super().__init__()
        heads = width // HEAD_WIDTH if width % HEAD_WIDTH == 0 else 1
        self.pool = AttentionPoolLatent(width, num_heads=heads, norm_layer=nn.LayerNorm)
        self.linear = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, D) → logits (B, classes)."""
        return self.linear(self.pool(x))
