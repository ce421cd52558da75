"""LiDAR against its paper's formula; the spectrum of features against definitions."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from ssl_core.data.loading import view_pairs
from ssl_core.data.sources import open_images
from ssl_core.data.sources.base import Images, Subset
from ssl_core.data.views import normalise
from ssl_core.errors import InputError
from ssl_core.evaluation.features import Context
from ssl_core.evaluation.geometry import spectrum
from ssl_core.evaluation.lidar import Lidar, lidar
from ssl_core.networks.layers import Want
from ssl_core.schema.evaluation import LidarConfig
from ssl_core.training.loop import Pretraining
from tests.conftest import tiny_config
from tests.gloo import Ranks


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_it_is_the_papers_formula() -> None:
    views = (random(1, 12, 5) + 0.4 * random(3, 12, 5, seed=1)) * torch.tensor([3.0, 1.0, 0.3, 0.1, 0.03])
    delta, epsilon = 1e-2, 1e-7
    means = [views[:, image].mean(0) for image in range(12)]
    centre = sum(means) / 12
    between = sum(torch.outer(mean - centre, mean - centre) for mean in means) / 12
    within = sum(
        torch.outer(views[view, image] - means[image], views[view, image] - means[image])
        for view in range(3)
        for image in range(12)
    ) / 36 + delta * torch.eye(5)
    root = np.linalg.inv(sqrtm(within.double().numpy()).real)
    values = np.linalg.eigvalsh(root @ between.double().numpy() @ root)
    p = values / np.abs(values).sum() + epsilon
    assert lidar(views, delta) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-4)


def test_directions_that_tell_views_apart_do_not_count() -> None:
    images = random(1, 300, 8)
    loud = 100 * random(6, 300, 8, seed=1)  # what the views differ by, in the other half
    views = torch.cat([images.expand(6, -1, -1) + 0.1 * random(6, 300, 8, seed=2), loud], dim=2)
    assert lidar(views) == pytest.approx(8, rel=0.05)
    assert lidar(torch.zeros(2, 5, 3)) == pytest.approx(1, abs=1e-4), "nothing is told apart"


def test_alpha_and_stable_rank_are_those_of_the_spectrum() -> None:
    axes = torch.linalg.qr(random(40, 10) - random(40, 10).mean(0))[0]
    variances = 5.0 * torch.arange(1, 11).float() ** -1.7
    found = spectrum(axes * variances.sqrt() + 3.0)
    assert found["alpha_req"] == pytest.approx(1.7, rel=1e-3)
    assert found["stable_rank"] == pytest.approx((variances.sum() / 5).item(), rel=1e-3)
    line = spectrum(random(40, 1) @ random(1, 12, seed=1))
    assert line == {"alpha_req": 0.0, "stable_rank": pytest.approx(1)}
    assert spectrum(torch.ones(5, 3)) == {"alpha_req": 0.0, "stable_rank": 0.0}
    white = spectrum(random(5000, 10))
    assert white["alpha_req"] == pytest.approx(0, abs=0.1)
    assert white["stable_rank"] == pytest.approx(10, rel=0.1)


def evaluator(workers: int = 1, views: int = 5) -> Lidar:
    config = tiny_config("simclr", scaling={"workers": workers})
    run = Pretraining(config, open_images(config.data), loaders=0)
    run.method.eval()
    context = Context(run._features, run.method.encoder, run.images, config, run.device, 0)
    return Lidar(LidarConfig(views=views, max_images=30), context)


def figures(workers: int = 1) -> dict[int, float]:
    one = evaluator(workers)
    return {layer: one.measure(layer)["lidar"] for layer in one.context.own_layers}


def test_two_ranks_measure_what_one_does(two_ranks: Ranks) -> None:
    alone = figures()
    first, second = two_ranks(figures, 2)
    assert first | second == pytest.approx(alone, rel=1e-3)
    assert 1 < alone[2] < 30


def test_its_views_are_of_the_same_images() -> None:
    one = evaluator(views=5)
    views, pairs = one.views[0], one.context.pairs("val", 30)[0]
    assert views.shape == (5, 30, 32)
    torch.testing.assert_close(views[:2], pairs)
    chosen, dataset = one.context.chosen("val", 30), view_pairs(one.context.images.val, one.context.config)
    third = torch.stack([dataset[(2, image, image)].views["global"][0] for image in chosen.tolist()])
    torch.testing.assert_close(views[4], one.context.look(normalise(third), Want(pooled=(1,))).pooled[1])


def test_one_image_is_too_few() -> None:
    images = open_images(tiny_config().data)
    few = Images(images.train, Subset(images.val, np.arange(1)))
    with pytest.raises(InputError, match="max_images: images are compared with each other, and there is 1"):
        Lidar.check(LidarConfig(), few)
