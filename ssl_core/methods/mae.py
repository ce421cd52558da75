"""MAE (He et al., 2022): predict the pixels of hidden patches, each patch normalised by its own mean and deviation."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_core.data.masks import Masks
from ssl_core.methods.masked import Masked

EPSILON = 1e-6


class MAE(Masked):
    ema_teacher = False

    @property
    def target_dim(self) -> int:
        return self.backbone.patch_size**2 * self.backbone.channels

    def teach(self, images: Tensor) -> Tensor:
        patches = self._patches(images)
        if not self.config.norm_pixels:
            return patches[None]
        mean, deviation = _mean_and_deviation(patches)
        return ((patches - mean) / deviation)[None]

    def measure(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (predictions - targets).square().mean(dim=-1)

    @torch.no_grad()
    def reconstruct(self, images: Tensor, masks: Masks) -> Tensor:
        """`images` (B, C, H, W) with what is predicted in place of hidden patches.

        A patch that was normalised gets its own mean and deviation back, which the network never knew.
        """
        patches = self._patches(images)
        predictions = self.predict(images, masks)[0][0].flatten(1, 2)
        where = masks.targets.flatten(1)[:, :, None].expand_as(predictions)
        if self.config.norm_pixels:
            mean, deviation = _mean_and_deviation(patches.gather(1, where))
            predictions = predictions * deviation + mean
        patches = patches.scatter(1, where, predictions).transpose(1, 2)
        side = self.backbone.patch_size
        return F.fold(patches, images.shape[2:], side, stride=side)

    def _patches(self, images: Tensor) -> Tensor:
        """(B, N, C · side²), float32, row by row."""
        side = self.backbone.patch_size
        return F.unfold(images.float(), side, stride=side).transpose(1, 2)


def _mean_and_deviation(patches: Tensor) -> tuple[Tensor, Tensor]:
    return patches.mean(dim=-1, keepdim=True), (patches.var(dim=-1, keepdim=True) + EPSILON).sqrt()
