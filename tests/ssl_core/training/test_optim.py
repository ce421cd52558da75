"""Which parameters decay, and what the rates are at a step."""

import functools

import pytest
import torch

from ssl_core import methods
from ssl_core.methods import Method
from ssl_core.networks.heads import LayerBatchNorm, LayerLinear
from ssl_core.schema.optim import OptimConfig
from ssl_core.training.optim import build_optimizer, set_rates
from tests.conftest import tiny_config


@pytest.mark.parametrize("framework", ["byol", "simsiam", "dino"])
@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_norms_and_biases_do_not_decay_and_weights_do(name: str, framework: str):
    method = methods.build(tiny_config(framework, distill={"per_layer_norm": True}))
    optimizer = build_optimizer(method, OptimConfig(name=name, epochs=20, weight_decay=0.3))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    trained = {key: p for key, p in method.named_parameters() if p.requires_grad}
    assert decay.keys() == {id(p) for p in trained.values()}, "all that is trained, and no teacher"
    stacked = [m for m in method.modules() if isinstance(m, LayerBatchNorm) and m.weight is not None]
    if framework != "dino":  # its head has no norm
        assert any(m.weight.requires_grad and len(m.weight) > 1 for m in stacked)
    for module in stacked:
        if module.weight.requires_grad:
            assert decay[id(module.weight)] == decay[id(module.bias)] == 0
    biases = [m.bias for m in method.modules() if isinstance(m, LayerLinear) and m.bias is not None]
    assert bool(biases) == (framework != "byol")
    assert all(decay[id(bias)] == 0 for bias in biases if bias.requires_grad)
    for key, parameter in trained.items():
        if parameter.ndim == 1:
            assert decay[id(parameter)] == 0, key
        if ("linears" in key and not key.endswith("bias")) or key.endswith(
            ("qkv.weight", "fc1.weight", "prototypes.weight")
        ):
            assert decay[id(parameter)] == 0.3, key


@functools.cache
def tiny_method(name: str) -> Method:
    return methods.build(tiny_config(name, distill={}))


def rates(config: OptimConfig, step: int, per_epoch: int = 10) -> tuple[dict, torch.optim.Optimizer]:
    optimizer = build_optimizer(tiny_method("byol"), config)
    return set_rates(optimizer, config, step, per_epoch), optimizer


def test_the_learning_rate_is_scaled_by_batch_size_and_set_on_every_group():
    lr = {batch: rates(OptimConfig(lr=0.1, batch_size=batch, warmup_epochs=0), 0)[0]["lr"] for batch in (64, 256, 1024)}
    assert lr[256] == pytest.approx(0.1)
    assert lr[64] == pytest.approx(lr[256] / 4)
    assert lr[1024] == pytest.approx(lr[256] * 4)
    got, optimizer = rates(OptimConfig(lr=0.1, batch_size=512, warmup_epochs=0), 37)
    assert len(optimizer.param_groups) == 2
    assert all(group["lr"] == got["lr"] for group in optimizer.param_groups)


def test_warm_up_rises_to_the_peak_and_the_cosine_falls_to_min_lr():
    config = OptimConfig(lr=0.1, min_lr=0.01, batch_size=256, epochs=10, warmup_epochs=2)
    lr = [rates(config, step)[0]["lr"] for step in range(101)]
    assert lr[0] == 0
    assert lr[19] == lr[20] == max(lr) == pytest.approx(0.1)
    assert lr[:20] == sorted(lr[:20])
    assert lr[20:] == sorted(lr[20:], reverse=True)
    assert lr[100] == pytest.approx(0.01)
    assert lr[60] == pytest.approx(0.055), "halfway down"


def test_weight_decay_follows_a_cosine_where_it_was_above_zero():
    config = OptimConfig(epochs=10, warmup_epochs=0, weight_decay=0.04, weight_decay_end=0.4)
    _, optimizer = rates(config, 0)
    seen = []
    for step in (0, 50, 100):
        set_rates(optimizer, config, step, 10)
        seen.append(sorted(group["weight_decay"] for group in optimizer.param_groups))
    assert seen == [[0, pytest.approx(0.04)], [0, pytest.approx(0.22)], [0, pytest.approx(0.4)]]
    assert rates(OptimConfig(weight_decay=0.1), 500)[0]["weight_decay"] == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_simsiams_predictors_keep_the_peak_rate_from_the_first_step_on(name: str):
    method = tiny_method("simsiam")
    config = OptimConfig(name=name, lr=0.1, batch_size=512, epochs=10, warmup_epochs=2, weight_decay=0.3)
    optimizer = build_optimizer(method, config)
    predictors = {id(p) for heads in method.objectives["simsiam"].all_heads for p in heads.predictor.parameters()}
    constant = [group for group in optimizer.param_groups if group.get("constant_lr")]
    assert {id(p) for group in constant for p in group["params"]} == predictors
    assert sorted(group["weight_decay"] for group in constant) == [0, 0.3]
    everything = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(everything) == sorted(id(p) for p in method.parameters() if p.requires_grad)
    for step, expected in ((0, 0.0), (19, 0.2), (60, 0.1), (100, 0.0)):
        logged = set_rates(optimizer, config, step, 10)["lr"]
        assert logged == pytest.approx(expected)
        for group in optimizer.param_groups:
            assert group["lr"] == (pytest.approx(0.2) if group.get("constant_lr") else logged)


def test_without_constant_predictor_lr_all_rates_decay():
    method = methods.build(tiny_config("simsiam", framework={"constant_predictor_lr": False}))
    for each in (method, tiny_method("byol"), tiny_method("dino")):
        assert each.constant_lr_parameters() == []
        assert len(build_optimizer(each, OptimConfig()).param_groups) == 2
