"""k-NN, the signals without labels, and the evaluators on one rank and on two."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from ssl_core import search
from ssl_core.data.sources import open_images
from ssl_core.evaluation import geometry
from ssl_core.evaluation.base import Classifies, due
from ssl_core.evaluation.collapse import collapse
from ssl_core.evaluation.features import Context
from ssl_core.evaluation.knn import knn_predict
from ssl_core.evaluation.linear import linear_predict
from ssl_core.schema.run import RunConfig
from ssl_core.training.loop import Pretraining
from tests.conftest import tiny_config
from tests.gloo import Ranks


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


def clusters(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Overlapping classes, so that votes matter."""
    labels = torch.arange(count) % 4
    return random(4, 6, seed=99)[labels] + 1.5 * random(count, 6, seed=seed), labels


def test_knn_equals_a_loop_that_votes():
    (bank, labels), (queries, truth) = clusters(60, 1), clusters(25, 2)
    expected = []
    for query in unit(queries):
        cosines = sorted(((query @ row).item(), int(label)) for row, label in zip(unit(bank), labels, strict=True))
        votes = [0.0] * 4
        for cosine, label in cosines[-7:]:
            votes[label] += math.exp(cosine / 0.1)
        expected.append(votes.index(max(votes)))
    got = knn_predict(queries, bank, labels, classes=4, k=7, temperature=0.1)
    assert got.tolist() == expected
    assert got.tolist() != truth.tolist(), "the data must be hard enough to tell right from wrong votes"


def test_knn_with_one_neighbour_is_sklearns_nearest():
    (bank, labels), (queries, _) = clusters(50, 1), clusters(30, 2)
    nearest = NearestNeighbors(n_neighbors=1).fit(unit(bank).numpy()).kneighbors(unit(queries).numpy())[1][:, 0]
    assert knn_predict(queries, bank, labels, classes=4, k=1).tolist() == labels[nearest].tolist()


def test_a_bank_smaller_than_k_is_used_whole():
    bank, labels = clusters(5, 1)
    queries, _ = clusters(4, 2)
    few, many = (knn_predict(queries, bank, labels, classes=4, k=k) for k in (5, 20))
    assert few.tolist() == many.tolist()


@pytest.mark.parametrize("l2", [1e-3, 0.1])
def test_the_linear_probe_is_sklearns_logistic_regression(l2: float):
    (bank, labels), (queries, truth) = clusters(80, 1), clusters(200, 2)
    mean, deviation = bank.mean(0), bank.std(0, correction=0)
    peer = LogisticRegression(C=1 / (l2 * len(bank)), tol=1e-8, max_iter=5000).fit((bank - mean) / deviation, labels)
    expected = peer.predict((queries - mean) / deviation)
    got = linear_predict(1000 * queries + 5, 1000 * bank + 5, labels, classes=4, l2=l2)  # units do not matter
    assert got.tolist() == expected.tolist()
    assert got.tolist() != truth.tolist(), "the data must be hard enough"


def test_a_linear_probe_of_features_that_say_nothing_is_no_error():
    bank, labels = clusters(20, 1)
    assert linear_predict(0 * bank, 0 * bank, labels, classes=4).tolist() == [0] * 20


def test_faiss_and_torch_find_the_same_rows(monkeypatch: pytest.MonkeyPatch):
    queries, bank = unit(random(9, 8)), unit(random(70, 8, seed=1))
    monkeypatch.setattr(search, "BLOCK", 16)  # several blocks, the last one shorter than k
    similarities, ids = search._torch_top_k(queries, bank, 10)
    expected = np.argsort(-(queries @ bank.T).numpy(), axis=1)[:, :10]
    assert ids.tolist() == expected.tolist()
    torch.testing.assert_close(similarities, (queries @ bank.T).gather(1, ids))
    pytest.importorskip("faiss")
    faiss_similarities, faiss_ids = search.top_k(queries, bank, 10)
    assert faiss_ids.tolist() == ids.tolist()
    torch.testing.assert_close(faiss_similarities, similarities)


def test_more_neighbours_than_rows_is_an_error():
    with pytest.raises(ValueError, match="k = 4 is larger than the bank of 3"):
        search.top_k(random(2, 5), random(3, 5), 4)


def test_rankme_counts_the_directions():
    basis = torch.linalg.qr(random(40, 12))[0]
    assert geometry.rankme(basis) == pytest.approx(12, rel=1e-3)
    assert geometry.rankme(basis[:, :5]) == pytest.approx(5, rel=1e-3)
    assert geometry.rankme(random(40, 1) @ random(1, 12, seed=1)) == pytest.approx(1, rel=1e-3)


def test_std_is_one_for_even_features_and_zero_for_one_point():
    assert geometry.feature_std(random(2000, 16)) == pytest.approx(1, rel=0.02)
    assert geometry.feature_std(random(1, 16).expand(20, 16)) == pytest.approx(0, abs=1e-6)


def test_alignment_and_uniformity_equal_double_loops():
    x, y = random(12, 5), random(12, 5, seed=1)
    ux, uy = unit(x), unit(y)
    aligned = [((a - b) ** 2).sum().item() for a, b in zip(ux, uy, strict=True)]
    assert geometry.alignment(x, y) == pytest.approx(sum(aligned) / 12, rel=1e-5)
    pairs = [((ux[i] - ux[j]) ** 2).sum().item() for i in range(12) for j in range(i)]
    uniform = math.log(sum(math.exp(-2 * d) for d in pairs) / len(pairs))
    assert geometry.uniformity(x) == pytest.approx(uniform, rel=1e-5)
    assert geometry.negative_alignment(x) == pytest.approx(sum(pairs) / len(pairs), rel=1e-5)


def test_collapse_is_named_and_a_healthy_layer_is_not():
    point = random(1, 16) + 1e-4 * random(50, 16, seed=1)
    line = random(50, 1) @ random(1, 16, seed=1)
    for features, words in ((point, "nearly the same"), (line, "one direction"), (random(50, 16), None)):
        metrics = {"std/last": geometry.feature_std(features), "rankme/last": geometry.rankme(features)}
        sentence = collapse(metrics, images=50)
        assert sentence is None if words is None else words in sentence
        assert collapse(metrics, images=10) == sentence
        assert collapse(metrics, images=9) is None
    assert collapse({}, images=50) is None


def evaluation_config(workers: int = 1, **knn) -> RunConfig:
    limits = {key: value for key, value in knn.items() if key.startswith("max")}
    evaluators = [{"kind": "knn", "k": 5, **knn}, {"kind": "linear", **limits}, {"kind": "geometry", "max_images": 33}]
    return tiny_config(
        "simclr", data={"limit": 61}, evaluation=evaluators, scaling={"workers": workers}, optim={"epochs": 10}
    )


def figures(config: RunConfig) -> dict[str, float]:
    return Pretraining(config, open_images(config.data), loaders=0).evaluate(0)


def test_two_ranks_measure_what_one_does(two_ranks: Ranks):
    limits = {"max_train": 61, "max_val": 47}
    alone = figures(evaluation_config(**limits))
    first, second = two_ranks(figures, evaluation_config(workers=2, **limits))
    assert first == second
    assert first.keys() == alone.keys()
    for name, value in alone.items():
        assert first[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name


def test_every_layer_is_measured_and_the_best_is_named():
    metrics = figures(evaluation_config(max_val=50))
    for name in ("knn", "linear", "std", "rankme", "alignment", "uniformity", "uniformity_ratio", "alignment_ratio"):
        layers = [metrics[f"{name}/layer_{layer:02d}"] for layer in (1, 2, 3)]
        assert metrics[f"{name}/last"] == layers[-1]
        assert metrics[f"{name}/best"] == (min if name in ("alignment", "uniformity") else max)(layers)
        assert len(set(layers)) > 1, f"{name} says the same of all layers"
    assert 0 <= metrics["knn/last"] <= 1


def test_evaluators_are_due_at_their_epochs_and_at_both_ends():
    config = evaluation_config(every=4)
    images = open_images(config.data)
    knn = [epoch for epoch in range(11) if any(e.kind == "knn" for e in due(config, images, epoch))]
    assert knn == [0, 4, 8, 10]
    unlabelled = open_images(config.data.model_copy(update={"labels": "none"}))
    unlabelled.train.labels = None
    assert [e.kind for e in due(config, unlabelled, 4)] == ["geometry"]


def test_images_without_a_label_are_neither_asked_for_nor_answers():
    config = evaluation_config(max_train=20, max_val=20)
    images = open_images(config.data)
    images.train.labels[::3] = -1
    images.val.labels[: len(images.val) // 2] = -1
    run = Pretraining(config, images, loaders=0)
    context = Context(run.method.features, run.method.encoder, images, config, torch.device("cpu"), 0)
    knn = Classifies(config.evaluation[0], context)
    assert (len(knn.bank[0]), len(knn.queries[0])) == (20, 20)
    assert knn.bank_labels.min() >= 0
    assert knn.labels.min() >= 0
    assert len(context.features("train", 20)[0]) == 20, "others see all images"


def test_measuring_changes_nothing_of_the_run():
    config = evaluation_config(max_val=20)
    run = Pretraining(config, open_images(config.data), loaders=0)
    before = {key: value.clone() for key, value in run.method.state_dict().items()}
    modes = [module.training for module in run.method.modules()]
    run.evaluate(0)
    assert all(torch.equal(before[key], value) for key, value in run.method.state_dict().items())
    assert [module.training for module in run.method.modules()] == modes
