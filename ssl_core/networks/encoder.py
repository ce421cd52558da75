"""timm models → features of any layers: the one contract for all that looks inside, ViT and convolutional alike.

A *layer* is a transformer block or a convolutional stage, counted from 1. Objectives and evaluators say which layers
they want, pooled to one vector an image or patch by patch, and get them all in one pass.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from timm.layers import PatchEmbed, build_sincos2d_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from ssl_core.errors import InputError
from ssl_core.networks.create import create_timm, no_patches
from ssl_core.schema.encoder import BackboneConfig
from ssl_core.schema.types import EveryN

_Tokens = tuple[Tensor, Tensor]
"""Of a layer: prefix tokens (N, T, D), the class token first, and patch tokens (N, P, D)."""

STAGES = 4  # the deepest feature maps of a convolutional model are its layers


@dataclass(frozen=True)
class Want:
    """What somebody asks of a pass: layers, from 1, ascending.

    Attributes:
        pooled: of which layers one vector an image.
        patches: of which layers a vector a patch.
    """

    pooled: tuple[int, ...] = ()
    patches: tuple[int, ...] = ()

    def __or__(self, other: "Want") -> "Want":
        """What both ask for."""
        return Want(
            tuple(sorted({*self.pooled, *other.pooled})),
            tuple(sorted({*self.patches, *other.patches})),
        )

    @property
    def deepest(self) -> int:
        return max(*self.pooled, *self.patches, 0)


@dataclass(frozen=True)
class Layers:
    """Features of some layers, by layer.

    Attributes:
        pooled: (N, D_l) each.
        patches: (N, P_l, D_l) each, row by row.
    """

    pooled: dict[int, Tensor]
    patches: dict[int, Tensor]


@dataclass(frozen=True)
class Hide:
    """What a pass does not see of its images.

    Attributes:
        seen: (N, V) numbers of the patches that the network gets alone (MAE, I-JEPA).
        where: (N, P) bool: patches in whose place it gets `token` (iBOT, SimMIM, data2vec).
        token: (D,) as the patch embedding gives them.
    """

    seen: Tensor | None = None
    where: Tensor | None = None
    token: Tensor | None = None

    @staticmethod
    def drop(seen: Tensor) -> "Hide":
        return Hide(seen=seen)

    @staticmethod
    def replace(token: Tensor, where: Tensor) -> "Hide":
        return Hide(where=where, token=token)


def chosen_layers(choice: str | list[int] | EveryN, depth: int, key: str) -> list[int]:
    """Layers, from 1, ascending, that the configuration key names: all, every nth back from the last, or a list.

    Raises:
        InputError: a layer that the backbone does not have.
    """
    if choice == "all":
        return list(range(1, depth + 1))
    if isinstance(choice, list):
        missing = [layer for layer in choice if layer > depth]
        if missing:
            raise InputError(f"{key}: {missing} of a backbone with layers 1 to {depth}")
        return sorted(set(choice))
    assert isinstance(choice, EveryN)
    return sorted(range(depth, 0, -choice.every))


class Encoder(nn.Module):
    """A timm model that answers with the features of the layers asked for, through its own final norm.

    What no layer reaches (a classifier's convolution, say) is not trained: every rank's gradient is of the same
    parameters in every step.

    Attributes:
        model: the timm model itself; its state dict is in timm's names.
        widths: feature width of every layer, first to last.
        is_vit: blocks of one width with patch tokens, rather than stages.

    Args:
        config: which model.
        local_size: pixels of local crops, where the model must take them too.
    """

    def __init__(self, config: BackboneConfig, local_size: int | None = None):
        super().__init__()
        self.model: Any  # timm's models have no type in common
        self.model = model = cast("Any", create_timm(config, local_size))
        self.name, self.channels, self.pool = config.name, config.channels, config.pool
        self.widths: list[int]
        self.is_vit = hasattr(self.model, "blocks") and hasattr(self.model, "num_prefix_tokens")
        if self.is_vit:
            self.widths = [model.embed_dim] * len(model.blocks)
            self._indices = list(range(len(self.widths)))
            if config.pool == "token" and not self.model.num_prefix_tokens:
                raise InputError(f"backbone.pool: {config.name} has no class token; set backbone.pool=mean")
            if config.position == "sincos":
                self._fix_positions()
            if config.freeze_patch_embed:
                self._freeze_patch_embed()
        else:
            for key in ("freeze_patch_embed", "patch_size", "position"):
                if getattr(config, key) not in (False, None, "learned"):
                    raise InputError(f"backbone.{key}: {config.name} is no vision transformer")
            maps = [stage["num_chs"] for stage in model.feature_info]
            self._indices = list(range(len(maps)))[-STAGES:]
            self.widths = maps[-STAGES:]
        self.image_size = config.image_size
        every = Want(pooled=tuple(range(1, self.depth + 1)))
        found = self.freeze_what_does_not_reach(every).pooled
        if [x.shape[1] for x in found.values()] != self.widths:
            raise InputError(f"backbone.name: {self.name} gives layers of other widths than it says; try a ViT")

    @property
    def depth(self) -> int:
        return len(self.widths)

    @property
    def has_batch_norm(self) -> bool:
        return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.modules())

    @property
    def token_norm(self) -> nn.Module:
        """The model's own norm of every token, before pooling."""
        return self._own_norm(self.model, "norm")

    @property
    def pooled_norm(self) -> nn.Module:
        """The model's own norm of what was pooled."""
        if self.is_vit:
            return self._own_norm(self.model, "fc_norm")
        return self._own_norm(getattr(self.model, "head", None), "norm")

    def _own_norm(self, owner: nn.Module | None, name: str) -> nn.Module:
        """A norm of the last layer's features; Identity where there is none, or `name` is something else."""
        norm: Any = getattr(owner, name, None)
        if self.is_vit and isinstance(norm, nn.Module):
            return norm
        fits = isinstance(norm, nn.LayerNorm) and norm.normalized_shape == (self.widths[-1],)
        return norm if fits else nn.Identity()

    @property
    def final_norm(self) -> nn.Module:
        """Whichever of the two the model has; among blocks of one width, SDSSL shares it."""
        return self.pooled_norm if isinstance(self.token_norm, nn.Identity) else self.token_norm

    def copy_of_norm(self) -> nn.Module:
        """A final norm that starts like the shared one, with gradients of its own."""
        return copy.deepcopy(self.final_norm)

    @property
    def sees_patches(self) -> bool:
        """Whether it can be shown some patches of an image alone, or others in their place."""
        return isinstance(self.model, VisionTransformer) and isinstance(self.model.patch_embed, PatchEmbed)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches of an image: rows and columns.

        Raises:
            InputError: its patches cannot be seen one by one.
        """
        if not self.sees_patches:
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
        if not self.is_vit:
            assert hide is None
            return self._stages(images, want)
        tokens = self._tokens(images, want, hide) if self.sees_patches else self._foreign_tokens(images, want)
        return Layers(
            self._normalised({layer: tokens[layer] for layer in want.pooled}, norms or {}),
            {layer: self.final_norm(tokens[layer][1]) for layer in want.patches},
        )

    def _stages(self, images: Tensor, want: Want) -> Layers:
        layers = sorted({*want.pooled, *want.patches})
        maps = self.model.forward_intermediates(
            images,
            indices=[self._indices[layer - 1] for layer in layers],
            intermediates_only=True,
            stop_early=True,
        )
        by_layer = dict(zip(layers, maps, strict=True))
        return Layers(
            {layer: self._pooled_stage(layer, by_layer[layer]) for layer in want.pooled},
            {layer: self._places(layer, by_layer[layer]) for layer in want.patches},
        )

    def _pooled_stage(self, layer: int, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C); the norms are the last stage's."""
        if layer < self.depth:
            return x.mean(dim=(2, 3))
        plain = isinstance(self.token_norm, nn.Identity)
        pooled = x.mean(dim=(2, 3)) if plain else self._places(layer, x).mean(dim=1)
        return _over_channels(self.pooled_norm, pooled)

    def _places(self, layer: int, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, H · W, C)."""
        places = x.flatten(2).transpose(1, 2)
        return places if layer < self.depth else _over_channels(self.token_norm, places)

    def _tokens(self, images: Tensor, want: Want, hide: Hide | None) -> dict[int, _Tokens]:
        """What leaves the blocks asked for.

        Of a last block that only the class token is wanted of, that alone: its MLP runs on nothing else.
        """
        model = self.model
        x = model.patch_embed(images)
        if hide is not None and hide.where is not None and hide.token is not None:
            x = torch.where(hide.where.view(*x.shape[:-1], 1), hide.token.to(x.dtype), x)
        x = model._pos_embed(x)
        if hide is not None and hide.seen is not None:
            prefix, patches = self._split(x)
            patches = patches.gather(1, hide.seen[:, :, None].expand(-1, -1, x.shape[-1]))
            x = torch.cat([prefix, patches], dim=1)
        x = model.norm_pre(model.patch_drop(x))
        wanted, last = {*want.pooled, *want.patches}, self.depth
        alone = (
            1 < last == want.deepest
            and last not in want.patches
            and self.pool == "token"
            and type(model.blocks[-1]) is Block
        )
        found = {}
        for number, block in enumerate(model.blocks[: last - 1 if alone else want.deepest], start=1):
            x = block(x)
            if number in wanted or (alone and number == last - 1):
                found[number] = x
        split = {number: self._split(x) for number, x in found.items()}
        if alone:
            x = _first_token_behind(model.blocks[-1], torch.cat(split[last - 1], dim=1))
            split[last] = (x, x[:, 1:])
        return split

    def _split(self, x: Tensor) -> _Tokens:
        prefix = self.model.num_prefix_tokens
        return x[:, :prefix], x[:, prefix:]

    def _foreign_tokens(self, images: Tensor, want: Want) -> dict[int, _Tokens]:
        """The same of blocks that are not of timm's plain ViT."""
        layers = sorted({*want.pooled, *want.patches})
        outputs = self.model.forward_intermediates(
            images,
            indices=[layer - 1 for layer in layers],
            intermediates_only=True,
            stop_early=True,
            output_fmt="NLC",
            return_prefix_tokens=True,
        )
        pairs = ((x[1], x[0]) if isinstance(x, tuple) else (x[:, :0], x) for x in outputs)
        return dict(zip(layers, pairs, strict=True))

    def _normalised(self, tokens: Mapping[int, _Tokens], norms: Mapping[int, nn.Module]) -> dict[int, Tensor]:
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

    def freeze_what_does_not_reach(self, want: Want) -> Layers:
        """Find by a pass without data, and its gradient, what takes no part in these layers; what the pass gives.

        Raises:
            InputError: the model does not take such images, or does not give its layers.
        """
        # A copy without data, so that what a model keeps from a pass is not kept by the real one.
        bare: dict[int, Tensor] = {id(x): torch.empty_like(x, device="meta") for x in self.buffers()}
        for x in self.parameters():
            bare[id(x)] = nn.Parameter(torch.empty_like(x, device="meta"), x.requires_grad)
        shadow = copy.deepcopy(self, dict(bare))
        images = torch.zeros(2, self.channels, self.image_size, self.image_size, device="meta")
        with torch.random.fork_rng(devices=[]):
            try:
                found = shadow(images, want)
                sum(x.float().sum() for x in (*found.pooled.values(), *found.patches.values())).backward()
            except Exception as error:  # whatever a model of another package raises: it cannot be used
                why = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
                raise InputError(
                    f"backbone.name: {self.name} gives no features of its layers for images of {self.image_size} px "
                    f"({why}); try another backbone.image_size, or a ViT or a ResNet"
                ) from error
        for parameter in self.parameters():
            if bare[id(parameter)].grad is None:
                parameter.requires_grad = False
        return found

    def _fix_positions(self) -> None:
        """2-D sin-cos positions, fixed, zero for the class token (MoCo v3)."""
        model = self.model
        grid = build_sincos2d_pos_embed(model.patch_embed.grid_size, model.embed_dim, interleave_sin_cos=True)
        prefix = model.pos_embed.shape[1] - grid.shape[0]
        with torch.no_grad():
            model.pos_embed.copy_(torch.cat([torch.zeros(prefix, model.embed_dim), grid])[None])
        model.pos_embed.requires_grad = False

    def _freeze_patch_embed(self) -> None:
        """A random patch projection that is never trained (MoCo v3, Sec. 4.2), Xavier-uniform as published."""
        projection = self.model.patch_embed.proj
        nn.init.xavier_uniform_(projection.weight.view(projection.weight.shape[0], -1))
        if projection.bias is not None:
            nn.init.zeros_(projection.bias)
        for parameter in self.model.patch_embed.parameters():
            parameter.requires_grad = False


def _first_token_behind(block: Any, x: Tensor) -> Tensor:
    """The first token (N, 1, D) behind a block."""
    x = (x + block.drop_path1(block.ls1(block.attn(block.norm1(x)))))[:, 0]
    return (x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))))[:, None]


def _over_channels(norm: nn.Module, x: Tensor) -> Tensor:
    """A stage's LayerNorm, which may be made for maps, of features whose channels come last."""
    if not isinstance(norm, nn.LayerNorm):
        return x
    return nn.functional.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
