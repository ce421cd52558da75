"""timm models → features of every layer, ViT and ResNet alike: the one hook for all that looks inside.

A *layer* is a transformer block or a convolutional stage, counted from 1. Self-distillation and the
per-layer evaluation ask for layers by number and get one vector an image for each.
"""

from collections.abc import Sequence
from typing import get_type_hints

import timm
import torch
from timm.layers import PatchEmbed, build_sincos2d_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from ssl_core.errors import InputError
from ssl_core.schema.encoder import BackboneConfig
from ssl_core.schema.types import EveryN

STAGES = 4  # the deepest feature maps of a convolutional model are its layers


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
    return sorted(range(depth, 0, -choice.every))


class Backbone(nn.Module):
    """A timm encoder that answers with the features of the layers asked for.

    Attributes:
        model: the timm model itself; its state dict is in timm's names.
        widths: feature width of every layer, first to last.

    Args:
        config: which model.
        local_size: pixels of local crops, where the model must take them too.
    """

    def __init__(self, config: BackboneConfig, local_size: int | None = None):
        super().__init__()
        self.model = create_timm(config, local_size)
        self.name, self.channels = config.name, config.channels
        self.pool = config.pool
        self.is_vit = hasattr(self.model, "blocks") and hasattr(self.model, "num_prefix_tokens")
        if self.is_vit:
            self.widths = [self.model.embed_dim] * len(self.model.blocks)
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
            maps = [stage["num_chs"] for stage in self.model.feature_info]
            self._indices = list(range(len(maps)))[-STAGES:]
            self.widths = maps[-STAGES:]

    @property
    def depth(self) -> int:
        return len(self.widths)

    @property
    def has_batch_norm(self) -> bool:
        return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.modules())

    @property
    def final_norm(self) -> nn.Module:
        """The norm behind the last layer; SDSSL shares it among all layers. Identity for convolutional models."""
        if not self.is_vit:
            return nn.Identity()
        return self.model.fc_norm if self.pool == "mean" else self.model.norm

    def forward(self, images: Tensor, layers: Sequence[int], norms: Sequence[nn.Module] = ()) -> list[Tensor]:
        """Features of `layers` (ascending, from 1) for `images` (B, C, H, W): a list of (B, widths[l − 1]).

        ViT: the class token, or the mean of the patch tokens, through the final norm (or through `norms`,
        one a layer). Convolutional: the average-pooled output of a stage.
        """
        indices = [self._indices[layer - 1] for layer in layers]
        if not self.is_vit:
            maps = self.model.forward_intermediates(images, indices=indices, intermediates_only=True, stop_early=True)
            return [x.mean(dim=(2, 3)) for x in maps]
        # Pool first, then normalise: the norm acts on one vector an image, not on every token of every layer.
        if self.pool == "token":
            pooled = self._class_tokens(images, indices)
        else:
            pooled = [(x[0] if isinstance(x, tuple) else x).mean(dim=1) for x in self._tokens(images, indices)]
        if norms:
            return [norm(x) for norm, x in zip(norms, pooled, strict=True)]
        return list(self.final_norm(torch.stack(pooled)).unbind())

    @property
    def grid(self) -> tuple[int, int]:
        """Patches of an image: rows and columns.

        Raises:
            InputError: its patches cannot be seen one by one.
        """
        if not (isinstance(self.model, VisionTransformer) and isinstance(self.model.patch_embed, PatchEmbed)):
            raise _no_patches(self.name)
        return self.model.patch_embed.grid_size

    @property
    def patch_size(self) -> int:
        return self.model.patch_embed.patch_size[0]

    def tokens(self, images: Tensor, layers: Sequence[int], visible: Tensor | None = None) -> list[Tensor]:
        """Patch tokens of `layers` (ascending, from 1) through the final norm: a list of (B, patches, D).

        Args:
            images: (B, C, H, W).
            visible: (B, V) numbers of the patches that the network sees; default: all.
        """
        model = self.model
        x = model._pos_embed(model.patch_embed(images))
        prefix = model.num_prefix_tokens
        if visible is not None:
            patches = x[:, prefix:].gather(1, visible[:, :, None].expand(-1, -1, x.shape[-1]))
            x = torch.cat([x[:, :prefix], patches], dim=1)
        x = model.norm_pre(x)
        found = []
        for number, block in enumerate(model.blocks[: layers[-1]], start=1):
            x = block(x)
            if number in layers:
                found.append(self.final_norm(x[:, prefix:]))
        return found

    def _tokens(self, images: Tensor, indices: Sequence[int]) -> list:
        """What leaves the blocks: (patch tokens, prefix tokens), or patch tokens where the model has no others."""
        return self.model.forward_intermediates(
            images,
            indices=list(indices),
            intermediates_only=True,
            stop_early=True,
            output_fmt="NLC",
            return_prefix_tokens=True,
        )

    def _class_tokens(self, images: Tensor, indices: Sequence[int]) -> list[Tensor]:
        """The class token (B, D) behind each block. The last block's MLP runs on it alone: nothing reads the rest."""
        last = len(self.model.blocks) - 1
        block = self.model.blocks[last]
        if indices[-1] < last or last == 0 or type(block) is not Block:
            return [prefix[:, 0] for _, prefix in self._tokens(images, indices)]
        before = self._tokens(images, sorted({*indices[:-1], last - 1}))
        patches, prefix = before[-1]
        x = torch.cat([prefix, patches], dim=1)
        x = (x + block.drop_path1(block.ls1(block.attn(block.norm1(x)))))[:, 0]
        x = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
        return [*(prefix[:, 0] for _, prefix in before[: len(indices) - 1]), x]

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


def check_sees_patches(name: str) -> None:
    """Whether timm's model of this name is a ViT at all; said before its ViT settings are tried on something else.

    Raises:
        InputError: it cannot look at some patches of an image alone.
    """
    if timm.is_model(name):
        kind = get_type_hints(timm.model_entrypoint(name)).get("return", nn.Module)
        if not issubclass(kind, VisionTransformer):
            raise _no_patches(name)


def _no_patches(name: str) -> InputError:
    return InputError(
        f"backbone.name: {name} cannot look at some patches of an image alone, as ijepa, mae and bootleg want; take a "
        "ViT of timm's, such as vit_small_patch16_224"
    )


def write_out_attention(module: nn.Module) -> None:
    """Have timm's attention multiply matrices itself: torch's fused kernel for bf16 on a CPU is 2 to 5 times slower."""
    for child in module.modules():
        if hasattr(child, "fused_attn"):
            child.fused_attn = False


def create_timm(config: BackboneConfig, local_size: int | None = None) -> nn.Module:
    """The timm model that the configuration names, with no classifier.

    With `local_size` a ViT takes images of any size that its patches divide, its positions interpolated.

    Raises:
        InputError: an unknown model, one without per-layer features, sizes that do not fit.
    """
    if not timm.is_model(config.name):
        near = timm.list_models(f"*{config.name}*")[:3] or timm.list_models(f"{config.name[:6]}*")[:3]
        hint = f"near it: {', '.join(near)}" if near else "timm.list_models() lists them"
        raise InputError(f"backbone.name: timm has no model {config.name}; {hint}")
    sizes = {"img_size": config.image_size}
    if config.patch_size:
        sizes["patch_size"] = config.patch_size
    if config.pool == "mean":
        sizes["global_pool"] = "avg"
    if local_size is not None:
        sizes["dynamic_img_size"] = True
    try:
        model = _create(config.name, sizes, config.kwargs)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise InputError(f"backbone: timm cannot build {config.name} with {config.kwargs}: {error}") from error
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", (1, 1))
    if any(config.image_size % side for side in patch):
        raise InputError(f"backbone.patch_size: {patch[0]} does not divide image_size {config.image_size}")
    if local_size is not None:
        if getattr(getattr(model, "patch_embed", None), "strict_img_size", False):
            raise InputError(f"views.local_crops: {config.name} takes images of one size; try a ViT or a ResNet")
        if any(local_size % side for side in patch):
            raise InputError(f"views.local_crops.size: {local_size} is not a multiple of the patch size {patch[0]}")
    if not hasattr(model, "forward_intermediates"):
        raise InputError(f"backbone.name: {config.name} gives no per-layer features; try a ViT or a ResNet")
    return model


def _create(name: str, sizes: dict, kwargs: dict) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, **sizes | kwargs)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        # A model that takes images of any size, and has no patches.
        sizes = {key: value for key, value in sizes.items() if key == "patch_size"}
        return timm.create_model(name, pretrained=False, num_classes=0, **sizes | kwargs)
