"""Encoders that end behind a layer: the same features, with fewer blocks or stages."""

import pytest
import timm
import torch

from ssl_core.errors import InputError
from ssl_core.networks.cut import cut
from ssl_core.networks.encoder import Encoder
from ssl_core.networks.layers import Want
from ssl_core.schema.encoder import BackboneConfig

VIT = {"embed_dim": 32, "depth": 4, "num_heads": 2}
NETWORKS = {
    "token": ("vit_tiny_patch16_224", 32, "token", VIT),
    "mean": ("vit_tiny_patch16_224", 32, "mean", VIT),
    "registers": ("vit_small_patch14_reg4_dinov2", 28, "token", VIT),
    "eva": ("eva02_tiny_patch14_224", 28, "token", {"depth": 3}),
    "resnet": ("resnet10t", 32, "token", {}),
    "convnext": ("convnext_atto", 32, "token", {}),
    "swin": ("swin_tiny_patch4_window7_224", 64, "token", {"depths": (1, 1, 1, 1), "embed_dim": 24}),
    "efficientnet": ("mobilenetv4_conv_small", 64, "token", {}),
}


def encoder_of(name: str) -> Encoder:
    """Untrained, in evaluation mode, without gradients."""
    timm_name, size, pool, kwargs = NETWORKS[name]
    torch.manual_seed(0)
    encoder = Encoder(BackboneConfig(name=timm_name, image_size=size, pool=pool, kwargs=kwargs)).eval()
    generator = torch.Generator().manual_seed(1)
    for p in encoder.parameters():  # no norm, scale or bias that could be left out unseen
        p.requires_grad = False
        p += 0.1 * torch.randn(p.shape, generator=generator)
    return encoder


def parameters(encoder: Encoder) -> int:
    return sum(p.numel() for p in encoder.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_left_gives_the_same_features(name: str):
    encoder = encoder_of(name)
    images = torch.randn(2, 3, encoder.image_size, encoder.image_size, generator=torch.Generator().manual_seed(2))
    layers = tuple(range(1, encoder.depth + 1))
    whole = encoder(images, Want(pooled=layers, patches=layers))
    sizes = []
    for layer in layers:
        found = cut(encoder, layer)
        got = found(images, Want(pooled=layers[:layer], patches=layers[:layer]))
        for of in layers[:layer]:
            torch.testing.assert_close(got.pooled[of], whole.pooled[of])
            torch.testing.assert_close(got.patches[of], whole.patches[of])
        alone = found(images, Want(pooled=(layer,))).pooled[layer]
        torch.testing.assert_close(alone, whole.pooled[layer])
        assert (found.depth, found.widths) == (layer, encoder.widths[:layer])
        if name not in ("eva", "efficientnet"):  # the one averages in timm, the other has a convolution more
            torch.testing.assert_close(found.model(images), alone)
        sizes.append(parameters(found))
    assert sizes == sorted(set(sizes)), "each has more than the one before"
    assert sizes[-1] == parameters(encoder)
    again = encoder(images, Want(pooled=layers, patches=layers))
    assert all(torch.equal(again.pooled[layer], whole.pooled[layer]) for layer in layers), "the encoder is as it was"


def test_a_cut_vit_is_timms_of_that_depth():
    encoder = encoder_of("token")
    peer = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, **VIT | {"depth": 2})
    peer.load_state_dict(cut(encoder, 2).model.state_dict())


@pytest.mark.parametrize("layer", [0, 5])
def test_a_layer_that_is_not_there_is_refused(layer: int):
    with pytest.raises(InputError, match=rf"layer {layer}: vit_tiny_patch16_224 has layers 1 to 4"):
        cut(encoder_of("token"), layer)
