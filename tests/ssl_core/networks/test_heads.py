"""Stacked heads and synchronised batch norm against torch's own modules."""

import pytest
import torch
from torch import Tensor, nn

from ssl_core.errors import InputError
from ssl_core.networks.batch_norm import SyncBatchNorm, synchronise_batch_norm
from ssl_core.networks.heads import LayerLinear, LayerMLP, PrototypeHead
from tests.gloo import Ranks


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bias_of(linear: nn.Module, layer: int) -> Tensor | None:
    if not isinstance(linear, LayerLinear):
        return linear.layers[layer].bias
    return None if linear.bias is None else linear.bias[layer, 0]


def separate_mlp(mlp: LayerMLP, layer: int) -> nn.Sequential:
    """One layer of a stacked MLP with ReLU, out of torch's own modules."""
    modules: list[nn.Module] = []
    for number, linear in enumerate(mlp.linears):
        weight = linear.weight[layer].T if isinstance(linear, LayerLinear) else linear.layers[layer].weight
        bias = bias_of(linear, layer)
        own = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        own.weight.data.copy_(weight.data)
        if bias is not None:
            own.bias.data.copy_(bias.data)
        modules.append(own)
        if number < len(mlp.norms):
            norm = nn.BatchNorm1d(weight.shape[0])
            norm.weight.data.copy_(mlp.norms[number].weight[layer, 0].data)
            norm.bias.data.copy_(mlp.norms[number].bias[layer, 0].data)
            modules += [norm, nn.ReLU()]
    if mlp.output_norm is not None:
        modules.append(nn.BatchNorm1d(modules[-1].out_features, affine=False))
    return nn.Sequential(*modules)


def make_mlp(widths: list[int], depth: int, output_norm: bool, **biases: bool) -> LayerMLP:
    torch.manual_seed(0)
    mlp = LayerMLP(widths, hidden_dim=10, output_dim=5, depth=depth, output_norm=output_norm, **biases)
    for norm in mlp.norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
    return mlp


@pytest.mark.parametrize("widths", [[6, 6, 6], [4, 6, 9]], ids=["one width", "a width a layer"])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("output_norm", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("biases", [{}, {"output_bias": True}, {"hidden_bias": True, "output_bias": True}])
def test_a_stacked_mlp_equals_separate_ones(
    widths: list[int], depth: int, output_norm: bool, groups: int, biases: dict[str, bool]
):
    mlp = make_mlp(widths, depth, output_norm, **biases)
    assert [bias_of(linear, 0) is not None for linear in mlp.linears] == [
        biases.get("output_bias" if number == depth - 1 else "hidden_bias", False) for number in range(depth)
    ]
    features = [random(8, width, seed=width).requires_grad_() for width in widths]
    got = mlp(features, groups)
    weights = random(*got.shape, seed=9)
    gradients = torch.autograd.grad((got * weights).sum(), features)
    for layer, x in enumerate(features):
        own = separate_mlp(mlp, layer)
        expected = torch.cat([own(part) for part in x.chunk(groups)])
        torch.testing.assert_close(got[layer], expected, rtol=1e-4, atol=1e-5)
        gradient = torch.autograd.grad((expected * weights[layer]).sum(), x)[0]
        torch.testing.assert_close(gradients[layer], gradient, rtol=1e-3, atol=1e-5)


def separate_prototype_head(head: PrototypeHead, layer: int) -> nn.Sequential:
    """One layer of a stacked head as DINO publishes it, with torch's own weight norm of gain 1."""
    own = separate_mlp(head.mlp, layer)
    modules: list[nn.Module] = []
    for module in own:
        if modules and isinstance(module, nn.Linear):
            modules.append(nn.GELU())
        if not isinstance(module, nn.ReLU):
            modules.append(module)
    weight = head.prototypes.weight[layer].T
    last = nn.utils.parametrizations.weight_norm(nn.Linear(weight.shape[1], weight.shape[0], bias=False))
    last.parametrizations.weight.original0.data.fill_(1.0)
    last.parametrizations.weight.original1.data.copy_(weight.data)
    return nn.Sequential(*modules, Normalise(), last)


class Normalise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.norm(dim=1, keepdim=True)


def make_prototype_head(widths: list[int], depth: int, hidden_norm: bool) -> PrototypeHead:
    torch.manual_seed(0)
    return PrototypeHead(widths, 10, 4, 7, depth, hidden_norm)


@pytest.mark.parametrize("widths", [[6, 6, 6], [4, 6, 9]], ids=["one width", "a width a layer"])
@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("hidden_norm", [True, False])
def test_a_stacked_prototype_head_equals_separate_ones(widths: list[int], depth: int, hidden_norm: bool):
    head = make_prototype_head(widths, depth, hidden_norm)
    with torch.no_grad():  # larger than at the start, so that nothing is lost in rounding
        for parameter in head.mlp.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    features = [random(8, width, seed=width).requires_grad_() for width in widths]
    got = head(features, 1)
    assert got.shape == (3, 8, 7)
    weights = random(*got.shape, seed=9)
    *gradients, of_prototypes = torch.autograd.grad((got * weights).sum(), [*features, head.prototypes.weight])
    for layer, x in enumerate(features):
        own = separate_prototype_head(head, layer)
        expected = own(x)
        torch.testing.assert_close(got[layer], expected, rtol=1e-4, atol=1e-5)
        own_weight = own[-1].parametrizations.weight.original1
        gradient, of_own = torch.autograd.grad((expected * weights[layer]).sum(), [x, own_weight])
        torch.testing.assert_close(gradients[layer], gradient, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(of_prototypes[layer], of_own.T, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("widths", [[200, 200], [150, 250]])
def test_a_prototype_head_starts_as_published(widths: list[int]):
    torch.manual_seed(0)
    head = PrototypeHead(widths, 300, 64, 20, 3, hidden_norm=False)
    for name, parameter in head.mlp.named_parameters():
        if name.endswith("bias"):
            assert parameter.abs().max() == 0, name
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05), name


def test_layers_share_nothing():
    mlp = make_mlp([6, 6], 3, output_norm=True)
    mlp(random(2, 8, 6), groups=1)[1].square().mul(random(8, 5)).sum().backward()
    for parameter in mlp.parameters():
        assert parameter.grad[0].abs().max() == 0
        assert parameter.grad[1].abs().max() > 0


def joint_batch(shape: tuple[int, ...]) -> Tensor:
    return random(8, *shape) * 3 + 5


def run_sync_norm(shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Two training steps of a synchronised norm on this rank's half of the batch."""
    rank = torch.distributed.get_rank()
    norm = synchronise_batch_norm(nn.Sequential(make_norm(shape)))[0]
    assert isinstance(norm, SyncBatchNorm)
    x = joint_batch(shape)[4 * rank : 4 * rank + 4].requires_grad_()
    weights = random(8, *shape, seed=3)[4 * rank : 4 * rank + 4]
    norm(x * 0.5)
    y = norm(x)
    (y * weights).sum().backward()
    answer = {"y": y, "grad": x.grad, "weight_grad": norm.weight.grad}
    answer |= {"mean": norm.running_mean, "var": norm.running_var, "seen": norm.num_batches_tracked}
    answer["eval"] = norm.eval()(x)
    return {key: value.detach() for key, value in answer.items()}


def make_norm(shape: tuple[int, ...]) -> nn.Module:
    norm = (nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d)(shape[0])
    nn.init.uniform_(norm.weight, 0.5, 1.5, generator=torch.Generator().manual_seed(1))
    return norm


@pytest.mark.parametrize("shape", [(6,), (4, 3, 3)], ids=["vectors", "maps"])
def test_batch_norm_over_two_ranks_equals_batch_norm_of_the_joint_batch(two_ranks: Ranks, shape: tuple[int, ...]):
    parts = two_ranks(run_sync_norm, shape)
    norm = make_norm(shape)
    x = joint_batch(shape).requires_grad_()
    norm(x * 0.5)
    y = norm(x)
    (y * random(8, *shape, seed=3)).sum().backward()
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(torch.cat([part["y"] for part in parts]), y, **close)
    torch.testing.assert_close(torch.cat([part["grad"] for part in parts]), x.grad, **close)
    torch.testing.assert_close(parts[0]["weight_grad"] + parts[1]["weight_grad"], norm.weight.grad, **close)
    for part in parts:
        torch.testing.assert_close(part["mean"], norm.running_mean, **close)
        torch.testing.assert_close(part["var"], norm.running_var, **close)
        assert part["seen"] == norm.num_batches_tracked == 2
    torch.testing.assert_close(torch.cat([part["eval"] for part in parts]), norm.eval()(x), **close)


def run_stacked_mlp() -> tuple[Tensor, Tensor]:
    rank = torch.distributed.get_rank()
    mlp = make_mlp([6, 6, 6], 3, output_norm=True)
    x = random(3, 8, 6)[:, 4 * rank : 4 * rank + 4].requires_grad_()
    y = mlp(x, groups=1)
    (y * random(3, 8, 5, seed=3)[:, 4 * rank : 4 * rank + 4]).sum().backward()
    return y.detach(), x.grad


def test_stacked_heads_over_two_ranks_equal_heads_on_the_joint_batch(two_ranks: Ranks):
    parts = two_ranks(run_stacked_mlp)
    x = random(3, 8, 6).requires_grad_()
    y = make_mlp([6, 6, 6], 3, output_norm=True)(x, groups=1)
    (y * random(3, 8, 5, seed=3)).sum().backward()
    torch.testing.assert_close(torch.cat([part[0] for part in parts], dim=1), y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat([part[1] for part in parts], dim=1), x.grad, rtol=1e-4, atol=1e-5)


def test_synchronising_keeps_what_is_frozen_frozen_and_the_mode():
    module = nn.Sequential(nn.BatchNorm1d(3).requires_grad_(False), nn.BatchNorm1d(3).eval())
    synchronise_batch_norm(module)
    assert [norm.weight.requires_grad for norm in module] == [False, True]
    assert [norm.training for norm in module] == [True, False]


def test_a_fused_batch_norm_cannot_be_synchronised():
    class Fused(nn.BatchNorm2d):
        pass

    with pytest.raises(InputError, match=r"scaling\.workers.*Fused"):
        synchronise_batch_norm(nn.Sequential(nn.Conv2d(3, 3, 1), Fused(3)))
