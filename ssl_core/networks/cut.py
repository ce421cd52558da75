"""An encoder that ends behind one of its layers: what comes after is not there, and costs nothing."""

import copy

from ssl_core.errors import InputError
from ssl_core.networks.blocks import Blocks
from ssl_core.networks.encoder import Encoder


def cut(encoder: Encoder, layer: int) -> Encoder:
    """A copy of `encoder` that ends behind a layer (from 1), which is its last.

    It answers with the same features of the layers that are left: a block's through the model's final norm, a stage's
    as they are. Its timm model gives what the encoder pools of the last of them, where timm pools as the encoder does.

    Raises:
        InputError: the network has no such layer, or timm cannot cut it.
    """
    if not 1 <= layer <= encoder.depth:
        raise InputError(f"layer {layer}: {encoder.name} has layers 1 to {encoder.depth}")
    found = copy.deepcopy(encoder)
    if layer == encoder.depth:
        return found
    prune = getattr(found.model, "prune_intermediate_layers", None)
    if prune is None:
        raise InputError(f"backbone.name: timm cannot cut {encoder.name} behind a layer; take a ViT or a ResNet")
    prune([found.inside.place_of(layer)], prune_norm=False, prune_head=False)
    found.inside.widths = found.widths = found.inside.widths[:layer]
    if not isinstance(found.inside, Blocks):
        found.model.reset_classifier(0, "avg")  # timm takes the average away with the last stages
    return found
