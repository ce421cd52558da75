"""What the tests share: real image folders, tiny configurations, and real ranks."""

import copy
import multiprocessing
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ssl_core.batch import Batch, Masks
from ssl_core.networks.encoder import Encoder
from ssl_core.networks.layers import Want
from ssl_core.schema.run import RunConfig
from tests.gloo import Ranks

TINY = {
    "data": {"train": "bundled:digits", "limit": 64, "workers": 0},
    "backbone": {
        "name": "vit_tiny_patch16_224",
        "image_size": 16,
        "patch_size": 8,
        "kwargs": {"embed_dim": 32, "depth": 3, "num_heads": 2},
    },
    "framework": {"hidden_dim": 32, "output_dim": 16},
    "optim": {"epochs": 2, "batch_size": 16, "lr": 1e-2, "warmup_epochs": 0},
    "evaluation": [],
}
MASKED_FRAMEWORK = {"predictor": {"dim": 16, "depth": 2, "heads": 2}, "mask": {"kind": "random", "share": 0.5}}


def tiny_config(name: str = "mocov3", /, **sections) -> RunConfig:
    """A run that takes no time: `tiny_config("byol", distill={}, optim={"epochs": 3})` changes what is named."""
    values = copy.deepcopy(TINY)
    if name in ("ijepa", "mae", "bootleg"):
        values["framework"] = copy.deepcopy(MASKED_FRAMEWORK)
    values["framework"]["name"] = name
    for key, value in sections.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            values[key] |= value
        else:
            values[key] = value
    return RunConfig.model_validate(values)


def batch_of(
    views: Tensor, local: Tensor | None = None, masks: dict[str, Masks] | None = None, ids: Tensor | None = None
) -> Batch:
    """A batch of global views (V, B, C, H, W), and of local ones."""
    kinds = {"global": views} if local is None else {"global": views, "local": local}
    return Batch(torch.arange(views.shape[1]) if ids is None else ids, kinds, masks or {})


def pooled(encoder: Encoder, images: Tensor, layers: Iterable[int]) -> list[Tensor]:
    """Pooled features of some layers, a list of (N, D)."""
    found = encoder(images, Want(pooled=tuple(layers))).pooled
    return [found[layer] for layer in sorted(found)]


def make_image(seed: int, size: int = 20, mode: str = "RGB") -> Image.Image:
    """A picture of a coloured rectangle on a noisy ground, a different one for each seed."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 80, (size, size, 3), dtype=np.uint8)
    left, top = generator.integers(0, size // 2, 2)
    pixels[top : top + size // 2, left : left + size // 2] = generator.integers(100, 255, 3, dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def make_folder(root: Path, files: list[str]) -> Path:
    """Images of these names below `root`, in the format of each suffix."""
    for number, file in enumerate(files):
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        make_image(number).save(path)
    return root


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """32 images in two class folders."""
    return make_folder(tmp_path / "images", [f"{'cat' if n % 2 else 'dog'}/{n:02d}.png" for n in range(32)])


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[Ranks]:
    ranks = Ranks(2)
    yield ranks
    ranks.close()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # tiny tensors: threads only cost time, and sums would depend on their number


@pytest.fixture(scope="session", autouse=True)
def _loader_server() -> None:
    multiprocessing.set_start_method("forkserver", force=True)  # this process may hold Ray's threads: no forks of it
