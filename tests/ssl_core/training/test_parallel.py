"""However a method is spread over ranks: the same gradient, clipped to the same norm, and the same state."""

import pytest
import torch

from ssl_core import distributed
from ssl_core.data.sources import open_images
from ssl_core.schema.run import RunConfig
from ssl_core.training.loop import Pretraining
from ssl_core.training.parallel import DataParallel, OneProcess
from tests.conftest import tiny_config
from tests.gloo import Ranks


def config_of(workers: int, **optim: object) -> RunConfig:
    settings = {"batch_size": 16, "accumulate": 2, "name": "sgd", "momentum": 0.0, "weight_decay": 0.0, **optim}
    # DINO has no batch norm in its head: micro-batches are of other images on two ranks than on one.
    framework = {"hidden_dim": 32, "output_dim": 16, "bottleneck_dim": 8, "freeze_last_layer": 0}
    return tiny_config("dino", framework=framework, optim=settings, scaling={"workers": workers})


def step(config: RunConfig) -> tuple[dict[str, torch.Tensor], float, str, int]:
    """Gradients of a step of two micro-batches, their norm, how it was spread, and how often ranks averaged."""
    run = Pretraining(config, open_images(config.data), loaders=0)
    run.train_step.optimizer.zero_grad = lambda *_, **__: None
    averaged = []
    if isinstance(run.parallel, DataParallel):
        copies = run.train_step.trained
        copies.register_comm_hook(averaged, _count)
    batches = [batch for _, batch in zip(range(2), run.loader, strict=False)]
    figures = run.train_step(1, batches)
    gradients = {name: p.grad for name, p in run.method.named_parameters() if p.grad is not None}
    return gradients, float(figures["grad_norm"]), type(run.parallel).__name__, len(averaged)


def _count(averaged: list, bucket: torch.distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
    averaged.append(bucket.index())
    mean = distributed.mean_over_ranks(bucket.buffer())
    done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    done.set_result(mean)
    return done


def test_gradients_are_averaged_once_a_step_and_are_those_of_one_process(two_ranks: Ranks) -> None:
    alone, norm, kind, _ = step(config_of(1))
    assert kind == OneProcess.__name__
    (together, shared_norm, kind, times), (others, *_) = two_ranks(step, config_of(2))
    assert kind == DataParallel.__name__
    assert times == 1, "in the last micro-batch alone"
    assert alone.keys() == together.keys()
    for name, gradient in alone.items():
        torch.testing.assert_close(together[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
        assert torch.equal(together[name], others[name]), name
    assert shared_norm == pytest.approx(norm, rel=1e-4)


def test_all_ranks_clip_to_the_same_norm(two_ranks: Ranks) -> None:
    (gradients, norm, *_), (others, other_norm, *_) = two_ranks(step, config_of(2, clip_grad=1e-3))
    assert norm == other_norm > 1e-3
    assert torch.stack([g.norm() for g in gradients.values()]).norm().item() == pytest.approx(1e-3, rel=1e-3)
    assert all(torch.equal(gradients[name], others[name]) for name in gradients)


def test_a_state_is_loaded_by_another_way(two_ranks: Ranks) -> None:
    state = two_ranks(state_after_a_step, config_of(2))[0]
    run = Pretraining(config_of(1), open_images(config_of(1).data), loaders=0)
    assert run.load_state_dict(state)[0].startswith("2 worker(s) before, 1 now")
    assert all(torch.equal(x, state["method"][name]) for name, x in run.method.state_dict().items())


def state_after_a_step(config: RunConfig) -> dict:
    run = Pretraining(config, open_images(config.data), loaders=0)
    run.train_step(1, [batch for _, batch in zip(range(2), run.loader, strict=False)])
    return run.state_dict()
