"""MAE (He et al., 2022): predict the pixels of hidden patches, each patch normalised by its own mean and deviation."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_core.objectives.base import Place, Seen
from ssl_core.objectives.patches import PatchPrediction
from ssl_core.schema.objectives import MAEConfig

EPSILON = 1e-6


class MAE(PatchPrediction[MAEConfig]):
    def __init__(self, config: MAEConfig, place: Place):
        super().__init__(config, place)
        self.patch_size = place.encoder.patch_size

    def target_dim(self, place: Place) -> int:
        return place.encoder.patch_size**2 * place.encoder.channels

    def teach(self, seen: Seen) -> Tensor:
        patches = self._patches(seen.batch.views["global"][0])
        if not self.config.norm_pixels:
            return patches[None]
        mean, deviation = _mean_and_deviation(patches)
        return ((patches - mean) / deviation)[None]

    def measure(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (predictions - targets).square().mean(dim=-1)

    @torch.no_grad()
    def reconstruct(self, seen: Seen, predictions: Tensor | None = None) -> Tensor:
        """The first views (B, C, H, W) with what is predicted in place of hidden patches.

        A patch that was normalised gets its own mean and deviation back, which the network never knew.

        Args:
            predictions: (1, B, T, P, D) as `predict` gives them; default: those.
        """
        images = seen.batch.views["global"][0]
        masks = seen.batch.masks[self.config.name]
        patches = self._patches(images)
        predicted = (self.predict(seen) if predictions is None else predictions)[0].flatten(1, 2)
        where = masks.targets.flatten(1)[:, :, None].expand_as(predicted)
        if self.config.norm_pixels:
            mean, deviation = _mean_and_deviation(patches.gather(1, where))
            predicted = predicted * deviation + mean
        patches = patches.scatter(1, where, predicted).transpose(1, 2)
        return F.fold(patches, images.shape[2:], self.patch_size, stride=self.patch_size)

    def _patches(self, images: Tensor) -> Tensor:
        """(B, N, C · side²), float32, row by row."""
        return F.unfold(images.float(), self.patch_size, stride=self.patch_size).transpose(1, 2)


def _mean_and_deviation(patches: Tensor) -> tuple[Tensor, Tensor]:
    return patches.mean(dim=-1, keepdim=True), (patches.var(dim=-1, keepdim=True) + EPSILON).sqrt()
