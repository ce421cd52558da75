import math

import numpy as np
import pytest

from ssl_core.positives.neighbors import window as module
from ssl_core.positives.neighbors.window import Window, sum_by_id


def random_window(
    images: int, size: int, top_k: int, support: str, seed: int, start: int = 0, pushed: int | None = None
):
    """Lists of few ids and few similarities, so that ids come again and sums are often equal; some are short."""
    generator = np.random.default_rng(seed)
    window = Window(range(start, start + images), size, top_k, support)
    pool = max(4, 2 * top_k)
    for _ in range(size if pushed is None else pushed):
        ids = np.argsort(generator.random((images, pool)), axis=1)[:, :top_k].astype(np.int32)
        ids = np.where(ids == 0, np.arange(start, start + images)[:, None], ids + 10_000).astype(np.int32)
        similarities = -np.sort(-generator.integers(-2, 9, ids.shape) / 8, axis=1).astype(np.float32)
        similarities += np.float32(0.5) * (ids < 10_000)
        absent = np.arange(top_k) >= generator.integers(top_k // 2, top_k + 1, (images, 1))
        window.push(np.where(absent, np.int32(-1), ids), np.where(absent, np.float32(0), similarities))
    return window


def naive(window: Window, row: int, tau: float) -> tuple[list[int], list[float], bool]:
    """AdaSim's Eq. 9 to 11 and Algorithm 1 for one image, as the published code goes about it: a dictionary."""
    sums: dict[int, float] = {}
    for ids, similarities in window.epochs:
        for j, similarity in zip(ids[row].tolist(), similarities[row].tolist(), strict=True):
            if j >= 0:
                sums[j] = sums.get(j, 0.0) + similarity
    order = sorted(sums, key=lambda j: (-sums[j], j))
    gate = bool(order) and order[0] == window.rows[row] and len(window.epochs) == window.size
    if window.support == "topk":
        order = order[: window.top_k]
    if tau == 0:
        return order, [float(j == order[0]) for j in order], gate
    weights = [math.exp(sums[j] / window.size / tau) for j in order]
    return order, [weight / sum(weights) for weight in weights], gate


CASES = pytest.mark.parametrize(
    ("size", "top_k", "support"),
    [(1, 1, "topk"), (3, 4, "topk"), (3, 4, "union"), (10, 3, "topk"), (10, 3, "union"), (4, 20, "topk")],
)


@CASES
@pytest.mark.parametrize("tau", [0.05, 0.2, 5.0, 0.0])
def test_distribution_is_that_of_a_dictionary(size: int, top_k: int, support: str, tau: float):
    window = random_window(150, size, top_k, support, seed=size, start=30)
    assert compare(window, tau) == {True, False}
    if size > 1:
        assert compare(random_window(50, size, top_k, support, seed=size, pushed=size - 1), tau) == {False}


def compare(window: Window, tau: float) -> set[bool]:
    """All images' distributions with the naive ones; the gates that there were."""
    ids, probabilities, gate = window.distribution(np.array(window.rows), tau)
    assert ids.dtype == np.int32
    gates = set()
    for row, image in enumerate(window.rows):
        expected_ids, expected, expected_gate = naive(window, row, tau)
        there = len(expected_ids)
        assert ids[row, :there].tolist() == expected_ids
        assert (ids[row, there:] == -1).all()
        np.testing.assert_allclose(probabilities[row, :there], expected, rtol=1e-12)
        assert (probabilities[row, there:] == 0).all()
        assert gate[row] == expected_gate
        gates.add(expected_gate)
        few = window.distribution([image], tau)
        assert few[0][0, :there].tolist() == expected_ids
        assert few[2].tolist() == [expected_gate]
    return gates


def test_sums_do_not_depend_on_neighbouring_rows():
    window = random_window(64, 5, 4, "topk", seed=0)
    ids, sums = sum_by_id(list(window.epochs))
    for row in range(64):
        few_ids, few = sum_by_id([(i[row : row + 1], s[row : row + 1]) for i, s in window.epochs])
        assert ids[row][: few.shape[1]].tolist() == few_ids[0].tolist()
        assert sums[row][: few.shape[1]].tolist() == few[0].tolist()


@CASES
def test_draws_are_as_frequent_as_probable(size: int, top_k: int, support: str, monkeypatch: pytest.MonkeyPatch):
    window = random_window(60, size, top_k, support, seed=1)
    monkeypatch.setattr(module, "BLOCK", 7 * size * top_k)  # several blocks, the last one shorter
    count, tau = 500, 0.3
    chances = (np.arange(count)[:, None] + np.random.default_rng(0).random(60)) / count  # evenly over [0, 1)
    draws = [window.draw(tau, chance) for chance in chances]
    partners = np.stack([draw.partners for draw in draws])
    assert partners.dtype == np.int32
    ids, probabilities, gate = window.distribution(np.arange(60), tau)
    assert gate.any()
    for row in range(60):
        assert all(draw.gate[row] == gate[row] for draw in draws[:3])
        if not gate[row]:
            assert (partners[:, row] == row).all()
            continue
        for image, probability in zip(ids[row], probabilities[row], strict=True):
            if image >= 0:
                assert (partners[:, row] == image).mean() == pytest.approx(probability, abs=2 / count)


@pytest.mark.parametrize("support", ["topk", "union"])
def test_the_ends_of_chance_are_in_the_support(support: str):
    window = random_window(200, 3, 3, support, seed=2)
    ids, _, gate = window.distribution(np.arange(200), 0.2)
    for chance in (0.0, np.nextafter(1, 0)):
        partners = window.draw(0.2, np.full(200, chance)).partners
        assert all(partners[row] in ids[row] for row in np.flatnonzero(gate))


def test_zero_temperature_is_augmentation():
    window = random_window(100, 3, 4, "topk", seed=3)
    draw = window.draw(0, np.random.default_rng(0).random(100))
    assert draw.partners.tolist() == list(range(100))
    assert draw.gate.tolist() == window.draw(0.2, np.zeros(100)).gate.tolist()


def test_nothing_is_drawn_before_the_window_is_full():
    for pushed in (0, 1, 3):
        window = random_window(100, 4, 4, "topk", seed=4, start=50, pushed=pushed)
        draw = window.draw(5.0, np.random.default_rng(0).random(100))
        assert draw.partners.tolist() == list(window.rows)
        assert not draw.gate.any()
        assert not window.distribution(np.array(window.rows), 5.0)[2].any()
    window.push(*window.epochs[0])
    assert window.draw(5.0, np.random.default_rng(0).random(100)).gate.any()


def test_the_oldest_epoch_leaves():
    window = Window(range(2), 2, 2)
    for epoch in range(3):
        window.push(np.array([[0, epoch + 10], [1, epoch + 10]], np.int32), np.array([[1, 0.5], [1, 0.5]], np.float32))
    assert sorted(window.distribution([0], 1.0)[0][0].tolist()) == [0, 11]
    window.support = "union"
    assert window.distribution([0], 1.0)[0][0].tolist() == [0, 11, 12]


def test_absent_entries_are_nobody():
    window = Window(range(3), 1, 3)
    ids = np.array([[0, 2, -1], [-1, -1, -1], [2, -1, -1]], np.int32)
    window.push(ids, np.array([[-0.5, -0.75, 0], [0, 0, 0], [-1, 0, 0]], np.float32))
    near, probabilities, gate = window.distribution([0, 1, 2], 0.5)
    assert near.tolist()[1] == [-1] * near.shape[1]
    assert gate.tolist() == [True, False, True]  # absent ones would have the larger similarity: 0
    np.testing.assert_allclose(probabilities[0, :2], np.exp([0, -0.5]) / np.exp([0, -0.5]).sum())
    assert probabilities[1].sum() == 0
    assert window.draw(0.5, np.full(3, 0.99)).partners.tolist() == [2, 1, 2]
