"""MAE (He et al., 2022): predict the pixels of hidden patches, each patch normalised by its own mean and deviation."""

import torch.nn.functional as F
from torch import Tensor

from ssl_core.methods.masked import Masked

EPSILON = 1e-6


class MAE(Masked):
    ema_teacher = False

    @property
    def target_dim(self) -> int:
        return self.backbone.patch_size**2 * self.backbone.channels

    def teach(self, images: Tensor) -> Tensor:
        side = self.backbone.patch_size
        patches = F.unfold(images.float(), side, stride=side).transpose(1, 2)[None]
        if not self.config.norm_pixels:
            return patches
        deviation = (patches.var(dim=-1, keepdim=True) + EPSILON).sqrt()
        return (patches - patches.mean(dim=-1, keepdim=True)) / deviation

    def measure(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (predictions - targets).square().mean(dim=-1)
