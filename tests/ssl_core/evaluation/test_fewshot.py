"""Episodes of prototypes against a loop, chance, and what cannot be drawn."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ssl_core.data.sources import open_images
from ssl_core.errors import InputError
from ssl_core.evaluation import fewshot
from ssl_core.evaluation.fewshot import accuracies, episodes
from ssl_core.schema.evaluation import FewshotConfig
from ssl_core.training.checks import check_images
from ssl_core.training.loop import Pretraining
from tests.conftest import tiny_config
from tests.gloo import Ranks

LABELS = np.array([0] * 30 + [1] * 9 + [2] * 12 + [3] * 5 + [4] * 11)[np.random.default_rng(0).permutation(67)]
CONFIG = FewshotConfig(ways=3, shots=4, queries=5, episodes=40)


def drawn(config: FewshotConfig = CONFIG) -> np.ndarray:
    return np.concatenate(list(episodes(config, LABELS)))


def test_an_episode_has_other_classes_and_other_images_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    found = drawn()
    assert found.shape == (40, 3, 9)
    for episode in found:
        assert len(set(episode.flatten())) == 27
        assert all(len(set(LABELS[rows])) == 1 for rows in episode)
        assert len({LABELS[rows[0]] for rows in episode}) == 3
    assert {LABELS[rows[0]] for episode in found for rows in episode} == {0, 1, 2, 4}, "one class has too few"
    assert {row for row in found.flatten() if LABELS[row] == 0} == set(np.flatnonzero(LABELS == 0))
    assert drawn(CONFIG.model_copy(update={"seed": 1})).tolist() != found.tolist()
    monkeypatch.setattr(fewshot, "NUMBERS", 1)  # an episode at a time
    assert drawn().shape == (40, 3, 9)


@pytest.mark.parametrize("cosine", [False, True])
def test_prototypes_equal_a_loop(cosine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    means = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(67, 6, generator=torch.Generator().manual_seed(2))
    x = (means[LABELS] + 1.5 * noise) * torch.arange(1, 68)[:, None]  # lengths differ: cosine is another thing
    x = F.normalize(x, dim=1) if cosine else x
    all_of, expected = drawn(), []
    for episode in all_of:
        prototypes = [torch.stack([x[row] for row in rows[:4]]).mean(0) for rows in episode]
        right = []
        for way, rows in enumerate(episode):
            for row in rows[4:]:
                near = [
                    F.cosine_similarity(x[row], mean, dim=0) if cosine else -((x[row] - mean) ** 2).sum()
                    for mean in prototypes
                ]
                right.append(int(np.argmax(near)) == way)
        expected.append(np.mean(right))
    found = accuracies(x, torch.from_numpy(all_of), 4, cosine)
    assert found.tolist() == pytest.approx(expected)
    assert 0.4 < found.mean() < 0.95, "the data must be hard enough"
    monkeypatch.setattr(fewshot, "NUMBERS", 1)
    assert accuracies(x, torch.from_numpy(all_of), 4, cosine).tolist() == pytest.approx(expected)


def test_random_features_give_chance() -> None:
    labels = np.arange(20_000) % 20
    features = torch.randn(20_000, 16, generator=torch.Generator().manual_seed(3))
    config = FewshotConfig()
    found = accuracies(features, torch.from_numpy(np.concatenate(list(episodes(config, labels)))), 5, False)
    assert abs(found.mean().item() - 0.2) < 1.96 * found.std().item() / 600**0.5


def figures(workers: int = 1) -> dict[str, float]:
    own = {"kind": "fewshot", "ways": 4, "shots": 2, "queries": 3, "episodes": 30, "max_images": 90}
    config = tiny_config("simclr", evaluation=[own], scaling={"workers": workers})
    return Pretraining(config, open_images(config.data), loaders=0).evaluate(0)


def test_two_ranks_measure_what_one_does(two_ranks: Ranks) -> None:
    alone = figures()
    first, second = two_ranks(figures, 2)
    assert first == second == pytest.approx(alone, rel=1e-3)
    assert 0.25 < alone["fewshot/last"] <= 1
    assert 0 < alone["fewshot_interval/last"] < 0.2


@pytest.mark.parametrize(
    ("own", "text"),
    [
        (
            {"ways": 11, "max_images": 500},
            r"^evaluation\.0\.ways: 11 classes of at least 5 \+ 15 .* 10 of its 10 classes",
        ),
        ({"shots": 5000}, r"^evaluation\.0\.ways: .*5000 \+ 15 .* 0 of its 10 .* fewer queries or shots"),
    ],
)
def test_too_few_classes_are_counted(own: dict, text: str) -> None:
    config = tiny_config("simclr", evaluation=[{"kind": "fewshot", **own}])
    with pytest.raises(InputError, match=text):
        check_images(config, open_images(config.data))
