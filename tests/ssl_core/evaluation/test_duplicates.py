"""Near-duplicates against a naive search, the threshold's rule, planted copies and leaks, two ranks, bad input."""

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_core.data.distortions import lightly
from ssl_core.data.sources import open_images
from ssl_core.data.sources.base import Images, Source, Subset
from ssl_core.errors import InputError
from ssl_core.evaluation.duplicates import (
    CERTAIN,
    Duplicates,
    DuplicatesFound,
    Member,
    find_duplicates,
    grouped,
    neighbours,
    threshold_of,
)
from ssl_core.schema.evaluation import DuplicatesConfig
from tests.conftest import tiny_config
from tests.gloo import Ranks
from tests.ssl_core.evaluation.pictured import context_of


def test_groups_are_those_of_a_search_through_all_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(60, 4, generator=generator), dim=1)
    x[50:55] = x[3]
    similar = (x @ x.T).fill_diagonal_(-1).numpy()
    expected, left = [], set(range(60))
    while left:
        group, edge = set(), [left.pop()]
        while edge:
            row = edge.pop()
            group.add(row)
            edge += [other for other in left if similar[row, other] >= 0.97]
            left -= set(edge)
        if len(group) > 1:
            expected.append(sorted(group))
    expected.sort(key=lambda members: (-len(members), members[0]))
    found = grouped(*neighbours(x), 0.97)
    assert [[row for row, _ in group] for group in found] == expected
    assert 3 <= len(expected) < 20
    for group in found:
        for row, similarity in group:
            assert similarity == pytest.approx(similar[row].max(), abs=1e-6)


def test_more_equal_images_than_are_looked_for_are_one_group() -> None:
    x = torch.nn.functional.normalize(torch.ones(50, 3), dim=1)
    assert [len(group) for group in grouped(*neighbours(x), 0.99)] == [50]


def test_the_threshold_is_where_light_copies_are_and_neighbours_are_not() -> None:
    generator = np.random.default_rng(0)
    copies, far = generator.uniform(0.9, 1.0, 1000), generator.normal(0.5, 0.02, 1000)
    assert threshold_of(copies, far) == pytest.approx(0.905, abs=0.003)
    far[:300] = 0.99  # a third of the images are there twice
    assert threshold_of(copies, far) == pytest.approx(0.905, abs=0.003)
    near = 1 - 0.1 * np.exp(generator.normal(0, 0.3, 10_000))
    assert threshold_of(copies, near) == pytest.approx(1 - 0.1 * np.exp(-1.2), abs=0.004), "it tells little apart"
    assert threshold_of(copies, np.ones(1000)) == threshold_of(np.ones(9), near) == CERTAIN


class Planted(Source):
    """Images of a source, some of them copied."""

    def __init__(self, source: Source, copied: list[int]):
        self.source, self.copied = source, copied

    def __len__(self) -> int:
        return len(self.source) + len(self.copied)

    def read(self, index: int) -> Image.Image:
        if index < len(self.source):
            return self.source.read(index)
        image = self.source.read(self.copied[index - len(self.source)]).convert("RGB")
        return lightly(image, "jpeg", np.random.default_rng(index))

    def where(self, index: int) -> str:
        return f"image {index}"


def planted(workers: int = 1) -> Duplicates | None:
    config = tiny_config("simclr", data={"limit": 40}, scaling={"workers": workers})
    train = open_images(config.data).train
    val = Planted(Subset(train, np.arange(0, 4)), [])  # the first four of train: a leak each
    images = Images(Planted(train, [10, 10, 11]), val)
    return find_duplicates(context_of(config, images), 2, 1000, 1000)


def test_planted_copies_and_leaks_are_found_on_one_rank_and_on_two(two_ranks: Ranks) -> None:
    found = planted()
    assert found is not None
    names = [[(member.split, member.index) for member in group] for group in found.groups]
    assert names[0] == [("train", 10), ("train", 40), ("train", 41)]
    assert [("train", 11), ("train", 42)] in names
    assert all([("train", index), ("val", index)] in names for index in range(4))
    assert (found.superfluous, found.leaked, len(found.groups)) == (3, 4, 6)
    first, second = two_ranks(planted, 2)
    assert second is None
    assert first is not None
    assert [[(m.split, m.index) for m in group] for group in first.groups] == names
    assert first.threshold == pytest.approx(found.threshold, abs=1e-5)


def test_figures_and_pictures_are_of_what_was_found() -> None:
    config = tiny_config("simclr", data={"limit": 40}, evaluation=[{"kind": "duplicates", "max_val": 30}])
    images = open_images(config.data)
    evaluator = DuplicatesFound(config.evaluation[0], context_of(config, images))
    assert evaluator.whole().keys() == {metric.name for metric in DuplicatesConfig.metrics}
    group = [Member("train", n, 0.99) for n in range(10)]
    leak = [Member("train", 20, 0.98), Member("val", 3, 0.98)]
    evaluator.found = Duplicates([group, leak], 0.97)
    assert evaluator.whole() == {
        "duplicates": 9, "duplicate_groups": 2, "leaks": 1, "duplicates_threshold": 0.97
    }  # fmt: skip
    pictures = evaluator.pictures()
    assert [axis.get_title() for axis in pictures["leaks"].axes] == ["train 20\n0.980", "val 3\n0.980"]
    assert len([axis for axis in pictures["groups"].axes if axis.images]) == 8 + 2
    evaluator.found = Duplicates([], 0.97)
    assert evaluator.pictures() == {}


def test_a_few_images_say_nothing_and_a_broken_one_is_no_duplicate(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config("simclr", data={"limit": 40})
    train = open_images(config.data).train
    with pytest.raises(InputError, match="duplicates needs 10 images of train at least; got 9"):
        DuplicatesFound.check(DuplicatesConfig(), Images(Subset(train, np.arange(9)), None))
    source = Planted(train, [])
    monkeypatch.setattr(source, "read", lambda index: 1 / 0 if index == 7 else train.read(index))
    found = find_duplicates(context_of(config, Images(source, None)), 2, 1000, 1000)
    assert found is not None
    assert not any(member.index in (7, 8) for group in found.groups for member in group)
