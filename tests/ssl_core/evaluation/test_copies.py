"""Copy detection: its descriptor, whitening and figures against references, its sets, its copies, bad input."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score
from torch import Tensor

from ssl_core.data.distortions import LIGHT_KINDS, Distorted, distort, lightly
from ssl_core.data.sources import open_images
from ssl_core.data.sources.base import Images, Subset
from ssl_core.errors import InputError
from ssl_core.evaluation.copies import (
    Copies,
    Whitening,
    average_precisions,
    descriptors,
    micro_average_precision,
)
from ssl_core.schema.evaluation import CopiesConfig
from ssl_core.schema.evaluation.same import COPY_KINDS
from tests.conftest import make_image, tiny_config
from tests.ssl_core.evaluation.pictured import context_of

FEW = {"originals": 6, "distractors": 20, "whitening": 30}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_descriptor_is_the_feature_beside_a_loops_generalised_mean() -> None:
    pooled, patches = random(3, 4), random(3, 5, 4, seed=1)
    found = descriptors(pooled, patches)
    for image in range(3):
        for place in range(4):
            powers = [max(patches[image, patch, place].item(), 1e-6) ** 4 for patch in range(5)]
            assert found[image, 4 + place].item() == pytest.approx((sum(powers) / 5) ** 0.25, rel=1e-5)
    assert torch.equal(found[:, :4], pooled)


def test_whitening_is_sklearns() -> None:
    x, y = random(40, 6) @ random(6, 6, seed=1) + 3.0, random(9, 6, seed=2)
    expected = torch.from_numpy(PCA(whiten=True).fit(x.numpy()).transform(y.numpy()))
    found = Whitening(x)(y)
    torch.testing.assert_close(found @ found.T, expected @ expected.T, rtol=1e-3, atol=1e-3)  # up to signs


def test_whitening_of_few_or_flat_descriptors_stays_finite_and_bounded() -> None:
    assert Whitening(random(5, 8))(random(3, 8)).shape == (3, 4)
    flat = torch.cat([random(20, 3), torch.zeros(20, 2)], dim=1)
    assert Whitening(flat)(flat + 1e-7).abs().max() < 10
    assert not Whitening(torch.ones(9, 4))(torch.ones(2, 4)).any()


def test_figures_are_sklearns() -> None:
    similar, answers = random(7, 20), torch.arange(7) % 5
    right = torch.nn.functional.one_hot(answers, 20).numpy()
    expected = [average_precision_score(row, values) for row, values in zip(right, similar.numpy(), strict=True)]
    assert average_precisions(similar, answers).tolist() == pytest.approx(expected)
    assert 0 < np.mean(expected) < 1
    ranked = right.ravel()[np.argsort(-similar.numpy().ravel())]
    naive = np.mean([ranked[: k + 1].mean() for k in range(140) if ranked[k]])
    assert micro_average_precision(similar, answers) == pytest.approx(naive)


def test_random_features_give_chance_and_collapsed_ones_nothing() -> None:
    similar, answers = random(800, 50), torch.arange(800) % 50
    precision = average_precisions(similar, answers)
    chance = sum(1 / rank for rank in range(1, 51)) / 50
    assert abs(precision.mean().item() - chance) < 2.5 * precision.std().item() / 800**0.5
    assert average_precisions(torch.ones(3, 50), torch.arange(3)).tolist() == [1 / 50] * 3


@pytest.mark.parametrize("kind", COPY_KINDS)
@pytest.mark.parametrize("size", [1, 33])
def test_a_copy_is_a_function_of_its_seed_and_differs_from_the_image(kind: str, size: int) -> None:
    image, ground = make_image(1, 33).resize((size, 33)), make_image(2, 20)
    first, again, other = (distort(image, kind, np.random.default_rng(seed), lambda: ground) for seed in (5, 5, 6))
    assert first.tobytes() == again.tobytes()
    assert first.mode == "RGB"
    if size > 1:
        assert first.tobytes() != image.tobytes()
        assert first.tobytes() != other.tobytes()


@pytest.mark.parametrize("kind", LIGHT_KINDS)
def test_a_light_copy_is_nearly_the_image(kind: str) -> None:
    image = make_image(1, 64)
    found, again = (lightly(image, kind, np.random.default_rng(3)) for _ in range(2))
    assert found.tobytes() == again.tobytes() != image.tobytes()
    difference = np.asarray(found.resize(image.size), float) - np.asarray(image, float)
    assert np.abs(difference).mean() < 25
    assert min(lightly(image.resize((1, 1)), kind, np.random.default_rng(3)).size) == 1


@pytest.mark.parametrize("val", [True, False])
def test_no_image_is_in_two_sets_and_each_has_its_copies(val: bool) -> None:
    images = open_images(tiny_config("simclr").data)
    images = images if val else Images(images.train, None)
    config = tiny_config("simclr", evaluation=[{"kind": "copies", **FEW, "layers": [2, 3]}])
    copies = Copies(config.evaluation[0], context_of(config, images))
    sets = copies.sets
    named = [{s.where(n) for n in range(len(s))} for s in (sets.originals, sets.distractors, sets.whitening)]
    assert len(set.union(*named)) == sum(map(len, named))
    assert isinstance(sets.queries, Distorted)
    found = copies.measure(2)
    assert found.keys() == {metric.name for metric in CopiesConfig.metrics}
    database = 6 + (20 if val else 16)
    assert 1 / database <= found["copies"] <= 1
    assert copies.database[2].shape == (database, 64)
    assert found["copies"] == pytest.approx(np.mean([found[f"copies_{kind}"] for kind in COPY_KINDS]))
    assert copies.outcomes[2].shape == (36,)
    assert found == Copies(config.evaluation[0], context_of(config, images)).measure(2)


def test_an_image_that_cannot_be_decoded_is_asked_about_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_images(tiny_config("simclr").data)
    config = tiny_config("simclr", evaluation=[{"kind": "copies", **FEW, "layers": [1]}])
    broken = Copies(config.evaluation[0], context_of(config, images)).sets.originals.indices[2]
    read = type(images.val).read
    monkeypatch.setattr(
        type(images.val), "read", lambda s, n: read(s, n) if (s is not images.val or n != broken) else 1 / 0
    )
    copies = Copies(config.evaluation[0], context_of(config, images))
    copies.measure(0)
    assert len(copies.outcomes[0]) == 30
    assert len(copies.database[0]) == 25


def test_copydays_folders_are_read(tmp_path: Path) -> None:
    for number in range(3):
        for part, ending in (("original", "00"), ("strong", "01"), ("strong", "02")):
            file = tmp_path / part / f"{2000 + number}{ending}.jpg"
            file.parent.mkdir(exist_ok=True)
            make_image(number).save(file, quality=80 if part == "original" else 30)
    own = {"kind": "copies", "name": "days", "data": {"copydays": str(tmp_path)}, **FEW, "layers": [1]}
    config = tiny_config("simclr", evaluation=[own])
    copies = Copies(config.evaluation[0], context_of(config))
    assert copies.answers.tolist() == [0, 0, 1, 1, 2, 2]
    found = copies.measure(0)
    assert found["copies"] > 0.5, "copies by JPEG alone"
    assert found.keys() == {"copies", "copies_micro", "copies_interval"}
    (tmp_path / "strong" / "900001.jpg").write_bytes((tmp_path / "strong" / "200001.jpg").read_bytes())
    with pytest.raises(InputError, match=r"data\.copydays: .*900001\.jpg has no original"):
        Copies.check(config.evaluation[0], open_images(config.data))


def test_too_few_images_are_refused() -> None:
    source = open_images(tiny_config("simclr").data).train
    with pytest.raises(InputError, match=r"copies needs 2 originals and 8 other images .* got 1 of train and 5"):
        Copies.check(CopiesConfig(), Images(Subset(source, np.arange(7)), None))
