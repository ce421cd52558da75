"""Draws of labelled images: stratified, balanced, the same for the same seed."""

import numpy as np
import pytest

from ssl_core.evaluation.splits import held_out, per_class, share_per_class, smallest_class

LABELS = np.array([0] * 40 + [1] * 10 + [2] * 2 + [3] + [-1] * 7)[np.random.default_rng(0).permutation(60)]


def counts(labels: np.ndarray) -> list[int]:
    return [int((labels == label).sum()) for label in range(-1, 4)]


def test_a_part_is_held_out_of_each_class() -> None:
    fit, choose = held_out(LABELS, 0.2, seed=3)
    assert counts(LABELS[choose]) == [0, 8, 2, 1, 0]
    assert counts(LABELS[fit]) == [0, 32, 8, 1, 1]
    assert not set(fit) & set(choose)
    assert [rows.tolist() for rows in held_out(LABELS, 0.2, seed=3)] == [fit.tolist(), choose.tolist()]
    assert held_out(LABELS, 0.2, seed=4)[1].tolist() != choose.tolist()


def test_nothing_can_be_held_out_of_single_images() -> None:
    with pytest.raises(ValueError, match="no class has two images"):
        held_out(np.array([0, 1, 2, -1, -1]))


def test_a_draw_has_as_many_of_each_class_and_grows() -> None:
    few, many = (per_class(LABELS, count, seed=1) for count in (2, 5))
    assert counts(LABELS[few]) == [0, 2, 2, 2, 1]
    assert counts(LABELS[many]) == [0, 5, 5, 2, 1]
    assert set(few) < set(many)
    assert per_class(LABELS, 2, seed=2).tolist() != few.tolist()


def test_other_classes_do_not_change_the_draw_of_one() -> None:
    fewer = np.where(LABELS == 1, -1, LABELS)
    assert [row for row in per_class(LABELS, 5) if LABELS[row] == 0] == [
        row for row in per_class(fewer, 5) if fewer[row] == 0
    ]


def test_a_share_of_the_labels_is_a_number_of_each_class() -> None:
    assert share_per_class(np.repeat(np.arange(10), 130), 0.1) == 13
    assert share_per_class(LABELS, 0.15) == 2, "53 labels of 4 classes"
    assert share_per_class(np.full(5, -1), 0.5) == 0
    assert (smallest_class(LABELS), smallest_class(np.full(5, -1))) == (1, 0)
