"""CKA against the definition of the unbiased HSIC, its properties, and two ranks against one."""

import itertools

import pytest
import torch
from torch import Tensor

from ssl_core.data.sources import open_images
from ssl_core.data.sources.base import Images
from ssl_core.errors import InputError
from ssl_core.evaluation.cka import Cka, cka_matrix, unbiased_hsic
from ssl_core.evaluation.features import Context
from ssl_core.networks.encoder import Encoder
from ssl_core.schema.evaluation import CkaConfig
from ssl_core.training.loop import Pretraining
from tests.conftest import tiny_config
from tests.gloo import Ranks


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive_hsic(x: Tensor, y: Tensor) -> float:
    """The mean over all quadruples of different images of k₁₂ (l₁₂ + l₃₄ − 2 l₁₃) (Song et al., 2012, Theorem 3)."""
    kernel, other = (x @ x.T).tolist(), (y @ y.T).tolist()
    terms = [
        kernel[i][j] * (other[i][j] + other[q][r] - 2 * other[i][q])
        for i, j, q, r in itertools.permutations(range(len(x)), 4)
    ]
    return sum(terms) / len(terms)


@pytest.mark.parametrize("widths", [(3, 2), (12, 4), (2, 11)])  # narrower and wider than there are images
def test_it_is_the_unbiased_hsic(widths: tuple[int, int]) -> None:
    x = random(8, widths[0]) + 3.0
    y = random(8, widths[1], seed=1) + x[:, :1] - 5.0
    assert unbiased_hsic(x, y) == pytest.approx(naive_hsic(x, y), rel=1e-9)
    expected = naive_hsic(x, y) / (naive_hsic(x, x) * naive_hsic(y, y)) ** 0.5
    assert cka_matrix([x], [y]).item() == pytest.approx(expected, rel=1e-9)


def test_rotation_shift_and_scale_change_nothing_and_a_linear_map_does() -> None:
    x = random(60, 5) * torch.tensor([1.0, 2.0, 1.0, 0.5, 3.0])
    rotated = 7.0 * x @ torch.linalg.qr(random(5, 5, seed=1))[0] + 11.0
    stretched = x * torch.tensor([9.0, 1.0, 1.0, 1.0, 0.1])
    found = cka_matrix([x, random(60, 4, seed=2)], [x, rotated, stretched, x.float() + 1000.0])
    assert found[0, :2].tolist() == pytest.approx([1.0, 1.0], abs=1e-9)
    assert found[0, 2] < 0.9
    assert found[0, 3].item() == pytest.approx(1.0, abs=1e-5)
    assert cka_matrix([rotated], [x])[0, 0] == pytest.approx(1.0, abs=1e-9)


def test_unrelated_features_have_none_on_average_however_wide() -> None:
    """The biased estimate is near 1 where there are fewer images than features."""
    found = [cka_matrix([random(20, 200, seed=s)], [random(20, 200, seed=s + 100)]).item() for s in range(40)]
    mean, error = torch.tensor(found).mean().item(), torch.tensor(found).std().item() / 40**0.5
    assert abs(mean) < 3 * error
    assert error < 0.03


def test_a_layer_is_compared_with_itself_in_one_network_and_nothing_is_said_of_a_constant() -> None:
    layers = [random(30, 4), torch.full((30, 6), 0.1), random(30, 3, seed=1)]
    found = cka_matrix(layers, layers)
    assert torch.equal(found, found.T)
    assert found.diagonal().tolist() == pytest.approx([1.0, 0.0, 1.0])
    assert not found[1].any()
    assert torch.allclose(found, cka_matrix(layers, list(layers)), atol=1e-12)


def test_other_images_or_too_few_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"same images, 4 at least; got \[8, 9\]"):
        cka_matrix([random(8, 2)], [random(9, 2)])
    with pytest.raises(ValueError, match=r"got \[3\]"):
        cka_matrix([random(3, 2)], [random(3, 2)])


def figures(workers: int = 1, layers: object = "all") -> dict[str, float]:
    own = [{"kind": "cka", "max_images": 31, "layers": layers}]
    config = tiny_config("simclr", evaluation=own, scaling={"workers": workers})
    return Pretraining(config, open_images(config.data), loaders=0).evaluate(0)


def test_two_ranks_measure_what_one_does(two_ranks: Ranks) -> None:
    alone = figures()
    first, second = two_ranks(figures, 2)
    assert first == second == pytest.approx(alone, rel=1e-4)
    assert alone.keys() == {"cka_neighbours", "cka_ends"}
    assert 0.0 < alone["cka_ends"] < alone["cka_neighbours"] < 1.0
    assert figures(layers=[1, 3])["cka_neighbours"] == pytest.approx(alone["cka_ends"])


def test_its_picture_has_a_row_for_every_layer() -> None:
    config = tiny_config("simclr", evaluation=[{"kind": "cka", "max_images": 20}])
    encoder = Encoder(config.backbone).eval()
    context = Context(encoder, encoder, open_images(config.data), config, torch.device("cpu"), 0)
    with torch.no_grad():
        pictures = Cka(config.evaluation[0], context).pictures()
    (image,) = pictures["layers"].axes[0].images
    assert image.get_array().shape == (3, 3)


def test_one_layer_or_three_images_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="layers of cka: two layers at least"):
        figures(layers="last")
    config = CkaConfig()
    with pytest.raises(InputError, match=r"cka needs 4 images at least.*got 3"):
        Cka.check(config, Images(open_images(tiny_config("simclr", data={"limit": 3}).data).train, None))
