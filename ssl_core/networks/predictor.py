"""A narrow ViT that predicts hidden patches from seen ones."""

import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ssl_core.batch import Masks
from ssl_core.networks.heads import LayerLinear
from ssl_core.schema.objectives import PredictorConfig


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
        self.positions: Tensor
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
        if self.heads.bias is not None:
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
