"""The masked skeleton: what I-JEPA, MAE and Bootleg have in common.

The student sees some patches of an image; a narrow ViT predicts from them what is hidden; what that is, and by which
measure, a method's own file says.
"""

import copy
from typing import ClassVar

import torch
import torch.nn.functional as F
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ssl_core import distributed, schedules
from ssl_core.data.masks import Masks, check, draw
from ssl_core.methods.method import Method, StepOutput, move_teachers
from ssl_core.networks.encoder import Backbone, check_sees_patches
from ssl_core.networks.heads import LayerLinear
from ssl_core.schema.encoder import BackboneConfig
from ssl_core.schema.objectives import MaskedBase, PredictorConfig


class Predictor(nn.Module):
    """A narrow ViT: seen patches' features in, predictions for hidden patches out (I-JEPA, Sec. 3; MAE, Sec. 3).

    Args:
        config: its size.
        in_dim: width of the features.
        heads, out_dim: how many predictions of a patch, and their width; a linear map each, of the same outputs.
        grid: patches of an image, rows and columns.
    """

    def __init__(self, config: PredictorConfig, in_dim: int, heads: int, out_dim: int, grid: tuple[int, int]):
        super().__init__()
        self.embed = nn.Linear(in_dim, config.dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        positions = build_sincos2d_pos_embed(list(grid), config.dim, interleave_sin_cos=True)
        self.register_buffer("positions", positions, persistent=False)
        self.blocks = nn.ModuleList(Block(config.dim, config.heads, qkv_bias=True) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim)
        self.heads = LayerLinear(heads, config.dim, out_dim, bias=True)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        nn.init.trunc_normal_(self.heads.weight, std=0.02)
        nn.init.zeros_(self.heads.bias)

    def forward(self, seen_BVD: Tensor, masks: Masks) -> Tensor:
        """Predictions (H, B, T, P, out_dim) of each head for each target block, from the same seen patches."""
        images, blocks, patches = masks.targets.shape
        seen = self.embed(seen_BVD) + self.positions[masks.context]
        hidden = self.mask_token + self.positions[masks.targets]
        # Blocks do not see one another: each is predicted by itself.
        x = torch.cat([seen[:, None].expand(-1, blocks, -1, -1), hidden.to(seen.dtype)], dim=2).flatten(0, 1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x[:, -patches:]).flatten(0, 1)
        predictions = self.heads(x.expand(len(self.heads.weight), -1, -1))
        return predictions.unflatten(1, (images, blocks, patches))


class Masked(Method):
    """A student that sees a part of each image, and a predictor of the rest.

    A method gives `target_layers`, `teach` and `measure`.
    """

    ema_teacher: ClassVar[bool]
    """Targets are made by an EMA teacher that sees the whole image; it is the encoder that is evaluated."""

    def __init__(self, backbone: BackboneConfig, config: MaskedBase):
        super().__init__()
        self.config = config
        check_sees_patches(backbone.name)
        self.backbone = Backbone(backbone)
        self.grid = self.backbone.grid
        self.target_layers = self.choose_layers(self.backbone.depth)
        self.register_buffer("weights", self.weigh(len(self.target_layers)), persistent=False)
        self.predictor = Predictor(
            config.predictor, self.backbone.widths[-1], len(self.target_layers), self.target_dim, self.grid
        )
        if self.ema_teacher:
            self.teacher = copy.deepcopy(self.backbone).requires_grad_(False)
        check(config.mask, self.grid)
        self._seed = 0

    def choose_layers(self, depth: int) -> list[int]:
        """Layers, from 1, that are predicted; the last layer's number stands for a target of another kind."""
        return [depth]

    def weigh(self, targets: int) -> Tensor:
        """Weights (H,) of the targets' losses, whose sum is 1."""
        return torch.full((targets,), 1.0 / targets)

    @property
    def target_dim(self) -> int:
        """Width of a patch's target."""
        return self.backbone.widths[-1]

    def teach(self, images: Tensor) -> Tensor:
        """Targets (H, B, N, target_dim) of all N patches, float32, without gradient."""
        raise NotImplementedError

    def measure(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Losses (H, B, T, P) of every patch, from (H, B, T, P, target_dim) each."""
        raise NotImplementedError

    @property
    def encoder(self) -> Backbone:
        return self.teacher if self.ema_teacher else self.backbone

    def begin_step(self, seed: int) -> None:
        self._seed = seed

    def draw_masks(self, images: int, device: torch.device) -> Masks:
        """This rank's part of the masks of all ranks' images."""
        world, rank = distributed.world_size(), distributed.rank()
        masks = draw(self.config.mask, self.grid, world * images, torch.Generator().manual_seed(self._seed))
        return masks.rows(rank * images, (rank + 1) * images, device)

    def forward(self, views: Tensor, progress: float, local_views: Tensor | None = None) -> StepOutput:
        images = views[0]
        masks = self.draw_masks(len(images), images.device)
        losses = self.patch_losses(images, masks).mean(dim=(1, 2, 3))
        loss = (self.weights * losses).sum()
        parts: dict[str, Tensor | float] = {"loss": loss.detach(), "loss/last": losses[-1].detach()}
        if len(losses) > 1:
            named = zip(self.target_layers, losses.detach(), strict=True)
            parts |= {f"loss/target_{layer:02d}": value for layer, value in named}
        return StepOutput(loss, parts)

    def patch_losses(self, images: Tensor, masks: Masks) -> Tensor:
        """Losses (H, B, T, P) of every hidden patch."""
        return self.measure(*self.predict(images, masks))

    def predict(self, images: Tensor, masks: Masks) -> tuple[Tensor, Tensor]:
        """Predictions and targets (H, B, T, P, target_dim) of every hidden patch, float32."""
        with torch.no_grad():
            targets = self.teach(images)
            index = masks.targets.flatten(1)[None, :, :, None].expand(len(targets), -1, -1, targets.shape[-1])
            targets = targets.gather(2, index).unflatten(2, masks.targets.shape[1:])
        (seen,) = self.backbone.tokens(images, [self.backbone.depth], masks.context)
        return self.predictor(seen, masks).float(), targets

    @torch.no_grad()
    def error_maps(self, images: Tensor, masks: Masks) -> Tensor:
        """How far off predictions are: (H, B, rows, columns), averaged where blocks overlap, NaN where none is."""
        losses = self.patch_losses(images, masks).flatten(2)
        where = masks.targets.flatten(1).expand_as(losses)
        sums, counts = (
            torch.zeros(*losses.shape[:2], self.grid[0] * self.grid[1], device=losses.device).scatter_add_(2, where, x)
            for x in (losses, torch.ones_like(losses))
        )
        return (sums / counts).unflatten(2, self.grid)

    @torch.no_grad()
    def update_teacher(self, progress: float) -> float | None:
        if not self.ema_teacher:
            return None
        momentum = schedules.linear(progress, self.config.momentum, self.config.momentum_end)
        move_teachers(((self.teacher, self.backbone),), momentum)
        return momentum


class LatentTargets(Masked):
    """What the EMA teacher says of the hidden patches when it sees the whole image, normalised patch by patch."""

    ema_teacher = True

    def teach(self, images: Tensor) -> Tensor:
        self.teacher.eval()  # nothing in a teacher is dropped at random
        tokens = torch.stack(self.teacher.tokens(images, self.target_layers)).float()
        return F.layer_norm(tokens, tokens.shape[-1:])

    def measure(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return F.smooth_l1_loss(predictions, targets, reduction="none").mean(dim=-1)
