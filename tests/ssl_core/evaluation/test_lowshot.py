"""Ridge regression on few images against scikit-learn's, its choice of l2, and what cannot be drawn."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import Ridge as Peer
from torch import Tensor

from ssl_core.data.sources import open_images
from ssl_core.errors import InputError
from ssl_core.evaluation.features import Context
from ssl_core.evaluation.lowshot import BIAS, SMALLEST, Lowshot, Ridge, best_l2, interval, possible
from ssl_core.training.checks import check_images
from ssl_core.training.loop import Pretraining
from tests.conftest import tiny_config
from tests.gloo import Ranks


def clusters(count: int, seed: int, width: int = 6) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) % 4
    means, noise = (
        torch.randn(n, width, generator=torch.Generator().manual_seed(s)) for n, s in ((4, 99), (count, seed))
    )
    return 30 * (means[labels] + 1.2 * noise) + 7, labels


@pytest.mark.parametrize(("count", "width"), [(40, 6), (8, 30)])
@pytest.mark.parametrize("l2", [0.5, 100.0])
def test_it_is_sklearns_ridge(count: int, width: int, l2: float) -> None:
    (x, labels), (queries, truth) = clusters(count, 1, width), clusters(60, 2, width)
    mean, deviation = x.mean(0), x.std(0, correction=0) + SMALLEST

    def padded(z: Tensor) -> np.ndarray:
        return np.pad(((z - mean) / deviation).double().numpy(), ((0, 0), (0, 1)), constant_values=BIAS)

    targets = np.where(labels[:, None] == np.arange(4), 1.0, -1.0)
    peer = Peer(alpha=l2, fit_intercept=False, solver="cholesky").fit(padded(x), targets)
    ridge = Ridge(x, labels, 4)
    np.testing.assert_allclose(ridge.weights(l2).numpy(), peer.coef_.T, rtol=1e-4, atol=1e-6)
    predicted = ridge.predict(queries, l2).tolist()
    assert predicted == peer.predict(padded(queries)).argmax(1).tolist()
    assert predicted != truth.tolist(), "the data must be hard enough"


def test_a_class_that_no_image_is_of_is_never_said() -> None:
    x, labels = clusters(40, 1)
    assert 5 not in Ridge(x, labels, 6).predict(clusters(60, 2)[0], 1.0).tolist()


def test_the_best_l2_is_that_of_the_held_out_images() -> None:
    x, labels = clusters(12, 1, 30)
    queries, truth = clusters(400, 2, 30)
    ridge = Ridge(x, labels, 4)
    among = [1e-3, 1e2, 1e6]
    accuracies = [(ridge.predict(queries, l2) == truth).float().mean().item() for l2 in among]
    assert best_l2([ridge], queries, truth, among) == among[int(np.argmax(accuracies))]
    assert len(set(accuracies)) == 3
    assert best_l2([ridge], queries[:1], truth[:1], [3.0, 5.0]) == 5.0, "of equal ones the largest"


def test_the_interval_is_students() -> None:
    values = np.array([0.5, 0.6, 0.7])
    low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    assert interval(values) == pytest.approx((high - low) / 2)


def run_of(workers: int = 1, **own) -> Pretraining:
    section = {"kind": "lowshot", "shots": [1, 5], "max_train": 400, "max_val": 80, **own}
    config = tiny_config("simclr", data={"limit": None}, scaling={"workers": workers})
    run = Pretraining(config, open_images(config.data), loaders=0)
    run.config = tiny_config("simclr", data={"limit": None}, evaluation=[section])
    return run


def evaluator_of(run: Pretraining, images=None) -> Lowshot:
    run.method.eval()
    context = Context(run._features, run.method.encoder, images or run.images, run.config, run.device, 0)
    return Lowshot(run.config.evaluation[0], context)


def figures(workers: int = 1) -> dict[int, dict[str, float]]:
    evaluator = evaluator_of(run_of(workers))
    return {layer: evaluator.measure(layer) for layer in evaluator.context.own_layers}


def test_two_ranks_measure_what_one_does(two_ranks: Ranks) -> None:
    alone = figures()
    first, second = two_ranks(figures, 2)
    assert first | second == {layer: pytest.approx(values, abs=1e-2) for layer, values in alone.items()}
    last = alone[2]
    assert last["lowshot"] == pytest.approx((last["lowshot_1"] + last["lowshot_5"]) / 2)
    assert 0.1 < last["lowshot_1"] < last["lowshot_5"] < 1
    assert 0 < last["lowshot_5_interval"] < 0.3


def test_val_chooses_nothing() -> None:
    run = run_of()
    images = dataclasses.replace(run.images, val=open_images(run.config.data).val)
    images.val.labels = images.val.labels[::-1].copy()
    one, other = evaluator_of(run), evaluator_of(run, images)
    before, after = one.measure(2), other.measure(2)
    assert one.chosen == other.chosen
    assert before["lowshot_5"] > after["lowshot_5"]
    assert abs(after["lowshot"] - 0.1) < 0.1, "labels that are others' give chance"
    assert not set(one.draw(5, 0)) & set(one.choose)
    assert sorted(one.bank_labels[one.draw(5, 0)]) == sorted([*range(10)] * 5)


@pytest.mark.parametrize(
    ("own", "text"),
    [
        ({"shots": [1, 25], "max_train": 100}, r"shots: the class of train with fewest images has \d, of which \d can"),
        ({"max_train": 8}, r"shots: .* has 1, of which 0 can be drawn"),
    ],
)
def test_too_few_images_are_counted(own: dict, text: str) -> None:
    section = tiny_config(evaluation=[{"kind": "lowshot", **own}]).evaluation[0]
    images = open_images(tiny_config(data={"limit": None}).data)
    with pytest.raises(InputError, match=text):
        Lowshot.check(section, images)
    Lowshot.check(section.model_copy(update={"max_train": 5000}), images)


def test_by_default_fewer_shots_are_measured_where_classes_are_small() -> None:
    config = tiny_config(evaluation=[{"kind": "lowshot", "max_train": 100}]).evaluation[0]
    assert possible(config, np.repeat(np.arange(4), 8)) == [1, 2, 5]
    assert evaluator_of(run_of(max_train=100, shots=None)).measure(0).keys() < {m.name for m in config.metrics}


def test_a_run_does_not_measure_it_between_epochs() -> None:
    config = tiny_config("simclr", evaluation=[{"kind": "lowshot"}])
    with pytest.raises(InputError, match=r"evaluation\.0\.kind: lowshot costs too much between epochs"):
        check_images(config, open_images(config.data))
