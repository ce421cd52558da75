"""A linear probe on few labels: which they are, how l2 is chosen, what is too few."""

import copy

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from ssl_core.data.sources import open_images
from ssl_core.data.sources.base import Images
from ssl_core.errors import InputError
from ssl_core.evaluation.features import Context
from ssl_core.evaluation.semi import Semi, labelled_shares
from ssl_core.schema.evaluation import SemiConfig
from ssl_core.training.loop import Pretraining
from tests.conftest import tiny_config

LABELS = np.concatenate([np.repeat(np.arange(4), [900, 300, 200, 100]), np.full(500, -1)])


def test_shares_are_class_balanced_and_their_own_part_is_held_out() -> None:
    shares = list(labelled_shares(SemiConfig(), LABELS))
    assert [(share.percent, share.draw) for share in shares] == [(p, d) for p in (1, 10) for d in range(3)]
    for share in shares:
        each = {1: 4, 10: 38}[share.percent]  # of 1,500 labels, in four classes
        assert np.bincount(LABELS[share.rows]).tolist() == [each] * 4
        assert sorted([*share.fit, *share.choose]) == share.rows.tolist()
        assert np.bincount(LABELS[share.choose]).tolist() == [round(each / 5)] * 4
    assert len({tuple(share.rows) for share in shares}) == 6
    assert set(shares[0].rows) < set(shares[3].rows), "the larger share has the smaller one in it"


def evaluator(val: np.ndarray | None = None) -> Semi:
    section = {"kind": "semi", "percent": [10], "l2": [1e-3, 1.0], "max_train": 400, "max_val": 100}
    config = tiny_config("simclr", data={"limit": None})
    run = Pretraining(config, open_images(config.data), loaders=0)
    run.method.eval()
    images = run.images
    if val is not None:
        other = copy.copy(images.val)
        other.labels = val
        images = Images(images.train, other)
    config = tiny_config("simclr", data={"limit": None}, evaluation=[section])
    context = Context(run._features, run.method.encoder, images, config, run.device, 0)
    return Semi(config.evaluation[0], context)


def test_it_is_sklearns_probe_of_those_images() -> None:
    semi = evaluator()
    found = semi.measure(2)
    accuracies = []
    for share, l2 in zip(semi.shares, semi.chosen[2], strict=True):
        x = semi.bank[2][torch.from_numpy(share.rows)].numpy()
        mean, deviation = x.mean(0), x.std(0)
        peer = LogisticRegression(C=1 / (l2 * len(x)), tol=1e-8, max_iter=5000)
        peer.fit((x - mean) / deviation, semi.bank_labels[share.rows])
        accuracies.append(peer.score((semi.queries[2].numpy() - mean) / deviation, semi.labels))
    assert found["semi_10"] == pytest.approx(np.mean(accuracies), abs=0.011), "but for one image at a border"
    assert 0.2 < found["semi_10"] < 0.95
    assert 0 < found["semi_10_interval"] < 0.5
    assert found.keys() == {"semi_10", "semi_10_interval"}
    assert semi.outcomes[2].mean() == pytest.approx(found["semi_10"])


def test_val_chooses_nothing() -> None:
    semi = evaluator()
    labels = semi.context.images.val.labels
    other = evaluator(np.random.default_rng(0).permutation(labels))
    before, after = semi.measure(2), other.measure(2)
    assert semi.chosen == other.chosen
    assert abs(after["semi_10"] - 0.1) < 0.1 < before["semi_10"] - 0.1, "labels that are others' give chance"


@pytest.mark.parametrize(
    ("own", "count", "text"),
    [
        (
            {"percent": [1]},
            300,
            r"percent: 1 % of the 300 labels of train are 1 images of its smallest class; at least 2",
        ),
        ({"percent": [1, 10]}, 300, r"percent: 1 % of the 300"),
        ({}, 40, r"percent: 10 % of the 40 labels"),
    ],
)
def test_too_few_labels_are_counted(own: dict, count: int, text: str) -> None:
    images = open_images(tiny_config(data={"limit": None}).data)
    train = copy.copy(images.train)
    train.labels = np.where(np.arange(len(train)) < count, np.arange(len(train)) % 3, -1)
    with pytest.raises(InputError, match=text):
        Semi.check(SemiConfig(**own), Images(train, images.val))
    Semi.check(SemiConfig(), images)


def test_by_default_a_share_that_is_too_small_is_left_out() -> None:
    assert {share.percent for share in labelled_shares(SemiConfig(), np.arange(300) % 3)} == {10}
