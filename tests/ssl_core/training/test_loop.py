"""Whole small runs: they learn, stop, resume and refuse as they should."""

import copy
import pickle

import pytest
import torch

from ssl_core.data.sources import open_images
from ssl_core.errors import InputError, Stopped, TrainingDiverged
from ssl_core.schema.run import RunConfig
from ssl_core.training.events import CheckpointDue, EpochEnded, Event, Listener, Stepped
from ssl_core.training.loop import Pretraining
from tests.conftest import tiny_config


class Heard(Listener):
    """Remembers, and can stop the run behind an epoch, with its state."""

    def __init__(self, run: Pretraining | None = None, stop_after: int | None = None):
        self.run, self.stop_after = run, stop_after
        self.steps, self.epochs, self.state, self.events = [], [], None, []

    def on(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Stepped):
            self.steps.append((event.epoch, event.step, event.steps))
        elif isinstance(event, EpochEnded):
            self.epochs.append(event.record["epoch"])
            if self.stop_after == event.record["epoch"]:
                self.state = copy.deepcopy(self.run.state_dict())
                raise InterruptedError


def prepare(config: RunConfig) -> Pretraining:
    return Pretraining(config, open_images(config.data), loaders=0)


def run(config: RunConfig) -> Pretraining:
    pretraining = prepare(config)
    pretraining.run()
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
    listener = Heard()
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
    interrupted = prepare(config)
    listener = Heard(interrupted, stop_after=1)
    with pytest.raises(InterruptedError):
        interrupted.run(listener)
    torch.manual_seed(12345)  # another process has other generators
    resumed = prepare(config)
    resumed.load_state_dict(listener.state)
    assert resumed.epoch == 1
    resumed.run()
    expected, got = whole.method.state_dict(), resumed.method.state_dict()
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    timing = {"images_per_second", "data_wait"}
    for a, b in zip(whole.history, resumed.history, strict=True):
        assert {k: v for k, v in a.items() if k not in timing} == {k: v for k, v in b.items() if k not in timing}


class StopsAt(Listener):
    """Wants to stop after so many steps of an epoch, and keeps the state then."""

    def __init__(self, run: Pretraining, epoch: int, step: int):
        self.run, self.at, self._reached, self.state = run, (epoch, step), False, None

    def on(self, event: Event) -> None:
        if isinstance(event, Stepped):
            self._reached = (event.epoch, event.step) == self.at
        elif isinstance(event, CheckpointDue):
            self.state = copy.deepcopy(self.run.state_dict())

    def wants_stop(self) -> bool:
        return self._reached


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
    stopped = prepare(config)
    stopping = StopsAt(stopped, 2, step)
    with pytest.raises(Stopped):
        stopped.run(stopping)
    assert (stopping.state["epoch"], stopping.state["step"]) == (1, step)
    torch.manual_seed(12345)  # another process has other generators
    resumed = Pretraining(config, open_images(config.data), loaders=loaders)
    assert resumed.load_state_dict(stopping.state) == []
    listener = Heard()
    resumed.run(listener)
    assert listener.steps[0] == ((2, 2, 4) if step == 1 else (3, 1, 4))
    expected, got = whole.method.state_dict(), resumed.method.state_dict()
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    timing = {"images_per_second", "data_wait"}
    for a, b in zip(whole.history, resumed.history, strict=True):
        assert {k: v for k, v in a.items() if k not in timing} == {k: v for k, v in b.items() if k not in timing}


def test_checkpoints_come_every_so_many_steps_but_for_the_last():
    seen = []

    class Counts(Listener):
        def on(self, event: Event) -> None:
            if isinstance(event, CheckpointDue):
                seen.append((event.epoch, event.step))

    prepare(tiny_config(data={"limit": 64}, checkpoint={"every_steps": 2})).run(Counts())
    assert seen == [(0, 2), (1, 2)]


def test_events_come_in_order_and_pickle():
    listener = Heard()
    prepare(tiny_config(data={"limit": 32}, optim={"epochs": 1}, checkpoint={"every_steps": 1})).run(listener)
    kinds = [type(event).__name__ for event in listener.events]
    assert kinds == ["Started", "EpochEnded", "Stepped", "CheckpointDue", "Stepped", "EpochEnded", "Ended"]
    assert pickle.loads(pickle.dumps(listener.events)) == listener.events
    started = listener.events[0]
    assert (started.steps, started.workers, started.history) == (2, 1, ())


def test_a_checkpoint_of_a_former_layout_or_of_another_run_is_refused_in_words():
    run, other = prepare(tiny_config()), prepare(tiny_config("byol", optim={"name": "sgd"}))
    with pytest.raises(InputError, match="former version"):
        run.load_state_dict({key: value for key, value in run.state_dict().items() if key != "layout"})
    with pytest.raises(InputError, match=r"framework.name: byol there, mocov3 here[\s\S]*optim.name: sgd there"):
        run.load_state_dict(other.state_dict())
    with pytest.raises(InputError, match="do not fit"):
        run.load_state_dict(other.state_dict() | {"config": run.state_dict()["config"]})


def with_dropped_paths() -> dict:
    return {"kwargs": {"embed_dim": 32, "depth": 3, "num_heads": 2, "drop_path_rate": 0.3}}


def test_the_seed_decides_the_run():
    first, again, other = (run(tiny_config(seed=seed)).method.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
def test_every_optimizer_moves_what_is_trained(name: str):
    # Without decay, which moves weights that no gradient reaches.
    config = tiny_config("byol", distill={}, optim={"name": name, "clip_grad": 1.0, "weight_decay": 0.0})
    pretraining = prepare(config)
    before = copy.deepcopy(pretraining.method.state_dict())
    history = pretraining.run()
    assert torch.isfinite(torch.tensor([record["loss"] for record in history[1:]])).all()
    for key, parameter in pretraining.method.named_parameters():
        if parameter.requires_grad and "weight" in key and "norm" not in key:
            assert not torch.equal(parameter, before[key]), key


def moved_alike(first: Pretraining, second: Pretraining, config: RunConfig) -> float:
    """The cosine between what training has changed of the student's weights in two runs."""
    start = prepare(config).method.student
    changes = [
        torch.cat([(new - old).flatten() for new, old in zip(end.parameters(), start.parameters(), strict=True)])
        for end in (first.method.student, second.method.student)
    ]
    return torch.nn.functional.cosine_similarity(*changes, dim=0).item()


@pytest.mark.parametrize("name", ["simclr", "byol", "mocov3", "simsiam", "dino"])
def test_bfloat16_runs_and_stays_near_float32(name: str):
    # SGD, for AdamW would make the same step of a wrong gradient's signs.
    optim = {"lr": 1e-2, "epochs": 1, "name": "sgd", "weight_decay": 0.0}
    half, full = (
        run(tiny_config(name, distill={}, optim={**optim, "precision": precision})) for precision in ("bf16", "fp32")
    )
    assert moved_alike(half, full, tiny_config(name, distill={})) > 0.9
    assert half.history[1]["loss"] != full.history[1]["loss"]
    assert half.history[1]["loss"] == pytest.approx(full.history[1]["loss"], rel=0.05, abs=0.01)
    assert all(parameter.dtype == torch.float32 for parameter in half.method.parameters())
    assert all(torch.isfinite(parameter).all() for parameter in half.method.parameters())


def test_a_diverging_run_names_the_step_and_remedies():
    config = tiny_config("mocov3", optim={"lr": 1e30, "epochs": 4, "name": "sgd"})
    listener = Heard()
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
        other.train_step.optimizer.step = lambda *_: None
        other.train_step.optimizer.zero_grad = lambda *_, **__: None
        other.train_step(1, [batch])
        separate.append({key: p.grad for key, p in other.method.named_parameters() if p.grad is not None})
    pretraining.train_step.optimizer.zero_grad = lambda *_, **__: None
    pretraining.train_step(1, batches)
    for key, parameter in pretraining.method.named_parameters():
        if parameter.grad is not None:
            mean = (separate[0][key] + separate[1][key]) / 2
            torch.testing.assert_close(parameter.grad, mean, rtol=1e-4, atol=1e-6, msg=key)


def test_the_gradient_is_clipped_to_the_norm_asked_for():
    pretraining = prepare(tiny_config("byol", optim={"clip_grad": 0.01, "name": "sgd"}))
    pretraining.train_step.optimizer.zero_grad = lambda *_, **__: None
    figures = pretraining.train_step(1, [next(iter(pretraining.loader))])
    assert figures["grad_norm"] > 0.01, "the norm before clipping is what is logged"
    gradients = [p.grad for p in pretraining.method.parameters() if p.grad is not None]
    assert torch.stack([g.norm() for g in gradients]).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_a_batch_larger_than_the_set_is_refused():
    with pytest.raises(InputError, match=r"optim\.batch_size: 80 is more than the 64 images of data\.train"):
        prepare(tiny_config(optim={"batch_size": 80}))
