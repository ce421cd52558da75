"""The solver in batches against the optimum, the choice of l2 and k on a part of train, the mean over classes."""

import copy

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor

from ssl_core.data.sources import open_images
from ssl_core.data.sources.base import Images
from ssl_core.errors import InputError
from ssl_core.evaluation import linear
from ssl_core.evaluation.base import Classifies, mean_class
from ssl_core.evaluation.features import Context
from ssl_core.evaluation.knn import Knn, knn_predict
from ssl_core.evaluation.linear import LinearProbe, linear_predict
from ssl_core.evaluation.splits import held_out
from ssl_core.training.checks import check_images
from ssl_core.training.loop import Pretraining
from tests.conftest import tiny_config

CLASSES = 6


def problem(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Overlapping classes of other sizes, features that go together and are of other lengths."""
    generator = torch.Generator().manual_seed(99)
    mix = torch.randn(16, 16, generator=generator) * torch.logspace(1, -1, 16)[:, None]
    means = 0.6 * torch.randn(CLASSES, 16, generator=generator)
    own = torch.Generator().manual_seed(seed)
    labels = (CLASSES * torch.rand(count, generator=own) ** 2).long()
    return (means[labels] + torch.randn(count, 16, generator=own)) @ mix + 5, labels


def standardised(x: Tensor, like: Tensor) -> Tensor:
    return (x - like.mean(0)) / like.std(0, correction=0)


def objective(x: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, l2: float) -> float:
    loss = torch.nn.functional.cross_entropy(x @ weight.T + bias, labels)
    return (loss + l2 / 2 * weight.square().sum()).item()


@pytest.mark.parametrize("l2", [1e-3, 1e-5])
def test_in_batches_it_comes_near_the_optimum(l2: float, monkeypatch: pytest.MonkeyPatch) -> None:
    bank, labels = problem(3000, 1)
    x = standardised(bank, bank)
    peer = LogisticRegression(C=1 / (l2 * len(bank)), tol=1e-8, max_iter=5000).fit(x, labels)
    best = objective(x, labels, *(torch.from_numpy(part).float() for part in (peer.coef_, peer.intercept_)), l2)
    monkeypatch.setattr(linear, "BATCH", 500)
    mean, deviation = bank.mean(0), bank.std(0, correction=0)
    found = linear.near_optimum(bank, labels, CLASSES, l2, mean, deviation)
    assert 0 <= objective(x, labels, *found, l2) / best - 1 < 1e-3
    assert best < 0.8 * objective(x, labels, *linear.optimum(0 * x, labels, CLASSES, l2), l2), "there is much to learn"


def test_a_problem_too_large_for_all_logits_is_solved_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    (bank, labels), (queries, _) = problem(2000, 1), problem(1000, 2)
    whole = linear_predict(queries, bank, labels, CLASSES)
    monkeypatch.setattr(linear, "optimum", None)  # nobody may ask it
    monkeypatch.setattr(linear, "LOGITS", len(bank) * CLASSES - 1)
    monkeypatch.setattr(linear, "LOGITS_AT_ONCE", 500 * CLASSES)
    found = linear_predict(queries, bank, labels, CLASSES)
    assert (found == whole).float().mean() > 0.99
    assert torch.equal(found, linear_predict(queries, bank, labels, CLASSES)), "the batches are the same each time"


def test_in_batches_too_features_that_say_nothing_and_absent_classes_are_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bank, labels = problem(200, 1)
    labels = CLASSES - 1 - labels  # the last is the most frequent
    monkeypatch.setattr(linear, "LOGITS", 0)
    most = [int(labels.bincount().argmax())]
    assert linear_predict(0 * bank, 0 * bank, labels, CLASSES, l2=0.0).unique().tolist() == most
    found = linear_predict(bank, bank, labels, CLASSES + 3, l2=0.0)
    assert found.max() < CLASSES
    assert (found == labels).float().mean() > 0.6


def test_the_mean_over_classes_is_sklearns() -> None:
    bank, labels = problem(300, 1)
    found = linear_predict(bank, bank, labels, CLASSES, l2=1.0)
    assert mean_class(found == labels, labels) == pytest.approx(balanced_accuracy_score(labels, found))
    assert mean_class(labels[:3] == labels[:3], labels[:3]) == 1.0, "of classes that are there"


def context_of(run: Pretraining, images: Images | None = None) -> Context:
    run.method.eval()
    return Context(run._features, run.method.encoder, images or run.images, run.config, run.device, 0)


OWN = [
    {"kind": "knn", "k": [1, 5, 100], "max_train": 200, "max_val": 150},
    {"kind": "linear", "l2": [1e-4, 1e-2, 1.0], "max_train": 200, "max_val": 150},
]


def evaluators(images: Images | None = None) -> list[Classifies]:
    config = tiny_config("simclr", data={"limit": None}, evaluation=OWN)
    run = Pretraining(config, open_images(config.data), loaders=0)
    context = context_of(run, images)
    return [Knn(config.evaluation[0], context), LinearProbe(config.evaluation[1], context)]


def test_of_several_settings_that_is_taken_which_knows_most_of_a_held_out_part_of_train() -> None:
    (bank, labels), (queries, truth) = problem(120, 1), problem(100, 2)
    bank = bank + torch.randn(bank.shape, generator=torch.Generator().manual_seed(3))
    for evaluator, predict in zip(evaluators(), (knn_predict, linear_predict), strict=True):
        evaluator.bank, evaluator.bank_labels = {2: bank}, labels
        evaluator.queries, evaluator.labels, evaluator.classes = {2: queries}, truth, CLASSES
        options = evaluator.options(evaluator.config)
        measured = evaluator.measure(2)
        fit, choose = held_out(labels.numpy())
        found = [
            (predict(bank[choose], bank[fit], labels[fit], CLASSES, option) == labels[choose]).float().mean().item()
            for option in options
        ]
        assert evaluator.chosen[2] == options[int(np.argmax(found))]
        assert evaluator.chosen[2] != options[0], "which would be the best for images that were seen"
        whole = predict(queries, bank, labels, CLASSES, evaluator.chosen[2])
        expected = (whole == truth).float().mean().item()
        assert measured[evaluator.config.kind] == pytest.approx(expected), "of all of train, once it is chosen"


def test_val_chooses_nothing() -> None:
    images = open_images(tiny_config("simclr", data={"limit": None}).data)
    other = copy.copy(images.val)
    other.labels = np.roll(images.val.labels, 1234)
    for one, two in zip(evaluators(images), evaluators(Images(images.train, other)), strict=True):
        before, after = one.measure(1), two.measure(1)
        assert one.chosen == two.chosen
        assert before != after


@pytest.mark.parametrize("number", [0, 1])
def test_of_single_images_nothing_can_be_held_out(number: int) -> None:
    own = {**OWN[number], "max_train": 1}
    config = tiny_config("simclr", data={"limit": None}, evaluation=[own])
    text = rf"^evaluation\.0\.{'k' if number == 0 else 'l2'}: .* no class has two of the 1 images of train"
    with pytest.raises(InputError, match=text):
        check_images(config, open_images(config.data))
