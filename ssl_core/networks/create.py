"""timm models by name, as configured: no classifier, images, patches and positions as asked for, or a clear refusal."""

from typing import Any, get_type_hints

import timm
import torch
from timm.layers import PatchEmbed, build_sincos2d_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ssl_core.errors import InputError
from ssl_core.schema.encoder import BackboneConfig


def check_sees_patches(name: str) -> None:
    """Whether timm's model of this name is a ViT at all; said before its ViT settings are tried on something else.

    Raises:
        InputError: it cannot look at some patches of an image alone.
    """
    if timm.is_model(name):
        kind = get_type_hints(timm.model_entrypoint(name)).get("return", nn.Module)
        if not issubclass(kind, VisionTransformer):
            raise no_patches(name)


def no_patches(name: str) -> InputError:
    return InputError(
        f"backbone.name: {name} cannot look at some patches of an image alone, as ijepa, mae and bootleg want; take a "
        "ViT of timm's, such as vit_small_patch16_224"
    )


def write_out_attention(module: nn.Module) -> None:
    """Have timm's attention multiply matrices itself: torch's fused kernel for bf16 on a CPU is 2 to 5 times slower."""
    for child in module.modules():
        if hasattr(child, "fused_attn"):
            setattr(child, "fused_attn", False)  # noqa: B010


def is_vit(model: nn.Module) -> bool:
    """Whether its layers are blocks with patch tokens, rather than stages."""
    return hasattr(model, "blocks") and hasattr(model, "num_prefix_tokens")


def create_timm(config: BackboneConfig, local_size: int | None = None) -> nn.Module:
    """The timm model that the configuration names, with no classifier.

    With `local_size` a ViT takes images of any size that its patches divide, its positions interpolated.

    Raises:
        InputError: an unknown model, one without per-layer features, sizes or settings that do not fit.
    """
    if not timm.is_model(config.name):
        near = timm.list_models(f"*{config.name}*")[:3] or timm.list_models(f"{config.name[:6]}*")[:3]
        hint = f"near it: {', '.join(near)}" if near else "timm.list_models() lists them"
        raise InputError(f"backbone.name: timm has no model {config.name}; {hint}")
    try:
        model = _create(config.name, _sizes(config, local_size), config.kwargs)[0]
    except Exception as error:  # whatever its hundreds of models raise: this one cannot be built
        why = f"{type(error).__name__}: {error}" if isinstance(error, LookupError) else str(error)
        hint = "; backbone.kwargs=null drops them all" if config.kwargs else ""
        raise InputError(f"backbone: timm cannot build {config.name} with {config.kwargs}: {why}{hint}") from error
    embed = getattr(model, "patch_embed", None)  # where patches overlap, their size need not divide the image's
    patch = embed.patch_size if isinstance(embed, PatchEmbed) else (1, 1)
    if any(config.image_size % side for side in patch):
        raise InputError(f"backbone.patch_size: {patch[0]} does not divide image_size {config.image_size}")
    if local_size is not None:
        if getattr(embed, "strict_img_size", False):
            raise InputError(f"views.local_crops: {config.name} takes images of one size; try a ViT or a ResNet")
        if any(local_size % side for side in patch):
            raise InputError(f"views.local_crops.size: {local_size} is not a multiple of the patch size {patch[0]}")
    if not hasattr(model, "forward_intermediates"):
        raise InputError(f"backbone.name: {config.name} gives no per-layer features; try a ViT or a ResNet")
    if is_vit(model):
        _set_patches(model, config)
        return model
    for key in ("freeze_patch_embed", "patch_size", "position"):
        if getattr(config, key) not in (False, None, "learned"):
            raise InputError(f"backbone.{key}: {config.name} is no vision transformer")
    return model


def timm_arguments(config: BackboneConfig) -> dict[str, Any]:
    """What `timm.create_model` takes for the model as configured, beside its name and `num_classes=0`."""
    return _create(config.name, _sizes(config, None), config.kwargs)[1]


def _sizes(config: BackboneConfig, local_size: int | None) -> dict[str, Any]:
    sizes: dict[str, Any] = {"img_size": config.image_size}
    if config.patch_size:
        sizes["patch_size"] = config.patch_size
    if config.pool == "mean":
        sizes["global_pool"] = "avg"
    if local_size is not None:
        sizes["dynamic_img_size"] = True
    return sizes


def _create(name: str, sizes: dict, kwargs: dict) -> tuple[Any, dict[str, Any]]:
    """The model, and with which arguments it was made."""
    arguments = sizes | kwargs
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, **arguments), arguments
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        # A model that takes images of any size, and has no patches.
        arguments = {key: value for key, value in sizes.items() if key == "patch_size"} | kwargs
        return timm.create_model(name, pretrained=False, num_classes=0, **arguments), arguments


def _set_patches(model: Any, config: BackboneConfig) -> None:
    """A ViT's positions and patch projection, where they are not to be timm's."""
    if config.pool == "token" and not model.num_prefix_tokens:
        raise InputError(f"backbone.pool: {config.name} has no class token; set backbone.pool=mean")
    if config.position == "sincos":
        _fix_positions(model)
    if config.freeze_patch_embed:
        _freeze_patch_embed(model.patch_embed)


def _fix_positions(model: Any) -> None:
    """2-D sin-cos positions, fixed, zero for the class token (MoCo v3)."""
    grid = build_sincos2d_pos_embed(model.patch_embed.grid_size, model.embed_dim, interleave_sin_cos=True)
    prefix = model.pos_embed.shape[1] - grid.shape[0]
    with torch.no_grad():
        model.pos_embed.copy_(torch.cat([torch.zeros(prefix, model.embed_dim), grid])[None])
    model.pos_embed.requires_grad = False


def _freeze_patch_embed(embed: Any) -> None:
    """A random patch projection that is never trained (MoCo v3, Sec. 4.2), Xavier-uniform as published."""
    nn.init.xavier_uniform_(embed.proj.weight.view(embed.proj.weight.shape[0], -1))
    if embed.proj.bias is not None:
        nn.init.zeros_(embed.proj.bias)
    for parameter in embed.parameters():
        parameter.requires_grad = False
