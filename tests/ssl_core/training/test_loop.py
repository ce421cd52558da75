"""Whole small runs: they learn, stop, resume and refuse as they should."""

import copy

import pytest
import torch

from ssl_core.data.sources import open_images
from ssl_core.errors import InputError, Stopped, TrainingDiverged
from ssl_core.schema.run import RunConfig
from ssl_core.training.loop import Pretraining, Reporter
from tests.conftest import tiny_config


class Listener(Reporter):
    """Remembers, and can stop the run behind an epoch."""

    def __init__(self, stop_after: int | None = None):
        self.stop_after = stop_after
        self.steps, self.epochs, self.state = [], [], None

    def on_step(self, epoch: int, step: int, steps: int, images_per_second: float) -> None:
        self.steps.append((epoch, step, steps))

    def on_epoch(self, record: dict, state) -> None:
        self.epochs.append(record["epoch"])
        if self.stop_after == record["epoch"]:
            self.state = copy.deepcopy(state())
            raise InterruptedError


def prepare(config: RunConfig) -> Pretraining:
    return Pretraining(config, open_images(config.data), loaders=0)


def run(config: RunConfig) -> Pretraining:
    pretraining = prepare(config)
    pretraining.run(Listener())
    return pretraining


@pytest.mark.parametrize("name", ["simclr", "byol", "mocov3"])
@pytest.mark.parametrize("distill", [None, {"anneal": "none"}], ids=["plain", "distilled"])
def test_the_loss_falls_on_real_images(name: str, distill: dict | None):
    config = tiny_config(
        name,
        distill=distill,
        data={"limit": 128},
        views={"crop_scale": [0.6, 1.0], "jitter": 0.0, "grey": 0.0, "blur": 0.0, "solarize": 0.0},
        # A teacher that stands still: the loss can fall only because the student learns.
        framework={} if name == "simclr" else {"momentum": 1.0},
        optim={"epochs": 12, "batch_size": 32, "lr": 2e-2},
    )
    losses = [record["loss"] for record in run(config).history[1:]]
    assert losses[-1] < 0.9 * losses[0], losses


def test_every_step_and_epoch_is_reported():
    listener = Listener()
    history = prepare(tiny_config(data={"limit": 50})).run(listener)
    assert listener.steps == [(1, 1, 3), (1, 2, 3), (1, 3, 3), (2, 1, 3), (2, 2, 3), (2, 3, 3)]
    assert listener.epochs == [record["epoch"] for record in history] == [0.0, 1.0, 2.0]
    assert {"loss", "grad_norm", "lr", "momentum", "images_per_second", "data_wait"} <= history[-1].keys()


@pytest.mark.parametrize("name", ["simclr", "byol", "mocov3"])
@pytest.mark.parametrize("distill", [None, {"per_layer_norm": True}], ids=["plain", "distilled"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(name: str, distill: dict | None):
    config = tiny_config(
        name, distill=distill, optim={"epochs": 3, "weight_decay_end": 0.3}, backbone=with_dropped_paths()
    )
    whole = run(config)
    listener = Listener(stop_after=1)
    with pytest.raises(InterruptedError):
        prepare(config).run(listener)
    torch.manual_seed(12345)  # another process has other generators
    resumed = prepare(config)
    resumed.load_state_dict(listener.state)
    assert resumed.epoch == 1
    resumed.run(Listener())
    expected, got = whole.method.state_dict(), resumed.method.state_dict()
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    timing = {"images_per_second", "data_wait"}
    for a, b in zip(whole.history, resumed.history, strict=True):
        assert {k: v for k, v in a.items() if k not in timing} == {k: v for k, v in b.items() if k not in timing}


class StopsAt(Reporter):
    """Wants to stop after so many steps of an epoch, and keeps the state then."""

    def __init__(self, epoch: int, step: int):
        self.at, self._reached, self.state = (epoch, step), False, None

    def on_step(self, epoch: int, step: int, steps: int, images_per_second: float) -> None:
        self._reached = (epoch, step) == self.at

    def wants_stop(self) -> bool:
        return self._reached

    def on_checkpoint(self, state) -> None:
        self.state = copy.deepcopy(state())


@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.parametrize(
    ("name", "distill", "loaders"),
    [("mocov3", {}, 0), ("dino", None, 1), ("simsiam", None, 0), ("simclr", {}, 0), ("bootleg", None, 0)],
)
def test_a_run_stopped_within_an_epoch_goes_on_bit_for_bit(name: str, distill: dict | None, loaders: int, step: int):
    config = tiny_config(
        name, distill=distill, optim={"epochs": 3, "accumulate": 2, "batch_size": 16}, backbone=with_dropped_paths()
    )
    whole = run(config)
    stopping = StopsAt(2, step)
    with pytest.raises(Stopped):
        prepare(config).run(stopping)
    assert (stopping.state["epoch"], stopping.state["step"]) == (1, step)
    torch.manual_seed(12345)  # another process has other generators
    resumed = Pretraining(config, open_images(config.data), loaders=loaders)
    assert resumed.load_state_dict(stopping.state) == []
    listener = Listener()
    resumed.run(listener)
    assert listener.steps[0] == ((2, 2, 4) if step == 1 else (3, 1, 4))
    expected, got = whole.method.state_dict(), resumed.method.state_dict()
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    timing = {"images_per_second", "data_wait"}
    for a, b in zip(whole.history, resumed.history, strict=True):
        assert {k: v for k, v in a.items() if k not in timing} == {k: v for k, v in b.items() if k not in timing}


def test_checkpoints_come_every_so_many_steps_but_for_the_last():
    seen = []

    class Counts(Reporter):
        def on_checkpoint(self, state) -> None:
            seen.append((state()["epoch"], state()["step"]))

    prepare(tiny_config(data={"limit": 64}, checkpoint={"every_steps": 2})).run(Counts())
    assert seen == [(0, 2), (1, 2)]


def with_dropped_paths() -> dict:
    return {"kwargs": {"embed_dim": 32, "depth": 3, "num_heads": 2, "drop_path_rate": 0.3}}


def test_the_seed_decides_the_run():
    first, again, other = (run(tiny_config(seed=seed)).method.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
def test_every_optimizer_moves_what_is_trained(name: str):
    config = tiny_config("byol", distill={}, optim={"name": name, "clip_grad": 1.0})
    pretraining = prepare(config)
    before = copy.deepcopy(pretraining.method.state_dict())
    history = pretraining.run(Listener())
    assert torch.isfinite(torch.tensor([record["loss"] for record in history[1:]])).all()
    for key, parameter in pretraining.method.named_parameters():
        if parameter.requires_grad and "weight" in key and "norm" not in key:
            assert not torch.equal(parameter, before[key]), key


@pytest.mark.parametrize("name", ["simclr", "byol", "mocov3"])
def test_bfloat16_runs_and_stays_near_float32(name: str):
    half, full = (
        run(tiny_config(name, distill={}, optim={"precision": precision, "lr": 1e-4, "epochs": 1}))
        for precision in ("bf16", "fp32")
    )
    assert half.history[1]["loss"] != full.history[1]["loss"]
    assert half.history[1]["loss"] == pytest.approx(full.history[1]["loss"], rel=0.05)
    assert all(parameter.dtype == torch.float32 for parameter in half.method.parameters())
    assert all(torch.isfinite(parameter).all() for parameter in half.method.parameters())


def test_a_diverging_run_names_the_step_and_remedies():
    config = tiny_config("mocov3", optim={"lr": 1e30, "epochs": 4, "name": "sgd"})
    listener = Listener()
    with pytest.raises(TrainingDiverged, match=r"step (\d+) \(epoch \d+\).*not finite.*optim\.lr") as error:
        prepare(config).run(listener)
    step = int(str(error.value).split()[1])
    assert step == len(listener.steps) + 1, "the step behind the last good one"


def test_a_gradient_of_accumulated_micro_batches_is_the_mean_of_theirs():
    config = tiny_config("byol", optim={"batch_size": 16, "accumulate": 2, "name": "sgd", "momentum": 0.0})
    assert config.micro_batch == 8
    pretraining = prepare(config)
    assert pretraining.steps_per_epoch == 64 // 16
    batches = [batch for _, batch in zip(range(2), pretraining.loader, strict=False)]
    separate = []
    for batch in batches:
        other = prepare(config)
        other.optimizer.step = lambda *_: None
        other.optimizer.zero_grad = lambda *_, **__: None
        other._step(1, [batch])
        separate.append({key: p.grad for key, p in other.method.named_parameters() if p.grad is not None})
    pretraining.optimizer.zero_grad = lambda *_, **__: None
    pretraining._step(1, batches)
    for key, parameter in pretraining.method.named_parameters():
        if parameter.grad is not None:
            mean = (separate[0][key] + separate[1][key]) / 2
            torch.testing.assert_close(parameter.grad, mean, rtol=1e-4, atol=1e-6, msg=key)


def test_the_gradient_is_clipped_to_the_norm_asked_for():
    pretraining = prepare(tiny_config("byol", optim={"clip_grad": 0.01, "name": "sgd"}))
    pretraining.optimizer.zero_grad = lambda *_, **__: None
    figures = pretraining._step(1, [next(iter(pretraining.loader))])
    assert figures["grad_norm"] > 0.01, "the norm before clipping is what is logged"
    gradients = [p.grad for p in pretraining.method.parameters() if p.grad is not None]
    assert torch.stack([g.norm() for g in gradients]).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_a_batch_larger_than_the_set_is_refused():
    with pytest.raises(InputError, match=r"optim\.batch_size: 80 is more than the 64 images of data\.train"):
        prepare(tiny_config(optim={"batch_size": 80}))
