"""An untrained network on real digits, and an evaluator of it as `strata evaluate` would make it."""

import dataclasses
from typing import Any

import numpy as np

from ssl_core.data.sources import open_images
from ssl_core.data.sources.base import Images
from ssl_core.evaluation.base import Evaluator
from ssl_core.evaluation.features import Context
from ssl_core.training.loop import Pretraining
from tests.conftest import tiny_config


def evaluator_of(section: dict[str, Any], workers: int = 1, images: Images | None = None, **config: Any) -> Evaluator:
    """An evaluator of that section, of a tiny ViT of three blocks."""
    values = {"data": {"limit": None}, "scaling": {"workers": workers}, **config}
    own = tiny_config("simclr", **values)
    run = Pretraining(own, images or open_images(own.data), loaders=0)
    run.method.eval()
    own = tiny_config("simclr", **values | {"evaluation": [section]})
    context = Context(run._features, run.method.encoder, run.images, own, run.device, 0)
    return own.evaluation[0].load()(own.evaluation[0], context)


def figures(section: dict[str, Any], workers: int = 1) -> dict[int, dict[str, float]]:
    """What this rank measures, by layer."""
    evaluator = evaluator_of(section, workers)
    return {layer: dict(evaluator.measure(layer)) for layer in evaluator.context.own_layers}


def with_others_labels(seed: int = 0) -> Images:
    """Digits whose labels in val say nothing."""
    images = open_images(tiny_config(data={"limit": None}).data)
    val = open_images(tiny_config(data={"limit": None}).data).val
    assert val is not None
    assert val.labels is not None
    val.labels = np.random.default_rng(seed).permutation(val.labels)
    return dataclasses.replace(images, val=val)
