"""The layers of a vision transformer: its blocks, all of one width, each with a token for every patch."""

from collections.abc import Mapping
from typing import Any

import torch
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from ssl_core.networks.layers import Hide, Layers, Want

_Tokens = tuple[Tensor, Tensor]
"""Of a layer: prefix tokens (N, T, D), the class token first, and patch tokens (N, P, D)."""


class Blocks:
    """Asks a timm ViT, or a model of its kind, for features of its blocks.

    Attributes:
        widths: feature width of every block.

    Args:
        model: the timm model.
        pool: what stands for an image: its class `token`, or the `mean` of its patch tokens.
    """

    def __init__(self, model: Any, pool: str):
        self.model, self.pool = model, pool
        self.widths: list[int] = [model.embed_dim] * len(model.blocks)

    @property
    def sees_patches(self) -> bool:
        """Whether it can be shown some patches of an image alone, or others in their place."""
        return isinstance(self.model, VisionTransformer) and isinstance(self.model.patch_embed, PatchEmbed)

    @property
    def token_norm(self) -> nn.Module:
        """The model's own norm of every token, before pooling."""
        return _norm_or_identity(self.model, "norm")

    @property
    def pooled_norm(self) -> nn.Module:
        """The model's own norm of what was pooled."""
        return _norm_or_identity(self.model, "fc_norm")

    @property
    def final_norm(self) -> nn.Module:
        """Whichever of the two the model has; SDSSL shares it among the blocks."""
        return self.pooled_norm if isinstance(self.token_norm, nn.Identity) else self.token_norm

    def place_of(self, layer: int) -> int:
        """The number, from 0, that timm gives a layer (from 1)."""
        return layer - 1

    def features(self, images: Tensor, want: Want, hide: Hide | None, norms: Mapping[int, nn.Module]) -> Layers:
        """As `Encoder.forward` says."""
        tokens = self._tokens(images, want, hide or Hide()) if self.sees_patches else self._foreign_tokens(images, want)
        return Layers(
            self._pooled({layer: tokens[layer] for layer in want.pooled}, norms),
            {layer: self.final_norm(tokens[layer][1]) for layer in want.patches},
        )

    def _tokens(self, images: Tensor, want: Want, hide: Hide) -> dict[int, _Tokens]:
        """What leaves the blocks asked for.

        Of a last block that only the class token is wanted of, that alone: its MLP runs on nothing else.
        """
        model, wanted, last = self.model, want.layers, len(self.widths)
        x = model._pos_embed(hide.replaced(model.patch_embed(images)))
        x = model.norm_pre(model.patch_drop(hide.dropped(x, model.num_prefix_tokens)))
        alone = (
            last == max(wanted, default=0)
            and last not in want.patches
            and self.pool == "token"
            and type(model.blocks[-1]) is Block
        )
        whole = {*wanted[:-1], last - 1} if alone else set(wanted)  # the blocks whose tokens are all kept
        found = {0: x} if 0 in whole else {}
        for number, block in enumerate(model.blocks[: max(whole, default=0)], start=1):
            x = block(x)
            if number in whole:
                found[number] = x
        tokens = {number: self._split(x) for number, x in found.items()}
        if alone:
            x = _first_token_behind(model.blocks[-1], torch.cat(tokens[last - 1], dim=1))
            tokens[last] = (x, x[:, 1:])
        return tokens

    def _split(self, x: Tensor) -> _Tokens:
        prefix = self.model.num_prefix_tokens
        return x[:, :prefix], x[:, prefix:]

    def _foreign_tokens(self, images: Tensor, want: Want) -> dict[int, _Tokens]:
        """The same of blocks that are not of timm's plain ViT."""
        outputs = self.model.forward_intermediates(
            images,
            indices=[self.place_of(layer) for layer in want.layers],
            intermediates_only=True,
            stop_early=True,
            output_fmt="NLC",
            return_prefix_tokens=True,
        )
        pairs = ((x[1], x[0]) if isinstance(x, tuple) else (x[:, :0], x) for x in outputs)
        return dict(zip(want.layers, pairs, strict=True))

    def _pooled(self, tokens: Mapping[int, _Tokens], norms: Mapping[int, nn.Module]) -> dict[int, Tensor]:
        """What is pooled of the tokens of each layer, through its final norm: (N, D) each."""
        if not tokens:
            return {}
        if self.pool == "mean" and not isinstance(self.token_norm, nn.Identity):
            # The norm is of every token, before they are averaged.
            means = (norms.get(layer, self.token_norm)(patches).mean(dim=1) for layer, (_, patches) in tokens.items())
            return {layer: self.pooled_norm(x) for layer, x in zip(tokens, means, strict=True)}
        # Pool first: the norm acts on one vector an image, not on every token of every layer.
        pooled = [prefix[:, 0] if self.pool == "token" else patches.mean(dim=1) for prefix, patches in tokens.values()]
        if norms:
            own = (norms.get(layer, self.final_norm)(x) for layer, x in zip(tokens, pooled, strict=True))
            return dict(zip(tokens, own, strict=True))
        normed = self.pooled_norm(self.token_norm(torch.stack(pooled)))
        return dict(zip(tokens, normed.unbind(), strict=True))


def _norm_or_identity(model: nn.Module, name: str) -> nn.Module:
    norm: Any = getattr(model, name, None)
    return norm if isinstance(norm, nn.Module) else nn.Identity()


def _first_token_behind(block: Any, x: Tensor) -> Tensor:
    """The first token (N, 1, D) behind a block."""
    x = (x + block.drop_path1(block.ls1(block.attn(block.norm1(x)))))[:, 0]
    return (x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))))[:, None]
