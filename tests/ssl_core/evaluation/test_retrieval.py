"""Retrieval by labels against scikit-learn, a loop, the expectation of a random order; what cannot be found."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from ssl_core.data.sources import open_images
from ssl_core.errors import InputError
from ssl_core.evaluation import retrieval
from ssl_core.evaluation.retrieval import scores
from ssl_core.training.checks import check_images
from ssl_core.training.loop import Pretraining
from tests.conftest import tiny_config
from tests.gloo import Ranks


def clusters(labels: Tensor, seed: int) -> Tensor:
    means = torch.randn(5, 6, generator=torch.Generator().manual_seed(99))
    noise = torch.randn(len(labels), 6, generator=torch.Generator().manual_seed(seed))
    return (means[labels] + 1.5 * noise) * torch.arange(1, len(labels) + 1)[:, None]


LABELS = torch.tensor([0] * 30 + [1] * 9 + [2] * 2 + [3] * 20 + [4])
FEATURES = clusters(LABELS, 1)
ASKED, ASKED_LABELS = clusters(LABELS[::4], 2), LABELS[::4]


def one(query: Tensor, label: int, bank: Tensor, labels: Tensor) -> dict[str, float] | None:
    """Naively, from the definitions."""
    right = (labels == label).numpy()
    if not right.any():
        return None
    cosines = torch.nn.functional.cosine_similarity(query[None], bank).numpy()
    ranked = right[np.argsort(-cosines)]
    count = int(right.sum())
    at_r = sum(ranked[: k + 1].mean() for k in range(count) if ranked[k]) / count
    found = {"retrieval": average_precision_score(right, cosines), "retrieval_map_r": at_r}
    return found | {f"retrieval_r{k}": float(ranked[:k].any()) for k in (1, 5, 10)}


def naive(queries: Tensor, labels: Tensor, bank: Tensor | None = None, bank_labels: Tensor | None = None) -> list[dict]:
    found = []
    for number, (query, label) in enumerate(zip(queries, labels.tolist(), strict=True)):
        others = torch.arange(len(queries)) != number
        database = (queries[others], labels[others]) if bank is None else (bank, bank_labels)
        found.append(one(query, label, *database))
    return [values for values in found if values is not None]


@pytest.mark.parametrize("database", [(), (FEATURES, LABELS)])
@pytest.mark.parametrize("similarities", [1 << 24, 1])
def test_it_is_sklearns_average_precision(database: tuple, similarities: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "SIMILARITIES", similarities)
    asked = (ASKED, ASKED_LABELS) if database else (FEATURES, LABELS)
    expected, found = naive(*asked, *database), scores(*asked, *database)
    for name, values in found.items():
        assert values.tolist() == pytest.approx([row[name] for row in expected], rel=1e-5), name
        assert 0.2 < values.double().mean() < 1, "the data must be hard enough"
    assert len(found["retrieval"]) == (len(ASKED) if database else 61), "who is alone is not asked about"


def test_a_random_order_gives_its_expectation() -> None:
    labels = torch.arange(400) % 8
    features = torch.randn(400, 32, generator=torch.Generator().manual_seed(3))
    found = scores(features, labels)
    images, right = 399, 49
    harmonic = (1 / torch.arange(1, images + 1)).sum().item()
    expected = ((right - 1) / (images - 1) * (images - harmonic) + harmonic) / images
    precision = found["retrieval"]
    assert abs(precision.mean().item() - expected) < 1.96 * precision.std().item() / 20
    first = found["retrieval_r1"].mean().item()
    assert abs(first - right / images) < 1.96 * (right / images / 400) ** 0.5


def figures(workers: int = 1) -> dict[str, float]:
    own = [
        {"kind": "retrieval", "max_val": 90},
        {"kind": "retrieval", "max_val": 30, "database": "train", "name": "hashing"},
    ]
    config = tiny_config("simclr", evaluation=own, scaling={"workers": workers})
    return Pretraining(config, open_images(config.data), loaders=0).evaluate(0)


def test_two_ranks_measure_what_one_does(two_ranks: Ranks) -> None:
    alone = figures()
    first, second = two_ranks(figures, 2)
    assert first == second == pytest.approx(alone, rel=1e-3)
    assert 0.1 < alone["retrieval/last"] < alone["retrieval_r10/last"] <= 1
    assert alone["hashing.retrieval/last"] != alone["retrieval/last"]


@pytest.mark.parametrize(
    ("own", "text"),
    [
        ({"max_val": 1}, r"^evaluation\.0\.max_val: no class has two of the 1 images of val"),
        ({"max_val": 1, "max_train": 1, "database": "train"}, r"^evaluation\.0\.max_train: no class of val has an"),
    ],
)
def test_where_nothing_can_be_found_it_is_said(own: dict, text: str) -> None:
    config = tiny_config("simclr", evaluation=[{"kind": "retrieval", **own}])
    with pytest.raises(InputError, match=text):
        check_images(config, open_images(config.data))
