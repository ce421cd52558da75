"""The losses against loops that take one row at a time."""

import math

import pytest
import torch
from torch import Tensor

from ssl_core.objectives.losses import cosine_distance, info_nce, negative_cosine, soft_cross_entropy

TEMPERATURE = 0.3


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine(a: Tensor, b: Tensor) -> float:
    return (a @ b / (a.norm() * b.norm())).item()


def naive_info_nce(q: Tensor, other: Tensor, first_row: int, same: Tensor | None) -> list[float]:
    losses = []
    for layer in q:
        rows = []
        for i, row in enumerate(layer):
            own = first_row + i
            keys = list(other)
            if same is not None:
                keys += [key for j, key in enumerate(same) if j != own]
            scores = [math.exp(cosine(row, key) / TEMPERATURE) for key in keys]
            rows.append(-math.log(scores[own] / sum(scores)))
        losses.append(sum(rows) / len(rows))
    return losses


@pytest.mark.parametrize("with_same", [False, True], ids=["mocov3", "simclr"])
@pytest.mark.parametrize("first_row", [0, 3])
def test_info_nce_equals_a_loop_over_rows(with_same: bool, first_row: int):
    q, other = random(2, 4, 6), random(9, 6, seed=1)
    same = random(9, 6, seed=2) if with_same else None
    got = info_nce(q, other, first_row, TEMPERATURE, same)
    torch.testing.assert_close(got, torch.tensor(naive_info_nce(q, other, first_row, same)), rtol=1e-5, atol=1e-5)


def test_a_rows_own_key_of_the_same_view_plays_no_part():
    q, other, same = random(1, 4, 6), random(4, 6, seed=1), random(4, 6, seed=2).requires_grad_()
    q_of_one_row = q.clone()
    info_nce(q_of_one_row[:, :1], other, 0, TEMPERATURE, same)[0].backward()
    assert torch.equal(same.grad[0], torch.zeros(6))
    assert (same.grad[1:].abs().sum(dim=1) > 0).all()


def test_cosine_distance_equals_a_loop_over_rows():
    q, z = random(3, 5, 6), random(5, 6, seed=1)
    expected = [sum(2 - 2 * cosine(a, b) for a, b in zip(layer, z, strict=True)) / len(z) for layer in q]
    torch.testing.assert_close(cosine_distance(q, z), torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_negative_cosine_equals_a_loop_over_rows():
    q, z = random(3, 5, 6), random(5, 6, seed=1)
    expected = [-sum(cosine(a, b) for a, b in zip(layer, z, strict=True)) / len(z) for layer in q]
    torch.testing.assert_close(negative_cosine(q, z), torch.tensor(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_soft_cross_entropy_equals_a_loop_over_rows(scale: float):
    logits, targets = scale * random(3, 5, 6), torch.softmax(random(5, 6, seed=1), dim=1)
    expected = []
    for layer in logits.double():
        rows = []
        for row, target in zip(layer, targets, strict=True):
            log_sum = row.max() + (row - row.max()).exp().sum().log()
            rows.append(-sum(p * (x - log_sum) for p, x in zip(target, row, strict=True)))
        expected.append(sum(rows) / len(rows))
    torch.testing.assert_close(soft_cross_entropy(logits, targets), torch.stack(expected).float())


def test_the_gradient_of_soft_cross_entropy_is_the_difference_of_the_distributions():
    logits, targets = random(2, 5, 6).requires_grad_(), torch.softmax(random(5, 6, seed=1), dim=1)
    soft_cross_entropy(logits, targets).sum().backward()
    torch.testing.assert_close(logits.grad, (torch.softmax(logits.detach(), dim=-1) - targets) / 5)


def test_lengths_of_the_vectors_do_not_matter():
    q, other, same = random(2, 4, 6), random(4, 6, seed=1), random(4, 6, seed=2)
    torch.testing.assert_close(
        info_nce(3 * q, 0.2 * other, 0, TEMPERATURE, 7 * same), info_nce(q, other, 0, TEMPERATURE, same)
    )
    torch.testing.assert_close(cosine_distance(3 * q, 0.2 * other), cosine_distance(q, other))
    torch.testing.assert_close(negative_cosine(3 * q, 0.2 * other), negative_cosine(q, other))


@pytest.mark.parametrize("same", [False, True])
def test_losses_are_computed_in_float32_inside_autocast(same: bool):
    q, other = random(2, 4, 6).bfloat16(), random(4, 6, seed=1).bfloat16()
    targets = torch.softmax(other.float(), dim=1)
    negatives = {"same_MD": random(4, 6, seed=2)} if same else {}
    losses = {
        "info_nce": lambda q, x: info_nce(q, x, 0, 0.1, **negatives),
        "cosine": cosine_distance,
        "negative cosine": negative_cosine,
        "cross-entropy": lambda q, x: soft_cross_entropy(q, targets),
    }
    for name, loss in losses.items():
        exact = loss(q.float(), other.float())
        with torch.autocast("cpu", torch.bfloat16):
            found = loss(q, other)
        assert found.dtype == torch.float32
        assert torch.equal(found, exact), name
