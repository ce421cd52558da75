"""Exports give the encoder's features, on real images, when the library they are for has opened them."""

import json
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from ssl_core.data.sources.base import read_image
from ssl_core.data.sources.bundled import bundled
from ssl_core.data.views import CentreView, normalise, to_channels, to_tensor
from ssl_core.errors import InputError
from ssl_core.networks.encoder import Encoder
from ssl_core.networks.layers import Want
from ssl_core.use.export import Exported, Refused, export, load_format, prepare, timm_folder
from ssl_core.use.subject import Subject
from tests.conftest import tiny_config

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2}
BACKBONES = {
    "token": {"kwargs": SMALL},
    "mean": {"kwargs": SMALL, "pool": "mean"},
    "grey": {"kwargs": SMALL | {"in_chans": 1}},
    "registers": {"name": "vit_small_patch14_reg4_dinov2", "kwargs": SMALL},
    "eva": {"name": "eva02_tiny_patch14_224", "kwargs": SMALL},
    "resnet": {"name": "resnet10t", "image_size": 32, "patch_size": None, "kwargs": {}},
}


@lru_cache
def subject(name: str) -> Subject:
    """An encoder whose norms and biases are not those it was made with, which hide what is not applied."""
    config = tiny_config("simclr", backbone=BACKBONES[name], name=name)
    torch.manual_seed(0)
    encoder = Encoder(config.backbone).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return Subject(name, encoder, config)


@lru_cache
def digits(channels: int, count: int = 100) -> list[Image.Image]:
    source = bundled("digits", "train")
    return [read_image(source, n, partial(to_channels, channels=channels)) for n in range(count)]


def exported(name: str, layer: int | None = None, size: int | None = None) -> Exported:
    found = subject(name)
    return prepare(found, layer or found.encoder.depth, size=size)


CASES = [
    *[(kind, "timm", None, None) for kind in BACKBONES],
    *[(kind, "hf", None, None) for kind in ("token", "mean", "registers", "resnet")],
    ("token", "timm", 1, None),
    ("mean", "hf", 1, 32),
    ("registers", "timm", None, 32),
    ("resnet", "timm", None, 48),
    ("mean", "torch", None, None),
    ("resnet", "torch", 2, None),
    ("registers", "onnx", 1, 32),
    ("resnet", "onnx", None, None),
]


@pytest.mark.parametrize(("kind", "form", "layer", "size"), CASES)
def test_it_gives_the_features_of_the_encoder(
    kind: str, form: str, layer: int | None, size: int | None, tmp_path: Path
) -> None:
    given = exported(kind, layer, size)
    found = export(given, form, tmp_path / "out", digits(given.backbone.channels))
    assert found.images == 100
    assert found.largest <= 1e-4
    assert found.cosine > 0.9999
    # The same once more, by a pass of the encoder as a run makes it.
    view = CentreView(given.backbone.image_size)
    images = normalise(torch.stack([to_tensor(view(image)) for image in digits(given.backbone.channels)[:3]]))
    whole, last = given.subject, given.layer
    pooled, patches = load_format(form).read(tmp_path / "out")(images)
    torch.testing.assert_close(pooled, whole.look(images, Want(pooled=(last,))).pooled[last], atol=1e-4, rtol=0)
    torch.testing.assert_close(patches, whole.look(images, Want(patches=(last,))).patches[last], atol=1e-4, rtol=0)


def test_what_lies_behind_the_layer_is_not_there(tmp_path: Path) -> None:
    export(exported("token", 1), "timm", tmp_path / "out", digits(3, 4))
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert len(model.blocks) == 1
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_args"]["depth"] == 1


def test_images_are_prepared_as_in_evaluation(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    large = [Image.fromarray(generator.integers(0, 255, (60, 90, 3), np.uint8)) for _ in range(3)]
    for size in (16, 24, 32):
        found = export(exported("token", size=size), "timm", tmp_path / str(size), large)
        assert found.prepared is not None
        assert found.prepared < 1e-5


def test_a_hidden_layers_own_norm_goes_with_it(tmp_path: Path) -> None:
    for kind in ("token", "mean"):
        whole = subject(kind)
        torch.manual_seed(1)
        norm = nn.LayerNorm(32, eps=1e-6)  # as timm has it
        nn.init.normal_(norm.weight)
        own = Subject(kind, whole.encoder, whole.config, norms={1: norm})
        given = prepare(own, 1)
        assert export(given, "timm", tmp_path / kind, digits(3, 8)).pooled <= 1e-4
        images = torch.randn(2, 3, 16, 16)
        assert (given.expected(images)[0] - prepare(whole, 1).expected(images)[0]).abs().max() > 0.1


def test_what_differs_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = timm_folder._tensors
    monkeypatch.setattr(timm_folder, "_tensors", lambda given: {k: x * 1.01 for k, x in right(given).items()})
    with pytest.raises(Refused, match="is not the encoder"):
        export(exported("token"), "timm", tmp_path / "out", digits(3, 4))
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        export(exported("token"), "timm", tmp_path, digits(3, 4))
    export(exported("token"), "timm", tmp_path / "out", digits(3, 4))
    export(exported("token", 1), "hf", tmp_path / "out", digits(3, 4))
    assert json.loads((tmp_path / "out" / "export.json").read_text())["layer"] == 1


def test_what_timm_cannot_cut_is_said() -> None:
    with pytest.raises(InputError, match="--format onnx and --format torch can be cut"):
        timm_folder.check(exported("resnet", 2))


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(InputError, match="expected one of timm, hf, onnx, torch"):
        load_format("tflite")


def test_the_card_runs(tmp_path: Path) -> None:
    for kind in ("token", "mean", "resnet"):
        given = exported(kind)
        export(given, "timm", tmp_path / "out", digits(3, 4))
        digits(3)[0].save(tmp_path / "image.png")
        code = (tmp_path / "out" / "README.md").read_text().split("```python\n")[1].split("```")[0]
        names: dict = {}
        exec(code.replace("IMAGE.png", str(tmp_path / "image.png")), names)
        images = normalise(to_tensor(CentreView(given.backbone.image_size)(digits(3)[0])))[None]
        pooled, patches = given.expected(images)
        torch.testing.assert_close(names["pooled"], pooled, atol=1e-4, rtol=0)
        shown = names["patches"]
        shown = shown.flatten(2).transpose(1, 2) if shown.ndim == 4 else shown
        torch.testing.assert_close(shown, patches, atol=1e-4, rtol=0)
