"""Patch tokens as colours against scikit-learn's PCA, the class token's attention against timm's own, pictures."""

import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from ssl_core.evaluation.patches import ClassAttention, Patches, component_colours
from ssl_core.networks.encoder import Encoder
from ssl_core.networks.layers import Want
from ssl_core.schema.encoder import BackboneConfig
from tests.conftest import tiny_config
from tests.ssl_core.evaluation.pictured import context_of


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_colours_are_sklearns_components() -> None:
    patches = random(3, 16, 6) * torch.tensor([5.0, 4.0, 3.0, 1.0, 1.0, 1.0]) + 7.0
    found = component_colours(patches)
    assert found.shape == (3, 4, 4, 3)
    expected = torch.from_numpy(PCA(3).fit_transform(patches.flatten(0, 1).numpy()))
    for component in range(3):
        inside = (found[..., component] > 0) & (found[..., component] < 1)
        pair = torch.stack([found[..., component][inside], expected[:, component].view(3, 4, 4)[inside]])
        assert torch.corrcoef(pair)[0, 1].abs() == pytest.approx(1.0, abs=1e-5)
        assert found[..., component].min() == 0.0
        assert found[..., component].max() == 1.0


@pytest.mark.parametrize("patches", [torch.full((2, 4, 5), 0.3), random(2, 9, 1), random(1, 1, 8)])
def test_what_has_no_three_components_is_grey(patches: Tensor) -> None:
    found = component_colours(patches)
    assert found.isfinite().all()
    assert bool((found[..., 2] == 0.5).all())


@pytest.mark.parametrize("registers", [0, 2])
def test_attention_is_that_of_timms_unfused_block(registers: int) -> None:
    kwargs = {"embed_dim": 32, "depth": 2, "num_heads": 4, "qk_norm": True, "reg_tokens": registers}
    backbone = BackboneConfig(name="vit_tiny_patch16_224", image_size=16, patch_size=4, kwargs=kwargs)
    encoder = Encoder(backbone).eval()
    images = random(3, 3, 16, 16)
    watched, weights = ClassAttention(encoder), list[Tensor]()
    with watched, torch.no_grad():
        encoder(images, Want(patches=(2,)))
    (found,) = watched.taken()
    attention = encoder.model.blocks[-1].attn
    attention.fused_attn = False
    attention.attn_drop.register_forward_hook(lambda module, inputs, output: weights.append(output))
    with torch.no_grad():
        encoder(images, Want(patches=(2,)))
    torch.testing.assert_close(found, weights[0][:, :, 0, 1 + registers :])
    assert found.shape == (3, 4, 16)
    assert watched.taken() == [], "nothing is kept outside of it"


@pytest.mark.parametrize(
    ("backbone", "names"),
    [
        ({}, {"components", "attention"}),
        (
            {
                "pool": "mean",
                "kwargs": {"class_token": False, "global_pool": "avg", "depth": 3, "embed_dim": 32, "num_heads": 2},
            },
            {"components"},
        ),
        ({"name": "resnet10t", "image_size": 32, "patch_size": None, "kwargs": {}}, {"components"}),
    ],
)
def test_its_pictures_show_images_and_layers(backbone: dict, names: set[str]) -> None:
    own = {"kind": "patches", "images": 5, "layers": [2, 3]}
    config = tiny_config("simclr", backbone=backbone, evaluation=[own])
    found = Patches(config.evaluation[0], context_of(config)).pictures()
    assert found.keys() == names
    titles = [axis.get_title() for axis in found["components"].axes[:3]]
    assert titles == ["image", "layer 2", "layer 3"]
    assert len(found["components"].axes) == 5 * 3
    if "attention" in names:
        assert len(found["attention"].axes) == 5 * (2 + 2), "the image, the mean, two heads"
