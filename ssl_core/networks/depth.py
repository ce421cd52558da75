"""At what depth of an encoder each parameter stands: layer-wise learning rates are told by it."""

import re

from timm.models import group_parameters

from ssl_core.errors import InputError
from ssl_core.networks.create import is_vit
from ssl_core.networks.encoder import Encoder

_BLOCK = re.compile(r"^blocks\.(\d+)\.")
_ABOVE = re.compile(r"^(norm|fc_norm|head|attn_pool)\b")


def below_heads(encoder: Encoder) -> dict[str, int]:
    """How many layers each parameter of `encoder.model` is below the heads, by its name.

    Of a ViT as BEiT, MAE and DINOv2 count: 0 the final norm, 1 the last block, …; what comes before the first block
    (patch embedding, positions, tokens) is one layer more. Of others the layers are timm's stages.

    Raises:
        InputError: timm does not say which layer its parameters are of.
    """
    model = encoder.model
    names = [name for name, _ in model.named_parameters()]
    if is_vit(model):
        return {name: encoder.depth + 1 - _of_vit(name, encoder.depth) for name in names}
    if not hasattr(model, "group_matcher"):
        raise InputError(
            f"optim.layer_decay: timm does not say which layer the parameters of {encoder.name} are of; "
            "set optim.layer_decay=null"
        )
    layers = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    return {name: max(layers.values()) + 1 - layers[name] for name in names}


def _of_vit(name: str, depth: int) -> int:
    """0 for what comes before the blocks, then the blocks from 1, then what comes after."""
    if block := _BLOCK.match(name):
        return int(block[1]) + 1
    return depth + 1 if _ABOVE.match(name) else 0
