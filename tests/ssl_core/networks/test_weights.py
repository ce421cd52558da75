"""Weights in the layouts that are published, of small real networks: recognised by content, fitted, or refused."""

import argparse
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import Tensor, nn
from torchvision.models import VisionTransformer as TorchvisionViT
from torchvision.models import resnet18

from ssl_core.errors import InputError
from ssl_core.networks.encoder import Encoder
from ssl_core.networks.weights import load_weights
from ssl_core.schema.encoder import BackboneConfig
from tests.conftest import pooled

SMALL = {"embed_dim": 32, "depth": 3, "num_heads": 2}


def config_of(name: str = "vit_tiny_patch16_224", **changes: Any) -> BackboneConfig:
    values: dict[str, Any] = {"name": name, "image_size": 32, "patch_size": 8, "kwargs": SMALL}
    if not name.startswith("vit"):
        values = {"name": name, "image_size": 32}
    return BackboneConfig.model_validate({**values, **changes})


def encoder(seed: int = 0, **changes: Any) -> Encoder:
    """An encoder with weights of its own, norms and biases too."""
    torch.manual_seed(seed)
    made = Encoder(config_of(**changes)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made


def images(channels: int = 3, size: int = 32) -> Tensor:
    return torch.randn(4, channels, size, size, generator=torch.Generator().manual_seed(1))


def features(network: Encoder, channels: int = 3, size: int = 32) -> Tensor:
    with torch.no_grad():
        return torch.cat(pooled(network, images(channels, size), range(1, network.depth + 1)), dim=1)


def prefixed(model: nn.Module, prefix: str, **renamed: str) -> dict[str, Tensor]:
    return {prefix + renamed.get(name, name): x.clone() for name, x in model.state_dict().items()}


def others(prefix: str) -> dict[str, Tensor]:
    """Weights of another network under the same names: what must not be taken."""
    return prefixed(encoder(seed=9).model, prefix)


HEAD = {"head.mlp.0.weight": torch.randn(8, 32), "head.last_layer.weight_g": torch.randn(8, 1)}

LAYOUTS: dict[str, Callable[[nn.Module], Any]] = {
    "timm": lambda m: m.state_dict(),
    "dino": lambda m: {
        "student": {**others("module.backbone."), **{f"module.{k}": v for k, v in HEAD.items()}},
        "teacher": {**prefixed(m, "backbone."), **HEAD},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", lr=5e-4),
    },
    "dino_backbone_alone": lambda m: m.state_dict() | HEAD,
    "mocov3": lambda m: {
        "epoch": 300,
        "state_dict": {
            **prefixed(m, "module.base_encoder."),
            **others("module.momentum_encoder."),
            "module.predictor.0.weight": torch.randn(8, 8),
        },
    },
    "mae": lambda m: {
        "model": {
            **m.state_dict(),
            "mask_token": torch.randn(1, 1, 16),
            "decoder_embed.weight": torch.randn(16, 32),
            "decoder_blocks.0.norm1.weight": torch.randn(16),
        }
    },
    "ibot": lambda m: {"state_dict": {**m.state_dict(), "masked_embed": torch.randn(1, 32)}},
    "ijepa": lambda m: {
        "encoder": others("module."),
        "predictor": {"module.predictor_blocks.0.norm1.weight": torch.randn(16)},
        "target_encoder": prefixed(m, "module."),
        "epoch": 300,
    },
    "simmim": lambda m: {"model": {**prefixed(m, "encoder."), "decoder.0.weight": torch.randn(8, 32, 1, 1)}},
    "data_parallel": lambda m: prefixed(m, "module."),
    "ema": lambda m: {"state_dict": others(""), "model_ema": m.state_dict()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_published_layout_gives_the_features_of_the_network_that_it_is_of(layout: str, tmp_path: Path) -> None:
    source, target = encoder(seed=1), encoder(seed=2)
    torch.save(LAYOUTS[layout](source.model), tmp_path / "weights.pth")
    fit = load_weights(target, str(tmp_path / "weights.pth"))
    torch.testing.assert_close(features(target), features(source), rtol=0, atol=0)
    assert (fit.share, fit.missing, fit.adapted) == (1.0, (), ())


def test_dinov2_with_registers_and_chunked_blocks(tmp_path: Path) -> None:
    """Its positions cover the class token and no register; timm adds the first to the token itself."""
    kwargs = {**SMALL, "reg_tokens": 4, "no_embed_class": True, "init_values": 1.0}
    source, target = encoder(seed=1, kwargs=kwargs), encoder(seed=2, kwargs=kwargs)
    state = source.model.state_dict()
    first = torch.randn(1, 1, 32)
    published = {
        "register_tokens": state["reg_token"],
        "cls_token": state["cls_token"] - first,
        "pos_embed": torch.cat([first, state["pos_embed"]], dim=1),
        "mask_token": torch.randn(1, 32),
    }
    for name, x in state.items():
        if name not in ("reg_token", "cls_token", "pos_embed"):
            published[name.replace("blocks.", "blocks.0.", 1) if name.startswith("blocks.") else name] = x
    torch.save({"teacher": {f"backbone.{name}": x for name, x in published.items()}}, tmp_path / "dinov2.pth")
    fit = load_weights(target, str(tmp_path / "dinov2.pth"))
    torch.testing.assert_close(features(target), features(source), rtol=1e-5, atol=1e-5)
    assert fit.share == 1.0


def test_registers_with_positions_of_their_own_get_none_from_weights_that_had_none(tmp_path: Path) -> None:
    """DINOv2's registers have no position; a network that has positions for them does the same with zeros."""
    source = encoder(seed=1, kwargs={**SMALL, "reg_tokens": 4, "no_embed_class": True})
    target = encoder(seed=2, kwargs={**SMALL, "reg_tokens": 4})
    state = source.model.state_dict()
    state["register_tokens"], first = state.pop("reg_token"), torch.randn(1, 1, 32)
    state["cls_token"] = state["cls_token"] - first
    state["pos_embed"] = torch.cat([first, state["pos_embed"]], dim=1)
    torch.save({**state, "mask_token": torch.zeros(1, 32)}, tmp_path / "dinov2.pth")
    fit = load_weights(target, str(tmp_path / "dinov2.pth"))
    assert (fit.share, fit.missing) == (1.0, ())
    torch.testing.assert_close(features(target), features(source), rtol=1e-5, atol=1e-5)


def test_what_scales_layers_is_found_by_beits_names(tmp_path: Path) -> None:
    """It is few parameters: nothing else would tell that they were lost."""
    kwargs = {**SMALL, "init_values": 1.0}
    source, target = encoder(seed=1, kwargs=kwargs), encoder(seed=2, kwargs=kwargs)
    state = {re.sub(r"ls([12])\.gamma", r"gamma_\1", name): x for name, x in source.model.state_dict().items()}
    assert "blocks.0.gamma_1" in state
    torch.save({"model": state}, tmp_path / "w.pth")
    assert load_weights(target, str(tmp_path / "w.pth")).missing == ()
    torch.testing.assert_close(features(target), features(source), rtol=0, atol=0)


def test_torchvisions_vit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = TorchvisionViT(32, 8, 3, 2, 32, 128, representation_size=None).eval()
    torch.save(source.state_dict(), tmp_path / "vit.pth")
    target = encoder()
    load_weights(target, str(tmp_path / "vit.pth"))
    with torch.no_grad():
        x = source._process_input(images())
        expected = source.encoder(torch.cat([source.class_token.expand(4, -1, -1), x], dim=1))[:, 0]
        got = pooled(target, images(), [3])[0]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_torchvisions_resnet_is_timms(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = resnet18().eval()
    torch.save(source.state_dict(), tmp_path / "resnet.pth")
    target = Encoder(config_of("resnet18")).eval()
    fit = load_weights(target, str(tmp_path / "resnet.pth"))
    assert fit.left_over == ("fc.weight", "fc.bias")
    with torch.no_grad():
        source.fc = nn.Identity()
        torch.testing.assert_close(pooled(target, images(), [4])[0], source(images()), rtol=1e-4, atol=1e-5)


def test_another_grid_is_interpolated_as_timm_does(tmp_path: Path) -> None:
    source, target = encoder(seed=1), encoder(seed=2, image_size=64)
    torch.save(source.model.state_dict(), tmp_path / "w.pth")
    fit = load_weights(target, str(tmp_path / "w.pth"))
    expected = resample_abs_pos_embed(source.model.pos_embed, [8, 8], num_prefix_tokens=1)
    torch.testing.assert_close(target.model.pos_embed, expected)
    assert fit.adapted == ("pos_embed 1×17×32 → 1×65×32",)


def test_another_patch_size_and_grey_images(tmp_path: Path) -> None:
    source = encoder(seed=1)
    target = encoder(seed=2, patch_size=4, image_size=16, kwargs={**SMALL, "in_chans": 1})
    torch.save({"model": source.model.state_dict()}, tmp_path / "w.pth")
    fit = load_weights(target, str(tmp_path / "w.pth"))
    expected = resample_patch_embed(source.model.patch_embed.proj.weight.sum(dim=1, keepdim=True), [4, 4])
    torch.testing.assert_close(target.model.patch_embed.proj.weight, expected)
    assert fit.share == 1.0


def test_a_grey_network_takes_colours_and_gives_the_same_of_grey_ones(tmp_path: Path) -> None:
    source, target = encoder(seed=1, kwargs={**SMALL, "in_chans": 1}), encoder(seed=2)
    torch.save(source.model.state_dict(), tmp_path / "w.pth")
    load_weights(target, str(tmp_path / "w.pth"))
    grey = images(channels=1)
    with torch.no_grad():
        got, expected = (pooled(n, x, [3])[0] for n, x in ((target, grey.expand(-1, 3, -1, -1)), (source, grey)))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_positions_without_a_class_token_fit_a_network_with_one_and_the_other_way_round(tmp_path: Path) -> None:
    bare, whole = encoder(seed=1, pool="mean", kwargs={**SMALL, "class_token": False}), encoder(seed=2)
    torch.save(bare.model.state_dict(), tmp_path / "bare.pth")
    fit = load_weights(whole, str(tmp_path / "bare.pth"))
    torch.testing.assert_close(whole.model.pos_embed[:, 1:], bare.model.pos_embed)
    assert fit.missing == ("cls_token",)
    source = encoder(seed=3)
    torch.save(source.model.state_dict(), tmp_path / "whole.pth")
    load_weights(bare, str(tmp_path / "whole.pth"))
    torch.testing.assert_close(bare.model.pos_embed, source.model.pos_embed[:, 1:])
    torch.testing.assert_close(bare.model.fc_norm.weight, source.model.norm.weight)


def test_safetensors_and_a_runs_folder(tmp_path: Path) -> None:
    source = encoder(seed=1)
    save_file({name: x.contiguous() for name, x in source.model.state_dict().items()}, tmp_path / "model.safetensors")
    for where in (tmp_path / "model.safetensors", tmp_path):
        target = encoder(seed=2)
        load_weights(target, str(where))
        torch.testing.assert_close(features(target), features(source))


class Mischief:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("/tmp/strata-was-here"),))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f: f.write_bytes(pickle.dumps({"model": Mischief()})), "refused, for it holds more than tensors"),
        (lambda f: torch.save({"model": Mischief()}, f), "refused, for it holds more than tensors"),
        (lambda f: f.write_text("these are no weights\n"), "a text file, and no file of weights"),
        (lambda f: f.write_text("Ge" + "wichte für später " * 9), "a text file, and no file of weights"),
        (lambda f: f.write_bytes(bytes(range(5, 250))), r"w.pth: no file of weights"),
        (lambda f: f.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n"), "git lfs pull"),
        (lambda f: torch.save({"args": argparse.Namespace(model=Mischief())}, f), "refused, for it holds more than"),
        (lambda f: f.write_bytes(b""), "an empty file"),
        (lambda f: torch.save({"epoch": 3}, f), "nothing in it is called as"),
        (lambda f: torch.save(resnet18().state_dict(), f), "nothing in it is called as"),
        (lambda f: torch.save(encoder(kwargs={**SMALL, "embed_dim": 64}).model.state_dict(), f), "not the weights of"),
        (lambda f: torch.save(encoder(kwargs={**SMALL, "depth": 1}).model.state_dict(), f), "not found.*blocks.1"),
        (lambda f: f.write_bytes(b"PK\x03\x04" + b"cut off" * 20), "no file of weights"),
    ],
    ids=[
        "pickle",
        "pickle_in_zip",
        "text",
        "umlauts",
        "bytes",
        "lfs",
        "in_namespace",
        "empty",
        "no_weights",
        "resnet",
        "other_width",
        "less_deep",
        "cut_off",
    ],
)
def test_what_is_no_such_network_is_refused_and_changes_nothing(
    make: Callable[[Path], Any], words: str, tmp_path: Path
) -> None:
    make(tmp_path / "w.pth")
    target = encoder()
    before = features(target)
    with pytest.raises(InputError, match=words) as error:
        load_weights(target, str(tmp_path / "w.pth"))
    assert str(tmp_path / "w.pth") in str(error.value)
    assert torch.equal(features(target), before)
    assert not Path("/tmp/strata-was-here").exists()


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        load_weights(encoder(), str(tmp_path / "none.pth"))
    with pytest.raises(InputError, match=r"no run's folder \(there is no model.safetensors"):
        load_weights(encoder(), str(tmp_path))
    (tmp_path / "config.yaml").write_text("{}")
    with pytest.raises(InputError, match="the run has not ended"):
        load_weights(encoder(), str(tmp_path))
    (tmp_path / "bad.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="no safetensors file"):
        load_weights(encoder(), str(tmp_path / "bad.safetensors"))
