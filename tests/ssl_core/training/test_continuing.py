"""Runs that start from weights: layers at rates of their own, heads first, and what is said of getting worse."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssl_core import methods
from ssl_core.data.sources import open_images
from ssl_core.errors import InputError
from ssl_core.networks.encoder import Encoder
from ssl_core.schema.run import RunConfig
from ssl_core.training.checkpoints import CheckpointStore
from ssl_core.training.events import EpochEnded, Event, Listener, Warned
from ssl_core.training.health import fall
from ssl_core.training.loop import Pretraining
from ssl_core.training.optim import build_optimizer, set_rates
from tests.conftest import tiny_config
from tests.gloo import Ranks

KNN = [{"kind": "knn", "every": 1}]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file of weights of the tiny network, other ones than any run here begins with by itself."""
    torch.manual_seed(77)
    file = tmp_path / "weights.pth"
    torch.save(Encoder(tiny_config().backbone).model.state_dict(), file)
    return file


def config_of(weights: Path, name: str = "mocov3", /, **changes: Any) -> RunConfig:
    optim = {"epochs": 3, "warm_heads": 1, "layer_decay": 0.5} | changes.pop("optim", {})
    return tiny_config(name, backbone={"weights": str(weights)}, optim=optim, **changes)


def prepare(config: RunConfig, fresh: bool = True) -> Pretraining:
    return Pretraining(config, open_images(config.data), loaders=0, fresh=fresh)


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(module.state_dict())


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


class Looks(Listener):
    """Remembers warnings, and what a run was after each epoch."""

    def __init__(self, run: Pretraining):
        self.run, self.warned = run, []
        self.states: list[dict[str, Any]] = []
        self.parts: list[dict[str, dict[str, Tensor]]] = []

    def on(self, event: Event) -> None:
        if isinstance(event, Warned):
            self.warned.append(event.message)
        elif isinstance(event, EpochEnded):
            method = self.run.method
            networks = {"student": method.student, "heads": method.objectives, "teacher": method.teacher}
            self.parts.append({name: state_of(network) for name, network in networks.items() if network is not None})
            self.states.append(copy.deepcopy(self.run.state_dict()))


def vit_table(name: str, blocks: int) -> int:
    """BEiT's `get_num_layer_for_vit`, counted down from its last layer."""
    layers = blocks + 2
    if name in ("cls_token", "pos_embed") or name.startswith("patch_embed"):
        layer = 0
    elif name.startswith("blocks"):
        layer = int(name.split(".")[1]) + 1
    else:
        layer = layers - 1
    return layers - 1 - layer


def resnet_table(name: str, stages: int) -> int:
    return stages + 1 - (int(name[5]) if name.startswith("layer") else 0)


@pytest.mark.parametrize(
    ("backbone", "table"),
    [
        ({"pool": "token"}, lambda name: vit_table(name, 3)),
        ({"pool": "mean"}, lambda name: vit_table(name, 3)),
        ({"name": "resnet18", "image_size": 32, "patch_size": None, "kwargs": {}}, lambda name: resnet_table(name, 4)),
    ],
    ids=["token", "mean", "resnet"],
)
@pytest.mark.parametrize("name", ["simsiam", "byol"])
def test_each_layers_rate_is_that_of_a_naive_table(name: str, backbone: dict, table) -> None:
    optim = {"layer_decay": 0.5, "weight_decay": 0.3, "warmup_epochs": 1, "epochs": 3}
    config = tiny_config(name, backbone={"weights": "w.pth"} | backbone, optim=optim)
    method = methods.build(config)
    optimizer = build_optimizer(method, config.optim)
    rate = set_rates(optimizer, config.optim, 3, 10)["lr"]
    found = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    constant = {id(p) for p in method.constant_lr_parameters()}
    assert len(found) == sum(p.requires_grad for p in method.parameters())
    for key, parameter in method.named_parameters():
        if not parameter.requires_grad:
            continue
        inside = key.startswith("student.model.")
        below = table(key.removeprefix("student.model.")) if inside else 0
        peak = config.optim.lr * config.optim.batch_size / 256
        expected = (peak if id(parameter) in constant else rate) * 0.5**below
        assert found[id(parameter)]["lr"] == pytest.approx(expected), key
        assert found[id(parameter)]["weight_decay"] == (0.3 if found[id(parameter)]["decays"] else 0.0)
    assert {id(p) for p in method.parameters() if p.requires_grad and p.ndim > 1} & {
        key for key, group in found.items() if group["decays"]
    }


def test_a_network_whose_layers_timm_does_not_tell_is_refused() -> None:
    backbone = {"name": "caformer_s18", "image_size": 32, "patch_size": None, "kwargs": {}, "weights": "w.pth"}
    with pytest.raises(InputError, match=r"optim\.layer_decay: timm does not say which layer"), torch.device("meta"):
        methods.build(tiny_config("simclr", backbone=backbone, optim={"layer_decay": 0.5}))


def test_without_weights_there_is_nothing_to_spare() -> None:
    for optim in ({"warm_heads": 1}, {"layer_decay": 0.5}):
        with pytest.raises(ValueError, match=f"optim.{next(iter(optim))}: it spares weights"):
            tiny_config(optim=optim)


@pytest.mark.parametrize("name", ["mocov3", "dino", "bootleg", "mae"])
def test_student_and_teacher_start_from_the_weights_and_stay_while_the_heads_learn(weights: Path, name: str) -> None:
    run = prepare(config_of(weights, name))
    given = torch.load(weights, weights_only=True)
    heard = Looks(run)
    assert same(state_of(run.method.student.model), given)
    run.run(heard)
    begun, warmed, trained = heard.parts[0], heard.parts[1], heard.parts[3]
    assert same(warmed["student"], begun["student"])
    assert not same(warmed["heads"], begun["heads"])
    assert not same(trained["student"], begun["student"])
    if run.method.teacher is not None:
        inside = {key.removeprefix("encoder.model."): x for key, x in warmed["teacher"].items() if "encoder." in key}
        assert same(inside, given)
        assert not same(trained["teacher"], warmed["teacher"])


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_run_goes_on_bit_for_bit_when_the_weights_are_gone(weights: Path, after: int) -> None:
    config = config_of(weights)
    whole = prepare(config)
    heard = Looks(whole)
    whole.run(heard)
    weights.unlink()
    with pytest.raises(InputError, match="no such file or folder"):
        prepare(config)
    resumed = prepare(config, fresh=False)
    resumed.load_state_dict(heard.states[after])
    resumed.run()
    assert same(resumed.method.state_dict(), whole.method.state_dict())


def steps_of(config: RunConfig) -> list[dict[str, dict[str, Tensor]]]:
    run = prepare(config)
    heard = Looks(run)
    run.run(heard)
    return heard.parts


def test_two_ranks_start_from_the_same_weights_and_stay_together(weights: Path, two_ranks: Ranks) -> None:
    first, second = two_ranks(steps_of, config_of(weights, scaling={"workers": 2}, optim={"epochs": 2}))
    given = torch.load(weights, weights_only=True)
    for parts in (first, second):
        assert same({key.removeprefix("model."): x for key, x in parts[1]["student"].items()}, given)
    assert same(first[2]["student"], second[2]["student"])
    assert not same(first[2]["student"], first[1]["student"])
    assert not same(first[1]["heads"], first[0]["heads"])


def test_getting_worse_is_said_in_words() -> None:
    first = {"epoch": 0.0, "knn/last": 0.8, "rankme/last": 20.0}
    said = fall({"epoch": 3.0, "knn/last": 0.4, "rankme/last": 20.0}, first)
    assert "40.0" in said
    assert "below the 80.0" in said
    assert "optim.layer_decay" in said
    assert fall({"epoch": 3.0, "knn/last": 0.79}, first) is None
    assert fall(first, first) is None
    assert fall({"epoch": 1.0, "rankme/last": 2.0}, first) is None, "where there are labels, k-NN decides"
    unlabelled = {"epoch": 0.0, "rankme/last": 20.0}
    assert "RankMe" in fall({"epoch": 1.0, "rankme/last": 2.0}, unlabelled)
    assert fall({"epoch": 1.0, "rankme/last": 19.0}, unlabelled) is None


class Keeps(Looks):
    """Keeps checkpoints, as a worker does."""

    def __init__(self, run: Pretraining, store: CheckpointStore):
        super().__init__(run)
        self.store = store

    def on(self, event: Event) -> None:
        super().on(event)
        if isinstance(event, EpochEnded):
            self.store.keep(self.run)


def test_a_run_that_forgets_says_so_and_keeps_what_it_began_with(weights: Path, tmp_path: Path) -> None:
    changes = {"evaluation": KNN, "checkpoint": {"keep": 1, "best": "knn/last"}, "data": {"limit": 256}}
    config = config_of(weights, "simclr", optim={"lr": 30.0, "warm_heads": 0, "layer_decay": None}, **changes)
    run, store = prepare(config), CheckpointStore(tmp_path, config)
    heard = Keeps(run, store)
    run.run(heard)
    figures = [record["knn/last"] for record in run.history]
    assert figures[0] == max(figures)
    assert figures[-1] < 0.9 * figures[0], "this rate must do harm"
    assert any("below the" in message and message.startswith("epoch 3") for message in heard.warned)
    assert store.best_epoch(run.history) == 0
    assert [path.name for path in store.paths()] == ["epoch_0000.pt", "epoch_0003.pt"]
    kept = store.load(store.path(0))["method"]
    given = torch.load(weights, weights_only=True)
    assert all(torch.equal(kept[f"student.model.{name}"], x) for name, x in given.items())


def test_a_run_from_nothing_keeps_no_epoch_0_and_does_not_compare_with_it(tmp_path: Path) -> None:
    changes = {"evaluation": KNN, "data": {"limit": 256}, "optim": {"lr": 30.0, "epochs": 1}}
    config = tiny_config("simclr", **changes)
    run, store = prepare(config), CheckpointStore(tmp_path, config)
    heard = Keeps(run, store)
    run.run(heard)
    assert not any("below the" in message for message in heard.warned)
    assert [path.name for path in store.paths()] == ["epoch_0001.pt"]
