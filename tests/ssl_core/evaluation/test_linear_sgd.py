"""The papers' linear probe against a loop written out: features, steps, rates; its choice; ranks; bad input."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ssl_core.data.loading import Key, TrainImages
from ssl_core.data.sources import open_images
from ssl_core.data.views import normalise
from ssl_core.errors import InputError
from ssl_core.evaluation.frozen import Batches, per_class_mean
from ssl_core.evaluation.linear_sgd import LinearSgd, Setting
from ssl_core.networks.layers import Want
from ssl_core.schema.views import ViewsConfig
from ssl_core.training.checks import check_images
from tests.conftest import tiny_config
from tests.gloo import Ranks
from tests.ssl_core.evaluation.probing import evaluator_of, figures, with_others_labels

SMALL = {"kind": "linear_sgd", "max_train": 120, "max_val": 60, "epochs": 2, "batch": 32, "rates": [0.05, 2.0]}


def test_it_is_a_loop_of_sgd_on_augmented_features():
    probe = evaluator_of({**SMALL, "rates": [1.0], "blocks": [2]})
    assert isinstance(probe, LinearSgd)
    context, source = probe.context, probe.context.images.train
    setting = probe.settings(2)[probe.chosen[2]]
    rows = context.chosen("train", 120, labelled=True)
    views = TrainImages(source, ViewsConfig(jitter=0, grey=0, blur=0, solarize=0, flip=0.5), 16, 3, seed=0, count=1)
    weight, bias = (p.detach().clone() for p in probe._probes(2, [probe.chosen[2]])[probe.chosen[2]].parameters())
    assert (weight.std().item(), bias.abs().max().item()) == (pytest.approx(0.01, rel=0.1), 0)
    speed = [torch.zeros_like(weight), torch.zeros_like(bias)]
    steps, step = 2 * (120 // 16), 0  # an epoch of 120 images is 16 steps or nearly so: batches of 16
    for batch in Batches(rows, 16, 2, seed=0):
        assert len(batch) == 16
        images = normalise(
            torch.stack([views[Key(key.epoch, key.image, key.image)].views["global"][0] for key in batch])
        )
        with torch.no_grad():
            found = context.look(images, Want((2, 3), (3,)))
        parts = [found.pooled[3], found.pooled[2], *([found.patches[3].mean(1)] if setting.patches else [])]
        x, y = torch.cat(parts, dim=1), torch.from_numpy(source.labels[[key.image for key in batch]])
        error = (x @ weight.T + bias).softmax(dim=1) - F.one_hot(y, 10)
        rate = 1.0 * 32 / 256 * (1 + math.cos(math.pi * step / steps)) / 2
        for p, v, gradient in zip((weight, bias), speed, (error.T @ x / 16, error.mean(0)), strict=True):
            v.mul_(0.9).add_(gradient)
            p.sub_(rate * v)
        step += 1
    assert step == steps
    got = probe.probes[2].linear
    torch.testing.assert_close(got.weight.detach(), weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(got.bias.detach(), bias, rtol=1e-3, atol=1e-4)


def test_settings_in_one_pass_learn_what_each_would_alone():
    grid = evaluator_of(SMALL)
    rows = grid.context.chosen("train", 60, labelled=True)
    together = grid._trained({2: [0, 3, 5]}, rows)[2]
    alone = grid._trained({2: [3]}, rows)[2][3]
    for p, q in zip(together[3].parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    assert together[0].linear.weight.shape != together[3].linear.weight.shape
    assert grid.settings(2) == [Setting(r, b, p) for r in (0.05, 2.0) for b in (1, 3) for p in (False, True)]
    assert grid.settings(0) == [Setting(r, 1, p) for r in (0.05, 2.0) for p in (False, True)]


def test_val_chooses_nothing():
    section = {**SMALL, "max_train": 400, "max_val": 300, "epochs": 4, "rates": [1e-3, 4.0]}
    one, other = evaluator_of(section), evaluator_of(section, images=with_others_labels())
    assert one.chosen == other.chosen
    assert one.measure(2)["linear_sgd"] > 0.2
    assert abs(other.measure(2)["linear_sgd"] - 0.1) < 0.07
    assert one.measure(2)["linear_sgd"] == one.outcomes[2].mean()
    assert len(one.outcomes[2]) == 300
    assert one.measure(2)["linear_sgd_rate"] == 4.0, "the other learns too slowly"


def test_where_means_are_pooled_they_are_not_seen_twice():
    probe = evaluator_of({**SMALL, "blocks": [1]}, backbone=tiny_config().backbone.model_dump() | {"pool": "mean"})
    assert [setting.patches for setting in probe.settings(2)] == [False, False]
    assert probe.want() == Want(pooled=(3,))


def test_two_ranks_measure_what_one_does(two_ranks: Ranks):
    section = {**SMALL, "layers": "all", "batch": 21}
    alone = figures(section)
    first, second = two_ranks(figures, section, 2)
    assert first | second == {layer: pytest.approx(values, abs=0.02) for layer, values in alone.items()}
    assert set(first) == {0, 2}


def test_classes_of_few_images_weigh_as_much():
    right, labels = np.array([True, True, True, False]), np.array([0, 0, 0, 1])
    assert per_class_mean(right, labels) == 0.5


@pytest.mark.parametrize(
    ("classes", "text"),
    [
        (4000, "no class has two labelled images"),
        (1, "its labelled images are of 1 class; expected two or more"),
    ],
)
def test_too_few_images_or_classes_are_refused(classes: int, text: str):
    section = tiny_config(evaluation=[SMALL]).evaluation[0]
    images = open_images(tiny_config(data={"limit": None}).data)
    images.train.labels = np.arange(len(images.train)) % classes
    with pytest.raises(InputError, match=rf"data\.train: {text}"):
        LinearSgd.check(section, images)


def test_a_run_does_not_measure_it_between_epochs():
    config = tiny_config("simclr", evaluation=[{"kind": "linear_sgd"}])
    with pytest.raises(InputError, match=r"evaluation\.0\.kind: linear_sgd costs too much between epochs"):
        check_images(config, open_images(config.data))
