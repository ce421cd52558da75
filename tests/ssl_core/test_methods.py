"""The two-view method: the plain frameworks, what self-distillation adds, the teacher, the choices."""

import pytest
import torch
from torch import Tensor

from ssl_core import methods
from ssl_core.config import DistillConfig, RunConfig
from ssl_core.errors import InputError
from ssl_core.methods.hidden import layer_weights, select_layers
from ssl_core.methods.two_view import TwoView
from tests.conftest import tiny_config

FRAMEWORKS = ["simclr", "byol", "mocov3"]
RESNET = {"name": "resnet18", "image_size": 32, "patch_size": None, "kwargs": {}}


def build(config: RunConfig) -> TwoView:
    torch.manual_seed(0)
    return methods.build(config)


def views(images: int = 6, size: int = 16) -> Tensor:
    return torch.randn(2, images, 3, size, size, generator=torch.Generator().manual_seed(1))


def gradients(method: TwoView) -> dict[str, Tensor]:
    return {name: p.grad for name, p in method.named_parameters() if p.grad is not None}


def two_pass_loss(method: TwoView, images: Tensor, progress: float) -> Tensor:
    """The objective as its equation reads: every predictor runs twice, the second time behind a stop-gradient."""
    framework, distill = method.framework, method.distill
    features = method._features(method.backbone, images, method.layers)
    targets = method._targets(images) if framework.ema_teacher else None
    alpha, _ = layer_weights(distill, progress, len(method.hidden_layers), images.device)

    def both_directions(q: Tensor, keys: Tensor) -> Tensor:
        first, second = q.chunk(2, dim=1)
        losses = framework.loss(first, keys[1], keys[0], 0) + framework.loss(second, keys[0], keys[1], 0)
        return losses if framework.sum_directions else losses / 2

    groups = 1 if framework.joint_views else 2
    h_last = method.last.project(features[-1:], groups)
    h_hidden = method.hidden.project(features[:-1], groups)
    if targets is None:
        targets = torch.stack(h_last[0].chunk(2))
    fixed = targets.detach()
    total = both_directions(method.last.predict(h_last, groups), targets)[0]
    total = total + alpha * both_directions(method.hidden.predict(h_hidden, groups), fixed).mean()
    if framework.predictor:
        total = total + distill.beta * both_directions(method.last.predict(h_last.detach(), groups), fixed)[0]
        total = total + distill.beta * both_directions(method.hidden.predict(h_hidden.detach(), groups), fixed).sum()
    return total


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_alpha_and_beta_zero_is_the_plain_framework_bit_for_bit(name: str):
    plain, off = build(tiny_config(name)), build(tiny_config(name, distill={"alpha": 0, "beta": 0}))
    losses = [method(views(), 0.5).loss for method in (plain, off)]
    for loss in losses:
        loss.backward()
    assert torch.equal(*losses)
    expected, got = gradients(plain), gradients(off)
    assert expected
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[key], got[key]) for key in expected)


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_distillation_starts_from_the_weights_of_the_plain_run(name: str):
    plain, distilled = build(tiny_config(name)).state_dict(), build(tiny_config(name, distill={})).state_dict()
    assert len(distilled) > len(plain)
    assert all(torch.equal(plain[key], distilled[key]) for key in plain)


@pytest.mark.parametrize("name", FRAMEWORKS)
@pytest.mark.parametrize("weights", [{"alpha": 0.8, "beta": 1.0}, {"alpha": 1.0, "beta": 0.3}, {"alpha": 1, "beta": 0}])
def test_one_predictor_pass_equals_two(name: str, weights: dict):
    config = tiny_config(name, distill=weights)
    one, two = build(config), build(config)
    loss, expected = one(views(), 0.6).loss, two_pass_loss(two, views(), 0.6)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    for key, gradient in gradients(two).items():
        torch.testing.assert_close(gradients(one)[key], gradient, rtol=1e-4, atol=1e-5, msg=key)


def test_at_progress_zero_hidden_layers_train_nothing_but_predictors():
    method = build(tiny_config("byol", distill={"alpha": 1.0, "beta": 1.0}))
    method(views(), 0.0).loss.backward()
    assert all(p.grad.abs().max() == 0 for p in method.hidden.projector.parameters())
    assert any(p.grad.abs().max() > 0 for p in method.hidden.predictor.parameters())


def test_hidden_layers_do_not_move_simclrs_targets():
    method = build(tiny_config("simclr", distill={"alpha": 1.0, "anneal": "none"}))
    with_hidden = method(views(), 0.5)
    with_hidden.loss.backward()
    plain = build(tiny_config("simclr"))
    plain(views(), 0.5).loss.backward()
    assert with_hidden.parts["loss/hidden"] > 0
    for key, gradient in gradients(plain).items():
        if key.startswith("last."):
            torch.testing.assert_close(gradients(method)[key], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["byol", "mocov3"])
def test_the_teacher_gets_no_gradient_and_follows_by_the_formula(name: str):
    method = build(tiny_config(name, distill={}, framework={"momentum": 0.9}))
    method(views(), 0.25).loss.backward()
    teacher = [*method.teacher.parameters(), *method.teacher_projector.parameters()]
    student = [*method.backbone.parameters(), *method.last.projector.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in teacher)
    with torch.no_grad():
        for parameter in student:
            parameter.add_(1.0)
    before = [p.clone() for p in teacher]
    momentum = method.update_teacher(0.5)
    assert 0.9 < momentum < 1.0
    for old, new, target in zip(before, teacher, student, strict=True):
        torch.testing.assert_close(new, momentum * old + (1 - momentum) * target)
    assert method.update_teacher(0.0) == pytest.approx(0.9)
    assert method.update_teacher(1.0) == pytest.approx(1.0)


def test_simclr_has_no_teacher():
    method = build(tiny_config("simclr"))
    assert method.update_teacher(0.5) is None
    assert not hasattr(method, "teacher")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("all", [1, 2, 3, 4, 5, 6, 7]),
        ({"every": 1}, [1, 2, 3, 4, 5, 6, 7]),
        ({"every": 3}, [2, 5]),
        ("every: 4", [4]),
        ({"every": 8}, []),
        ([6, 1, 1, 8], [1, 6]),
        ([8], []),
    ],
)
def test_layer_choices_count_back_from_the_last(choice: object, expected: list[int]):
    assert select_layers(DistillConfig(layers=choice).layers, depth=8) == expected


def test_a_layer_that_the_backbone_lacks_is_named():
    with pytest.raises(InputError, match=r"distill\.layers.*9.*1 to 3"):
        build(tiny_config("byol", distill={"layers": [1, 9]}))


def test_without_hidden_layers_only_the_last_predictors_own_term_is_left():
    output = build(tiny_config("byol", distill={"layers": [3], "beta": 1.0}))(views(), 0.5)
    assert "loss/hidden" not in output.parts
    torch.testing.assert_close(output.loss, 2 * output.parts["loss/last"])


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_per_layer_norm_gives_each_hidden_layer_its_own(name: str):
    shared = build(tiny_config(name, distill={}))
    own = build(tiny_config(name, distill={"per_layer_norm": True}))
    torch.testing.assert_close(own(views(), 0.5).loss, shared(views(), 0.5).loss)  # copies, to begin with
    with torch.no_grad():
        own.norms[0].weight.mul_(2.0)
    before, after = shared.layer_features(views()[0]), own.layer_features(views()[0])
    changed = [not torch.allclose(a, b) for a, b in zip(before, after, strict=True)]
    assert changed == [True, False, False]
    own(views(), 0.5).loss.backward()
    assert all(norm.weight.grad.abs().max() > 0 for norm in own.norms)


@pytest.mark.parametrize("layers", [0, 2, 3])
def test_projector_layers_of_the_hidden_heads(layers: int):
    method = build(tiny_config("byol", distill={"projector_layers": layers}))
    assert len(method.hidden.projector.linears if layers else []) == layers
    assert len(method.last.projector.linears) == 3
    loss = method(views(), 0.5).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert method.hidden.predictor.linears[0].weight.grad.abs().max() > 0


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_resnet_distills_its_stages(name: str):
    method = build(tiny_config(name, backbone=RESNET, distill={"anneal": "none"}))
    assert method.layers == [1, 2, 3, 4]
    output = method(views(size=32), 0.5)
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in method.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("framework", "distill", "backbone", "key"),
    [
        ("simclr", {"projector_layers": 0}, {}, "distill.projector_layers"),
        ("byol", {"projector_layers": 0}, RESNET, "distill.projector_layers"),
        ("byol", {"per_layer_norm": True}, RESNET, "distill.per_layer_norm"),
    ],
)
def test_what_cannot_work_names_its_key(framework: str, distill: dict, backbone: dict, key: str):
    with pytest.raises(InputError, match=key.replace(".", r"\.")):
        build(tiny_config(framework, distill=distill, backbone=backbone))
