"""timm models → features of any layers: the one contract for all that looks inside, ViT and convolutional alike.

A *layer* is a transformer block or a convolutional stage, counted from 1. Objectives and evaluators say which layers
they want, pooled to one vector an image or patch by patch, and get them all in one pass.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ssl_core.errors import InputError
from ssl_core.networks.blocks import Blocks
from ssl_core.networks.create import create_timm, is_vit, no_patches
from ssl_core.networks.layers import Hide, Layers, Want
from ssl_core.networks.reach import unreached
from ssl_core.networks.stages import Stages
from ssl_core.schema.encoder import BackboneConfig


class Encoder(nn.Module):
    """A timm model that answers with the features of the layers asked for, through its own final norm.

    What no layer reaches (a classifier's convolution, say) is not trained: every rank's gradient is of the same
    parameters in every step.

    Attributes:
        model: the timm model itself; its state dict is in timm's names.
        inside: its layers: blocks of one width with patch tokens, or stages.
        widths: feature width of every layer, first to last.
        has_batch_norm: what it makes of an image depends on those beside it.

    Args:
        config: which model.
        local_size: pixels of local crops, where the model must take them too.
    """

    def __init__(self, config: BackboneConfig, local_size: int | None = None):
        super().__init__()
        self.model: Any  # timm's models have no type in common
        self.model = create_timm(config, local_size)
        self.name, self.channels, self.image_size = config.name, config.channels, config.image_size
        self.inside: Blocks | Stages = Blocks(self.model, config.pool) if is_vit(self.model) else Stages(self.model)
        self.widths = self.inside.widths
        self.has_batch_norm = any(isinstance(x, nn.modules.batchnorm._BatchNorm) for x in self.modules())
        found = self.freeze_what_does_not_reach(Want(pooled=tuple(range(1, self.depth + 1)))).pooled
        if [x.shape[1] for x in found.values()] != self.widths:
            raise InputError(f"backbone.name: {self.name} gives layers of other widths than it says; try a ViT")

    @property
    def depth(self) -> int:
        return len(self.widths)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches of an image: rows and columns.

        Raises:
            InputError: its patches cannot be seen one by one.
        """
        if not (isinstance(self.inside, Blocks) and self.inside.sees_patches):
            raise no_patches(self.name)
        return self.model.patch_embed.grid_size

    @property
    def patch_size(self) -> int:
        return self.model.patch_embed.patch_size[0]

    def forward(
        self, images: Tensor, want: Want, hide: Hide | None = None, norms: Mapping[int, nn.Module] | None = None
    ) -> Layers:
        """Features of the layers that `want` names for `images` (N, C, H, W).

        ViT: the class token or the mean of the patch tokens, and the patch tokens, through the model's final norm.
        Stages: the average of a stage's map, and its places.

        Args:
            hide: patches that the network is not to see; a ViT of timm's alone can do that.
            norms: other final norms than the model's, by layer, of what is pooled.
        """
        if isinstance(self.inside, Stages):
            assert hide is None
            return self.inside.features(images, want)
        return self.inside.features(images, want, hide, norms or {})

    def freeze_what_does_not_reach(self, want: Want) -> Layers:
        """Train nothing that takes no part in these layers; what a pass without data gives of them.

        Raises:
            InputError: the model does not take such images, or does not give its layers.
        """
        images = torch.zeros(2, self.channels, self.image_size, self.image_size, device="meta")
        try:
            unused, found = unreached(
                self, lambda encoder: encoder(images, want), lambda x: (*x.pooled.values(), *x.patches.values())
            )
        except Exception as error:  # whatever a model of another package raises: it cannot be used
            why = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise InputError(
                f"backbone.name: {self.name} gives no features of its layers for images of {self.image_size} px "
                f"({why}); try another backbone.image_size, or a ViT or a ResNet"
            ) from error
        for parameter in unused:
            parameter.requires_grad = False
        return found
