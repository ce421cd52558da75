"""DINO and SimSiam against numbers made by running the published code (`golden/README.md` describes the files).

Every `baselines_*.npz` in the folder named by STRATA_GOLDEN is read; the default is `tests/golden`.
"""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_core.config import BackboneConfig, DINOConfig, FrameworkBase, SimSiamConfig
from ssl_core.heads import LayerHeads
from ssl_core.methods import FRAMEWORKS
from ssl_core.methods.two_view import TwoView
from tests.gloo import Ranks

FOLDER = Path(os.environ.get("STRATA_GOLDEN") or Path(__file__).parent / "golden")
FILES = sorted(FOLDER.glob("baselines_*.npz"))
CLOSE = {"rtol": 1e-5, "atol": 1e-5}

every_file = pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)


def test_the_folder_has_vectors():
    assert FILES, f"no baselines_*.npz in {FOLDER}"


def bare(config: FrameworkBase, epochs: int = 1) -> TwoView:
    """A method without heads: its objective takes head outputs for features."""
    vit = {"embed_dim": 8, "depth": 1, "num_heads": 1}
    backbone = BackboneConfig(name="vit_tiny_patch16_224", image_size=16, patch_size=8, kwargs=vit)
    method = TwoView(backbone, FRAMEWORKS[config.name](config, epochs), None)
    method.last = LayerHeads(None, None)
    return method


def dino_config(data: np.lib.npyio.NpzFile) -> tuple[DINOConfig, int]:
    """The file's options, and the number of epochs."""
    temperatures = data["teacher_temp_schedule"]
    warmup = int(np.argmax(temperatures == temperatures[-1])) + 1
    config = DINOConfig(
        name="dino",
        output_dim=data["student"].shape[-1],
        hidden_dim=4,
        bottleneck_dim=4,
        temperature=float(data["student_temp"]),
        warmup_teacher_temperature=float(temperatures[0]),
        teacher_temperature=float(temperatures[-1]),
        warmup_teacher_epochs=warmup,
        center_momentum=float(data["center_momentum"]),
    )
    return config, len(temperatures)


def run_dino(file: Path, rank: int = 0, world: int = 1) -> dict[str, np.ndarray]:
    """Loss, centre and gradient of every step for the rows of one rank."""
    data = np.load(file)
    config, epochs = dino_config(data)
    method = bare(config, epochs)
    rows = data["student"].shape[2] // world
    mine = slice(rank * rows, (rank + 1) * rows)
    result: dict[str, list] = {"loss": [], "center": [method.framework.center.clone().numpy()], "grad": []}
    for epoch, student, teacher in zip(data["epochs"], data["student"], data["teacher"], strict=True):
        features = torch.from_numpy(student[:, mine]).requires_grad_()
        targets = torch.from_numpy(teacher[:, mine])
        output = method.objective([features.flatten(0, 1)], targets, progress=int(epoch) / epochs)
        output.loss.backward()
        result["loss"].append(output.loss.item())
        result["center"].append(method.framework.center.clone().numpy())
        result["grad"].append(features.grad.numpy())
    return {name: np.stack(values) for name, values in result.items()}


def run_dino_rank(file: Path) -> dict[str, np.ndarray]:
    group = torch.distributed
    return run_dino(file, group.get_rank(), group.get_world_size())


@pytest.fixture(scope="module")
def ranks_of() -> Iterator[Callable[[int], Ranks]]:
    """Real processes by their number, started when a file asks for them."""
    started: dict[int, Ranks] = {}

    def get(world: int) -> Ranks:
        return started.setdefault(world, Ranks(world))

    yield get
    for ranks in started.values():
        ranks.close()


@every_file
def test_dino(file: Path, ranks_of: Callable[[int], Ranks]):
    data = np.load(file)
    worlds = [int(found[1]) for name in data.files if (found := re.fullmatch(r"dino_loss_ws(\d+)", name))]
    assert worlds
    for world in worlds:
        parts = [run_dino(file)] if world == 1 else ranks_of(world)(run_dino_rank, file)
        for rank, part in enumerate(parts):
            message = f"rank {rank} of {world}"
            np.testing.assert_allclose(part["loss"], data[f"dino_loss_ws{world}"][:, rank], **CLOSE, err_msg=message)
            np.testing.assert_allclose(part["center"], data[f"dino_center_ws{world}"], **CLOSE, err_msg=message)
        gradients = np.concatenate([part["grad"] for part in parts], axis=2)
        np.testing.assert_allclose(gradients, data[f"dino_grad_student_ws{world}"], **CLOSE)


@every_file
def test_dinos_teacher_temperature(file: Path):
    data = np.load(file)
    config, epochs = dino_config(data)
    framework = FRAMEWORKS["dino"](config, epochs)
    got = [framework.teacher_temperature(epoch / epochs) for epoch in range(epochs)]
    np.testing.assert_allclose(got, data["teacher_temp_schedule"], rtol=1e-9)


class Replay(torch.nn.Module):
    """A predictor that answers with given predictions."""

    def __init__(self, predictions: torch.Tensor):
        super().__init__()
        self.predictions = predictions

    def forward(self, x: torch.Tensor, groups: int) -> torch.Tensor:
        return self.predictions + 0 * x


@every_file
def test_simsiam(file: Path):
    data = np.load(file)
    p = [torch.from_numpy(data[f"simsiam_p{view}"]).requires_grad_() for view in (1, 2)]
    z = torch.cat([torch.from_numpy(data[f"simsiam_z{view}"]) for view in (1, 2)]).requires_grad_()
    method = bare(SimSiamConfig(name="simsiam", output_dim=z.shape[-1], hidden_dim=4, bottleneck_dim=4))
    method.last = LayerHeads(None, Replay(torch.cat(p)[None]))
    output = method.objective([z], None, progress=0.0)
    output.loss.backward()
    np.testing.assert_allclose(output.loss.item(), data["simsiam_loss"], **CLOSE)
    for view in (1, 2):
        np.testing.assert_allclose(p[view - 1].grad.numpy(), data[f"simsiam_grad_p{view}"], **CLOSE)
    assert z.grad.abs().max() == 0, "targets carry no gradient"
