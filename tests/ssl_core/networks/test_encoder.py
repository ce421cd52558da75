"""One vector an image for every layer of a ViT and a ResNet, and what can be set about them."""

import pytest
import torch

from ssl_core.errors import InputError
from ssl_core.networks.encoder import Encoder
from ssl_core.schema.encoder import BackboneConfig
from tests.conftest import pooled

VIT = {"embed_dim": 32, "depth": 4, "num_heads": 2}
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def vit(kwargs: dict | None = None, **options) -> Encoder:
    torch.manual_seed(0)
    name = "vit_tiny_patch16_224"
    return Encoder(BackboneConfig(name=name, image_size=32, patch_size=8, kwargs=VIT | (kwargs or {}), **options))


def resnet(**options) -> Encoder:
    torch.manual_seed(0)
    return Encoder(BackboneConfig(name="resnet18", image_size=32, **options))


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_the_last_layer_of_a_vit_is_timms_own_output(pool: str):
    backbone = vit(pool=pool).eval()
    with torch.no_grad():
        norm = backbone.inside.final_norm
        norm.weight.uniform_(0.5, 2.0)
        features = pooled(backbone, IMAGES, range(1, backbone.depth + 1))
        expected = backbone.model(IMAGES)
    assert [tuple(x.shape) for x in features] == [(3, 32)] * 4
    torch.testing.assert_close(features[-1], expected)


def test_hidden_layers_are_the_class_token_behind_each_block_through_the_final_norm():
    backbone = vit().eval()
    outputs = []
    for block in backbone.model.blocks:
        block.register_forward_hook(lambda _, __, output: outputs.append(output))
    with torch.no_grad():
        backbone.model(IMAGES)
        expected = [backbone.model.norm(x)[:, 0] for x in outputs]
        features = pooled(backbone, IMAGES, [1, 2, 3, 4])
    for got, wanted in zip(features, expected[:4], strict=True):
        torch.testing.assert_close(got, wanted)


def test_gradients_through_the_last_layer_are_those_of_timms_own_forward():
    backbone = vit()
    gradients = []
    for output in (pooled(backbone, IMAGES, [2, 4])[-1], backbone.model(IMAGES)):
        backbone.zero_grad()
        (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in backbone.model.named_parameters()})
    for name, expected in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], expected, rtol=1e-4, atol=1e-5, msg=name)


def test_the_last_stage_of_a_resnet_is_timms_own_output():
    backbone = resnet().eval()
    with torch.no_grad():
        features = pooled(backbone, IMAGES, [1, 2, 3, 4])
        torch.testing.assert_close(features[-1], backbone.model(IMAGES))
    assert [x.shape[1] for x in features] == backbone.widths
    assert backbone.depth == 4


@pytest.mark.parametrize("make", [vit, resnet])
def test_asking_for_some_layers_gives_the_same_features_as_asking_for_all(make):
    backbone = make().eval()
    with torch.no_grad():
        everything, some = pooled(backbone, IMAGES, [1, 2, 3, 4]), pooled(backbone, IMAGES, [2, 4])
    assert len(some) == 2
    torch.testing.assert_close(some[0], everything[1])
    torch.testing.assert_close(some[1], everything[3])


def test_sincos_positions_are_fixed_and_zero_for_the_class_token():
    model = vit(position="sincos").model
    assert not model.pos_embed.requires_grad
    assert torch.equal(model.pos_embed[0, 0], torch.zeros(32))
    distances = torch.cdist(model.pos_embed[0, 1:], model.pos_embed[0, 1:])
    assert (distances + torch.eye(16) > 0.1).all(), "two patches share a position"
    assert vit().model.pos_embed.requires_grad


def test_a_frozen_patch_projection_gets_no_gradient():
    backbone = vit(freeze_patch_embed=True)
    pooled(backbone, IMAGES, [4])[0].square().sum().backward()
    assert all(p.grad is None for p in backbone.model.patch_embed.parameters())
    assert backbone.model.blocks[0].attn.qkv.weight.grad is not None
    bound = (6 / (3 * 8 * 8 + 32)) ** 0.5  # Xavier, of the flattened projection
    largest = backbone.model.patch_embed.proj.weight.abs().max().item()
    assert 0.9 * bound < largest <= bound


def test_grey_images_need_one_channel():
    config = BackboneConfig(image_size=32, kwargs={"in_chans": 1})
    assert config.channels == 1
    backbone = vit({"in_chans": 1})
    assert pooled(backbone, IMAGES[:, :1], [1])[0].shape == (3, 32)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"name": "vit_tiny_patch16_244"}, r"backbone\.name.*vit_tiny_patch16_244.*near it: vit_"),
        ({"name": "resnet18", "position": "sincos"}, r"backbone\.position: resnet18"),
        ({"name": "resnet18", "freeze_patch_embed": True}, r"backbone\.freeze_patch_embed: resnet18"),
        ({"name": "resnet18", "patch_size": 8}, r"backbone\.patch_size|backbone: timm cannot build resnet18"),
        ({"name": "vit_tiny_patch16_224", "image_size": 30, "patch_size": 8}, r"backbone\.patch_size: 8.*30"),
        ({"name": "vit_tiny_patch16_224", "kwargs": {"dpeth": 3}}, r"cannot build vit_tiny_patch16_224.*dpeth"),
        ({"name": "vit_medium_patch16_gap_240", "image_size": 32}, r"backbone\.pool.*no class token"),
    ],
)
def test_what_cannot_be_built_names_its_key(options: dict, text: str):
    with pytest.raises(InputError, match=text):
        Encoder(BackboneConfig(**options))
