"""timm's families: two workers train any that gives features of its layers, and the rest is refused by name."""

import pytest
import timm
import torch

from ssl_core.data.sources import open_images
from ssl_core.errors import InputError
from ssl_core.networks.create import is_vit
from ssl_core.networks.encoder import Encoder
from ssl_core.networks.layers import Want
from ssl_core.schema.encoder import BackboneConfig
from ssl_core.schema.run import RunConfig
from ssl_core.training.loop import Pretraining
from tests.gloo import Ranks

# Blocks and stages, fused and plain norms, heads with and without parameters that no layer reaches.
FEW = {
    "convnext_atto": 64,
    "swin_tiny_patch4_window7_224": 64,
    "eva02_tiny_patch14_224": 56,
    "mobilenetv4_conv_small": 64,
    "pvt_v2_b0": 64,
    "tinynet_a": 64,
    "coat_tiny": 64,
    "vit_small_patch16_dinov3": 64,
}
LARGEST = 60e6  # parameters of a model that a test trains
SIZES = (64, 224, 256)


def smallest_of_each_family() -> dict[str, int]:
    """A model of each of timm's families, with the smallest size of images that it takes; those that are refused, 0."""
    families: dict[str, list[str]] = {}
    for name in timm.list_models():
        families.setdefault(timm.model_entrypoint(name).__module__, []).append(name)
    chosen = {}
    for names in families.values():
        name = min(names, key=_parameters)
        chosen[name] = next((size for size in SIZES if _is_taken(name, size)), 0)
    return chosen


def _parameters(name: str) -> float:
    with torch.device("meta"):
        try:
            return sum(p.numel() for p in timm.create_model(name, num_classes=0).parameters())
        except Exception:
            return float("inf")


def _is_taken(name: str, size: int) -> bool:
    try:
        with torch.device("meta"):
            Encoder(BackboneConfig(name=name, image_size=size, pool=_pool(name)))
    except InputError:
        return False
    return True


def _pool(name: str) -> str:
    with torch.device("meta"):
        return "token" if getattr(timm.create_model(name, num_classes=0), "num_prefix_tokens", 1) else "mean"


def train(name: str, size: int) -> tuple[float, list[str]]:
    """The loss after two steps, and what of the encoder is trained but never moved."""
    torch.manual_seed(0)
    values = {
        "data": {"train": "bundled:digits", "limit": 8, "workers": 0},
        "backbone": {"name": name, "image_size": size, "pool": _pool(name)},
        "framework": {"name": "simsiam", "hidden_dim": 16, "output_dim": 16, "bottleneck_dim": 8},
        "optim": {"epochs": 2, "batch_size": 8, "warmup_epochs": 0, "weight_decay": 0.0},
        "evaluation": [],
        "scaling": {"workers": 2},
    }
    config = RunConfig.model_validate(values)
    run = Pretraining(config, open_images(config.data), loaders=0)
    before = {name: p.detach().clone() for name, p in run.method.student.named_parameters() if p.requires_grad}
    history = run.run()
    after = dict(run.method.student.named_parameters())
    return history[-1]["loss"], [name for name, old in before.items() if torch.equal(old, after[name])]


@pytest.mark.parametrize("name", FEW)
def test_two_workers_train_models_of_many_kinds(name: str, two_ranks: Ranks) -> None:
    (first, still), (second, _) = two_ranks(train, name, FEW[name])
    assert first == second
    assert abs(first) < 1
    assert not still, "no layer reaches these, and yet they count as trained"


@pytest.mark.families
def test_two_workers_train_one_model_of_every_family(two_ranks: Ranks) -> None:
    failed = {}
    for name, size in smallest_of_each_family().items():
        if not size:
            print(f"{name}: refused")
            continue
        if _parameters(name) > LARGEST:
            continue
        try:
            two_ranks(train, name, size)
        except AssertionError as error:
            failed[name] = str(error).strip().splitlines()[-1]
    assert failed == {}


@pytest.mark.parametrize(
    ("name", "size", "pool"),
    [
        ("eva02_tiny_patch14_224", 224, "token"),
        ("eva02_tiny_patch14_224", 224, "mean"),
        ("beit_base_patch16_224", 64, "token"),
        ("beit_base_patch16_224", 64, "mean"),
        ("vit_small_patch16_dinov3", 64, "mean"),
        ("convnext_atto", 64, "token"),
        ("swin_tiny_patch4_window7_224", 64, "token"),
        ("resnet18", 64, "token"),
    ],
)
def test_the_last_layer_is_normalised_as_the_model_does_itself(name: str, size: int, pool: str) -> None:
    torch.manual_seed(0)
    kwargs = {"depth": 2} if "beit" in name or "eva" in name or "dinov3" in name else {}
    if not is_vit(Encoder(BackboneConfig(name=name, image_size=size, pool=pool, kwargs=kwargs)).model):
        kwargs = {}
    elif pool == "token":
        kwargs |= {"global_pool": "token"}
    encoder = Encoder(BackboneConfig(name=name, image_size=size, pool=pool, kwargs=kwargs)).eval()
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        for norm in (encoder.inside.token_norm, encoder.inside.pooled_norm):
            for parameter in norm.parameters():
                parameter.uniform_(0.5, 2.0)
        found = encoder(images, Want(pooled=(encoder.depth,))).pooled[encoder.depth]
        torch.testing.assert_close(found, encoder.model(images), rtol=1e-4, atol=1e-4)


def test_a_model_without_features_of_its_layers_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"backbone\.name: cait_xxs24_224 gives no features of its layers"):
        Encoder(BackboneConfig(name="cait_xxs24_224"))
