"""The product against numbers made by running the published code (`golden/README.md` describes the files).

Every file of a known kind in the folder named by STRATA_GOLDEN is read; the default is `tests/golden`.
"""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl_core.backbones import Backbone
from ssl_core.config import BackboneConfig, BYOLConfig, DistillConfig, MoCoV3Config, OptimConfig, SimCLRConfig
from ssl_core.heads import LayerHeads, LayerLinear, LayerMLP
from ssl_core.methods import FRAMEWORKS
from ssl_core.methods.hidden import layer_weights
from ssl_core.methods.two_view import TwoView
from ssl_core.optim import set_rates
from tests.gloo import Ranks

FOLDER = Path(os.environ.get("STRATA_GOLDEN") or Path(__file__).parent / "golden")
LOSSES, HEADS, BACKBONES = (sorted(FOLDER.glob(f"sdssl_{kind}*.npz")) for kind in ("L*_ws", "heads_", "backbone_"))
CONFIGS = {"moco": MoCoV3Config, "byol": BYOLConfig, "simclr": SimCLRConfig}
NAMES = {"moco": "mocov3", "byol": "byol", "simclr": "simclr"}
ALPHA_OF_GRADIENTS = 0.37
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def every(files: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("file", files, ids=lambda path: path.stem)


def test_the_folder_has_vectors():
    assert LOSSES or HEADS or BACKBONES, f"no sdssl_*.npz in {FOLDER}"


class LinearPredictor(LayerLinear):
    """The files' predictors are bare matrices."""

    def __init__(self, weight: Tensor):
        super().__init__(*weight.shape)
        self.weight.data.copy_(weight)

    def forward(self, x: Tensor, groups: int) -> Tensor:
        return super().forward(x)


def run_objective(file: Path, framework: str, alpha: float, rank: int = 0, world: int = 1) -> dict[str, np.ndarray]:
    """The product's losses and gradients for the rows of one rank."""
    data = np.load(file)
    layers, dim, rows = int(data["L"]), int(data["dim"]), int(data["N"]) // world
    mine = slice(rank * rows, (rank + 1) * rows)
    options = {} if framework == "byol" else {"temperature": float(data["tau"])}
    config = CONFIGS[framework](name=NAMES[framework], output_dim=dim, hidden_dim=dim, **options)
    vit = {"embed_dim": dim, "depth": layers, "num_heads": 1}
    backbone = BackboneConfig(name="vit_tiny_patch16_224", image_size=16, patch_size=8, kwargs=vit)
    distill = DistillConfig(alpha=alpha, beta=beta_of(data), anneal="none")
    method = TwoView(backbone, FRAMEWORKS[config.name](config), distill)
    weight = torch.from_numpy(data["W"])
    predictors = [None, None]
    if method.framework.predictor:
        predictors = [LinearPredictor(weight[:-1]), LinearPredictor(weight[-1:])]
    if method.hidden is not None:
        method.hidden = LayerHeads(None, predictors[0])
    method.last = LayerHeads(None, predictors[1])

    h = [torch.from_numpy(data[name])[:, mine].clone().requires_grad_() for name in ("h1", "h2")]
    features = [torch.cat([first, second]) for first, second in zip(*h, strict=True)]
    if method.hidden is None:
        features = features[-1:]
    targets = None
    if method.framework.ema_teacher:
        targets = torch.stack([torch.from_numpy(data[name])[mine] for name in ("z1", "z2")])
    output = method.objective(features, targets, progress=0.0)
    output.loss.backward()
    result = {name: np.asarray(value) for name, value in output.parts.items()}
    result |= {"total": output.loss.detach().numpy(), "grad_h1": h[0].grad.numpy(), "grad_h2": h[1].grad.numpy()}
    if method.framework.predictor:
        result["grad_W"] = torch.cat([predictor.weight.grad for predictor in predictors]).numpy()
    return result


def run_rank(file: Path, framework: str, alpha: float) -> dict[str, np.ndarray]:
    group = torch.distributed
    return run_objective(file, framework, alpha, group.get_rank(), group.get_world_size())


@pytest.fixture(scope="module")
def ranks_of() -> Iterator[Callable[[int], Ranks]]:
    """Real processes by their number, started when a file asks for them."""
    started: dict[int, Ranks] = {}

    def get(world: int) -> Ranks:
        return started.setdefault(world, Ranks(world))

    yield get
    for ranks in started.values():
        ranks.close()


def beta_of(data: np.lib.npyio.NpzFile) -> float:
    return float(data["beta"]) if "beta" in data else 1.0


@every(LOSSES)
@pytest.mark.parametrize("framework", ["moco", "byol", "simclr"])
def test_losses_and_gradients(file: Path, framework: str, ranks_of: Callable[[int], Ranks]):
    data = np.load(file)
    layers, world, alphas = int(data["L"]), int(data["world"]), data["alphas"].tolist()
    of_gradients = int(np.argmin(np.abs(data["alphas"] - ALPHA_OF_GRADIENTS)))
    assert alphas[of_gradients] == pytest.approx(ALPHA_OF_GRADIENTS)
    if world == 1:
        results = [[run_objective(file, framework, alpha)] for alpha in alphas]
    else:
        results = [ranks_of(world)(run_rank, file, framework, alpha) for alpha in alphas]
    stored = {part: data[f"{framework}_loss_{part}"].copy() for part in ("total", "output", "mid", "pred")}
    if framework == "moco":
        stored["pred"] *= layers  # the mean over layers is stored
    if framework == "byol":  # at alpha = 0 the published code is wrong: what the other values of alpha imply
        for row in np.flatnonzero(data["alphas"] == 0):
            for part in ("output", "mid", "pred"):
                stored[part][row] = stored[part][of_gradients]
            stored["total"][row] = stored["output"][row] + beta_of(data) * stored["pred"][row]

    for row, alpha in enumerate(alphas):
        for rank, result in enumerate(results[row]):
            message = f"alpha {alpha}, rank {rank}"
            np.testing.assert_allclose(result["total"], stored["total"][row, rank], **CLOSE, err_msg=message)
            np.testing.assert_allclose(result["loss/last"], stored["output"][row, rank], **CLOSE, err_msg=message)
            if framework == "simclr" and alpha == 0:  # nothing of the section is left: the plain framework
                assert "loss/hidden" not in result
                continue
            np.testing.assert_allclose(result["loss/hidden"], stored["mid"][row, rank], **CLOSE, err_msg=message)
            if framework == "simclr":
                assert "loss/predictor" not in result
            else:
                pred = stored["pred"][row, rank]
                np.testing.assert_allclose(result["loss/predictor"], pred, **CLOSE, err_msg=message)

    own = results[of_gradients]
    for view in ("grad_h1", "grad_h2"):
        got = np.concatenate([result[view] for result in own], axis=1)
        expected = data[f"{framework}_{view}"]
        if framework == "simclr" and world > 1:  # the published code lacks the gradient through other ranks' keys
            got, expected = got / world, run_objective(file, framework, alphas[of_gradients])[view]
        np.testing.assert_allclose(got, expected, **CLOSE, err_msg=view)
    if framework != "simclr":
        np.testing.assert_allclose(np.stack([r["grad_W"] for r in own]), data[f"{framework}_grad_W"], **CLOSE)


def load_mlp(mlp: LayerMLP, data: np.lib.npyio.NpzFile, prefix: str, layers: range) -> None:
    """The stored nn.Sequential MLPs of some layers into the product's stacked one."""

    def stored(position: int, parameter: str) -> Tensor:
        return torch.stack([torch.from_numpy(data[f"{prefix}.{layer}.net.{position}.{parameter}"]) for layer in layers])

    with torch.no_grad():
        for number, linear in enumerate(mlp.linears):
            linear.weight.copy_(stored(3 * number, "weight").transpose(1, 2))
        for number, norm in enumerate(mlp.norms):
            norm.weight.copy_(stored(3 * number + 1, "weight")[:, None])
            norm.bias.copy_(stored(3 * number + 1, "bias")[:, None])


@every(HEADS)
@pytest.mark.parametrize(("tag", "name"), [("bn", "moco"), ("nobn", "byol")])
def test_projections_and_predictions(file: Path, tag: str, name: str):
    data = np.load(file)
    x = torch.from_numpy(data[f"{tag}_x"])
    depth, _, width = x.shape
    for layers in (range(depth - 1), range(depth - 1, depth)):
        first = f"{tag}|%s.{layers[0]}.net.0.weight"
        config = CONFIGS[name](
            name=NAMES[name], hidden_dim=len(data[first % "predictor"]), output_dim=data[f"{tag}_h"].shape[-1]
        )
        heads = FRAMEWORKS[config.name](config).heads([width] * len(layers), len(data[first % "projector"])).train()
        load_mlp(heads.projector, data, f"{tag}|projector", layers)
        load_mlp(heads.predictor, data, f"{tag}|predictor", layers)
        rows = slice(layers[0], layers[-1] + 1)
        h = heads.project(list(x[rows]), groups=1)
        q = heads.predict(h, groups=1)
        np.testing.assert_allclose(h.detach().numpy(), data[f"{tag}_h"][rows], **CLOSE)
        np.testing.assert_allclose(q.detach().numpy(), data[f"{tag}_q"][rows], **CLOSE)


def vit_config(image_size: int, patch: int, dim: int, depth: int = 1, mlp_ratio: float = 1.0) -> BackboneConfig:
    kwargs = {"embed_dim": dim, "depth": depth, "num_heads": 3, "mlp_ratio": mlp_ratio}
    vit = {"name": "vit_tiny_patch16_224", "position": "sincos", "freeze_patch_embed": True}
    return BackboneConfig(image_size=image_size, patch_size=patch, kwargs=kwargs, **vit)


@every(BACKBONES)
def test_features_of_every_layer_and_frozen_parameters(file: Path):
    data = np.load(file)
    weights = {key.removeprefix("sd|"): torch.from_numpy(data[key]) for key in data.files if key.startswith("sd|")}
    dim, _, patch, _ = weights["patch_embed.proj.weight"].shape
    depth = len({key.split(".")[1] for key in weights if key.startswith("blocks.")})
    mlp_ratio = len(weights["blocks.0.mlp.fc1.weight"]) / dim
    backbone = Backbone(vit_config(data["img"].shape[-1], patch, dim, depth, mlp_ratio))
    frozen = {name for name, parameter in backbone.model.named_parameters() if not parameter.requires_grad}
    assert frozen == set(data["requires_grad_false"].tolist())
    np.testing.assert_allclose(backbone.model.pos_embed.detach().numpy(), weights["pos_embed"].numpy(), **CLOSE)
    backbone.model.load_state_dict(weights)
    with torch.no_grad():
        features = backbone.eval()(torch.from_numpy(data["img"]), range(1, depth + 1))
    np.testing.assert_allclose(torch.stack(features).numpy(), data["cls_per_layer"], **CLOSE)


@every(BACKBONES)
def test_sincos_positions(file: Path):
    data = np.load(file)
    names = [key for key in data.files if key.startswith("pos_embed_")]
    assert names
    for name in names:
        dim, height, width = map(int, re.fullmatch(r"pos_embed_(\d+)_(\d+)x(\d+)", name).groups())
        assert height == width
        model = Backbone(vit_config(8 * height, 8, dim)).model
        np.testing.assert_allclose(model.pos_embed.detach().numpy(), data[name], **CLOSE, err_msg=name)


@every(BACKBONES)
def test_schedules(file: Path):
    data = np.load(file)
    names = [key for key in data.files if re.match(r"(alpha|ema|lr)_sched_", key)]
    assert names
    for name in names:
        epochs, per_epoch = map(int, re.search(r"_e(\d+)_n(\d+)", name).groups())
        total = epochs * per_epoch
        if name.startswith("alpha"):
            distill = DistillConfig(alpha=float(re.search(r"_r([\d.]+)$", name)[1]))
            got = [layer_weights(distill, step / total, 3, torch.device("cpu"))[0] for step in range(total)]
        elif name.startswith("ema"):
            config = BYOLConfig(name="byol", hidden_dim=4, output_dim=4, momentum=float(data[name][0]))
            method = TwoView(vit_config(16, 8, 24), FRAMEWORKS["byol"](config), None)
            got = [method.update_teacher(step / total) for step in range(total)]
        else:
            warmup, lr, scale = re.search(r"_w(\d+)_([\d.e+-]+)x(\d+)$", name).groups()
            optim = OptimConfig(epochs=epochs, batch_size=256 * int(scale), lr=float(lr), warmup_epochs=int(warmup))
            optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
            got = [set_rates(optimizer, optim, step, per_epoch)["lr"] for step in range(total)]
        np.testing.assert_allclose(got, data[name], rtol=1e-9, atol=1e-12, err_msg=name)
