"""What layers cost: FLOPs and parameters against sums written out, times that are of the cut encoder."""

import time

import pytest
from torch import Tensor, nn

from ssl_core.data.sources import open_images
from ssl_core.errors import InputError
from ssl_core.evaluation.base import named
from ssl_core.evaluation.cost import Cost, flops, seconds
from ssl_core.evaluation.features import Context
from ssl_core.networks.cut import cut
from ssl_core.networks.encoder import Encoder
from ssl_core.schema.encoder import BackboneConfig
from ssl_core.training.checks import check_images
from ssl_core.training.loop import Pretraining
from tests.conftest import tiny_config
from tests.gloo import Ranks


def encoder_of(pool: str = "mean") -> Encoder:
    kwargs = {"embed_dim": 32, "depth": 4, "num_heads": 2}
    return Encoder(BackboneConfig(name="vit_tiny_patch16_224", image_size=64, pool=pool, kwargs=kwargs)).eval()


@pytest.mark.parametrize("layer", [1, 3])
def test_flops_and_parameters_are_those_of_the_blocks_that_are_left(layer: int):
    n, d, patch = 17, 32, 3 * 16 * 16
    block = 2 * n * d * (3 * d + d + 4 * d + 4 * d) + 2 * 2 * n * n * d  # qkv, projection, MLP; attention twice
    assert flops(cut(encoder_of(), layer)) == 2 * 16 * patch * d + layer * block
    own = 12 * d * d + 13 * d  # weights; biases and two norms
    assert sum(p.numel() for p in cut(encoder_of(), layer).parameters()) == patch * d + d + n * d + d + layer * own + (
        2 * d
    )


def test_what_a_class_token_alone_saves_is_not_counted():
    assert flops(cut(encoder_of("token"), 3)) < flops(cut(encoder_of(), 3))


def test_the_time_is_of_a_pass_and_the_first_ones_do_not_count():
    encoder, passes = cut(encoder_of(), 1), []

    def slow(_: nn.Module, inputs: tuple[Tensor]) -> None:
        passes.append(len(inputs[0]))
        time.sleep(0.5 if len(passes) <= 2 else 0.02)

    encoder.model.blocks[0].register_forward_pre_hook(slow)
    assert 0.02 <= seconds(encoder, batch=3, repeats=3) < 0.4
    assert passes == [3] * 5


def figures(workers: int = 1, **own) -> dict[str, float]:
    config = tiny_config("simclr", scaling={"workers": workers})
    run = Pretraining(config, open_images(config.data), loaders=0)
    config = tiny_config("simclr", evaluation=[{"kind": "cost", "batch": 4, "repeats": 2, **own}])
    context = Context(run._features, run.method.encoder, run.images, config, run.device, 0)
    evaluator = Cost(config.evaluation[0], context)
    layers = [layer for layer in context.own_layers if layer in evaluator.costs]
    return named(config.evaluation[0], {layer: evaluator.measure(layer) for layer in layers}, {}, context.depth)


def test_ranks_say_what_one_measured_and_the_network_is_left_alone(two_ranks: Ranks):
    alone = figures()
    first, second = two_ranks(figures, 2)
    for kind in ("parameters", "flops", "latency_ms", "throughput"):
        values = {key: x for key, x in alone.items() if key.startswith(kind)}
        assert len(values) == 4, "three layers, and the last"
        assert min(values.values()) > 0
        assert {key for key in (first | second) if key.startswith(kind)} == values.keys()
    assert alone["flops/layer_01"] < alone["flops/layer_02"] < alone["flops/last"] == (first | second)["flops/last"]


def test_some_layers_alone_are_measured():
    assert figures(layers="last").keys() == {
        f"{kind}/{place}"
        for kind in ("parameters", "flops", "latency_ms", "throughput")
        for place in ("last", "layer_03")
    }


def test_a_run_does_not_measure_it_between_epochs():
    config = tiny_config("simclr", evaluation=[{"kind": "cost"}])
    with pytest.raises(InputError, match=r"evaluation\.0\.kind: cost costs too much between epochs"):
        check_images(config, open_images(config.data))
