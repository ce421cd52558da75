"""The product against numbers made by running the published code (`golden/README.md` describes the files).

Every file of a known kind in the folder named by STRATA_GOLDEN is read; the default is `tests/golden`. Three parts:
hidden self-distillation (sdssl_*), DINO and SimSiam (baselines_*), the neighbour index (adasim_*).
"""

import itertools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssl_core.methods import Method
from ssl_core.methods.hidden import layer_weights
from ssl_core.networks.encoder import Encoder
from ssl_core.networks.heads import LayerHeads, LayerLinear, LayerMLP
from ssl_core.objectives.base import Step
from ssl_core.objectives.views import ViewPrediction
from ssl_core.positives.neighbors import NeighborIndex, saving
from ssl_core.positives.neighbors.files import read_cache
from ssl_core.positives.neighbors.window import sum_by_id
from ssl_core.schema.distill import DistillConfig
from ssl_core.schema.encoder import BackboneConfig
from ssl_core.schema.objectives import BYOLConfig, DINOConfig, FrameworkBase, MoCoV3Config, SimCLRConfig, SimSiamConfig
from ssl_core.schema.optim import OptimConfig
from ssl_core.search import ranked
from ssl_core.training.optim import set_rates
from tests.conftest import pooled
from tests.gloo import Ranks

Arrays = np.lib.npyio.NpzFile

FOLDER = Path(os.environ.get("STRATA_GOLDEN") or Path(__file__).parent / "golden")
LOSSES, HEADS, BACKBONES = (sorted(FOLDER.glob(f"sdssl_{kind}*.npz")) for kind in ("L*_ws", "heads_", "backbone_"))
BASELINES, NEIGHBORS = (sorted(FOLDER.glob(f"{kind}_*.npz")) for kind in ("baselines", "adasim"))
CONFIGS = {"moco": MoCoV3Config, "byol": BYOLConfig, "simclr": SimCLRConfig}
NAMES = {"moco": "mocov3", "byol": "byol", "simclr": "simclr"}
ALPHA_OF_GRADIENTS = 0.37
STORED = ("dist_ids", "dist_sums", "dist_probs", "union_ids", "union_mean", "union_probs")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def every(files: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("file", files, ids=lambda path: path.stem)


def test_the_folder_has_vectors():
    assert LOSSES or HEADS or BACKBONES or BASELINES or NEIGHBORS, f"no file of a known kind in {FOLDER}"


@pytest.fixture(scope="module")
def ranks_of() -> Iterator[Callable[[int], Ranks]]:
    """Real processes by their number, started when a file asks for them."""
    started: dict[int, Ranks] = {}

    def get(world: int) -> Ranks:
        return started.setdefault(world, Ranks(world))

    yield get
    for ranks in started.values():
        ranks.close()


# Hidden self-distillation


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
    method = Method(Encoder(backbone), [config], distill)
    (objective,) = method.objectives.values()
    weight = torch.from_numpy(data["W"])
    predictors = [None, None]
    if objective.has_predictor:
        predictors = [LinearPredictor(weight[:-1]), LinearPredictor(weight[-1:])]
    if objective.hidden is not None:
        objective.hidden = LayerHeads(None, predictors[0])
    objective.last = LayerHeads(None, predictors[1])

    h = [torch.from_numpy(data[name])[:, mine].clone().requires_grad_() for name in ("h1", "h2")]
    features = [torch.cat([first, second]) for first, second in zip(*h, strict=True)]
    if objective.hidden is None:
        features = features[-1:]
    targets = None
    if objective.teacher:
        targets = torch.stack([torch.from_numpy(data[name])[mine] for name in ("z1", "z2")])
    loss, parts = weighted_loss(method, features, targets, progress=0.0)
    loss.backward()
    result = {f"loss/{name}": np.asarray(value) for name, value in parts.items()}
    result |= {"total": loss.detach().numpy(), "grad_h1": h[0].grad.numpy(), "grad_h2": h[1].grad.numpy()}
    if objective.has_predictor:
        result["grad_W"] = torch.cat([predictor.weight.grad for predictor in predictors]).numpy()
    return result


def objective_of(config: FrameworkBase, epochs: int = 1) -> ViewPrediction:
    return bare(config, epochs).objectives[config.name]


def weighted_loss(
    method: Method, features: list[Tensor], targets: Tensor | None, progress: float
) -> tuple[Tensor, dict[str, Tensor | float]]:
    """The product's loss and its parts, from features of two views instead of images."""
    (objective,) = method.objectives.values()
    alpha, weights = method.weighting.at(progress, torch.device("cpu"))
    step = Step(progress, weights, method.weighting.beta_of(objective))
    losses = objective.losses_of(features, 2, targets, step)
    if targets is not None:
        objective.after_step(None, targets, step)
    return method.weighting.weigh(objective, losses, alpha)


def run_rank(file: Path, framework: str, alpha: float) -> dict[str, np.ndarray]:
    group = torch.distributed
    return run_objective(file, framework, alpha, group.get_rank(), group.get_world_size())


def beta_of(data: Arrays) -> float:
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


def load_mlp(mlp: LayerMLP, data: Arrays, prefix: str, layers: range) -> None:
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
        heads = objective_of(config).make_heads([width] * len(layers), len(data[first % "projector"]), 3).train()
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
    backbone = Encoder(vit_config(data["img"].shape[-1], patch, dim, depth, mlp_ratio))
    frozen = {name for name, parameter in backbone.model.named_parameters() if not parameter.requires_grad}
    assert frozen == set(data["requires_grad_false"].tolist())
    np.testing.assert_allclose(backbone.model.pos_embed.detach().numpy(), weights["pos_embed"].numpy(), **CLOSE)
    backbone.model.load_state_dict(weights)
    with torch.no_grad():
        features = pooled(backbone.eval(), torch.from_numpy(data["img"]), range(1, depth + 1))
    np.testing.assert_allclose(torch.stack(features).numpy(), data["cls_per_layer"], **CLOSE)


@every(BACKBONES)
def test_sincos_positions(file: Path):
    data = np.load(file)
    names = [key for key in data.files if key.startswith("pos_embed_")]
    assert names
    for name in names:
        dim, height, width = map(int, re.fullmatch(r"pos_embed_(\d+)_(\d+)x(\d+)", name).groups())
        assert height == width
        model = Encoder(vit_config(8 * height, 8, dim)).model
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
            method = Method(Encoder(vit_config(16, 8, 24)), [config])
            got = [method.update_teacher(step / total) for step in range(total)]
        else:
            warmup, lr, scale = re.search(r"_w(\d+)_([\d.e+-]+)x(\d+)$", name).groups()
            optim = OptimConfig(epochs=epochs, batch_size=256 * int(scale), lr=float(lr), warmup_epochs=int(warmup))
            optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
            got = [set_rates(optimizer, optim, step, per_epoch)["lr"] for step in range(total)]
        np.testing.assert_allclose(got, data[name], rtol=1e-9, atol=1e-12, err_msg=name)


# DINO and SimSiam


def bare(config: FrameworkBase, epochs: int = 1) -> Method:
    """A method without heads: its objective takes head outputs for features."""
    vit = {"embed_dim": 8, "depth": 1, "num_heads": 1}
    backbone = BackboneConfig(name="vit_tiny_patch16_224", image_size=16, patch_size=8, kwargs=vit)
    method = Method(Encoder(backbone), [config], epochs=epochs)
    method.objectives[config.name].last = LayerHeads(None, None)
    return method


def dino_config(data: Arrays) -> tuple[DINOConfig, int]:
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
    result: dict[str, list] = {"loss": [], "center": [method.objectives["dino"].center.clone().numpy()], "grad": []}
    for epoch, student, teacher in zip(data["epochs"], data["student"], data["teacher"], strict=True):
        features = torch.from_numpy(student[:, mine]).requires_grad_()
        targets = torch.from_numpy(teacher[:, mine])
        loss, _ = weighted_loss(method, [features.flatten(0, 1)], targets, progress=int(epoch) / epochs)
        loss.backward()
        result["loss"].append(loss.item())
        result["center"].append(method.objectives["dino"].center.clone().numpy())
        result["grad"].append(features.grad.numpy())
    return {name: np.stack(values) for name, values in result.items()}


def run_dino_rank(file: Path) -> dict[str, np.ndarray]:
    group = torch.distributed
    return run_dino(file, group.get_rank(), group.get_world_size())


@every(BASELINES)
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


@every(BASELINES)
def test_dinos_teacher_temperature(file: Path):
    data = np.load(file)
    config, epochs = dino_config(data)
    framework = objective_of(config, epochs)
    got = [framework.teacher_temperature(epoch / epochs) for epoch in range(epochs)]
    np.testing.assert_allclose(got, data["teacher_temp_schedule"], rtol=1e-9)


class Replay(nn.Module):
    """A predictor that answers with given predictions."""

    def __init__(self, predictions: Tensor):
        super().__init__()
        self.predictions = predictions

    def forward(self, x: Tensor, groups: int) -> Tensor:
        return self.predictions + 0 * x


@every(BASELINES)
def test_simsiam(file: Path):
    data = np.load(file)
    p = [torch.from_numpy(data[f"simsiam_p{view}"]).requires_grad_() for view in (1, 2)]
    z = torch.cat([torch.from_numpy(data[f"simsiam_z{view}"]) for view in (1, 2)]).requires_grad_()
    method = bare(SimSiamConfig(name="simsiam", output_dim=z.shape[-1], hidden_dim=4, bottleneck_dim=4))
    method.objectives["simsiam"].last = LayerHeads(None, Replay(torch.cat(p)[None]))
    loss, _ = weighted_loss(method, [z], None, progress=0.0)
    loss.backward()
    np.testing.assert_allclose(loss.item(), data["simsiam_loss"], **CLOSE)
    for view in (1, 2):
        np.testing.assert_allclose(p[view - 1].grad.numpy(), data[f"simsiam_grad_p{view}"], **CLOSE)
    assert z.grad.abs().max() == 0, "targets carry no gradient"


# The neighbour index


def option(data: Arrays, name: str, default: str) -> str:
    return str(data[name]) if name in data else default


def features_of(data: Arrays, file: Path, epoch: int, ids: np.ndarray) -> np.ndarray:
    """What stands for each image: its first view, or the mean of both, each of unit length."""
    views = data["feats_raw"][epoch, ids]
    if option(data, "nn_rep_type", "mean" if "mean" in file.stem.split("_") else "first") == "first":
        return views[:, 0]
    return (views / np.linalg.norm(views, axis=-1, keepdims=True)).mean(1)


def make_shards(data: Arrays, shards: int, support: str) -> list[NeighborIndex]:
    edges = np.linspace(0, int(data["N"]), shards + 1).astype(int)
    options = {"top_k": int(data["K"]), "window": int(data["w"]), "support": support}
    options |= {"unvisited": option(data, "unvisited", "zeros"), "stale": option(data, "stale", "repeat")}
    return [
        NeighborIndex(int(data["N"]), int(data["d"]), rows=range(start, stop), **options)
        for start, stop in itertools.pairwise(edges)
    ]


def joined(parts: list[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def same_ids(ids: np.ndarray, expected: np.ndarray, portable: np.ndarray) -> None:
    np.testing.assert_array_equal(ids[portable], expected[portable])


@every(NEIGHBORS)
@pytest.mark.parametrize("shards", [1, 2, 3])
def test_lists_cache_gates_and_distributions(file: Path, shards: int, tmp_path: Path):
    data = np.load(file)
    images, top_k, dim = int(data["N"]), int(data["K"]), int(data["d"])
    topk, union = (make_shards(data, shards, support) for support in ("topk", "union"))
    for epoch, (ids_of_window, sims_of_window) in enumerate(zip(data["win_ids"], data["win_sims"], strict=True)):
        portable = data["win_ids_portable"][epoch]
        for step in range(data["order"].shape[2]):
            visited = np.concatenate(data["order"][:, epoch, step])
            features = features_of(data, file, epoch, visited)
            found = [index.update(visited, features) for index in [*topk, *union]][:shards]
            ids, sims = ranked(*(np.concatenate(arrays, axis=1) for arrays in zip(*found, strict=True)), top_k)
            same_ids(ids, np.concatenate(data["step_topk_ids"][:, epoch, step]), portable[visited, -1])
            np.testing.assert_allclose(sims, np.concatenate(data["step_topk_sims"][:, epoch, step]), **CLOSE)
        for group in (topk, union):
            for index in group:
                index.end_epoch([shard.partial(index.rows.start, index.rows.stop) for shard in group])
        ids, sims = joined([index.lists() for index in topk])
        same_ids(ids, ids_of_window[:, -1], portable[:, -1])
        np.testing.assert_allclose(sims, sims_of_window[:, -1], **CLOSE)

        for index in topk:
            saving.save_cache(index, tmp_path)
        cache = np.concatenate(list(read_cache(tmp_path, epoch + 1, images, dim, range(images))))
        np.testing.assert_allclose(np.nan_to_num(cache), data["cache_after_epoch"][epoch], **CLOSE)

        partners, gate = joined([index.draw(0.2, seed=epoch) for index in topk])
        np.testing.assert_array_equal(partners[~gate], np.flatnonzero(~gate))
        use = epoch + 1 - int(data["w"])
        if use < 0:
            assert not gate.any()
            continue
        kept = data["dist_portable"][use]
        same_ids(gate, data["gate"][use], kept)
        clear = portable.reshape(images, -1).all(1)  # no list in the window hangs on a tie
        for tau in data["taus"]:
            stored = {name: data[f"{name}_tau{tau:g}"][use] for name in STORED}
            check_topk(topk, tau, stored, kept)
            check_union(union, tau, stored, clear)


def check_topk(shards: list[NeighborIndex], tau: float, stored: dict[str, np.ndarray], rows: np.ndarray) -> None:
    for index in shards:
        for row in filter(rows.__getitem__, index.rows):
            (ids,), (probabilities,), _ = index.window.distribution([row], tau)
            expected = stored["dist_ids"][row]
            expected = expected[expected >= 0]
            np.testing.assert_array_equal(ids, expected)
            np.testing.assert_allclose(probabilities, stored["dist_probs"][row, : len(ids)], **CLOSE)
            sums = sums_of(index, row)
            np.testing.assert_allclose([sums[i] for i in ids], stored["dist_sums"][row, : len(ids)], **CLOSE)


def check_union(shards: list[NeighborIndex], tau: float, stored: dict[str, np.ndarray], rows: np.ndarray) -> None:
    for index in shards:
        for row in filter(rows.__getitem__, index.rows):
            (ids,), (probabilities,), _ = index.window.distribution([row], tau)
            there = stored["union_ids"][row] >= 0
            expected = dict(zip(stored["union_ids"][row][there], stored["union_probs"][row][there], strict=True))
            assert dict(zip(ids, probabilities, strict=True)) == pytest.approx(expected, rel=1e-5, abs=1e-5)
            means = dict(zip(stored["union_ids"][row][there], stored["union_mean"][row][there], strict=True))
            sums = {id_: total / index.window.size for id_, total in sums_of(index, row).items()}
            assert sums == pytest.approx(means, rel=1e-5, abs=1e-5)


def sums_of(index: NeighborIndex, image: int) -> dict[int, float]:
    row = slice(image - index.rows.start, image - index.rows.start + 1)
    ids, sums = sum_by_id([(ids[row], sims[row]) for ids, sims in index.window.epochs])
    return dict(zip(ids[0], sums[0], strict=True))
