"""The two-view method: the plain frameworks, what self-distillation adds, the teacher, the choices, multi-crop."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from ssl_core import methods, schedules
from ssl_core.errors import InputError
from ssl_core.methods import Method
from ssl_core.methods.engine import StepOutput
from ssl_core.methods.hidden import layer_weights, select_layers
from ssl_core.networks.encoder import Encoder
from ssl_core.networks.layers import Want
from ssl_core.objectives.base import Step
from ssl_core.objectives.views import ViewPrediction
from ssl_core.schema.distill import DistillConfig
from ssl_core.schema.run import RunConfig
from ssl_core.training.optim import build_optimizer, set_rates
from tests.conftest import batch_of, pooled, tiny_config

FRAMEWORKS = ["simclr", "byol", "mocov3", "simsiam", "dino"]
LOCAL = {"local_crops": {"count": 3, "size": 8}}
RESNET = {"name": "resnet18", "image_size": 32, "patch_size": None, "kwargs": {}}


def build(config: RunConfig) -> Method:
    torch.manual_seed(0)
    return methods.build(config)


def views(images: int = 6, size: int = 16) -> Tensor:
    return torch.randn(2, images, 3, size, size, generator=torch.Generator().manual_seed(1))


def local_views(count: int = 3, images: int = 6, size: int = 8) -> Tensor:
    return torch.randn(count, images, 3, size, size, generator=torch.Generator().manual_seed(2))


def objective_of(method: Method) -> ViewPrediction:
    (objective,) = method.objectives.values()
    return objective


def teacher_of(method: Method) -> tuple[Encoder, nn.Module]:
    """The teacher's encoder and projector."""
    (projector,) = method.teacher.heads.values()
    return method.teacher.encoder, projector


def run(method: Method, images: Tensor, progress: float, local: Tensor | None = None) -> StepOutput:
    return method(batch_of(images, local), progress)


def gradients(method: Method) -> dict[str, Tensor]:
    return {name: p.grad for name, p in method.named_parameters() if p.grad is not None}


def two_pass_loss(method: Method, images: Tensor, progress: float) -> Tensor:
    """The objective as its equation reads: every predictor runs twice, the second time behind a stop-gradient."""
    framework, distill = objective_of(method), method.distill
    seen = method.look(batch_of(images))[framework.config.name]
    features = [seen.of("student").pooled[layer] for layer in framework.layers]
    with torch.no_grad():
        targets = framework.targets(seen, Step(progress))
    alpha, _ = layer_weights(distill, progress, len(method.hidden_layers), images.device)

    def both_directions(q: Tensor, keys: Tensor) -> Tensor:
        first, second = q.chunk(2, dim=1)
        losses = framework.direction(first, keys[1], keys[0]) + framework.direction(second, keys[0], keys[1])
        return losses if framework.sum_directions else losses / 2

    groups = 1 if framework.joint else 2
    h_last = framework.last.project(features[-1:], groups)
    h_hidden = framework.hidden.project(features[:-1], groups)
    targets = framework.keys(torch.stack(h_last[0].chunk(2)), targets, Step(progress))
    fixed = targets.detach()
    total = both_directions(framework.last.predict(h_last, groups), targets)[0]
    total = total + alpha * both_directions(framework.hidden.predict(h_hidden, groups), fixed).mean()
    if framework.has_predictor:
        total = total + distill.beta * both_directions(framework.last.predict(h_last.detach(), groups), fixed)[0]
        total = total + distill.beta * both_directions(framework.hidden.predict(h_hidden.detach(), groups), fixed).sum()
    return total


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_alpha_and_beta_zero_is_the_plain_framework_bit_for_bit(name: str):
    plain, off = build(tiny_config(name)), build(tiny_config(name, distill={"alpha": 0, "beta": 0}))
    losses = [run(method, views(), 0.5).loss for method in (plain, off)]
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
    loss, expected = run(one, views(), 0.6).loss, two_pass_loss(two, views(), 0.6)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    for key, gradient in gradients(two).items():
        torch.testing.assert_close(gradients(one)[key], gradient, rtol=1e-4, atol=1e-5, msg=key)


def test_at_progress_zero_hidden_layers_train_nothing_but_predictors():
    method = build(tiny_config("byol", distill={"alpha": 1.0, "beta": 1.0}))
    run(method, views(), 0.0).loss.backward()
    assert all(p.grad.abs().max() == 0 for p in objective_of(method).hidden.projector.parameters())
    assert any(p.grad.abs().max() > 0 for p in objective_of(method).hidden.predictor.parameters())


def test_hidden_layers_do_not_move_simclrs_targets():
    method = build(tiny_config("simclr", distill={"alpha": 1.0, "anneal": "none"}))
    with_hidden = run(method, views(), 0.5)
    with_hidden.loss.backward()
    plain = build(tiny_config("simclr"))
    run(plain, views(), 0.5).loss.backward()
    assert with_hidden.parts["loss/hidden"] > 0
    for key, gradient in gradients(plain).items():
        if key.startswith("last."):
            torch.testing.assert_close(gradients(method)[key], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["byol", "mocov3", "dino"])
def test_the_teacher_gets_no_gradient_and_follows_by_the_formula(name: str):
    method = build(tiny_config(name, distill={}, framework={"momentum": 0.9}))
    run(method, views(), 0.25).loss.backward()
    teacher = [p for network in teacher_of(method) for p in network.parameters()]
    student = [*method.student.parameters(), *objective_of(method).last.projector.parameters()]
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


@pytest.mark.parametrize("name", ["simclr", "simsiam"])
def test_some_have_no_teacher(name: str):
    method = build(tiny_config(name))
    assert method.encoder is method.student
    assert method.update_teacher(0.5) is None
    assert method.teacher is None


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
    output = run(build(tiny_config("byol", distill={"layers": [3], "beta": 1.0})), views(), 0.5)
    assert "loss/hidden" not in output.parts
    torch.testing.assert_close(output.loss, 2 * output.parts["loss/last"])


def layers_of(method: Method, images: Tensor) -> list[Tensor]:
    """What is evaluated: the features of each of a tiny network's layers."""
    return list(method.features(images, Want(pooled=(1, 2, 3))).pooled.values())


@pytest.mark.parametrize("name", ["simclr", "byol", "mocov3", "simsiam"])
def test_per_layer_norm_gives_each_hidden_layer_its_own(name: str):
    shared = build(tiny_config(name, distill={}))
    own = build(tiny_config(name, distill={"per_layer_norm": True}))
    torch.testing.assert_close(run(own, views(), 0.5).loss, run(shared, views(), 0.5).loss)  # copies, to begin with
    with torch.no_grad():
        own.norms["1"].weight.mul_(2.0)
    before, after = layers_of(shared, views()[0]), layers_of(own, views()[0])
    changed = [not torch.allclose(a, b) for a, b in zip(before, after, strict=True)]
    assert changed == [True, False, False]
    run(own, views(), 0.5).loss.backward()
    assert all(norm.weight.grad.abs().max() > 0 for norm in own.norms.values())


@pytest.mark.parametrize("layers", [0, 2, 3])
def test_projector_layers_of_the_hidden_heads(layers: int):
    method = build(tiny_config("byol", distill={"projector_layers": layers}))
    assert len(objective_of(method).hidden.projector.linears if layers else []) == layers
    assert len(objective_of(method).last.projector.linears) == 3
    loss = run(method, views(), 0.5).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert objective_of(method).hidden.predictor.linears[0].weight.grad.abs().max() > 0


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_resnet_distills_its_stages(name: str):
    method = build(tiny_config(name, backbone=RESNET, distill={"anneal": "none"}))
    assert objective_of(method).layers == [1, 2, 3, 4]
    output = run(method, views(size=32), 0.5)
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in method.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("framework", "distill", "backbone", "key"),
    [
        ("simclr", {"projector_layers": 0}, {}, "distill.projector_layers"),
        ("dino", {"projector_layers": 0}, {}, "distill.projector_layers"),
        ("byol", {"projector_layers": 0}, RESNET, "distill.projector_layers"),
        ("byol", {"per_layer_norm": True}, RESNET, "distill.per_layer_norm"),
    ],
)
def test_what_cannot_work_names_its_key(framework: str, distill: dict, backbone: dict, key: str):
    with pytest.raises(InputError, match=key.replace(".", r"\.")):
        build(tiny_config(framework, distill=distill, backbone=backbone))


# Multi-crop


def each_view(method: Method, network, views: list[list[Tensor]]) -> list[list[Tensor]]:
    """`network` (tensors of L layers → tensors of L layers) on each view, or on the rows of all at once if they share
    a batch. `views[v][l]`: (B, …)."""
    if not objective_of(method).joint:
        return [list(network(view)) for view in views]
    together = network([torch.cat(layer) for layer in zip(*views, strict=True)])
    return list(zip(*(layer.chunk(len(views)) for layer in together), strict=True))


def naive_multi_crop_loss(method: Method, images: Tensor, local: Tensor, progress: float) -> Tensor:
    """Every view and every direction by itself, last layer and hidden ones; without the predictors' own term."""
    framework = objective_of(method)
    features = []
    for of_one_size in (images, local):
        features += each_view(
            method, lambda x: pooled(method.student, x[0], framework.layers), [[view] for view in of_one_size]
        )
    last = each_view(method, lambda x: framework.last.projector(x, 1), [view[-1:] for view in features])
    hidden = each_view(method, lambda x: framework.hidden.projector(x, 1), [view[:-1] for view in features])

    projections, targets = torch.stack([last[0][0], last[1][0]]), None
    if framework.teacher:
        teacher, projector = teacher_of(method)
        with torch.no_grad():
            taught = each_view(method, lambda x: pooled(teacher, x[0], [teacher.depth]), [[v] for v in images])
            targets = torch.stack([z[0] for z in each_view(method, lambda x: projector(x, 1), taught)])
    targets = framework.keys(projections, targets, Step(progress))
    if framework.has_predictor:
        last = each_view(method, lambda x: framework.last.predictor(torch.stack(list(x)), 1), last)
        hidden = each_view(method, lambda x: framework.hidden.predictor(torch.stack(list(x)), 1), hidden)

    total = torch.zeros(())
    alpha, _ = layer_weights(method.distill, progress, len(method.hidden_layers), images.device)
    for predictions, weight, keys in ((last, 1.0, targets), (hidden, alpha, targets.detach())):
        directions = []
        for view in range(2 + len(local)):
            for target in (0, 1):
                if view != target:
                    q = torch.stack(list(predictions[view]))
                    directions.append(framework.direction(q, keys[target], keys[1 - target]).mean())
        assert len(directions) == 2 + 2 * len(local)
        total = total + weight * torch.stack(directions).mean() * (2 if framework.sum_directions else 1)
    return total


@pytest.mark.parametrize("backbone", [{}, RESNET], ids=["vit", "resnet"])
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_local_crops_predict_both_targets(name: str, backbone: dict):
    config = tiny_config(name, backbone=backbone, views=LOCAL, distill={"beta": 0.0})
    images, local = views(size=config.backbone.image_size), local_views(size=16 if backbone else 8)
    product, naive = build(config), build(config)
    loss = run(product, images, 0.6, local).loss
    expected = naive_multi_crop_loss(naive, images, local, 0.6)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    got, wanted = gradients(product), gradients(naive)
    assert wanted.keys() == got.keys()
    for key, gradient in wanted.items():
        atol = (1e-4 if backbone else 1e-5) * max(1.0, gradient.abs().max().item())
        torch.testing.assert_close(got[key], gradient, rtol=0, atol=atol, msg=key)


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_method_ready_for_local_crops_does_the_same_without_them(name: str):
    images = views()
    ready, plain = build(tiny_config(name, views=LOCAL)), build(tiny_config(name))
    torch.testing.assert_close(run(ready, images, 0.5).loss, run(plain, images, 0.5).loss)
    for x, y in zip(layers_of(ready, images[0]), layers_of(plain, images[0]), strict=True):
        torch.testing.assert_close(x, y)


def test_the_teacher_sees_no_local_crop():
    method = build(tiny_config("dino", views=LOCAL))
    seen = []
    method.teacher.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    run(method, views(), 0.5, local_views())
    assert seen == [(12, 3, 16, 16)]


def test_simclrs_local_crops_have_no_view_of_their_own_image_among_the_negatives():
    method = build(tiny_config("simclr"))
    q, target, other = (torch.randn(6, 16, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    other.requires_grad_()
    objective_of(method).direction(q[None, :1], target, other).sum().backward()
    assert other.grad[0].abs().max() == 0
    assert (other.grad[1:].abs().amax(dim=1) > 0).all()


@pytest.mark.parametrize(
    ("backbone", "text"),
    [
        ({}, r"views\.local_crops\.size: 12 .*patch size 8"),
        ({"name": "beit_base_patch16_224", "kwargs": {"depth": 1}}, r"views\.local_crops: beit"),
    ],
)
def test_local_crops_that_a_backbone_cannot_take_name_their_key(backbone: dict, text: str):
    with pytest.raises(InputError, match=text):
        build(tiny_config("byol", backbone=backbone, views={"local_crops": {"count": 2, "size": 12}}))


# SimSiam


def test_simsiams_loss_and_gradients_equal_a_loop_over_images():
    product, naive = build(tiny_config("simsiam")), build(tiny_config("simsiam"))
    loss = run(product, views(), 0.5).loss
    z = [objective_of(naive).last.projector(pooled(naive.student, view, [3]), 1) for view in views()]
    p = [objective_of(naive).last.predictor(x, 1)[0] for x in z]
    z = [x[0].detach() for x in z]
    cosines = []
    for i in range(6):
        for a, b in ((p[0][i], z[1][i]), (p[1][i], z[0][i])):
            cosines.append(a @ b / (a.norm() * b.norm()))
    expected = -sum(cosines) / len(cosines)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for key, gradient in gradients(naive).items():
        torch.testing.assert_close(gradients(product)[key], gradient, rtol=1e-4, atol=1e-6, msg=key)


def test_simsiams_heads_are_the_published_ones():
    method = build(tiny_config("simsiam", framework={"bottleneck_dim": 8, "projector_layers": 2}, distill={}))
    for heads, layers in ((objective_of(method).last, 1), (objective_of(method).hidden, 2)):
        assert [tuple(x.weight.shape) for x in heads.predictor.linears] == [(layers, 16, 8), (layers, 8, 16)]
        assert [x.bias is None for x in heads.predictor.linears] == [True, False]
        assert heads.predictor.output_norm is None
        assert heads.projector.output_norm.weight is None
    assert len(objective_of(method).last.projector.linears) == 2


# DINO

DINO = {
    "output_dim": 12,
    "bottleneck_dim": 6,
    "teacher_temperature": 0.07,
    "warmup_teacher_temperature": 0.04,
    "warmup_teacher_epochs": 3,
}


def dino_config(**sections) -> RunConfig:
    return tiny_config("dino", framework=DINO, **{"optim": {"epochs": 5}} | sections)


def test_dinos_loss_gradients_and_centre_equal_a_loop_over_images():
    product, naive = build(dino_config(distill={})), build(dino_config(distill={}))
    with torch.no_grad():
        for method in (product, naive):
            objective_of(method).center.copy_(torch.linspace(-0.2, 0.3, 12))
            for parameter in method.teacher.encoder.parameters():
                parameter.mul_(1.1)
    center = objective_of(naive).center.clone()
    loss = run(product, views(), 0.2).loss  # epoch 1 of 5: halfway through the warm-up from 0.04 to 0.07

    encoder, projector = teacher_of(naive)
    with torch.no_grad():
        teacher = [projector(pooled(encoder, view, [3]), 1)[0] for view in views()]
    student = [pooled(naive.student, view, [1, 2, 3]) for view in views()]
    last = [objective_of(naive).last.projector(x[-1:], 1)[0] for x in student]
    hidden = [objective_of(naive).hidden.projector(x[:-1], 1) for x in student]

    def mean_cross_entropy(logits: list[Tensor]) -> Tensor:
        rows = []
        for q, t in ((logits[0], teacher[1]), (logits[1], teacher[0])):
            for i in range(6):
                target = torch.softmax((t[i] - center) / 0.055, dim=0)
                rows.append(-(target * torch.log_softmax(q[i] / 0.1, dim=0)).sum())
        return sum(rows) / len(rows)

    alpha = schedules.cosine(0.2, 0.0, 1.0)
    of_hidden = [mean_cross_entropy([view[layer] for view in hidden]) for layer in (0, 1)]
    expected = mean_cross_entropy(last) + alpha * sum(of_hidden) / 2
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    loss.backward()
    expected.backward()
    for key, gradient in gradients(naive).items():
        torch.testing.assert_close(gradients(product)[key], gradient, rtol=1e-4, atol=1e-5, msg=key)

    moved = 0.9 * center + 0.1 * torch.cat(teacher).mean(dim=0)
    torch.testing.assert_close(objective_of(product).center, moved)
    assert (objective_of(product).center - center).abs().max() > 1e-4
    assert "objectives.dino.center" in product.state_dict()


def test_the_centre_stays_where_nothing_is_trained():
    method = build(dino_config()).eval()
    run(method, views(), 0.5)
    assert torch.equal(objective_of(method).center, torch.zeros(12))


@pytest.mark.parametrize(("warmup", "epochs", "steps"), [(0, 4, 7), (1, 3, 9), (3, 10, 49), (30, 300, 97)])
def test_dinos_teacher_temperature_is_the_published_schedule(warmup: int, epochs: int, steps: int):
    config = tiny_config("dino", framework=DINO | {"warmup_teacher_epochs": warmup}, optim={"epochs": epochs})
    framework = objective_of(build(config))
    published = np.concatenate([np.linspace(0.04, 0.07, warmup), np.full(epochs - warmup, 0.07)])
    total = epochs * steps
    got = [framework.teacher_temperature(step / total) for step in range(total)]
    np.testing.assert_allclose(got, np.repeat(published, steps), rtol=1e-12)


@pytest.mark.parametrize("steps", [1, 3, 7, 1251, 99_991])
def test_the_first_step_of_an_epoch_belongs_to_it(steps: int):
    epochs = 300
    for epoch in range(epochs):
        first = epoch * steps
        assert schedules.epoch_at(first / (epochs * steps), epochs) == epoch
        assert schedules.epoch_at((first + steps - 1) / (epochs * steps), epochs) == epoch


def test_dinos_prototypes_stay_as_they_are_in_the_first_epoch():
    config = dino_config(distill={"anneal": "none"})
    method = build(config)
    optimizer = build_optimizer(method, config.optim)
    prototypes = [
        objective_of(method).last.projector.prototypes.weight,
        objective_of(method).hidden.projector.prototypes.weight,
    ]
    others = [
        objective_of(method).last.projector.mlp.linears[-1].weight,
        objective_of(method).hidden.projector.mlp.linears[-1].weight,
    ]
    for step in range(4):  # two steps an epoch
        before = [p.detach().clone() for p in prototypes + others]
        set_rates(optimizer, config.optim, step, 2)
        run(method, views(), step / 10).loss.backward()
        assert all(p.grad.abs().max() > 0 for p in prototypes), "they take part in the backward pass"
        method.drop_frozen_gradients(step / 10)
        optimizer.step()
        optimizer.zero_grad()
        same = [torch.equal(p, old) for p, old in zip(prototypes + others, before, strict=True)]
        assert same == [step < 2, step < 2, False, False]


@pytest.mark.parametrize("name", FRAMEWORKS[:-1])
def test_other_frameworks_freeze_nothing(name: str):
    method = build(tiny_config(name))
    run(method, views(), 0.0).loss.backward()
    before = gradients(method).keys()
    method.drop_frozen_gradients(0.0)
    assert gradients(method).keys() == before


def test_dinos_encoder_is_the_teacher():
    method = build(dino_config(distill={"per_layer_norm": True}))
    assert method.encoder is method.teacher.encoder
    with torch.no_grad():
        method.norms["1"].weight.mul_(2.0)
        method.student.inside.final_norm.weight.mul_(3.0)
        method.encoder.inside.final_norm.weight.mul_(0.5)
    for x, y in zip(layers_of(method, views()[0]), pooled(method.encoder, views()[0], [1, 2, 3]), strict=True):
        assert torch.equal(x, y)


def test_nothing_in_a_teacher_is_dropped_even_after_it_was_evaluated():
    kwargs = {"embed_dim": 32, "depth": 3, "num_heads": 2, "drop_path_rate": 0.5}
    method = build(dino_config(backbone={"kwargs": kwargs}))
    method.encoder.eval()
    method.encoder.train()
    outputs = [method.look(batch_of(views()))["dino"].of("teacher").pooled[3] for _ in range(3)]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("backbone", [{}, RESNET], ids=["vit", "resnet"])
def test_dinos_head_may_have_batch_norm(backbone: dict):
    config = tiny_config("dino", framework=DINO | {"head_norm": True}, backbone=backbone, distill={"anneal": "none"})
    method = build(config)
    assert (
        len(objective_of(method).last.projector.mlp.norms) == len(objective_of(method).hidden.projector.mlp.norms) == 2
    )
    loss = run(method, views(size=config.backbone.image_size), 0.5).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)


# What stands for an image in the neighbour search


def searched(name: str, **cache) -> Method:
    return build(tiny_config(name, distill={}, positives={"kind": "adasim", "cache": cache}))


NAMES_AND_FEATURES = [(name, feature) for name in FRAMEWORKS for feature in ("backbone", "projector")]
NAMES_AND_FEATURES.remove(("dino", "projector"))  # refused: a distribution over prototypes is no feature


@pytest.mark.parametrize(("name", "feature"), NAMES_AND_FEATURES)
@pytest.mark.parametrize("source", ["teacher", "student"])
@pytest.mark.parametrize("view", ["first", "mean"])
def test_index_features(name: str, source: str, feature: str, view: str):
    method = searched(name, source=source, feature=feature, view=view)
    teacher = objective_of(method).teacher and source == "teacher"
    if objective_of(method).teacher:
        with torch.no_grad():  # not the student's twin
            for p in method.teacher.parameters():
                p.mul_(1.2)
    backbone, projector = method.student, objective_of(method).last.projector
    if teacher:
        backbone, projector = teacher_of(method)
    with torch.no_grad():
        expected = pooled(backbone, views().flatten(0, 1), [3])[0]
        if feature == "projector":
            expected = projector([expected], 1 if objective_of(method).joint else 2)[0]
        first, second = expected.chunk(2)
        if view == "mean":
            first = (F.normalize(first, dim=1) + F.normalize(second, dim=1)) / 2
    got = run(method, views(), 0.5).index_features
    assert got.dtype == torch.float32
    assert not got.requires_grad
    assert got.shape == (6, method.index_dim)
    torch.testing.assert_close(got, first, rtol=1e-4, atol=1e-5)


def test_prototypes_are_refused_as_index_features():
    with pytest.raises(ValidationError, match="dino has no projections that can stand"):
        searched("dino", feature="projector")


def test_index_features_are_of_the_global_views_and_float32_under_autocast():
    config = tiny_config("simsiam", views=LOCAL, positives={"kind": "nearest", "cache": {"feature": "projector"}})
    method = build(config)
    alone = run(method, views(), 0.5).index_features
    assert torch.equal(run(method, views(), 0.5, local_views()).index_features, alone)
    with torch.autocast("cpu", torch.bfloat16):
        assert run(method, views(), 0.5).index_features.dtype == torch.float32


@pytest.mark.parametrize("kind", ["augment", "labels"])
def test_without_a_search_there_are_no_index_features(kind: str):
    assert run(build(tiny_config("byol", positives={"kind": kind})), views(), 0.5).index_features is None
